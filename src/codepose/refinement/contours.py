"""Where a rendered contour lies best in the photo: place and distance, to a fraction of a detection's error.

A box that is 5 % too large puts the part 5 % too near. The part's outline in the photo is sharper than any box: here
the edges of a render (silhouette, creases, and where one colour of the part ends and the next begins; without light)
are laid over the edges of the photo, and moved and scaled until they run along them. Edges are compared by direction
without sign, strong and weak ones alike, as in Hinterstoisser et al., "Gradient Response Maps", TPAMI 2012; what an
occluder hides matches nothing and votes for nothing. The sum of the votes is divided by the root of the outline's
length, as a matched filter by its template's norm: averages prefer short outlines, which are easy to match, sums long
ones, which always cross some edge of a clutter (docs/log/2026-11-23-refinement-scores.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.refinement.edge_votes import EdgeField
from codepose.rendering.renderer import Instances
from codepose.synthesis.objects import Objects

PAD = 1.6
"""The side of the window in which edges are compared over the box's: room for a box too small or beside the part."""
_POINTS = 512
"""Edge points of a render that vote."""
_OUTLINE, _COLOR = 1.5, 2.0
"""Weights of the silhouette and of a change of colour beside a change of the normal by 1."""
_FAINT = 0.05
"""Gradient at which an edge of the photo counts half."""
_BLUR = 0.7
"""Pixels beside an edge at which it is still felt."""
_POWER = 0.5
"""What a match gains by the length of its outline: 0 = nothing (votes averaged), 1 = votes summed."""
_PRIOR = 0.01
_PRIOR_SHIFT, _PRIOR_SCALE = 0.06, 0.10
"""How far boxes usually are off: share of the side, and of the size."""
_RENDERS, _RENDERS_GPU = 32, 512
"""Views rendered at a time: few enough for a CPU's caches."""
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


def edge_field(images: Tensor, sigma: float) -> Tensor:
    """Returns the edges of images (N, 3, H, W) as (cos, sin) of twice their direction, weak ones shortened.

    Twice the angle, so that an edge from dark to bright and one from bright to dark are the same.

    Args:
        images: In [0, 1].
        sigma: Blur in pixels: how far beside an edge it is still felt.

    Returns:
        (N, 2, H, W) of length <= 1.
    """
    directions, square = _edges(gaussian_blur2d(images, (5, 5), (1.0, 1.0)))
    length = square.sqrt()
    field = directions * (length / (length + _FAINT))[:, None]
    kernel = 2 * round(2.0 * sigma) + 1
    blurred: Tensor = gaussian_blur2d(field, (kernel, kernel), (sigma, sigma))
    return blurred


