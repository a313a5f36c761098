"""Where a rendered contour lies best in the photo: place and distance, to a fraction of a detection's error.

A box that is 5 % too large puts the part 5 % too near. The part's outline in the photo is sharper than any box: here
the edges of a render (silhouette, creases, and where one colour of the part ends and the next begins; without light)
are laid over the edges of the photo, and moved and scaled until they run along them. Edges are compared by direction
without sign, strong and weak ones alike, as in Hinterstoisser et al., "Gradient Response Maps", TPAMI 2012; what an
occluder hides matches nothing and votes for nothing. Votes are summed, not averaged: averages prefer short outlines,
which are easy to match, to the true one (docs/results.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.synthesis.renderer import Instances
from codepose.synthesis.world import World

SIDE = 96
"""Pixels along the window in which edges are compared."""
_PAD = 1.6
"""The window's side over the box's: room for a box that is too small or beside the part."""
_BOX = SIDE / _PAD
"""The box's longer side in pixels of the window."""
_POINTS = 256
"""Edge points of a render that vote."""
_OUTLINE, _COLOR = 1.5, 2.0
"""Weights of the silhouette and of a change of colour beside a change of the normal by 1."""
_FAINT = 0.05
"""Gradient at which an edge of the photo counts half."""
_BLUR = 1.0
"""Pixels beside an edge at which it is still felt."""
_PRIOR = 0.01
_PRIOR_SHIFT, _PRIOR_SCALE = 0.06, 0.10
"""How far boxes usually are off: share of the side, and of the size."""
_RENDERS = 128
"""Views rendered at a time."""


@dataclass(frozen=True)
class Reach:
    """A grid of shifts and sizes: ``steps`` values on each axis, up to ``shift`` sides and a log scale of ``scale``."""

    shift: float
    scale: float
    steps: int


Reaches = tuple[Reach, ...]

FAR: Reaches = (Reach(0.12, 0.20, 9), Reach(0.045, 0.075, 7), Reach(0.010, 0.015, 3))
"""From a box's error down to a third of a pixel."""
NEAR: Reaches = (Reach(0.04, 0.06, 5), Reach(0.012, 0.018, 3))
"""After a small turn."""


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
    gy, gx = torch.gradient(images, dim=(2, 3))
    doubled = torch.stack(((gx - gy).mul_(gx + gy).sum(1), (2.0 * gx).mul_(gy).sum(1)), 1)
    square = doubled.square().sum(1).sqrt()
    return doubled / square[:, None].clamp_min(1e-12), square


@dataclass(frozen=True)
class Contours:
    """Edge points of M renders.

    Attributes:
        points: (M, P, 2) pixels of the window.
        directions: (M, P, 2), (cos, sin) of twice the gradient's direction; zero where a render has fewer points.
        length: (M,) pixels that lie on edges, of which the points are a sample.
    """

    points: Tensor
    directions: Tensor
    length: Tensor


