"""Local search over the photo's edges, in all six degrees of freedom at once.

Turning a part and moving it can hardly be told apart, so a search that turns first and moves then goes astray. Here the
edge points of one render are lifted to the part's surface and move with it, as in Harris and Stennett, "RAPID", BMVC
1990: hundreds of poses cost one render. The outline of a round surface wanders over it as it turns, but by less than
r delta^2 / 2; after each search it is drawn anew. The search is the cross-entropy method (Rubinstein, 1999): draw poses
around a mean, keep the best tenth, draw around these.
"""

from __future__ import annotations

import math

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor

from codepose import geometry
from codepose.refinement.contours import RenderedEdges
from codepose.refinement.edge_votes import EdgeField

_SAMPLES, _ELITE, _ITERATIONS = 100, 10, 4
_SHIFT, _SCALE = 0.004, 0.006
"""Spread of places (share of the box's side) and of log sizes for one degree of that of turns."""
_LEAST = 0.05
"""The spread shrinks to this share of the first one at most."""


def search(field: EdgeField, start: RenderedEdges, R_view: Tensor, spread_deg: float) -> tuple[Tensor, Tensor]:
    """Finds better poses near given ones.

    Args:
        field: The photos' edges around N detections.
        start: The edges of k poses of each, M = N k.
        R_view: (N, k, 3, 3) their rotations, as seen along the ray through the object.
        spread_deg: Standard deviation of the first turns, about each axis of the camera.

    Returns:
        R_view (N, k, 3, 3) and t (N, k, 3) of the best pose drawn around each.
    """
    generator = torch.Generator().manual_seed(0)  # the same poses are tried around every hypothesis
    first = torch.tensor([1.0, 1.0, 1.0, _SHIFT, _SHIFT, _SCALE]).to(start.t) * spread_deg
    first[:3] *= math.pi / 180.0
    mean, spread = start.t.new_zeros(len(start.t), 6), first.expand(len(start.t), 6)
    best, value = mean, start.t.new_full((len(start.t),), -math.inf)
    for _ in range(_ITERATIONS):
        noise = torch.randn(_SAMPLES, 6, generator=generator).to(start.t)
        tried = mean[:, None] + spread[:, None] * noise  # (M, S, 6)
        top = _values(field, start, tried).topk(_ELITE, dim=1)
        elite = tried.gather(1, top.indices[..., None].expand(-1, -1, 6))
        better = top.values[:, 0] > value
        best = torch.where(better[:, None], elite[:, 0], best)
        value = torch.where(better, top.values[:, 0], value)
        mean, spread = elite.mean(1), elite.std(1).clamp_min(_LEAST * first)
    turns, t = _changed_poses(start, best[:, None])
    R = turns[:, 0] @ geometry.offaxis_rotation(start.t) @ R_view.flatten(0, 1)
    new_R_view = geometry.offaxis_rotation(t[:, 0]).mT @ R
    return new_R_view.view_as(R_view), t[:, 0].view(*R_view.shape[:2], 3)


def _changed_poses(start: RenderedEdges, change: Tensor) -> tuple[Tensor, Tensor]:
    """Turns (M, S, 3, 3) and translations (M, S, 3) of changes: rotation vector, shift over the box's side, log size.

    Args:
        start: M poses.
        change: (M, S, 6).
    """
    turns = axis_angle_to_rotation_matrix(change[..., :3].reshape(-1, 3)).view(*change.shape[:2], 3, 3)
    return turns, start.translations(change[..., 3:5] * start.box, change[..., 5])


def _values(field: EdgeField, start: RenderedEdges, change: Tensor) -> Tensor:
    """Scores (M, S) of poses, changed as ``_changed_poses`` has it."""
    turns, t = _changed_poses(start, change)
    K, shifts = start.K[:, None], (start.K[:, None] @ t[..., None]).squeeze(-1)
    # the directions are doubled angles: they turn by twice the part's turn in the plane
    votes = field.votes(start.points, start.edges.directions, K @ turns, shifts, 2.0 * change[..., 2])
    return start.worth(votes / start.edges.voters[:, None], change[..., 3:5] * start.box, change[..., 5])