def _edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the gradient's direction as (cos, sin), (N, 2, H, W), and its squared length (N, H, W).

    Over all channels: that of the structure tensor's larger axis.
    """
    gx = F.pad(images[..., 2:] - images[..., :-2], (1, 1)).mul_(0.5)
    gy = F.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1)).mul_(0.5)
    doubled = torch.stack(((gx - gy).mul_(gx + gy).sum(1), (2.0 * gx).mul_(gy).sum(1)), 1)
    square = doubled.square().sum(1).sqrt()
    return doubled / square[:, None].clamp_min(1e-12), square


@dataclass(frozen=True)
class Contours:
    """Edge points of M renders.

    Attributes:
        points: (M, P, 2) pixels of the window.
        directions: (M, P, 2), (cos, sin) of twice the gradient's direction; zero where a render has fewer points.
        depth: (M, P) mm, of the nearest surface at or beside the point.
        length: (M,) pixels that lie on edges, of which the points are a sample.
    """

    points: Tensor
    directions: Tensor
    depth: Tensor
    length: Tensor

    @cached_property
    def voters(self) -> Tensor:
        """(M,) how many points vote; at least 1."""
        return (self.directions != 0).any(-1).sum(1).clamp_min(1)


def contours(depth: Tensor, normal: Tensor, color: Tensor, order: Tensor, count: int = _POINTS) -> Contours:
    """Picks edge points of renders: silhouettes, creases, and borders between colours.

    Args:
        depth: (M, H, W), 0 = nothing there.
        normal: (M, H, W, 3), zero where nothing is.
        color: (M, H, W, 3) unlit, in [0, 1], zero where nothing is.
        order: (M, H, W) in [0, 1): where there are more edge pixels than points, those of the highest are picked.
        count: How many points at most.
    """
    inside = (depth > 0).float()[:, None]
    planes = depth.new_empty(len(depth), 7, *depth.shape[1:])
    planes[:, :1] = _OUTLINE * inside
    planes[:, 1:4] = normal.permute(0, 3, 1, 2)
    paint = color.permute(0, 3, 1, 2)
    mean = paint.sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    # the mean around the part, so that its outline does not count twice
    planes[:, 4:] = _COLOR * (paint + mean * (1.0 - inside))
    directions, square = _edges(planes)
    strong = square > 0.25 * square.amax((1, 2), keepdim=True).clamp_min(1e-6)
    ranked = (strong * (1.0 + order)).flatten(1)
    picked = ranked.topk(min(count, ranked.shape[1]), dim=1)
    there = picked.values > 0
    width = depth.shape[2]
    points = torch.stack((picked.indices % width, picked.indices // width), -1) + 0.5
    chosen = directions.flatten(2).gather(2, picked.indices[:, None].expand(-1, 2, -1)).transpose(1, 2)
    nearness = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-6), 0.0)
    nearness = F.max_pool2d(nearness[:, None], 3, stride=1, padding=1).flatten(1).gather(1, picked.indices)
    return Contours(points, chosen * there[..., None], 1.0 / nearness.clamp_min(1e-6), strong.sum((1, 2)))


@dataclass(frozen=True)
class Posed:
    """M posed renders' edges in their detections' windows, k for each of N detections.

    Attributes:
        edges: Of the renders.
        share: (M,) how long the outlines are, over those first drawn.
        t: (M, 3) mm, where they are.
        boxed: (M, 3) mm, where the boxes put them.
        K: (M, 3, 3) of the windows.
        box: The box's longer side in pixels of the window.
    """

    edges: Contours
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

    def moved(self, shifts: Tensor, scales: Tensor) -> Tensor:
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
        posed = self.posed(R_view, start, t)
        shift, scale = posed.t.new_zeros(len(posed.t), 1, 2), posed.t.new_zeros(len(posed.t), 1)
        score = scale
        for reach in reaches:
            grid = _grid(reach).to(scale)
            shifts = shift + grid[None, :, :2] * self._box
            scales = scale + grid[None, :, 2]
            value = posed.worth(_match(self.field, posed, shifts, scales.exp()), shifts, scales)
            best = value.argmax(1, keepdim=True)
            shift = shifts.gather(1, best[..., None].expand(-1, -1, 2))
            scale, score = scales.gather(1, best), value.gather(1, best)
        return posed.moved(shift, scale).view_as(t), score.view(t.shape[:2])

    def posed(self, R_view: Tensor, t: Tensor, boxed: Tensor) -> Posed:
        """Renders poses (N, k, 3, 3), (N, k, 3) that the boxes put at ``boxed`` (N, k, 3)."""
        count = R_view.shape[1]
        K = self._K.repeat_interleave(count, 0)
        t, boxed = t.flatten(0, 1), boxed.flatten(0, 1)
        edges = self._draw(R_view.flatten(0, 1), t, K)
        if self._length is None:
            self._length = edges.length.view(-1, count).float().mean(1).clamp_min(1.0)
        share = edges.length / self._length.repeat_interleave(count)
        return Posed(edges, share, t, boxed, K, self._box)

    def _draw(self, R_view: Tensor, t: Tensor, K: Tensor) -> Contours:
        objects = self._objects.repeat_interleave(len(t) // len(self._objects))
        R = geometry.offaxis_rotation(t) @ R_view
        batches = (torch.split(x, _RENDERS_GPU if t.is_cuda else _RENDERS) for x in (objects, R, t, K))
        parts = [self._drawn(*batch) for batch in zip(*batches, strict=True)]
        return Contours(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Contours)))

    def _drawn(self, objects: Tensor, R: Tensor, t: Tensor, K: Tensor) -> Contours:
        """Renders the parts; on a CPU only the pixels around them, which a GPU would have to ask for."""
        instances = Instances.single(objects, R, t)
        if K.is_cuda:
            seen = self._world.renderer.render(instances, K, (self._side, self._side))
            return contours(seen.depth, seen.normal, seen.color, self._order.expand_as(seen.depth))
        boxes = self._world.renderer.projected_boxes(instances, K).nan_to_num().clamp(0.0, self._side)
        largest = math.ceil(float(geometry.box_size(boxes).max())) + 2 * _MARGIN
        side = min(self._side, max(_LEAST, largest))
        corner = (geometry.box_center(boxes) - side / 2).round().clamp(0, self._side - side).long()  # (M, 2)
        K = K.clone()
        K[:, :2, 2] -= corner
        seen = self._world.renderer.render(instances, K, (side, side))
        columns, rows = (corner[:, axis, None] + torch.arange(side, device=corner.device) for axis in (0, 1))
        found = contours(seen.depth, seen.normal, seen.color, self._order[rows[:, :, None], columns[:, None]])
        return replace(found, points=found.points + corner[:, None])


def edges_around(
    images: Tensor,
    which: Tensor,
    boxes: Tensor,
    K: Tensor,
    side: int,
    extent: Tensor | None = None,
    *,
    blur: float = _BLUR,
    samples: int = 1,
) -> tuple[EdgeField, Tensor]:
    """Returns the photos' edges in the windows around boxes, and the windows' cameras (N, 3, 3).

    Args:
        images, which, boxes, K, side, extent: As ``ContourMatcher`` has them.
        blur: Pixels beside an edge at which it is still felt.
        samples: Of the photo for a pixel of the window, along each axis.
    """
    windows = geometry.padded_square(boxes, PAD)
    size = K.new_tensor([images.shape[3], images.shape[2]])
    shown = _windows(images, which, windows, side * samples, size if extent is None else extent)
    shown = shown if samples == 1 else F.avg_pool2d(shown, samples)
    return EdgeField(edge_field(shown, blur)), geometry.crop_camera(K, windows, side)


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


def read_photos(images: Tensor, which: Tensor, grid: Tensor, extent: Tensor) -> Tensor:
    """Reads images (B, 3, H, W) of numbers (N,) at places (N, h, w, 2), as ``grid_sample`` has them.

    Beyond what they show, ``extent`` (2,) pixels across and down, they go on as they end there.
    """
    size = grid.new_tensor([images.shape[3], images.shape[2]])
    last = (2.0 * extent.to(grid) - 1.0) / size - 1.0  # the last pixels' centres
    return F.grid_sample(images[which], torch.minimum(grid, last), padding_mode="border", align_corners=False)


def _windows(images: Tensor, which: Tensor, windows: Tensor, side: int, extent: Tensor) -> Tensor:
    """Cuts windows (N, 4) out of images; beyond its edge the photo goes on as it ends, so that no edge is made."""
    size = images.shape[3], images.shape[2]
    return read_photos(images, which, geometry.sampling_grid(windows, side, size), extent)


def _grid(reach: Reach) -> Tensor:
    """(steps^3, 3): shifts across and down, and log scales."""
    line = torch.linspace(-1.0, 1.0, reach.steps)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    return grid * torch.tensor([reach.shift, reach.shift, reach.scale])


def _match(field: EdgeField, posed: Posed, shifts: Tensor, scales: Tensor) -> Tensor:
    """Mean agreement of direction (M, G) of every contour with its photo's edges, under every shift and scale."""
    around = posed.edges.points - posed.center[:, None]  # (M, P, 2)
    points = F.pad(around, (0, 1), value=1.0)  # homogeneous
    projections = points.new_zeros(*scales.shape, 3, 3)  # (M, G, 3, 3)
    projections[..., 0, 0] = projections[..., 1, 1] = scales
    projections[..., 2, 2] = 1.0
    projections[..., :2, 2] = posed.center[:, None] + shifts
    nothing = torch.zeros_like(scales)
    votes = field.votes(points, posed.edges.directions, projections, nothing[..., None].expand(-1, -1, 3), nothing)
    return votes / posed.edges.voters[:, None]
