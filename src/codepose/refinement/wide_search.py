"""Which of all views the photo's edges alone speak for, in one cheap pass.

The network's codes rank views well on renderings, and less well on photographs, whose edges it has not learned. So all
of the codebook's views are laid over a small window of the photo by the edge points of views drawn once
(``view_edges.py``), each in a few sizes; then the best of them in a few places and sizes, ever nearer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codepose import geometry
from codepose.refinement.contours import score
from codepose.refinement.edges import PAD, edges_around
from codepose.refinement.poses import Poses, Seen
from codepose.refinement.view_edges import ViewEdges
from codepose.synthesis.lookalikes import spread_views
from codepose.synthesis.objects import Objects

if TYPE_CHECKING:
    from codepose.estimation.codebook import Codebook

_SAMPLES = 2
"""Samples of the photo for a pixel of a window, along each axis."""


@dataclass(frozen=True)
class _Level:
    """How a level looks: ``keep`` poses (0 = all) in windows of ``side`` pixels, by so many of their edge points.

    Each is tried in ``places`` along both axes, up to ``shift`` sides away, and in three sizes, up to a log scale of
    ``scale``; an edge of the photo is felt ``blur`` pixels beside it.
    """

    keep: int
    side: int
    points: int
    blur: float
    shift: float
    places: int
    scale: float


_LEVELS = (
    _Level(keep=0, side=48, points=48, blur=1.2, shift=0.0, places=1, scale=0.07),
    _Level(keep=1024, side=64, points=96, blur=0.7, shift=0.05, places=3, scale=0.04),
    _Level(keep=256, side=64, points=96, blur=0.7, shift=0.025, places=3, scale=0.02),
)


class WideSearch:
    """Finds, among all of a codebook's views, those whose edges lie best on the photo's.

    Args:
        world: The run's meshes and renderer.
    """

    def __init__(self, world: Objects) -> None:
        self._world = world
        self._views: dict[int, tuple[ViewEdges, Tensor, Tensor]] = {}  # and the nearest to each of the codebook's views

    @torch.no_grad()
    def __call__(self, seen: Seen, book: Codebook, count: int, apart_deg: float) -> tuple[Tensor, Tensor]:
        """Returns the ``count`` best views (N, count) of each detection, by their numbers in the codebook, best first.

        And where they lie, (N, count, 3) mm: not where the box puts them, but where the edges do.

        Args:
            seen: N detections of one object.
            book: Its codebook, the same in every call.
            count: How many.
            apart_deg: Smallest angle between two of them.
        """
        home, index = seen.boxes.device, int(seen.objects[0])
        seen, book = seen.to(self._world.device), book.to(self._world.device)
        if index not in self._views:
            drawn = ViewEdges.draw(self._world, index)
            self._views[index] = drawn, *drawn.nearest(book.rotations)
        views, nearest, turned = self._views[index]
        numbers = torch.arange(len(book.codes), device=seen.boxes.device).expand(len(seen.boxes), -1)
        t = book.placed(numbers.flatten(), seen.boxes.repeat_interleave(len(book.codes), 0), seen.K)
        rotations = book.rotations.expand(len(numbers), -1, 3, 3)
        poses = Poses.start(rotations, t.view(*numbers.shape, 3), torch.zeros_like(numbers, dtype=t.dtype))
        for level in _LEVELS:
            if level.keep:
                best = poses.ranking(level.keep)
                poses, numbers = poses.picked(best), numbers.gather(1, best)
            poses = _lay(views, nearest[numbers].flatten(), turned[numbers].flatten(), seen, poses, level)
        best = poses.ranking(poses.t.shape[1])
        symmetries = self._world.objects[index].symmetries
        picked = spread_views(poses.picked(best).R_view, count, apart_deg, symmetries)
        chosen = best.gather(1, picked)
        return numbers.gather(1, chosen).to(home), poses.picked(chosen).t.to(home)


def _lay(views: ViewEdges, view: Tensor, angle: Tensor, seen: Seen, poses: Poses, level: _Level) -> Poses:
    """The poses (N, k), each in the best of its places and sizes, by the edges of views (N k,), turned by angles."""
    count, box = poses.t.shape[1], level.side / PAD
    where = (seen.images, seen.which, seen.boxes, seen.K, level.side, seen.extent)
    field, K = edges_around(*where, blur=level.blur, samples=_SAMPLES)
    K = K.repeat_interleave(count, 0)
    t, boxed = poses.t.flatten(0, 1), poses.boxed.flatten(0, 1)
    grid = _grid(level).to(t)  # (G, 3)
    center = geometry.to_pixels(t, K)[:, None] + grid[:, :2] * box  # (M, G, 2)
    z = t[:, 2, None] * torch.exp(-grid[:, 2])  # (M, G)
    shifts = torch.cat((center, torch.ones_like(center[..., :1])), -1) * z[..., None]
    projections = (K @ poses.R.flatten(0, 1))[:, None]
    points, directions = (x[:, : level.points].contiguous() for x in (views.points, views.directions))
    votes = field.votes(points, directions, projections, shifts, 2.0 * angle[:, None], view)
    voters = (directions != 0).any(-1).sum(1).clamp_min(1)
    share = (views.length / views.length.mean())[view, None] * boxed[:, 2, None] / z
    off = (center - geometry.to_pixels(boxed, K)[:, None]) / box
    contour = score(votes / voters[view, None], share, off, torch.log(boxed[:, 2, None] / z))
    best = contour.argmax(1, keepdim=True)
    rows = torch.arange(len(t), device=t.device)[:, None]
    place = geometry.from_pixels(center[rows, best], z[rows, best], K[:, None])[:, 0]
    contour = contour[rows, best].view(poses.contour.shape)
    return replace(poses, t=place.view_as(poses.t), contour=contour, score=contour)


def _grid(level: _Level) -> Tensor:
    """(G, 3): shifts across and down, and log scales."""
    across = torch.linspace(-level.shift, level.shift, level.places) if level.places > 1 else torch.zeros(1)
    sizes = torch.linspace(-level.scale, level.scale, 3)
    return torch.stack(torch.meshgrid(across, across, sizes, indexing="ij"), -1).reshape(-1, 3)
