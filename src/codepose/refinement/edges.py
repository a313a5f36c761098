"""Edges: those of a photo, and those of a part as it is rendered; what lays one over the other is in ``contours.py``.

A render's edges are its silhouette, its creases, and where one colour of the part ends and the next begins; without
light, of which nobody knows where it will come from. Edges have a direction without sign, and strong and weak ones
count alike, as in Hinterstoisser et al., "Gradient Response Maps", TPAMI 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.refinement.edge_votes import EdgeField

PAD = 1.6
"""The side of the window in which edges are compared over the box's: room for a box too small or beside the part."""
_POINTS = 512
"""Edge points of a render that vote."""
_OUTLINE, _COLOR = 1.5, 2.0
"""Weights of the silhouette and of a change of colour beside a change of the normal by 1."""
_SAME_COLOR = 1e-3
"""Colours that differ by no more are one; a photo has steps of 0.004."""
_FAINT = 0.05
"""Gradient at which an edge of the photo counts half."""
_BLUR = 0.7
"""Pixels beside an edge at which it is still felt."""
COARSE, FINE = 96, 192
"""Pixels along the windows in which renders are compared with the photo."""
_CLOSER = 1.25
"""From so many photo pixels on for one of the coarse window's, the fine one shows more."""
_PIXELS, _WINDOWS_GPU = 1 << 18, 512
"""Of all windows that a CPU looks at together: more would be tens of megabytes at each step, which take longer to get
than to fill; and how many a GPU does."""
NOWHERE = 1e5
"""Depths from here on, mm, are those of no surface."""


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
        images: (B, 3, H, W) in [0, 1].
        which: (N,) the image each box is in.
        boxes: (N, 4) pixels.
        K: (3, 3) the images' camera.
        side: Pixels along a window.
        extent: (2,) pixels across and down of what the images show; beyond lies a letterbox. None = all of them.
        blur: Pixels beside an edge at which it is still felt.
        samples: Of the photo for a pixel of the window, along each axis.
    """
    windows = geometry.padded_square(boxes, PAD)
    size = K.new_tensor([images.shape[3], images.shape[2]])
    shown = _cut_out(images, which, windows, side * samples, size if extent is None else extent)
    shown = shown if samples == 1 else F.avg_pool2d(shown, samples)
    return EdgeField(edge_field(shown, blur)), geometry.crop_camera(K, windows, side)


def by_resolution(boxes: Tensor, pad: float = PAD) -> tuple[Tensor, Tensor]:
    """Returns the numbers of those boxes (N, 4) for which the coarse windows are fine enough, and of the others.

    Args:
        boxes: In the photo's pixels.
        pad: Side of the windows over the boxes' longer sides.
    """
    fine = geometry.box_size(boxes).amax(1) * pad >= _CLOSER * COARSE
    return (~fine).nonzero().squeeze(1), fine.nonzero().squeeze(1)


def at_a_time(side: int, *, gpu: bool) -> int:
    """Returns how many windows of so many pixels along a side are looked at together."""
    return _WINDOWS_GPU if gpu else max(1, _PIXELS // side**2)


def read_photos(images: Tensor, which: Tensor, grid: Tensor, extent: Tensor) -> Tensor:
    """Reads photos between their pixels, (N, 3, h, w); beyond their edge they go on as they end there.

    Args:
        images: (B, 3, H, W).
        which: (N,) the image each is read from.
        grid: (N, h, w, 2) where, as ``grid_sample`` has it: -1 and 1 are the image's edges.
        extent: (2,) pixels across and down of what the images show; beyond lies a letterbox.
    """
    size = grid.new_tensor([images.shape[3], images.shape[2]])
    last = (2.0 * extent.to(grid) - 1.0) / size - 1.0  # the last pixels' centres
    return F.grid_sample(images[which], torch.minimum(grid, last), padding_mode="border", align_corners=False)


def _cut_out(images: Tensor, which: Tensor, windows: Tensor, side: int, extent: Tensor) -> Tensor:
    """Cuts windows (N, 4) out of images; beyond its edge the photo goes on as it ends, so that no edge is made."""
    size = images.shape[3], images.shape[2]
    return read_photos(images, which, geometry.sampling_grid(windows, side, size), extent)


def edge_field(images: Tensor, sigma: float) -> Tensor:
    """Returns the edges of images (N, 3, H, W) as (cos, sin) of twice their direction, weak ones shortened.

    Twice the angle, so that an edge from dark to bright and one from bright to dark are the same.

    Args:
        images: In [0, 1].
        sigma: Blur in pixels: how far beside an edge it is still felt.

    Returns:
        (N, 2, H, W) of length <= 1.
    """
    directions, square = doubled_gradients(gaussian_blur2d(images, (5, 5), (1.0, 1.0)))
    length = square.sqrt()
    field = directions * (length / (length + _FAINT))[:, None]
    kernel = 2 * round(2.0 * sigma) + 1
    blurred: Tensor = gaussian_blur2d(field, (kernel, kernel), (sigma, sigma))
    return blurred


def steps(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how images (N, C, H, W) change from pixel to pixel, across and down; 0 at their edges."""
    across = F.pad(images[..., 2:] - images[..., :-2], (1, 1)).mul_(0.5)
    return across, F.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1)).mul_(0.5)


