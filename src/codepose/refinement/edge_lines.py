"""Edges of renders to a fraction of a pixel, each with its normal; and how strong a photo's edges are across them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose.refinement.edges import NOWHERE, doubled_gradients, nearest_surface, render_planes, steps

_POINTS = 256
"""Edge points of a render."""
_CANDIDATES = 1024
"""Pixels beside edges among which the points are looked for."""
_STRONG = 0.25
"""Least strength of an edge, over that of the render's strongest."""
_BESIDE = 1.5
"""Pixels beside a point at which an outline has the part on one side only."""
_SMOOTH, _PHOTO_SMOOTH = 0.7, 0.8
"""Blur of renders and photos, in pixels of the window: wide enough to read edges between pixels."""


@dataclass(frozen=True)
class EdgeLines:
    """Points on the edges of M renders.

    Attributes:
        points: (M, P, 2) pixels of the window.
        normals: (M, P, 2) unit vectors across the edge, of either sign.
        depth: (M, P) mm, of the nearest surface at or beside the point.
        there: (M, P) 1 where there is a point, 0 where a render has fewer.
        outline: (M, P) whether it lies on the outline; its normal then leads out of the part.
    """

    points: Tensor
    normals: Tensor
    depth: Tensor
    there: Tensor
    outline: Tensor


def edge_lines(depth: Tensor, normal: Tensor, color: Tensor) -> EdgeLines:
    """Picks points on the edges of renders: where the strength peaks across an edge, between pixels.

    Args:
        depth: (M, H, W) mm, 0 = nothing there.
        normal: (M, H, W, 3), zero where nothing is.
        color: (M, H, W, 3) unlit, in [0, 1], zero where nothing is.
    """
    planes = gaussian_blur2d(render_planes(depth, normal, color), (5, 5), (_SMOOTH, _SMOOTH))
    doubled, square = doubled_gradients(planes)
    strength = square.sqrt()[:, None]  # (M, 1, H, W)
    strong = strength > _STRONG * strength.amax((2, 3), keepdim=True).clamp_min(1e-6)
    order = torch.rand(*depth.shape[1:], generator=torch.Generator().manual_seed(0)).to(depth)  # the same points always
    beside = (strong[:, 0] * (1.0 + order)).flatten(1).topk(min(_CANDIDATES, order.numel()), dim=1)
    pixels = torch.stack((beside.indices % depth.shape[2], beside.indices // depth.shape[2]), -1) + 0.5  # (M, C, 2)
    angle = 0.5 * torch.atan2(_at(doubled[:, 1:], beside.indices), _at(doubled[:, :1], beside.indices))
    across = torch.stack((angle.cos(), angle.sin()), -1)
    here = _at(strength, beside.indices)
    before, after = (read_between(strength, pixels + way * across)[:, 0] for way in (-1.0, 1.0))
    peaks = (here >= before) & (here > after) & (beside.values > 0)
    picked = (peaks * beside.values).topk(min(_POINTS, peaks.shape[1]), dim=1)
    points = pixels + peak(before, here, after)[..., None] * across
    surface = _at(nearest_surface(depth)[:, None], beside.indices)
    chosen = [_rows(values, picked.indices) for values in (points, across, surface[..., None])]
    points, normals, depths = chosen[0], chosen[1], chosen[2].squeeze(2)
    inside = (depth > 0).float()[:, None]
    ahead, behind = (read_between(inside, points + way * _BESIDE * normals)[:, 0] for way in (1.0, -1.0))
    normals = torch.where((ahead > behind)[..., None], -normals, normals)
    there = (picked.values > 0) & (depths < NOWHERE)
    return EdgeLines(points, normals, depths, there.float(), (ahead - behind).abs() > 0.5)


def peak(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """Returns where a parabola through three values, one step apart, is largest: steps from the middle, up to 0.5."""
    bend = (before - 2.0 * here + after).clamp_max(-1e-9)
    return (0.5 * (before - after) / bend).clamp(-0.5, 0.5)


def photo_gradients(windows: Tensor) -> Tensor:
    """Returns (M, 6, s, s): the change of windows of photos (M, 3, s, s) across, then down."""
    smooth = gaussian_blur2d(windows, (5, 5), (_PHOTO_SMOOTH, _PHOTO_SMOOTH))
    return torch.cat(steps(smooth), 1)


def strengths(gradients: Tensor, pixels: Tensor, normals: Tensor) -> Tensor:
    """Returns how strong photos' edges are across normals, (M, P, S), least where they run another way.

    Args:
        gradients: (M, 6, s, s) of ``photo_gradients``.
        pixels: (M, P, S, 2) where.
        normals: (M, P, 2) of each point.
    """
    read = read_between(gradients, pixels)  # (M, 6, P, S)
    x, y = read[:, :3], read[:, 3:]
    along = (x * normals[:, None, :, None, 0] + y * normals[:, None, :, None, 1]).square().sum(1)
    whole = (x.square() + y.square()).sum(1)
    return along.sqrt() * along / whole.clamp_min(1e-12)


def read_between(planes: Tensor, pixels: Tensor) -> Tensor:
    """Returns values (M, C, ...) of planes (M, C, H, W) between their pixels: at (M, P, 2) or (M, P, S, 2)."""
    size = pixels.new_tensor([planes.shape[3], planes.shape[2]])
    grid = (pixels if pixels.ndim == 4 else pixels[:, :, None]) / size * 2.0 - 1.0
    read = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return read if pixels.ndim == 4 else read.squeeze(-1)


def _at(planes: Tensor, index: Tensor) -> Tensor:
    """Values (M, P) of planes (M, 1, H, W) at flat places (M, P)."""
    return planes.flatten(1).gather(1, index)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (M, P, D) of values (M, C, D) by their numbers (M, P)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
