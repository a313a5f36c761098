"""How a part comes to rest on a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from codepose.parts.mesh import Mesh

_FLAT = 1e-3
"""Share of the diameter below which a part has no thickness, and a corner's distance from a side it belongs to."""
_ONE_SIDE = 0.9998
"""Cosine between the normals of faces of one side: one degree."""
_MOST = 64
"""Ways of lying that are kept; a ball has as many as faces."""


def resting_directions(mesh: Mesh) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The ways in which a part lies still: the sides of its convex hull that its centre of mass is above.

    Args:
        mesh: The part; its hull is taken for solid.

    Returns:
        (k, 3) unit vectors of the object frame that then point up, and (k,) how likely each is, most likely first: the
        share of all directions in which the side is seen from the centre of mass, as if nothing rolled over an edge.
    """
    points = mesh.hull.astype(np.float64)
    thin = np.linalg.eigh(np.cov(points, rowvar=False))[1][:, 0]
    if np.ptp(points @ thin) < _FLAT * mesh.diameter:  # on either side
        return np.stack([thin, -thin]).astype(np.float32), np.full(2, 0.5, np.float32)
    hull = ConvexHull(points)
    corners = points[hull.simplices] - _centre_of_mass(points[hull.simplices], points.mean(axis=0))
    angles = _solid_angles(corners)
    left, ups, likely = np.ones(len(angles), bool), [], []
    while left.any():
        first = np.flatnonzero(left)[angles[left].argmax()]
        normal = hull.equations[first, :3]
        side = left & (hull.equations[:, :3] @ normal > _ONE_SIDE)
        left &= ~side
        if _within(corners[side], normal, _FLAT * mesh.diameter):
            ups.append(-normal)
            likely.append(angles[side].sum())
    order = np.argsort(-np.array(likely), kind="stable")[:_MOST]
    chances = np.array(likely)[order]
    return np.array(ups)[order].astype(np.float32), (chances / chances.sum()).astype(np.float32)


def _centre_of_mass(triangles: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) of a solid convex body of surface triangles (F, 3, 3), from tetrahedra with a point within it."""
    volumes = np.abs(np.linalg.det(triangles - inside))
    middle: NDArray[np.float64] = np.average((triangles.sum(axis=1) + inside) / 4, axis=0, weights=volumes)
    return middle


def _solid_angles(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F,) of triangles (F, 3, 3) seen from the origin (Van Oosterom and Strackee, 1983)."""
    a, b, c = (triangles[:, i] for i in range(3))
    x, y, z = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    dots = (a * b).sum(1) * z + (b * c).sum(1) * x + (c * a).sum(1) * y
    angles: NDArray[np.float64] = 2 * np.arctan2(np.abs(np.linalg.det(triangles)), x * y * z + dots)
    return angles


def _within(triangles: NDArray[np.float64], normal: NDArray[np.float64], slack: float) -> bool:
    """Whether the origin, moved along a normal, meets or nearly meets one of a side's triangles (F, 3, 3)."""
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    turned = np.sign(np.cross(first, second) @ normal)
    edges = np.roll(triangles, -1, axis=1) - triangles
    outward = np.cross(edges, normal) * turned[:, None, None]
    lengths = np.linalg.norm(outward, axis=2).clip(1e-12)
    beyond = -np.einsum("fei,fei->fe", triangles, outward) / lengths
    return bool((beyond.max(axis=1) <= slack).any())
