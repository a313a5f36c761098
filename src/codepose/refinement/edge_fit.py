"""The last pixel: points on a render's edges are pulled onto the photo's edges, by least squares.

The search (``edge_search.py``) looks at blurred edges, on which a pixel more or less hardly counts. Here each point of
a render's edges looks along its normal for the photo's edge, and the pose is solved for that brings all of them there:
Harris and Stennett, "RAPID", BMVC 1990. The points look less far each time. Where the photo's edges do not lie
together they count less, and the pose stays nearer to where it was: a maximum a posteriori estimate with the noise
that the points show. Of several edges along a normal, the part's colours say which is its outline
(``outline_colors.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.refinement.edge_lines import EdgeLines, edge_lines, peak, photo_gradients, read_between, strengths
from codepose.refinement.edges import COARSE, FINE, at_a_time, by_resolution, read_photos
from codepose.refinement.outline_colors import outline_odds, part_colors
from codepose.refinement.poses import Poses, Seen
from codepose.rendering.renderer import Instances
from codepose.synthesis.objects import Objects

_PAD = 1.3
"""Side of the window over the longer side of the pose's box."""
_REACHES = (4.0, 3.0, 2.0, 1.5, 1.0)
"""How far along their normals points look, pixels of the window (a normal distribution's sigma): one render each."""
_SOLUTIONS = 2
"""For each render."""
_STEP = 0.5
"""Pixels between the places along the normal that are looked at."""
_FAINT = 0.03
"""Strength at which an edge of the photo counts half."""
_POINTS, _NOISE = 30.0, 0.2
"""As how many independent points all of a render's count, and the pixels by which they are off at least."""
_TURN, _BESIDE, _NEARER = math.radians(4.0), 0.01, 0.025
"""How far off poses usually are: about each axis, sideways in diameters, and along the ray in distances."""


@dataclass(frozen=True)
class _Body:
    """M poses as they were rendered last.

    Attributes:
        lines: The edges of the renders.
        places: (M, P, 3) mm, the edge points from the part's middle, in the camera's axes.
        inside: (M, s, s) where the part is seen.
        R: (M, 3, 3) in which they were rendered.
    """

    lines: EdgeLines
    places: Tensor
    inside: Tensor
    R: Tensor


