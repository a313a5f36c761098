"""A raw surface becomes a part: centred, 100 mm across, with 300 to 6,000 faces, closed, split at its creases."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from codepose.parts.decimation import decimate
from codepose.parts.mesh import Mesh, MeshError, mesh_from_trimesh, signed_volume

DIAMETER_MM = 100.0
FEWEST, MOST = 300, 6000  # faces
_OPEN = 0.01  # share of the edges that may have one face alone
_THIN = 1e-5  # of the diameter's third power, what a solid holds at least


class RefusedError(ValueError):
    """What was made is no part to train on; the text says why."""


def finished(body: trimesh.Trimesh, name: str, *, most: int = MOST) -> Mesh:
    """The part ready for the archive, its bounding box's middle at the origin.

    Args:
        body: A closed surface of any size.
        name: The part's name.
        most: Faces above which it is decimated, at most 6,000.

    Raises:
        RefusedError: It is not closed, holds nothing, or has too many faces.
    """
    try:
        whole = _welded(body)
        mesh = mesh_from_trimesh(_scaled(whole, DIAMETER_MM / max(float(whole.scale), 1e-9)), name)
        mesh = mesh_from_trimesh(_scaled(_welded(mesh), DIAMETER_MM / mesh.diameter), name)
        whole = _welded(decimate(mesh, most))
        while len(whole.faces) < FEWEST:
            whole = whole.subdivide()
        size = mesh_from_trimesh(whole, name).diameter
        mesh = mesh_from_trimesh(_scaled(whole, DIAMETER_MM / size), name)
    except MeshError as error:
        raise RefusedError(str(error)) from None
    _check(mesh)
    return mesh


def turned(mesh: Mesh, R: NDArray[np.float64]) -> Mesh:
    """The part turned by (3, 3) about its origin, then centred again."""
    body = trimesh.Trimesh(mesh.vertices @ R.T, mesh.faces, process=False)
    return finished(body, mesh.name)


def any_turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3) one of the 24 rotations of a cube: CAD files lie along their axes, each in its own way."""
    turns: NDArray[np.float64] = Rotation.create_group("O").as_matrix()
    chosen: NDArray[np.float64] = turns[int(rng.integers(len(turns)))]
    return chosen.round()


def _welded(mesh: Mesh | trimesh.Trimesh) -> trimesh.Trimesh:
    """Without its splits at creases."""
    whole = trimesh.Trimesh(np.asarray(mesh.vertices, np.float64), mesh.faces, process=False)
    whole.merge_vertices(merge_norm=True, merge_tex=True)
    whole.update_faces(whole.nondegenerate_faces())
    whole.remove_unreferenced_vertices()
    return whole


def _scaled(body: trimesh.Trimesh, factor: float) -> trimesh.Trimesh:
    if len(body.faces) == 0:
        raise RefusedError("it has no faces")
    middle = body.bounds.mean(axis=0)
    return trimesh.Trimesh((body.vertices - middle) * factor, body.faces, process=False)


def _check(mesh: Mesh) -> None:
    whole = _welded(mesh)
    share = open_share(whole)
    if share > _OPEN:
        raise RefusedError(f"{share:.1%} of its edges have one face alone")
    if signed_volume(whole) < _THIN * DIAMETER_MM**3:
        raise RefusedError("it holds nothing")
    if not FEWEST <= len(mesh.faces) <= MOST:
        raise RefusedError(f"it has {len(mesh.faces)} faces")


def open_share(body: trimesh.Trimesh) -> float:
    """Share of the edges of a surface without splits that have one face alone."""
    counts = np.unique(body.edges_unique_inverse, return_counts=True)[1]
    return float((counts == 1).mean())
