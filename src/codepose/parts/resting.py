"""On which of its sides a part comes to rest, and how often: its stable poses on a plane."""

from __future__ import annotations

import math

import numpy as np
import trimesh
from numpy.typing import NDArray

from codepose.parts.mesh import COARSE_HULL, Mesh, outermost

_SHAKEN = 1e-4
"""Share of the diameter by which the hull's vertices are moved: trimesh loses faces whose corners lie on one line."""
_ALIKE = math.cos(math.radians(12.0))
"""Rests nearer to each other are one: on a round part each facet is a rest of its own."""
_RARE = 0.02
"""Of all the times a part comes to rest, those on its rarest sides that are not told apart."""


def rests(mesh: Mesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Finds how a part comes to rest on a plane when it is dropped in any attitude and does not roll on.

    The quasi-static estimate: a facet of the convex hull is hit as often as the middle of the part's mass sees it, and
    the part topples on from one on which that middle does not stand (Goldberg and others, "Part pose statistics", IJRR
    1999). The part is taken for as dense everywhere, and for its hull where its surface is open.

    Args:
        mesh: The part.

    Returns:
        What points down, unit (K, 3), object frame, and how often (K,), the commonest first; in all 1.
    """
    hull = _solid(mesh)
    middle = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).center_mass if mesh.closed else hull.center_mass
    poses, shares = trimesh.poses.compute_stable_poses(hull, center_mass=middle, n_samples=1, threshold=0.0)
    downs = -poses[:, 2, :3]  # the row of each pose that gives the height above the plane
    sides: list[NDArray[np.float64]] = []
    often: list[float] = []
    for place in np.argsort(-shares):
        near = [k for k, side in enumerate(sides) if side @ downs[place] > _ALIKE]
        if near:
            often[near[0]] += float(shares[place])
        else:
            sides.append(downs[place])
            often.append(float(shares[place]))
    order = np.argsort(-np.array(often))
    down, share = np.array(sides)[order], np.array(often)[order]
    kept = np.cumsum(share) - share < (1.0 - _RARE) * share.sum()
    return down[kept], share[kept] / share[kept].sum()


def _solid(mesh: Mesh) -> trimesh.Trimesh:
    """The part's hull, of any part: of one that is flat, too."""
    corners = outermost(mesh.hull, COARSE_HULL).astype(np.float64)
    shake = _SHAKEN * mesh.diameter * np.random.default_rng(0).standard_normal(corners.shape)
    shaken = np.concatenate((corners + shake, corners - shake)) if len(corners) < 4 else corners + shake
    solid: trimesh.Trimesh = trimesh.convex.convex_hull(shaken)
    return solid