class EdgeFit:
    """Refines poses to a fraction of a pixel; each stays near where it was, and keeps its scores.

    Args:
        world: Meshes and renderer.
    """

    def __init__(self, world: Objects) -> None:
        self.world = world

    @torch.no_grad()
    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        """Returns as many poses in the same order, each moved onto the photo's edges."""
        home, count = poses.t.device, poses.t.shape[1]
        rows = torch.arange(len(poses.t), device=home).repeat_interleave(count)
        photos = seen.in_photos()
        photos = photos.select(rows).to(self.world.device)
        R, t = (values.flatten(0, 1).to(self.world.device) for values in (poses.R, poses.t))
        boxes = self.world.boxes(photos.objects, R, t, photos.K)
        visible = boxes.isfinite().all(1).nonzero().squeeze(1)  # a pose that cannot be seen has no box, and stays
        for side, chosen in zip((COARSE, FINE), by_resolution(boxes[visible], _PAD), strict=True):
            for some in torch.split(visible[chosen], at_a_time(side, gpu=t.is_cuda)) if len(chosen) else ():
                fitted = self._fitted(photos.select(some), boxes[some], R[some], t[some], side)
                R, t = R.index_copy(0, some, fitted[0]), t.index_copy(0, some, fitted[1])
        R_view = geometry.offaxis_rotation(t).mT @ R
        return replace(poses, R_view=R_view.view_as(poses.R_view).to(home), t=t.view_as(poses.t).to(home))

    def _fitted(self, seen: Seen, boxes: Tensor, R: Tensor, t: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Better poses than R (M, 3, 3) and t (M, 3), in windows of so many pixels."""
        windows = geometry.padded_square(boxes, _PAD)
        grid = geometry.sampling_grid(windows, side, (seen.images.shape[3], seen.images.shape[2]))
        shown = read_photos(seen.images, seen.which, grid, seen.extent)
        gradients = photo_gradients(shown)
        K = geometry.crop_camera(seen.K, windows, side)
        first = R, t
        diameters = self.world.diameters[seen.objects]
        for reach in _REACHES:
            body = self._rendered(seen.objects, R, t, K, side)
            ours = part_colors(shown, body.inside)
            for _ in range(_SOLUTIONS):
                turn = R @ body.R.mT
                places = (turn[:, None] @ body.places[..., None]).squeeze(-1)
                pixels = geometry.to_pixels(places + t[:, None], K[:, None])
                lines = replace(body.lines, points=pixels, normals=_in_plane(turn, body.lines.normals))
                offsets, weights = _edges_along(gradients, ours, lines, reach)
                change = _change(places, t, lines.normals, K)
                R, t = _solved((R, t), first, change, offsets, weights, diameters)
        return R, t

    def _rendered(self, objects: Tensor, R: Tensor, t: Tensor, K: Tensor, side: int) -> _Body:
        seen = self.world.renderer.render(Instances.single(objects, R, t), K, (side, side))
        lines = edge_lines(seen.depth, seen.normal, seen.color)
        places = geometry.from_pixels(lines.points, lines.depth, K[:, None]) - t[:, None]
        return _Body(lines, places, seen.depth > 0, R)


def _in_plane(turn: Tensor, normals: Tensor) -> Tensor:
    """Normals (M, P, 2) after a small turn of the part (M, 3, 3), of which that in the image's plane matters."""
    angle = torch.atan2(turn[:, 1, 0] - turn[:, 0, 1], turn[:, 0, 0] + turn[:, 1, 1])[:, None]
    cos, sin = angle.cos(), angle.sin()
    x, y = normals[..., 0], normals[..., 1]
    return torch.stack((cos * x - sin * y, sin * x + cos * y), -1)


def _edges_along(gradients: Tensor, ours: Tensor, lines: EdgeLines, reach: float) -> tuple[Tensor, Tensor]:
    """How far along its normal the photo's edge lies from each point (M, P), pixels, and what that counts (M, P).

    Args:
        gradients: (M, 6, s, s) of ``photo_gradients``.
        ours: (M, 1, s, s) of ``part_colors``.
        lines: The points, where the poses have them now.
        reach: How far they look, pixels.
    """
    count = round(2.0 * reach / _STEP)
    line = _STEP * torch.arange(-count, count + 1, device=ours.device)
    places = lines.points[:, :, None] + line[:, None] * lines.normals[:, :, None]
    strength = strengths(gradients, places, lines.normals)  # (M, P, S)
    odds = outline_odds(read_between(ours, places)[:, 0], _STEP)
    value = strength / (strength + _FAINT) * torch.exp(-0.5 * (line / reach).square())
    value = torch.where(lines.outline[..., None], value * odds, value)
    inner = strength[..., 1:-1]
    peaks = (inner >= strength[..., :-2]) & (inner > strength[..., 2:])
    value = F.pad(value[..., 1:-1] * peaks, (1, 1))
    best = value.argmax(2, keepdim=True).clamp(1, len(line) - 2)
    before, here, after = (strength.gather(2, best + k).squeeze(2) for k in (-1, 0, 1))
    offsets = line[best.squeeze(2)] + _STEP * peak(before, here, after)
    return offsets, value.gather(2, best).squeeze(2) * lines.there


def _change(places: Tensor, t: Tensor, normals: Tensor, K: Tensor) -> Tensor:
    """How points move along their normals, pixels (M, P, 6), by a turn in radians and a shift in mm of the part."""
    at = places + t[:, None]
    across = normals * K.diagonal(dim1=1, dim2=2)[:, None, :2] / at[..., 2:]
    ahead = -(across * at[..., :2]).sum(-1, keepdim=True) / at[..., 2:]
    shift = torch.cat((across, ahead), -1)  # (M, P, 3): d pixels / d mm of the point
    return torch.cat((torch.linalg.cross(places, shift), shift), -1)


def _solved(
    pose: tuple[Tensor, Tensor],
    first: tuple[Tensor, Tensor],
    change: Tensor,
    offsets: Tensor,
    weights: Tensor,
    diameters: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the poses that bring points along their normals by offsets (M, P), and stay near the first.

    Args:
        pose: R (M, 3, 3) and t (M, 3) in mm.
        first: Where they began.
        change: (M, P, 6) of ``_change``.
        offsets: (M, P) pixels.
        weights: (M, P) what each point counts.
        diameters: (M,) mm.
    """
    (R, t), (R_first, t_first) = pose, first
    turn, ones = R @ R_first.mT, torch.ones_like(diameters)
    usual = torch.stack((*[_TURN * ones] * 3, *[_BESIDE * diameters] * 2, _NEARER * t_first[:, 2]), 1)  # (M, 6)
    vector = 0.5 * torch.stack(
        (turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]), 1
    )
    gone = torch.cat((vector, t - t_first), 1) / usual
    change = change * usual[:, None]
    shares = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
    noise = (shares * offsets.square()).sum(1, keepdim=True) + _NOISE**2
    shares = _POINTS / noise * shares
    normal = torch.einsum("mp,mpi,mpj->mij", shares, change, change) + torch.eye(6, device=t.device)
    step = torch.linalg.solve(normal, torch.einsum("mp,mpi,mp->mi", shares, change, offsets) - gone) * usual
    return axis_angle_to_rotation_matrix(step[:, :3]) @ R, t + step[:, 3:]