def doubled_gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns twice the gradient's direction as (cos, sin), (N, 2, H, W), and its squared length (N, H, W).

    Over all channels: that of the structure tensor's larger axis.
    """
    gx, gy = steps(images)
    doubled = torch.stack(((gx - gy).mul_(gx + gy).sum(1), (2.0 * gx).mul_(gy).sum(1)), 1)
    square = doubled.square().sum(1).sqrt()
    return doubled / square[:, None].clamp_min(1e-12), square


def nearest_surface(depth: Tensor) -> Tensor:
    """Returns the depth (M, H, W) of the nearest surface at or beside each pixel;
    more than ``NOWHERE`` where there is none."""
    nearness = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-6), 0.0)
    return 1.0 / F.max_pool2d(nearness[:, None], 3, stride=1, padding=1).squeeze(1).clamp_min(1e-6)


@dataclass(frozen=True)
class EdgePoints:
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

    def select(self, rows: Tensor) -> EdgePoints:
        """Returns those of some of the renders, by their numbers."""
        return EdgePoints(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def together(parts: Sequence[EdgePoints]) -> EdgePoints:
        """Returns those of several batches of renders, in their order."""
        return EdgePoints(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(EdgePoints)))


def render_planes(depth: Tensor, normal: Tensor, color: Tensor) -> Tensor:
    """Returns planes (M, 7, H, W) that change where a render has an edge: its outline, normals and colours.

    Where no render has a second colour there are only the first four on a CPU, which give the same edges.

    Args:
        depth: (M, H, W), 0 = nothing there.
        normal: (M, H, W, 3), zero where nothing is.
        color: (M, H, W, 3) unlit, in [0, 1], zero where nothing is.
    """
    inside = (depth > 0).float()[:, None]
    paint = color.permute(0, 3, 1, 2)
    mean = paint.sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    # the mean around the part, so that its outline does not count twice
    filled = paint + mean * (1.0 - inside)
    painted = depth.is_cuda or bool(((filled - mean).abs() > _SAME_COLOR).any())  # a GPU would have to be waited for
    planes = depth.new_empty(len(depth), 7 if painted else 4, *depth.shape[1:])
    planes[:, :1] = _OUTLINE * inside
    planes[:, 1:4] = normal.permute(0, 3, 1, 2)
    if painted:
        planes[:, 4:] = _COLOR * filled
    return planes


def edge_points(depth: Tensor, normal: Tensor, color: Tensor, order: Tensor, count: int = _POINTS) -> EdgePoints:
    """Picks edge points of renders: silhouettes, creases, and borders between colours.

    Args:
        depth: (M, H, W), 0 = nothing there.
        normal: (M, H, W, 3), zero where nothing is.
        color: (M, H, W, 3) unlit, in [0, 1], zero where nothing is.
        order: (M, H, W) in [0, 1): where there are more edge pixels than points, those of the highest are picked.
        count: How many points at most.
    """
    planes = render_planes(depth, normal, color)
    directions, square = doubled_gradients(planes)
    strong = square > 0.25 * square.amax((1, 2), keepdim=True).clamp_min(1e-6)
    ranked = (strong * (1.0 + order)).flatten(1)
    picked = ranked.topk(min(count, ranked.shape[1]), dim=1)
    is_edge = picked.values > 0
    width = depth.shape[2]
    points = torch.stack((picked.indices % width, picked.indices // width), -1) + 0.5
    chosen = directions.flatten(2).gather(2, picked.indices[:, None].expand(-1, 2, -1)).transpose(1, 2)
    surface = nearest_surface(depth).flatten(1).gather(1, picked.indices)
    return EdgePoints(points, chosen * is_edge[..., None], surface, strong.sum((1, 2)))
