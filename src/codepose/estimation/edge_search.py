"""Local search over the photo's edges, in all six degrees of freedom at once.

Turning a part and moving it can hardly be told apart, so a search that turns first and moves then goes astray. Here the
edge points of one render are lifted to the part's surface and move with it, as in Harris and Stennett, "RAPID", BMVC
1990: hundreds of poses cost one render. The outline of a round surface wanders over it as it turns, but by less than
r delta^2 / 2; after each search it is drawn anew. The search is the cross-entropy method (Rubinstein, 1999): draw poses
around a mean, keep the best tenth, draw around these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.estimation.contours import ContourMatcher, Lifted

_SAMPLES, _ELITE, _ITERATIONS = 200, 20, 4
_SHIFT, _SCALE = 0.004, 0.006
"""Spread of places (share of the box's side) and of log sizes for one degree of that of turns."""
_LEAST = 0.05
"""The spread shrinks to this share of the first one at most."""


def search(
    matcher: ContourMatcher, R_view: Tensor, t: Tensor, boxed: Tensor, spread_deg: float
) -> tuple[Tensor, Tensor]:
    """Finds better poses near given ones.

    Args:
        matcher: Of N detections; ``fit`` was called before.
        R_view: (N, k, 3, 3) rotations as seen along the ray through the object.
        t: (N, k, 3) mm.
        boxed: (N, k, 3) mm, where the boxes put them.
        spread_deg: Standard deviation of the first turns, about each axis of the camera.

    Returns:
        R_view (N, k, 3, 3) and t (N, k, 3) of the best pose drawn around each.
    """
    count = R_view.shape[1]
    given = matcher.lifted(R_view, t, boxed)
    generator = torch.Generator().manual_seed(0)  # the same poses are tried around every hypothesis
    first = torch.tensor([1.0, 1.0, 1.0, _SHIFT, _SHIFT, _SCALE]).to(t) * spread_deg
    first[:3] *= math.pi / 180.0
    mean, spread = t.new_zeros(len(given.t), 6), first.expand(len(given.t), 6)
    best, value = mean, t.new_full((len(given.t),), -math.inf)
    for _ in range(_ITERATIONS):
        noise = torch.randn(_SAMPLES, 6, generator=generator).to(t)
        tried = mean[:, None] + spread[:, None] * noise  # (M, S, 6)
        top = _values(matcher, given, tried, count).topk(_ELITE, dim=1)
        elite = tried.gather(1, top.indices[..., None].expand(-1, -1, 6))
        better = top.values[:, 0] > value
        best = torch.where(better[:, None], elite[:, 0], best)
        value = torch.where(better, top.values[:, 0], value)
        mean, spread = elite.mean(1), elite.std(1).clamp_min(_LEAST * first)
    moved = _moved(given, best[:, None])
    R = moved.turns[:, 0] @ geometry.offaxis_rotation(given.t) @ R_view.flatten(0, 1)
    new = geometry.offaxis_rotation(moved.t[:, 0]).mT @ R
    return new.view_as(R_view), moved.t[:, 0].view_as(t)


@dataclass(frozen=True)
class _Moved:
    turns: Tensor  # (M, S, 3, 3)
    t: Tensor  # (M, S, 3)
    center: Tensor  # (M, S, 2), pixels of the window


def _moved(given: Lifted, change: Tensor) -> _Moved:
    """Poses (M, S) that differ from M given ones by turns, shifts over the box's side, and log sizes (M, S, 6)."""
    turns = axis_angle_to_rotation_matrix(change[..., :3].reshape(-1, 3)).view(*change.shape[:2], 3, 3)
    z = given.t[:, None, 2] * torch.exp(-change[..., 5])
    center = given.center[:, None] + change[..., 3:5] * given.box
    ray = (center - given.K[:, None, :2, 2]) / given.K.diagonal(dim1=1, dim2=2)[:, None, :2]
    return _Moved(turns, torch.cat((ray * z[..., None], z[..., None]), -1), center)


def _values(matcher: ContourMatcher, given: Lifted, change: Tensor, count: int) -> Tensor:
    """Scores (M, S) of changed poses."""
    moved = _moved(given, change)
    points = given.points[:, None] @ moved.turns.mT + moved.t[:, :, None]  # (M, S, P, 3)
    focal, middle = given.K.diagonal(dim1=1, dim2=2)[:, None, None, :2], given.K[:, None, None, :2, 2]
    where = points[..., :2] / points[..., 2:].clamp_min(1e-6) * focal + middle
    match = _agreement(matcher.field, where, given.directions, change[..., 2], count)
    share = given.share[:, None] * change[..., 5].exp()
    return matcher.worth(match, share, moved.center - given.at_box[:, None], change[..., 5] + given.from_box[:, None])


def _agreement(field: Tensor, where: Tensor, directions: Tensor, in_plane: Tensor, count: int) -> Tensor:
    """Mean agreement (M, S) of points (M, S, P, 2) with fields (N, 2, H, W), their directions turned in the plane."""
    samples = where.shape[1]
    votes = []
    images = len(field) if field.is_cuda else 1  # a CPU's caches hold the samples of one
    chunks = (torch.split(field, images), torch.split(where, images * count), torch.split(directions, images * count))
    for part, places, own in zip(*chunks, strict=True):
        grid = places.reshape(len(part), -1, places.shape[2], 2) * (2.0 / field.shape[3]) - 1.0
        found = F.grid_sample(part, grid, align_corners=False).view(len(part), 2, -1, samples, places.shape[2])
        cos, sin = found[:, 0].flatten(0, 1), found[:, 1].flatten(0, 1)  # (m, S, P)
        x, y = own[..., 0, None], own[..., 1, None]
        votes.append(torch.cat((cos @ x + sin @ y, sin @ x - cos @ y), -1))
    along, across = torch.cat(votes).unbind(-1)
    voters = (directions != 0).any(-1).sum(1).clamp_min(1)
    # the field's angles and the directions' are doubled
    return (along * torch.cos(2.0 * in_plane) + across * torch.sin(2.0 * in_plane)) / voters[:, None]