def contours(depth: Tensor, normal: Tensor, color: Tensor) -> Contours:
    """Picks edge points of renders: silhouettes, creases, and borders between colours.

    Args:
        depth: (M, H, W), 0 = nothing there.
        normal: (M, H, W, 3).
        color: (M, H, W, 3) unlit, in [0, 1].
    """
    inside = (depth > 0)[:, None]
    shape, paint = (torch.where(inside, x.permute(0, 3, 1, 2), 0.0) for x in (normal, color))
    mean = paint.sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    paint = torch.where(inside, paint, mean)  # around the part, so that its outline does not count twice
    directions, square = _edges(torch.cat((_OUTLINE * inside, shape, _COLOR * paint), 1))
    square = square.flatten(1)
    strong = square > 0.25 * square.amax(1, keepdim=True).clamp_min(1e-6)
    # the same points whenever a view is rendered again: a fixed shuffle of the pixels says which
    order = torch.rand(square.shape[1], generator=torch.Generator().manual_seed(0)).to(square)
    picked = (strong * (1.0 + order)).topk(min(_POINTS, square.shape[1]), dim=1)
    there = picked.values > 0
    width = depth.shape[2]
    points = torch.stack((picked.indices % width, picked.indices // width), -1) + 0.5
    chosen = directions.flatten(2).gather(2, picked.indices[:, None].expand(-1, 2, -1)).transpose(1, 2)
    return Contours(points, chosen * there[..., None], strong.sum(1))


class ContourMatcher:
    """Lays renders over windows of photos.

    Args:
        world: Meshes and renderer.
        images: (B, 3, H, W) in [0, 1].
        which: (N,) the image each detection is in.
        boxes: (N, 4) the detections.
        objects: (N,) which object.
        K: (3, 3) the images' camera.
    """

    def __init__(self, world: World, images: Tensor, which: Tensor, boxes: Tensor, objects: Tensor, K: Tensor) -> None:
        self._world, self._objects = world, objects
        windows = geometry.padded_square(boxes, _PAD)
        self._K = geometry.crop_camera(K, windows, SIDE)  # (N, 3, 3)
        self._field = edge_field(_windows(images, which, windows), _BLUR)
        self._length: Tensor | None = None  # (N,) of the contours first drawn, in the mean: what scores are shares of

    def fit(self, R_view: Tensor, t: Tensor, start: Tensor, reaches: Reaches) -> tuple[Tensor, Tensor]:
        """Moves rendered views until their edges lie on the photo's.

        Args:
            R_view: (N, k, 3, 3) rotations as seen along the ray through the object; they stay.
            t: (N, k, 3) mm, where the boxes put them; far from it a match must be better to count as much.
            start: (N, k, 3) mm, where the search begins.
            reaches: Grids, coarse to fine.

        Returns:
            t (N, k, 3) and scores (N, k): 0 = chance, 1 = as many edge pixels lie on edges of the photo that run their
            way as the contours drawn at the first call have in the mean.
        """
        count = R_view.shape[1]
        K = self._K.repeat_interleave(count, 0)
        begin, boxed = start.flatten(0, 1), t.flatten(0, 1)
        drawn = self._draw(R_view.flatten(0, 1), begin, K)
        if self._length is None:
            self._length = drawn.length.view(-1, count).float().mean(1).clamp_min(1.0)
        share = (drawn.length / self._length.repeat_interleave(count))[:, None]
        center, at_box = _pixels(begin, K), _pixels(boxed, K)
        shift, scale = torch.zeros_like(center)[:, None], begin.new_zeros(len(begin), 1)
        from_box = torch.log(boxed[:, 2] / begin[:, 2])  # size over the size in the box
        score = begin.new_zeros(len(begin))
        for reach in reaches:
            grid = _grid(reach).to(begin)
            shifts = shift + grid[None, :, :2] * _BOX
            scales = scale + grid[None, :, 2]
            match = _match(self._field, drawn, center, shifts, scales.exp(), count) * (share * scales.exp())
            off = (center - at_box)[:, None] + shifts
            far = (off / (_BOX * _PRIOR_SHIFT)).square().sum(-1)
            far = far + ((scales + from_box[:, None]) / _PRIOR_SCALE).square()
            value = match - _PRIOR * far
            best = value.argmax(1, keepdim=True)
            shift = shifts.gather(1, best[..., None].expand(-1, -1, 2))
            scale, score = scales.gather(1, best), value.gather(1, best)[:, 0]
        z = begin[:, 2] * torch.exp(-scale[:, 0])
        ray = (center + shift[:, 0] - K[:, :2, 2]) / K.diagonal(dim1=1, dim2=2)[:, :2]
        moved = torch.cat((ray * z[:, None], z[:, None]), 1)
        return moved.view_as(t), score.view(t.shape[:2])

    def _draw(self, R_view: Tensor, t: Tensor, K: Tensor) -> Contours:
        objects = self._objects.repeat_interleave(len(t) // len(self._objects))
        R = geometry.offaxis_rotation(t) @ R_view
        parts = []
        for one, turned, moved, camera in zip(*(torch.split(x, _RENDERS) for x in (objects, R, t, K)), strict=True):
            seen = self._world.renderer.render(Instances.single(one, turned, moved), camera, (SIDE, SIDE))
            parts.append(contours(seen.depth, seen.normal, seen.color))
        return Contours(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Contours)))


def _windows(images: Tensor, which: Tensor, windows: Tensor) -> Tensor:
    """Cuts windows (N, 4) out of images; beyond its edge the image goes on as it ends, so that no edge is made."""
    grid = geometry.sampling_grid(windows, SIDE, (images.shape[3], images.shape[2]))
    return F.grid_sample(images[which], grid, padding_mode="border", align_corners=False)


def _pixels(t: Tensor, K: Tensor) -> Tensor:
    """Where points (M, 3) lie in the images of K (M, 3, 3)."""
    return t[:, :2] / t[:, 2:] * K.diagonal(dim1=1, dim2=2)[:, :2] + K[:, :2, 2]


def _grid(reach: Reach) -> Tensor:
    """(steps^3, 3): shifts across and down, and log scales."""
    line = torch.linspace(-1.0, 1.0, reach.steps)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    return grid * torch.tensor([reach.shift, reach.shift, reach.scale])


def _match(field: Tensor, drawn: Contours, center: Tensor, shifts: Tensor, scales: Tensor, count: int) -> Tensor:
    """Mean agreement of direction (M, G) of every contour with its photo's edges, under every shift and scale."""
    around = drawn.points - center[:, None]  # (M, P, 2)
    where = center[:, None, None] + shifts[:, :, None] + around[:, None] * scales[..., None, None]  # (M, G, P, 2)
    images, grid = len(field), where.shape[1]
    where = where.view(images, count * grid, -1, 2)
    found = F.grid_sample(field, where * (2.0 / SIDE) - 1.0, align_corners=False)  # (N, 2, k G, P)
    found = found.view(images, 2, count, grid, -1)
    directions = drawn.directions.view(images, count, 1, -1, 2)
    votes = found[:, 0] * directions[..., 0] + found[:, 1] * directions[..., 1]  # (N, k, G, P)
    voters = (drawn.directions != 0).any(-1).sum(1).clamp_min(1)
    return votes.sum(-1).flatten(0, 1) / voters[:, None]
