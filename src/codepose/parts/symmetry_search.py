"""Rotations after which a part looks the same, found by comparing renders.

A turn about the part's middle counts as a symmetry where the part looks the same before and after it from each of
12 directions, at the scale at which a network sees it: 96 pixels to the diameter. A pixel looks the same if one of
the 3 x 3 pixels around it in the other render agrees in depth to 1 % of the diameter, in its normal to 20 degrees
and in every colour channel to 0.1; 0.5 % of a view's pixels may fail. Surfaces seen at less than 15 degrees are left
to the other views. So a fine thread or a mark of two pixels does not count, but a keyway, a side of another colour
or a chamfer on one end does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose import geometry
from codepose.parts.mesh import Mesh
from codepose.parts.symmetry_axes import candidate_axes, middle_of, odd_axes, outer_faces
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries
from codepose.rendering.renderer import Instances, Renderer

DEPTH, NORMAL_DEG, COLOR = 0.01, 20.0, 0.1  # of the diameter; degrees; per channel in [0, 1]
PIXELS = 0.005  # share of a view's pixels that may differ
ORDERS = range(12, 1, -1)  # turns of 360/n degrees

_SIDE, _MARGIN = 104, 8  # pixels of a render, and those of it around the diameter
_FAR = 20.0  # diameters between camera and part
_FACING = 0.25  # cosine between normal and ray below which a pixel is not looked at
_SILHOUETTE = 0.01  # of the diameter, how far a turn may move the outline of the convex hull
_SAME_AXIS_DEG = 3.0  # a candidate nearer than this to an axis that was found is that axis
_SAME_CANDIDATE_DEG = 0.3  # and one nearer than this to another candidate need not be tried
_ACROSS = 0.05  # cosine between two axes below which they are at right angles
_STEP_DEG, _FINE_DEG = 0.5, 0.1  # between half turns tried
_FULL_TURN = (11.0, 26.0, 51.5, 102.0)  # degrees; of any prism of 2 to 24 sides one is 0.39 of a step off or more
_CHORD = 2 * np.sin(np.radians(NORMAL_DEG) / 2)  # between unit normals that far apart
_LARGEST_GROUP = 60  # rotations of the icosahedron


def find_symmetries(mesh: Mesh) -> Symmetries:
    """The likely rotational symmetries of a part; the module's text says what counts as one.

    Candidates are turns of 360/n degrees, n = 2..12, and any angle, about the axes of ``candidate_axes``, through
    the middle; then half turns about what is at right angles to an axis, half a degree apart; then the group that those
    found generate. How the part lies in its file does not matter.

    Args:
        mesh: The part, in any frame.

    Returns:
        Transforms in the frame of ``mesh``.
    """
    outside = outer_faces(mesh)
    looks = _Looks(mesh, middle_of(mesh, outside))
    round_axes: list[NDArray[np.float64]] = []
    orders: list[tuple[NDArray[np.float64], int]] = []
    tried: list[NDArray[np.float64]] = []
    for axis in candidate_axes(outside, looks.middle):
        known = [*round_axes, *(found for found, _ in orders)]
        if _near(axis, known, _SAME_AXIS_DEG) or _near(axis, tried, _SAME_CANDIDATE_DEG):
            continue
        tried.append(axis)
        if all(looks.same(_turn(axis, angle)) for angle in _FULL_TURN):
            round_axes.append(axis)
            if len(round_axes) > 1:
                return Symmetries(np.zeros((0, 4, 4)), tuple(ContinuousSymmetry(e, looks.middle) for e in np.eye(3)))
        elif (order := _order(looks, axis)) > 1:
            orders.append((axis, order))
    if round_axes:
        turns = [_turn(axis, 180.0) for axis, order in orders if order % 2 == 0]
        group = [turn for turn in turns if (turn @ round_axes[0]) @ round_axes[0] < 0][:1]  # others are it, turned
    else:
        orders += _half_turns_across(looks, [*orders, *((axis, 1) for axis in odd_axes(outside))])
        turns = [_turn(axis, 360.0 / order) for axis, order in orders]
        group = [turn for turn in _group(turns) if looks.same_outline(turn)]
    discrete = np.stack([_about(turn, looks.middle) for turn in group]) if group else np.zeros((0, 4, 4))
    return Symmetries(discrete, tuple(ContinuousSymmetry(axis, looks.middle) for axis in round_axes))


def _half_turns_across(
    looks: _Looks, orders: Sequence[tuple[NDArray[np.float64], int]]
) -> list[tuple[NDArray[np.float64], int]]:
    """Half turns at right angles to axes, of which none is known yet; each with its order of 2.

    Args:
        looks: The part.
        orders: Axes (3,) and their orders n: across such an axis half turns come every 180/n degrees, so one of them
            is found within as many.
    """
    half_turns: list[tuple[NDArray[np.float64], int]] = []
    for axis, order in orders:
        across = [other for other, n in [*orders, *half_turns] if n % 2 == 0 and abs(other @ axis) < _ACROSS]
        if across:
            continue
        one, other = np.linalg.svd(axis[None])[2][1:]

        def around(angle_deg: float, one: NDArray[np.float64] = one, other: NDArray[np.float64] = other) -> Any:
            return np.cos(np.radians(angle_deg)) * one + np.sin(np.radians(angle_deg)) * other

        def fits(angle_deg: float) -> bool:
            return looks.same(_turn(around(angle_deg), 180.0))

        run = _first_run([fits(angle) for angle in np.arange(0.0, 180.0 / order, _STEP_DEG)])
        if run is not None:
            near = np.arange(_STEP_DEG * (run[0] - 1), _STEP_DEG * (run[1] + 1), _FINE_DEG)
            half_turns.append((around(float(np.mean([angle for angle in near if fits(angle)]))), 2))
    return half_turns


def _first_run(fits: Sequence[bool]) -> tuple[int, int] | None:
    """First and last place of the first run of True on a ring; the last may lie beyond its end."""
    if all(fits):
        return 0, 0
    count = len(fits)
    start = next((k for k in range(count) if fits[k] and not fits[k - 1]), None)
    return None if start is None else (start, next(k for k in range(start, 2 * count) if not fits[(k + 1) % count]))


def _near(axis: NDArray[np.float64], others: Sequence[NDArray[np.float64]], degrees: float) -> bool:
    """Whether an axis is one of the others, either way round."""
    return any(abs(float(axis @ other)) > np.cos(np.radians(degrees)) for other in others)


def _order(looks: _Looks, axis: NDArray[np.float64]) -> int:
    """The largest n for which turns of 360/n degrees about an axis are symmetries, 1 = none.

    Such turns hold those of n's prime factors, which are tried first: most axes have none.
    """
    lost = [p for p in (2, 3, 5, 7, 11) if not looks.same(_turn(axis, 360.0 / p))]
    left = (n for n in ORDERS if all(n % p for p in lost))
    return next((n for n in left if _turns_by(looks, axis, n)), 1)


def _turns_by(looks: _Looks, axis: NDArray[np.float64], order: int) -> bool:
    """Whether every multiple of a turn of 360/order degrees is a symmetry; beyond half a turn they come again."""
    return all(looks.same(_turn(axis, k * 360.0 / order)) for k in range(1, order // 2 + 1))


class _Looks:
    """Renders of a part, and whether a turn changes them."""

    def __init__(self, mesh: Mesh, middle: NDArray[np.float64]) -> None:
        self.middle = middle
        self._hull = mesh.hull.astype(np.float64) - middle
        self._diameter = mesh.diameter
        self._renderer = Renderer([mesh], threads=1)
        self._views = Rotation.from_rotvec([0.4, 0.7, 0.2]).as_matrix() @ _views()
        self._before = self._render(np.eye(3), range(len(self._views)))
        around = geometry.view_sphere(2).double().numpy()  # (162, 3)
        self._directions, self._reach = around, (around @ self._hull.T).max(axis=1)

    def same(self, turn: NDArray[np.float64]) -> bool:
        """Whether the part looks the same after a turn (3, 3) about its middle."""
        if not self.same_outline(turn):
            return False
        steps = (0, 1, 4, len(self._views))  # most turns are refused at the first view
        return all(self._unchanged(turn, range(*some)) for some in pairwise(steps))

    def same_outline(self, turn: NDArray[np.float64]) -> bool:
        """Whether the convex hull stays in place, seen without a render."""
        reach = (self._directions @ turn @ self._hull.T).max(axis=1)
        return bool(np.abs(reach - self._reach).max() < _SILHOUETTE * self._diameter)

    def _unchanged(self, turn: NDArray[np.float64], views: range) -> bool:
        before = self._before[views.start : views.stop]
        after = self._render(turn, views)
        one, other = _differing(before, after), _differing(after, before)
        return bool((one[0] + other[0] <= PIXELS * (one[1] + other[1])).all())

    def _render(self, turn: NDArray[np.float64], views: Sequence[int]) -> Tensor:
        """(V, H, W, 7): depth, normal and colour in units of what may differ; depth 0 = nothing."""
        R = torch.from_numpy(self._views[list(views)] @ turn).float()
        t = -R @ torch.from_numpy(self.middle).float()
        t[:, 2] += _FAR * self._diameter
        K = geometry.camera_matrix((_SIDE - _MARGIN) * _FAR, _SIDE / 2, _SIDE / 2).expand(len(R), 3, 3)
        instances = Instances.single(torch.zeros(len(R), dtype=torch.long), R, t)
        seen = self._renderer.render(instances, K, (_SIDE, _SIDE))
        return torch.cat(
            (seen.depth[..., None] / (DEPTH * self._diameter), seen.normal / _CHORD, seen.color / COLOR), -1
        )


def _differing(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """How many pixels of ``a`` (V, H, W, 7) have no like among the 3 x 3 around them in ``b``, and out of how many.

    Returns:
        (V,) and (V,).
    """
    looked_at = (a[..., 0] > 0) & (a[..., 3] * _CHORD < -_FACING)
    v, y, x = (looked_at & ~_alike(a, b)).nonzero(as_tuple=True)  # the same pixel settles nearly all of them
    differs = torch.zeros(len(v), dtype=torch.bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            differs |= _alike(a[v, y, x], b[v, (y + dy).clamp(0, _SIDE - 1), (x + dx).clamp(0, _SIDE - 1)])
    return torch.bincount(v[~differs], minlength=len(a)), looked_at.sum((1, 2))


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """(...) whether pixels (..., 7) agree in depth, normal and colour, and both are covered."""
    step = a - b
    normal = step[..., 1:4].square().sum(-1) <= 1
    return (b[..., 0] > 0) & (step[..., 0].abs() <= 1) & normal & (step[..., 4:].abs().amax(-1) <= 1)


def _views() -> NDArray[np.float64]:
    """(12, 3, 3) R_cam_obj of cameras spread evenly around the part."""
    directions = geometry.view_sphere(0)
    views: NDArray[np.float64] = geometry.view_rotation(directions, torch.zeros(len(directions))).double().numpy()
    return views


def _turn(axis: NDArray[np.float64], angle_deg: float) -> NDArray[np.float64]:
    turn: NDArray[np.float64] = Rotation.from_rotvec(np.radians(angle_deg) * axis).as_matrix()
    return turn


def _about(turn: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) a turn about a point."""
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = turn, middle - turn @ middle
    return transform


def _group(turns: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The group that rotations generate, without the identity; no more than the largest that is not about one axis."""
    rotations = [np.eye(3)]
    for element in rotations:  # grows while it is walked through
        for turn in turns:
            new = element @ turn
            if len(rotations) < _LARGEST_GROUP and all(_angle_deg(new, old) > _SAME_AXIS_DEG for old in rotations):
                rotations.append(new)
    return rotations[1:]


def _angle_deg(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    cosine = (np.trace(a.T @ b) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
