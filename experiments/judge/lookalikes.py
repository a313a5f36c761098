"""Wrong poses that look right: their outlines lie almost on the part's own.

These are what edges propose and what the judge must tell apart: half turns of parts, tilts towards the camera taken for
tilts away from it (Necker's cube), and views of another side. Poses drawn anyhow hardly hold any.
"""

from __future__ import annotations

import math

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor

from codepose.networks.pose_judge import crop_cameras
from codepose.rendering.renderer import Instances
from experiments.judge.develop import uniform
from experiments.judge.parts import Parts, random_rotations, small_turns
from experiments.judge.scenes import Scenes

_KINDS = torch.tensor([0.25, 0.25, 0.3, 0.2])
"""Shares of what is tried: half a turn; depth reversed and the part mirrored; tilted; anyhow."""
_TILT_DEG = (12.0, 50.0)
_TURN_DEG = 7.0
"""Standard deviation of a further turn of each."""
_SIDE = 40
"""Pixels along the masks that are compared."""
_LUCK = 0.06
"""Up to so much is added to an overlap, so that not always the same poses are the best."""
_SHIFT, _DEPTH = 0.008, 0.015
"""How far off, in sides of the crop and in distances, a pose lies that edges have placed."""


@torch.no_grad()
def look_alikes(parts: Parts, scenes: Scenes, tried: int, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws poses of each crop's part and keeps those whose masks overlap the true one most.

    Args:
        parts: All parts.
        scenes: B crops.
        tried: How many poses of each are drawn.
        kept: How many of them are returned.

    Returns:
        The crop (B kept,) of each, R (B kept, 3, 3) and t (B kept, 3) mm, in the crop camera.
    """
    where, count = parts.device, len(scenes.part)
    crop = torch.arange(count, device=where).repeat_interleave(tried)
    part = scenes.part[crop]
    R = _alternatives(scenes.R[crop])
    t = _into_boxes(parts, part, R, scenes.t[crop], parts.boxes(scenes.part, scenes.R, scenes.t)[crop])
    true = _masks(parts, scenes.part, scenes.R, scenes.t, scenes.focal)[crop]
    mask = _masks(parts, part, R, t, scenes.focal[crop])
    overlap = (mask & true).sum((1, 2)) / (mask | true).sum((1, 2)).clamp_min(1)
    worth = overlap + _LUCK * torch.rand(len(crop), device=where)
    best = worth.view(count, tried).topk(kept, 1).indices + tried * torch.arange(count, device=where)[:, None]
    crop, R, t = crop[best.flatten()], R[best.flatten()], t[best.flatten()]
    z = t[:, 2] * torch.exp(_DEPTH * torch.randn(len(t), device=where))
    shift = _SHIFT * torch.randn(len(t), 2, device=where) / scenes.focal[crop, None]
    place = t[:, :2] / t[:, 2:] + shift
    return crop, R, torch.cat((place * z[:, None], z[:, None]), 1)


def _alternatives(R: Tensor) -> Tensor:
    """Rotations (M, 3, 3) in whose views parts may look as in those of R (M, 3, 3)."""
    where, total = R.device, len(R)
    kind = torch.multinomial(_KINDS.to(where), total, replacement=True)
    axis = torch.randint(3, (total,), device=where)
    chosen = torch.arange(3, device=where) == axis[:, None]
    half_turn = torch.diag_embed(torch.where(chosen, 1.0, -1.0))
    mirror = torch.diag_embed(torch.where(chosen, -1.0, 1.0))
    reverse = torch.diag(torch.tensor([1.0, 1.0, -1.0], device=where))
    angle = torch.deg2rad(uniform(total, *_TILT_DEG, where))
    direction = uniform(total, 0.0, 2.0 * math.pi, where)
    tilt = torch.stack((direction.cos() * angle, direction.sin() * angle, torch.zeros_like(angle)), 1)
    options = (
        R @ half_turn,
        reverse @ R @ mirror,
        axis_angle_to_rotation_matrix(tilt) @ R,
        random_rotations(total, where),
    )
    turned = torch.stack(options, 1)[torch.arange(total, device=where), kind]
    return small_turns(torch.full((total,), math.radians(_TURN_DEG), device=where)) @ turned


def _into_boxes(parts: Parts, part: Tensor, R: Tensor, t: Tensor, boxes: Tensor) -> Tensor:
    """Moves poses from t (M, 3) so that their boxes have the middles and the areas of boxes (M, 4)."""
    middle, area = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for _ in range(2):
        own = parts.boxes(part, R, t)
        larger = ((own[:, 2:] - own[:, :2]).prod(1) / area).sqrt()
        z = t[:, 2] * larger.clamp(0.5, 2.0)
        place = t[:, :2] / t[:, 2:] + middle - (own[:, :2] + own[:, 2:]) / 2
        t = torch.cat((place * z[:, None], z[:, None]), 1)
    return t


def _masks(parts: Parts, part: Tensor, R: Tensor, t: Tensor, focal: Tensor) -> Tensor:
    """Where parts are seen, (M, side, side)."""
    order = torch.arange(len(part), device=R.device)
    instances = Instances(order, part, R, t, torch.ones_like(focal), torch.full_like(order, -1))
    return parts.renderer.depth(instances, crop_cameras(focal, _SIDE), (_SIDE, _SIDE)) > 0
