"""Wrong and nearly right poses for the judge to compare with crops, and what it should say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.networks.pose_judge import SIDE, THRESHOLDS, Verdict, apply_motions, render_channels
from codepose.rendering.renderer import Instances
from experiments.judge.lookalikes import look_alikes
from experiments.judge.parts import Parts, random_rotations, small_turns
from experiments.judge.scenes import Scenes, pixels_of

_KINDS = torch.tensor([0.12, 0.13, 0.08, 0.32, 0.35])
"""Shares of hypotheses: anyhow; flipped by half a turn; turned in the plane; within some 15 degrees; within some 4."""
_NEAR = torch.tensor([0.0, 0.0, 0.0, 0.35, 0.65])
"""The same for those that are added where there are look-alikes, most of which are wrong."""
_TRIED = 5
"""Poses that are tried for each look-alike."""
_TURN_DEG = torch.tensor([15.0, 6.0, 6.0, 13.0, 4.0])
_SHIFT = torch.tensor([0.04, 0.03, 0.03, 0.04, 0.012])
"""Of the crop's side."""
_DEPTH = torch.tensor([0.08, 0.06, 0.06, 0.08, 0.025])
_MOVABLE = 0.35
"""Motions are learned of poses no farther off than that share of the diameter, in the mean over the surface."""

_SHOWN = 0.25
"""Of a part that shows less nothing is learned."""


@dataclass(frozen=True)
class Hypotheses:
    """M poses of the crops' parts.

    Attributes:
        crop: (M,) the crop of each.
        R, t: (M, 3, 3), (M, 3) mm, in the crop camera.
        renders: (M, 8, 128, 128) of ``render_channels``.
        target_R, target_t: The truth, as the symmetric pose nearest to the hypothesis.
        largest: (M,) largest apparent error of a surface point over the diameter.
        mean: (M,) the mean one.
    """

    crop: Tensor
    R: Tensor
    t: Tensor
    renders: Tensor
    target_R: Tensor
    target_t: Tensor
    largest: Tensor
    mean: Tensor


