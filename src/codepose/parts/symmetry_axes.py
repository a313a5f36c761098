"""Where the axes of a part's symmetries can lie, told from its convex hull, however the part lies in its file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from codepose.parts.mesh import Mesh

_FLATS = 16  # largest flat sides: an icosahedron has ten that are not parallel
_ONE_SIDE_DEG = 2.0  # faces whose normals are nearer belong to one flat side
_CORNERS = 60  # a hull with more has flat sides or a round shape: no group takes a corner to more places
_ALIKE = 0.1  # second moments that differ by less may belong to directions of one kind


def outer_faces(mesh: Mesh) -> NDArray[np.float64]:
    """(F, 3, 3) mm, the convex hull's triangles; of a flat part its own."""
    points = mesh.hull.astype(np.float64)
    try:
        outside: NDArray[np.float64] = points[ConvexHull(points).simplices]
    except QhullError:
        outside = mesh.vertices[mesh.faces].astype(np.float64)
    return outside


def middle_of(mesh: Mesh, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) mm, the one point that every symmetry leaves in place: the centroid of the convex hull's surface.

    That of the bounding box where the two are the same to a thousandth of the diameter; a prism with three sides
    turns about another point than its box.
    """
    area = np.linalg.norm(_normals(corners), axis=1)
    centroid = np.average(corners.mean(axis=1), axis=0, weights=area)
    box = mesh.center.astype(np.float64)
    return box if np.linalg.norm(centroid - box) < 1e-3 * mesh.diameter else centroid


def candidate_axes(corners: NDArray[np.float64], middle: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """(3,) unit vectors: the normals of the largest flat sides, the principal axes and the bounding box's.

    Where the second moments are alike all round, as a cube's are, the principal axes say nothing; an axis then goes
    through a flat side's middle, a corner or the middle of an edge, and those are candidates, too.

    Args:
        corners: (F, 3, 3) mm, from ``outer_faces``.
        middle: (3,) mm, from ``middle_of``.
    """
    moments, principal = principal_axes(corners)
    yield from _flat_sides(corners)
    yield from principal
    yield from np.eye(3)
    points = np.unique(corners.reshape(-1, 3), axis=0)
    if moments[2] - moments[0] < _ALIKE * moments[2] and len(points) <= _CORNERS:
        edges = (corners + np.roll(corners, 1, axis=1)).reshape(-1, 3) / 2
        for place in np.concatenate((points, np.unique(edges.round(9), axis=0))) - middle:
            yield place / max(float(np.linalg.norm(place)), 1e-30)


def principal_axes(corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) mm^2, the second moments of a surface of triangles (F, 3, 3), smallest first, and (3, 3), their axes."""
    area = np.linalg.norm(_normals(corners), axis=1)
    middles = (corners + np.roll(corners, 1, axis=1)).reshape(-1, 3) / 2  # exact for second moments
    moments, columns = np.linalg.eigh(np.cov(middles, rowvar=False, aweights=np.repeat(area, 3)))
    return moments, columns.T


def odd_axes(corners: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """(3,) principal axes at right angles to which all directions, but not the axis itself, have like moments."""
    moments, principal = principal_axes(corners)
    if moments[2] - moments[0] < _ALIKE * moments[2]:
        return []
    pairs = ((1, 2), (0, 2), (0, 1))
    return [principal[k] for k, (a, b) in enumerate(pairs) if moments[b] - moments[a] < _ALIKE * moments[b]]


def _flat_sides(corners: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """(3,) unit normals of the flat sides, largest first; opposite sides are one."""
    normals = _normals(corners)
    area = np.linalg.norm(normals, axis=1)
    normals = normals[area > 0] / area[area > 0, None]
    area = area[area > 0]
    for _ in range(_FLATS):
        if len(area) == 0:
            return
        cosines = normals @ normals[area.argmax()]
        mine = np.abs(cosines) > np.cos(np.radians(_ONE_SIDE_DEG))
        normal = (area[mine] * np.sign(cosines[mine])) @ normals[mine]
        yield normal / np.linalg.norm(normal)
        normals, area = normals[~mine], area[~mine]


def _normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F, 3) normals of triangles (F, 3, 3), as long as twice their area; which way they point is not said."""
    normals: NDArray[np.float64] = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals
