"""Polygons become triangles as they are drawn, also where they are not convex."""

from __future__ import annotations

from collections.abc import Sequence

import mapbox_earcut
import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.surface import check_count, refuse

_ROUND = 1e-6  # of a polygon's size: what is nearer to a straight line counts as straight
_CROSSING = 1e-3  # of a polygon's size, squared: how far its triangles' area may differ from its own


def triangulate(points: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cuts polygons into triangles.

    Args:
        points: (C, 3) the corners of all polygons, one after the other.
        counts: (P,) how many corners each has; those with fewer than three are left out.

    Returns:
        (F, 3) places in ``points``, in the order of the polygons.

    Raises:
        MeshError: A polygon crosses itself, or there are too many triangles.
    """
    counts = np.asarray(counts, np.int64)
    check_count(int(np.maximum(counts - 2, 0).sum()))
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])) if len(counts) else np.zeros(0, np.int64)
    pieces, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for corners in np.unique(counts[counts > 2]):
        which = np.flatnonzero(counts == corners)
        rows = starts[which, None] + np.arange(corners)
        fan = np.stack([np.zeros(corners - 2, np.int64), np.arange(1, corners - 1), np.arange(2, corners)], axis=1)
        convex = np.ones(len(which), bool) if corners == 3 else _convex(points[rows])
        pieces.append(rows[convex][:, fan].reshape(-1, 3))
        owners.append(np.repeat(which[convex], corners - 2))
        for polygon, row in zip(which[~convex], rows[~convex], strict=True):
            cut = row[_ears(points[row], int(polygon))]
            pieces.append(cut)
            owners.append(np.full(len(cut), polygon))
    order = np.argsort(np.concatenate(owners), kind="stable")
    triangles: NDArray[np.int64] = np.concatenate(pieces)[order]
    return triangles


def strips(index: Sequence[int]) -> NDArray[np.int64]:
    """(F, 3) triangles of triangle strips, one after the other and -1 between them; each second one is turned."""
    row = np.asarray(index, np.int64)
    ends = np.flatnonzero(row < 0)
    pieces = [np.zeros((0, 3), np.int64)]
    for strip in np.split(row, ends):
        strip = strip[strip >= 0]
        if len(strip) > 2:
            cut = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1)
            cut[1::2] = cut[1::2, [1, 0, 2]]
            pieces.append(cut)
    return np.concatenate(pieces)


def _convex(polygons: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(P,) whether polygons (P, K, 3) turn one way at each corner, and once around in all."""
    edges = np.roll(polygons, -1, axis=1) - polygons
    turns = np.cross(edges, np.roll(edges, -1, axis=1))  # (P, K, 3)
    normals = np.cross(polygons, np.roll(polygons, -1, axis=1)).sum(axis=1, keepdims=True)  # Newell's
    normals = normals / np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-300)
    size = np.square(np.linalg.norm(edges, axis=2).sum(axis=1, keepdims=True))
    sines = (turns * normals).sum(axis=2)
    cosines = (edges * np.roll(edges, -1, axis=1)).sum(axis=2)
    around = np.arctan2(sines, cosines).sum(axis=1)
    convex: NDArray[np.bool_] = (sines >= -_ROUND * size).all(axis=1) & (np.abs(around) < 3 * np.pi)
    return convex


def _ears(polygon: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """(K - 2, 3) triangles of one polygon (K, 3), cut in the plane that it is nearest to."""
    centred = polygon - polygon.mean(axis=0)
    normal = np.cross(centred, np.roll(centred, -1, axis=0)).sum(axis=0)
    size = np.linalg.norm(np.ptp(centred, axis=0))
    if not np.isfinite(size):
        return np.array([[0, 1, 2]])  # what is no number is named later
    if np.linalg.norm(normal) <= _ROUND * size**2:
        return np.zeros((0, 3), np.int64)  # no area
    normal /= np.linalg.norm(normal)
    along = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    along /= np.linalg.norm(along)
    flat = np.stack([centred @ along, centred @ np.cross(normal, along)], axis=1)
    ends = np.array([len(flat)], np.uint32)
    cut = np.asarray(mapbox_earcut.triangulate_float64(flat, ends), np.int64).reshape(-1, 3)
    a, b, c = (flat[cut[:, k]] for k in range(3))
    doubled = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    drawn = flat[:, 0] * np.roll(flat[:, 1], -1) - flat[:, 1] * np.roll(flat[:, 0], -1)
    if abs(np.abs(doubled).sum() - abs(drawn.sum())) > _CROSSING * size**2:
        refuse(f"polygon {number + 1} crosses itself", "export the part again as triangles")
    return cut