@torch.no_grad()
def propose(parts: Parts, scenes: Scenes, count: int, alike: int = 0) -> Hypotheses:
    """Draws hypotheses for each crop and renders them.

    Args:
        parts: All parts.
        scenes: The crops.
        count: How many of ``_KINDS`` for each crop.
        alike: How many look-alikes for each crop, and half as many near the truth; they come first.
    """
    crops = torch.arange(len(scenes.part), device=parts.device)
    crop = crops.repeat_interleave(count)
    drawn = [(crop, *_drawn(scenes, crop, _KINDS))]
    if alike:
        near = crops.repeat_interleave(alike // 2)
        drawn = [look_alikes(parts, scenes, _TRIED * alike, alike), *drawn, (near, *_drawn(scenes, near, _NEAR))]
    crop, R, t = (torch.cat(values) for values in zip(*drawn, strict=True))
    part = scenes.part[crop]
    target_R, target_t, largest, mean = nearest_truth(parts, part, R, t, scenes.R[crop], scenes.t[crop])
    renders = _rendered(parts, scenes, crop, R, t)
    return Hypotheses(crop, R, t, renders, target_R, target_t, largest, mean)


def _drawn(scenes: Scenes, crop: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    where, total = crop.device, len(crop)
    kind = torch.multinomial(kinds.to(where), total, replacement=True)
    strength = torch.rand(total, device=where) * 1.5
    true_R, true_t, focal = scenes.R[crop], scenes.t[crop], scenes.focal[crop]
    turn = small_turns(strength * torch.deg2rad(_TURN_DEG.to(where))[kind])
    axis = torch.randint(3, (total,), device=where)
    half = torch.diag_embed(torch.where(torch.arange(3, device=where) == axis[:, None], 1.0, -1.0))
    of_camera = torch.rand(total, device=where) < 0.5
    flipped = torch.where(of_camera[:, None, None], half @ true_R, true_R @ half)
    angle = torch.rand(total, device=where) * 2 * math.pi
    in_plane = torch.zeros(total, 3, 3, device=where)
    in_plane[:, 0, 0] = in_plane[:, 1, 1] = angle.cos()
    in_plane[:, 0, 1], in_plane[:, 1, 0], in_plane[:, 2, 2] = -angle.sin(), angle.sin(), 1.0
    options = (random_rotations(total, where), flipped, in_plane @ true_R, true_R, true_R)
    R = turn @ torch.stack(options, 1)[torch.arange(total, device=where), kind]
    shift = torch.randn(total, 2, device=where) * (strength * _SHIFT.to(where)[kind] / focal)[:, None]
    z = true_t[:, 2] * torch.exp(torch.randn(total, device=where) * strength * _DEPTH.to(where)[kind])
    place = true_t[:, :2] / true_t[:, 2:] + shift
    return R, torch.cat((place * z[:, None], z[:, None]), 1)


def nearest_truth(
    parts: Parts, part: Tensor, R: Tensor, t: Tensor, true_R: Tensor, true_t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the symmetric form of the truth nearest to poses, (M, 3, 3) and (M, 3), and their apparent errors.

    The errors (M,), largest and mean, are those of surface points over the diameter: across the image as seen at the
    true distance, and in depth beside the part's centre. A wrong distance counts by how much larger or smaller the part
    looks: the photo shows no more of it.
    """
    points, diameter = parts.points[part], parts.diameters[part]
    z = true_t[:, 2, None]
    seen = _apparent(points @ R.mT, t, z)
    same_R = true_R[:, None] @ parts.turns[part]  # (M, S, 3, 3)
    same_t = true_t[:, None] + (true_R[:, None] @ parts.shifts[part][..., None]).squeeze(-1)  # (M, S, 3)
    goal = _apparent(torch.einsum("msij,mnj->msni", same_R, points), same_t, z[..., None])
    distance = (goal - seen[:, None]).norm(dim=-1) / diameter[:, None, None]  # (M, S, N)
    mean, nearest = distance.mean(2).min(1)
    rows = torch.arange(len(R), device=R.device)
    return same_R[rows, nearest], same_t[rows, nearest], distance.amax(2).amin(1), mean


def _apparent(turned: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Points (..., N, 3) around a centre t (..., 3): across as seen at depth z (..., 1), in depth from the centre."""
    placed = turned + t[..., None, :]
    across = placed[..., :2] / placed[..., 2:].clamp_min(1e-3) * z[..., None]
    return torch.cat((across, turned[..., 2:]), -1)


def _rendered(parts: Parts, scenes: Scenes, crop: Tensor, R: Tensor, t: Tensor) -> Tensor:
    part, total = scenes.part[crop], len(crop)
    order = torch.arange(total, device=R.device)
    one = torch.ones(total, device=R.device)
    instances = Instances(order, part, R, t, one, torch.full_like(order, -1))
    seen = parts.renderer.render(instances, scenes.K[crop], (SIDE, SIDE))
    color = _colors(parts, scenes, crop, R, t, seen.depth)
    return render_channels(seen.depth, seen.normal, color, t[:, 2], parts.diameters[part])


def _colors(parts: Parts, scenes: Scenes, crop: Tensor, R: Tensor, t: Tensor, depth: Tensor) -> Tensor:
    """The part's own colours for two fifths of the crops, roughly; grey where the CAD model would know none."""
    total, height, width = depth.shape
    known = torch.rand(len(scenes.part), device=R.device) < 0.4
    hit = (depth.view(-1) > 0).nonzero().squeeze(1)
    b = hit // (height * width)
    points = geometry.from_pixels(pixels_of(hit, width, height), depth.view(-1)[hit], scenes.K[crop[b]])
    local = torch.einsum("mji,mj->mi", R[b], points - t[b]) / parts.diameters[scenes.part[crop[b]]][:, None]
    own = scenes.looks.albedo(crop[b], local)
    off = 1.0 + 0.1 * torch.randn(len(scenes.part), 3, device=R.device)
    colors = torch.full((total * height * width, 3), 0.6, device=R.device)
    colors[hit] = torch.where(known[crop[b]][:, None], (own * off[crop[b]]).clamp(0.0, 1.0), 0.6)
    return colors.view(total, height, width, 3)


def loss(parts: Parts, scenes: Scenes, tried: Hypotheses, verdict: Verdict) -> dict[str, Tensor]:
    """Returns the loss and its parts, each (), with what the motions leave of the error."""
    thresholds = torch.tensor(THRESHOLDS, device=tried.R.device)
    below = (tried.largest[:, None] < thresholds).float()
    shown = (scenes.visible[tried.crop] > _SHOWN).float()
    scores = F.binary_cross_entropy_with_logits(verdict.logits, below, reduction="none").mean(1)
    score = (scores * shown).sum() / shown.sum().clamp_min(1.0)
    part, focal = scenes.part[tried.crop], scenes.focal[tried.crop]
    points, diameter = parts.points[part], parts.diameters[part]
    R, t = apply_motions(verdict, tried.R, tried.t, focal)
    # one at a time, the rest true, so that no error hides another (Simonelli et al., ICCV 2019)
    turned = ((R - tried.target_R) @ points.mT).abs().sum(1).mean(1) / diameter
    z = tried.target_t[:, 2]
    across = (t[:, :2] / t[:, 2:] - tried.target_t[:, :2] / z[:, None]).abs().sum(1) * z / diameter
    nearer = (t[:, 2] / z).log().abs()
    weight = (tried.mean < _MOVABLE).float() * shown
    weight = weight / weight.sum().clamp_min(1.0)
    turn, shift, depth = ((e * weight).sum() for e in (turned, across, nearer))
    with torch.no_grad():
        before = (tried.mean * weight).sum()
        after = (nearest_truth(parts, part, R, t, tried.target_R, tried.target_t)[3] * weight).sum()
    total = score + 3.0 * (turn + shift + depth)
    return {
        "loss": total, "score": score, "turn": turn, "shift": shift, "depth": depth, "before": before, "after": after
    }  # fmt: skip


def angle_deg(tried: Hypotheses) -> Tensor:
    """(M,) degrees between hypotheses and targets."""
    return torch.rad2deg(geometry.geodesic_angle(tried.R, tried.target_R))
