"""How a part comes to rest on a table."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray

from codepose.synthesis.mesh import Mesh

_FLAT = 1e-3
"""Share of the diameter below which a part has no thickness."""
_MOST = 64
"""Ways of lying that are kept; a ball has as many as faces."""


def resting_directions(mesh: Mesh) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The ways in which a part lies still: of the sides of its convex hull, those below its centre.

    Args:
        mesh: The part, taken for solid.

    Returns:
        (k, 3) unit vectors of the object frame that then point up, and (k,) how likely each is after a fall, summing
        to 1; most likely first.
    """
    points = mesh.hull.astype(np.float64)
    thin = np.linalg.eigh(np.cov(points, rowvar=False))[1][:, 0]
    if np.ptp(points @ thin) < _FLAT * mesh.diameter:  # on either side
        up, likely = np.stack([thin, -thin]), np.full(2, 0.5)
    else:
        transforms, likely = trimesh.convex.convex_hull(points).compute_stable_poses()
        up = transforms[:, 2, :3]
    order = np.argsort(-likely, kind="stable")[:_MOST]
    return up[order].astype(np.float32), (likely[order] / likely[order].sum()).astype(np.float32)
