"""Closed surfaces from rows of rings, each joined to the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def loft(rings: ArrayLike, *, closed: bool = False) -> trimesh.Trimesh:
    """A surface through rings.

    Args:
        rings: (N, K, 3) points, every ring in the same sense.
        closed: Join the last ring to the first, as a torus is; else both ends are closed by fans about their middles.
    """
    rings = np.asarray(rings, np.float64)
    count, around, _ = rings.shape
    vertices = rings.reshape(-1, 3)
    step = np.arange(around)
    after = (step + 1) % around
    faces = []
    for i in range(count if closed else count - 1):
        here, there = i * around, (i + 1) % count * around
        faces += [np.stack([here + step, here + after, there + after], 1)]
        faces += [np.stack([here + step, there + after, there + step], 1)]
    if not closed:
        ends = len(vertices) + np.zeros(around, np.int64)
        first, last = step, (count - 1) * around + step
        faces += [np.stack([ends, np.roll(first, -1), first], 1), np.stack([ends + 1, last, np.roll(last, -1)], 1)]
        vertices = np.concatenate([vertices, rings[[0, -1]].mean(axis=1)])
    body = trimesh.Trimesh(vertices, np.concatenate(faces), process=False)
    if body.volume < 0:
        body.invert()
    return body


def circle(radius: float, sides: int, height: float = 1.0) -> Array:
    """(K, 2) points of an ellipse, ``height`` times as high as wide."""
    angles = 2 * np.pi * np.arange(sides) / sides
    return np.stack([radius * np.cos(angles), radius * height * np.sin(angles)], 1)


def rectangle(width: float, height: float) -> Array:
    """(4, 2) corners about the origin."""
    return np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2


def smooth_path(points: ArrayLike, steps: int) -> Array:
    """(M, 3) a Catmull-Rom curve through (N, 3) points, ``steps`` a piece."""
    knots = np.asarray(points, np.float64)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = (np.arange(steps) / steps)[:, None]
    curve = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        curve.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*curve, knots[-1:]])


def rounded_path(points: ArrayLike, radius: float, steps: int = 6) -> Array:
    """(M, 3) straight lines through (N, 3) points whose corners are rounded by as much as there is room for."""
    knots = np.asarray(points, np.float64)
    path = [knots[:1]]
    for before, corner, after in zip(knots[:-2], knots[1:-1], knots[2:], strict=True):
        there, back = after - corner, before - corner
        cut = min(radius, 0.45 * float(np.linalg.norm(there)), 0.45 * float(np.linalg.norm(back)))
        start, end = corner + cut * back / np.linalg.norm(back), corner + cut * there / np.linalg.norm(there)
        t = np.linspace(0, 1, steps)[:, None]
        path.append((1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end)
    return np.concatenate([*path, knots[-1:]])


def sweep(path: ArrayLike, section: ArrayLike, sizes: Sequence[float] | None = None) -> trimesh.Trimesh:
    """A section carried along a path without twist.

    Args:
        path: (N, 3).
        section: (K, 2), counter-clockwise.
        sizes: N factors on the section; default 1 everywhere.
    """
    points = np.asarray(path, np.float64)
    points = points[np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-9])]
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    side = np.eye(3)[np.abs(tangents[0]).argmin()]
    flat = np.asarray(section, np.float64)
    rings = []
    for i, (point, tangent) in enumerate(zip(points, tangents, strict=True)):
        side = side - (side @ tangent) * tangent
        side /= np.linalg.norm(side)
        size = 1.0 if sizes is None else sizes[i]
        rings.append(point + size * (flat[:, :1] * side + flat[:, 1:] * np.cross(tangent, side)))
    return loft(np.stack(rings))


def polygon_at(angles: Array, sides: int) -> Array:
    """How far a regular polygon of inner radius 1 reaches at angles (N,) from the middle of a side."""
    step = 2 * np.pi / sides
    return 1 / np.cos((angles + step / 2) % step - step / 2)


def nut(sides: int, across: float, bore: float, height: float, steps: int = 8) -> trimesh.Trimesh:
    """A nut about z without its thread: its width across flats, the bore's diameter; ``steps`` faces a side."""
    angles = 2 * np.pi * np.arange(sides * steps) / (sides * steps)
    direction = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)[:, None]
    outer = (across / 2 * polygon_at(angles, sides))[:, None, None] * direction
    inner = bore / 2 * direction
    up = np.array([0.0, 0.0, height / 2])
    return loft(np.concatenate([inner - up, outer - up, outer + up, inner + up], axis=1), closed=True)
