"""VSD and its renders written straight from their definitions with numpy: one image, one triangle at a time."""

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


def depth_numpy(vertices: NDArray[Any], faces: NDArray[Any], R: Array, t: Array, K: Array, size: int) -> Array:
    """Renders a mesh's depth with a z-buffer, triangle by triangle.

    Args:
        vertices: (V, 3) mm.
        faces: (F, 3) indices.
        R, t: (3, 3) R_cam_obj and (3,) t_cam_obj in mm; the whole mesh is in front of the camera.
        K: (3, 3), for pixel centres at integer + 0.5.
        size: Side of the image.

    Returns:
        (size, size) mm along the optical axis, 0 where there is nothing.
    """
    camera = vertices @ R.T + t
    image = camera @ K.T
    pixels = image[:, :2] / image[:, 2:]
    nearest = np.full((size, size), np.inf)
    for corners, z in zip(pixels[faces], camera[faces, 2], strict=True):
        low = np.clip(np.ceil(corners.min(0) - 0.5).astype(int), 0, size)
        high = np.clip(np.floor(corners.max(0) - 0.5).astype(int) + 1, 0, size)
        edges = np.stack((corners[1] - corners[0], corners[2] - corners[0]), 1)  # (2, 2)
        if (high <= low).any() or abs(np.linalg.det(edges)) < 1e-12:
            continue
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        b, c = np.tensordot(np.linalg.inv(edges), np.stack((x - corners[0, 0], y - corners[0, 1])), 1)
        inside = (b >= 0) & (c >= 0) & (b + c <= 1)
        depth = 1.0 / ((1.0 - b - c) / z[0] + b / z[1] + c / z[2])  # 1/z is linear in the image
        window = nearest[low[1] : high[1], low[0] : high[0]]
        np.minimum(window, np.where(inside, depth, np.inf), out=window)
    return np.where(np.isfinite(nearest), nearest, 0.0)
