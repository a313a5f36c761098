"""Where a rendered contour lies best in the photo: place and distance, to a fraction of a detection's error.

A box that is 5 % too large puts the part 5 % too near. The part's outline in the photo is sharper than any box: here
the edges of a render (``edges.py``) are laid over the edges of the photo, and moved and scaled until they run along
them. What an occluder hides matches nothing and votes for nothing. The sum of the votes is divided by the root of the
outline's length, as a matched filter by its template's norm: averages prefer short outlines, which are easy to match,
sums long ones, which always cross some edge of a clutter (docs/log/2026-11-23-refinement-scores.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.refinement.edge_votes import EdgeField
from codepose.refinement.edges import PAD, EdgePoints, at_a_time, edge_points, edges_around
from codepose.rendering.renderer import Instances
from codepose.synthesis.objects import Objects

_POWER = 0.5
"""What a match gains by the length of its outline: 0 = nothing (votes averaged), 1 = votes summed."""
_PRIOR = 0.01
_PRIOR_SHIFT, _PRIOR_SCALE = 0.06, 0.10
"""How far boxes usually are off: share of the side, and of the size."""
_MARGIN = 2
"""Pixels around a render."""
_LEAST = 24
"""Least side of a render, so that any has as many pixels as there are points."""


@dataclass(frozen=True)
class Reach:
    """A grid of shifts and sizes: ``steps`` values on each axis, up to ``shift`` sides and a log scale of ``scale``."""

    shift: float
    scale: float
    steps: int


Reaches = tuple[Reach, ...]


@dataclass(frozen=True)
class RenderedEdges:
    """The edges of M renders in their detections' windows, k for each of N detections.

    Attributes:
        edges: Of the renders.
        share: (M,) how long the outlines are, over those first drawn.
        t: (M, 3) mm, where they are.
        boxed: (M, 3) mm, where the boxes put them.
        K: (M, 3, 3) of the windows.
        box: The box's longer side in pixels of the window.
    """

    edges: EdgePoints
    share: Tensor
    t: Tensor
    boxed: Tensor
    K: Tensor
    box: float

    @cached_property
    def center(self) -> Tensor:
        """(M, 2) pixels of the window, where the part's middle lies."""
        return geometry.to_pixels(self.t, self.K)

    @cached_property
    def at_box(self) -> Tensor:
        """(M, 2) pixels of the window, where the boxes put it."""
        return geometry.to_pixels(self.boxed, self.K)

    @cached_property
    def points(self) -> Tensor:
        """(M, P, 3) mm, the edge points on the part's surface, from its middle, in the camera's axes."""
        return geometry.from_pixels(self.edges.points, self.edges.depth, self.K[:, None]) - self.t[:, None]

    def picked(self, places: Tensor) -> RenderedEdges:
        """Returns those at places (N, m) of each detection, in that order."""
        detections = len(places)
        first = torch.arange(detections, device=places.device)[:, None] * (len(self.t) // detections)
        rows = (first + places).flatten()
        share, t, boxed, K = (values[rows] for values in (self.share, self.t, self.boxed, self.K))
        return RenderedEdges(self.edges.select(rows), share, t, boxed, K, self.box)

    def joined(self, other: RenderedEdges, detections: int) -> RenderedEdges:
        """Returns these edges and others of the same detections, of which there are so many."""

        own, more = (torch.arange(len(x.t), device=x.t.device).view(detections, -1) for x in (self, other))
        rows = torch.cat((own, more + len(self.t)), 1).flatten()
        edges = EdgePoints.together([self.edges, other.edges]).select(rows)
        names = ("share", "t", "boxed", "K")
        share, t, boxed, K = (torch.cat((getattr(self, name), getattr(other, name)))[rows] for name in names)
        return RenderedEdges(edges, share, t, boxed, K, self.box)

    def translations(self, shifts: Tensor, scales: Tensor) -> Tensor:
        """Returns (M, G, 3) mm: moved by pixels of the window (M, G, 2) and grown there by log scales (M, G)."""
        z = self.t[:, None, 2] * torch.exp(-scales)
        return geometry.from_pixels(self.center[:, None] + shifts, z, self.K[:, None])

    def worth(self, match: Tensor, shifts: Tensor, scales: Tensor) -> Tensor:
        """Returns scores (M, G) of these poses, moved.

        Args:
            match: (M, G) mean agreement of their edge pixels with the photo's.
            shifts: (M, G, 2) pixels of the window.
            scales: (M, G) log of their size there over what it was.
        """
        off = ((self.center - self.at_box)[:, None] + shifts) / self.box
        grown = torch.log(self.boxed[:, 2] / self.t[:, 2])[:, None] + scales
        return score(match, self.share[:, None] * scales.exp(), off, grown)


class ContourMatcher:
    """Lays renders over windows of photos.

    Args:
        world: Meshes and renderer.
        images: (B, 3, H, W) in [0, 1].
        which: (N,) the image each detection is in.
        boxes: (N, 4) the detections.
        objects: (N,) which object.
        K: (3, 3) the images' camera.
        side: Pixels along a window.
        extent: (2,) pixels across and down of what the images show; beyond lies a letterbox. None = all of them.
    """

    def __init__(
        self,
        world: Objects,
        images: Tensor,
        which: Tensor,
        boxes: Tensor,
        objects: Tensor,
        K: Tensor,
        *,
        side: int,
        extent: Tensor | None = None,
    ) -> None:
        self._world, self._objects, self._side = world, objects, side
        self._box = side / PAD  # the box's longer side in pixels of the window
        self.field, self._K = edges_around(images, which, boxes, K, side, extent)
        # the same points whenever a view is rendered again: a fixed shuffle of the window's pixels says which
        self._order = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).to(boxes)
        self._length: Tensor | None = None  # (N,) of the contours first drawn, in the mean: what scores are shares of

    def fit(self, R_view: Tensor, t: Tensor, start: Tensor, reaches: Reaches) -> tuple[Tensor, Tensor]:
        """Moves rendered views until their edges lie on the photo's.

        Args:
            R_view: (N, k, 3, 3) rotations as seen along the ray through the object; they stay.
            t: (N, k, 3) mm, where the boxes put them; far from it a match must be better to count as much.
            start: (N, k, 3) mm, where the search begins.
            reaches: Grids, coarse to fine.

        Returns:
            t (N, k, 3) and scores (N, k): 0 = chance, 1 = all edge pixels lie on edges of the photo that run their way,
            for an outline as long as those drawn at the first call are in the mean.
        """
        rendered = self.rendered(R_view, start, t)
        shift, scale = rendered.t.new_zeros(len(rendered.t), 1, 2), rendered.t.new_zeros(len(rendered.t), 1)
        worth = torch.zeros_like(scale)
        for reach in reaches:
            grid = _grid(reach).to(scale)
            shifts = shift + grid[None, :, :2] * self._box
            scales = scale + grid[None, :, 2]
            worths = self._worth(rendered, shifts, scales)
            best = worths.argmax(1, keepdim=True)
            shift = shifts.gather(1, best[..., None].expand(-1, -1, 2))
            scale, worth = scales.gather(1, best), worths.gather(1, best)
        return rendered.translations(shift, scale).view_as(t), worth.view(t.shape[:2])

    def scores(self, rendered: RenderedEdges) -> Tensor:
        """Returns the scores (N, k) of renders where they are; see ``fit``."""
        scale = torch.zeros_like(rendered.share)[:, None]  # (M, 1)
        return self._worth(rendered, scale[..., None].expand(-1, -1, 2), scale).view(len(self._objects), -1)

    def _worth(self, rendered: RenderedEdges, shifts: Tensor, scales: Tensor) -> Tensor:
        """Scores (M, G) of renders under every shift (M, G, 2) in pixels and log scale (M, G)."""
        return rendered.worth(_match(self.field, rendered, shifts, scales.exp()), shifts, scales)

    def rendered(self, R_view: Tensor, t: Tensor, boxed: Tensor) -> RenderedEdges:
        """Renders k poses of each of the N detections and finds their edges.

        Args:
            R_view: (N, k, 3, 3) rotations as seen along the ray through the object.
            t: (N, k, 3) mm, where they are.
            boxed: (N, k, 3) mm, where the boxes put them.
        """
        count = R_view.shape[1]
        K = self._K.repeat_interleave(count, 0)
        t, boxed = t.flatten(0, 1), boxed.flatten(0, 1)
        edges = self._draw(R_view.flatten(0, 1), t, K)
        if self._length is None:
            self._length = edges.length.view(-1, count).float().mean(1).clamp_min(1.0)
        share = edges.length / self._length.repeat_interleave(count)
        return RenderedEdges(edges, share, t, boxed, K, self._box)

    def _draw(self, R_view: Tensor, t: Tensor, K: Tensor) -> EdgePoints:
        objects = self._objects.repeat_interleave(len(t) // len(self._objects))
        R = geometry.offaxis_rotation(t) @ R_view
        batches = (torch.split(x, at_a_time(self._side, gpu=t.is_cuda)) for x in (objects, R, t, K))
        parts = [self._render(*batch) for batch in zip(*batches, strict=True)]
        return EdgePoints.together(parts)

    def _render(self, objects: Tensor, R: Tensor, t: Tensor, K: Tensor) -> EdgePoints:
        """Renders the parts; on a CPU only the pixels around them, which a GPU would have to ask for."""
        instances = Instances.single(objects, R, t)
        if K.is_cuda:
            seen = self._world.renderer.render(instances, K, (self._side, self._side))
            return edge_points(seen.depth, seen.normal, seen.color, self._order.expand_as(seen.depth))
        boxes = self._world.renderer.projected_boxes(instances, K).nan_to_num().clamp(0.0, self._side)
        largest = math.ceil(float(geometry.box_size(boxes).max())) + 2 * _MARGIN
        side = min(self._side, max(_LEAST, largest))
        corner = (geometry.box_center(boxes) - side / 2).round().clamp(0, self._side - side).long()  # (M, 2)
        K = K.clone()
        K[:, :2, 2] -= corner
        seen = self._world.renderer.render(instances, K, (side, side))
        columns, rows = (corner[:, axis, None] + torch.arange(side, device=corner.device) for axis in (0, 1))
        edges = edge_points(seen.depth, seen.normal, seen.color, self._order[rows[:, :, None], columns[:, None]])
        return replace(edges, points=edges.points + corner[:, None])


def score(match: Tensor, share: Tensor, off: Tensor, grown: Tensor) -> Tensor:
    """Returns how good poses are, by their edges: 0 = chance.

    Args:
        match: Mean agreement of their edge pixels with the photo's.
        share: How long their outlines are, over the mean of all that are compared.
        off: (..., 2) how far they lie from where the box puts them, over its longer side.
        grown: Log of their size over that which fills the box.
    """
    far = (off / _PRIOR_SHIFT).square().sum(-1) + (grown / _PRIOR_SCALE).square()
    return match * share**_POWER - _PRIOR * far


def _grid(reach: Reach) -> Tensor:
    """(steps^3, 3): shifts across and down, and log scales."""
    line = torch.linspace(-1.0, 1.0, reach.steps)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    return grid * torch.tensor([reach.shift, reach.shift, reach.scale])


def _match(field: EdgeField, rendered: RenderedEdges, shifts: Tensor, scales: Tensor) -> Tensor:
    """Mean agreement of direction (M, G) of every contour with its photo's edges, under every shift and scale."""
    around = rendered.edges.points - rendered.center[:, None]  # (M, P, 2)
    points = F.pad(around, (0, 1), value=1.0)  # homogeneous
    projections = points.new_zeros(*scales.shape, 3, 3)  # (M, G, 3, 3)
    projections[..., 0, 0] = projections[..., 1, 1] = scales
    projections[..., 2, 2] = 1.0
    projections[..., :2, 2] = rendered.center[:, None] + shifts
    nothing = torch.zeros_like(scales)
    votes = field.votes(points, rendered.edges.directions, projections, nothing[..., None].expand(-1, -1, 3), nothing)
    return votes / rendered.edges.voters[:, None]
