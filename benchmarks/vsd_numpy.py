"""VSD written straight from its definition with numpy: one image at a time, over the full frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def vsd_numpy(
    estimated: NDArray[Any],
    gt: NDArray[Any],
    test: NDArray[Any],
    K: Array,
    *,
    delta: float = 15.0,
    taus: Sequence[float] = (20.0,),
    cost: Literal["step", "tlinear"] = "step",
    diameter: float = 1.0,
) -> list[float]:
    """Returns one image's VSD for every tau, under the "bop19" rule of visibility.

    Args:
        estimated, gt, test: (H, W) depth in mm of the object at both poses and of the scene, 0 = nothing.
        K: (3, 3), for rays through integer pixel indices.
        delta: Tolerance of the visibility test, mm.
        taus: Misalignment tolerances, in mm, or as fractions of ``diameter`` if that is given.
        cost: Of a pixel of both poses.
        diameter: By which distances are divided.
    """
    d_estimated, d_gt, d_test = (_distance(depth, K) for depth in (estimated, gt, test))
    visible_gt = (d_gt > 0) & ((d_gt - d_test <= delta) | (d_test == 0))
    visible_estimated = (d_estimated > 0) & ((d_estimated - d_test <= delta) | (d_test == 0))
    visible_estimated |= visible_gt & (d_estimated > 0)
    both = visible_gt & visible_estimated
    union = int((visible_gt | visible_estimated).sum())
    if union == 0:
        return [1.0] * len(taus)
    apart = np.abs(d_gt[both] - d_estimated[both]) / diameter
    values = []
    for tau in taus:
        costs = (apart >= tau).astype(np.float64) if cost == "step" else np.minimum(apart / tau, 1.0)
        values.append((float(costs.sum()) + union - int(both.sum())) / union)
    return values


def _distance(depth: NDArray[Any], K: Array) -> Array:
    """Turns depth along the optical axis into distance along each pixel's ray."""
    height, width = depth.shape
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack((u, v, np.ones_like(u)), -1) @ np.linalg.inv(K).T
    distance: Array = depth * np.linalg.norm(rays, axis=-1)
    return distance
