"""The symmetries of a part, each of them checked against the whole surface."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import KDTree

from codepose.parts.mesh import Mesh
from codepose.parts.symmetry_group import Symmetries
from codepose.parts.symmetry_search import find_symmetries
from experiments.parts.finish import RefusedError

_POINTS, _TURNED = 12_000, 3_000  # on the surface, and how many of them are turned
_FAR = 0.03  # of the diameter, further from the surface than points this dense ever are
_SHARE = 0.01  # of the turned points that may lie so far
_SAME_DEG = 6.0  # between rotations that are one


def confirmed_symmetries(mesh: Mesh) -> Symmetries:
    """What codepose finds, without the products of its turns that do not map the surface onto itself.

    Raises:
        RefusedError: What is left is no group.
    """
    found = find_symmetries(mesh)
    if not len(found.discrete):
        return found
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points = np.asarray(trimesh.sample.sample_surface(body, _POINTS, seed=0)[0])
    tree = KDTree(points)
    kept = [turn for turn in found.discrete if _fits(turn, points[:_TURNED], tree, _FAR * mesh.diameter)]
    if not found.continuous and not _is_group([np.eye(3), *(turn[:3, :3] for turn in kept)]):
        raise RefusedError("its symmetries are no group")
    return Symmetries(np.stack(kept) if kept else np.zeros((0, 4, 4)), found.continuous)


def _fits(turn: NDArray[np.float64], points: NDArray[np.float64], tree: KDTree, far: float) -> bool:
    apart = tree.query(points @ turn[:3, :3].T + turn[:3, 3])[0]
    return float((apart > far).mean()) <= _SHARE


def _is_group(turns: list[NDArray[np.float64]]) -> bool:
    """Whether rotations, the identity among them, differ, and the product of any two is one of them."""
    R = np.stack(turns)
    near = 1 + 2 * np.cos(np.radians(_SAME_DEG))
    products = np.einsum("aij,bjk->abik", R, R).reshape(-1, 9)
    return bool(((products @ R.reshape(-1, 9).T > near).sum(1) == 1).all())
