"""Visible surface discrepancy: how far the visible surface at an estimated pose lies from the true one.

Source: Hodaň et al., "On evaluation of 6D object pose estimation", ECCVW 2016, as bop_toolkit computes it.
Only the pixels where a render exists are looked at: after one comparison per pixel, time and memory grow with
the object's area, not with the image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Cost = Literal["step", "tlinear"]
Visibility = Literal["bop19", "bop18"]
ArrayOrTensor = Tensor | npt.NDArray[np.generic]


def vsd(
    depth_estimated: ArrayOrTensor,
    depth_gt: ArrayOrTensor,
    depth_test: ArrayOrTensor,
    K: ArrayOrTensor,
    *,
    delta: float = 15.0,
    taus: Sequence[float] = (20.0,),
    cost: Cost = "step",
    diameter: float | ArrayOrTensor | None = None,
    visibility: Visibility = "bop19",
) -> Tensor:
    """Computes VSD for a batch of images and every tau.

    Rays go through integer pixel indices, as in bop_toolkit, even for renders with centres at integer + 0.5.

    Args:
        depth_estimated: (N, H, W) depth of the object alone at the estimated pose, mm along the optical axis,
            0 = nothing; an image without an estimate is all zero and has VSD 1.
        depth_gt: (N, H, W) the same at the true pose.
        depth_test: (N, H, W) depth of the whole scene, mm, 0 = not measured.
        K: (3, 3) one camera for all images, or (N, 3, 3).
        delta: tolerance of the visibility test, mm, >= 0.
        taus: misalignment tolerances, > 0: mm, or fractions of `diameter` when that is given.
        cost: "step" is 1 where the distance is >= tau; "tlinear" is min(distance / tau, 1).
        diameter: object diameter in mm, one number or (N,); distances are divided by it (BOP19).
        visibility: "bop19" counts a pixel without test depth as visible, "bop18" as invisible.

    Returns:
        (N, len(taus)) float64 in [0, 1] on the depth maps' device; 1 where neither pose is visible.

    Raises:
        ValueError: a shape, device, name or number is not as above.
    """
    estimated, gt, test = (_tensor(depth) for depth in (depth_estimated, depth_gt, depth_test))
    _check(estimated, gt, test, delta, taus, cost, visibility)
    count, _, width = estimated.shape
    image, pixel = torch.nonzero(((estimated > 0) | (gt > 0)).flatten(1), as_tuple=True)  # (P,) each
    ray = _ray_lengths(_inverse_camera(K, count, estimated.device), image, pixel, width)
    d_estimated, d_gt, d_test = (depth.flatten(1)[image, pixel] * ray for depth in (estimated, gt, test))

    visible_gt = _visible(d_gt, d_test, delta, visibility)
    visible_estimated = _visible(d_estimated, d_test, delta, visibility) | (visible_gt & (d_estimated > 0))
    both = visible_gt & visible_estimated
    union = torch.bincount(image[visible_gt | visible_estimated], minlength=count).double()[:, None]
    outside = union - torch.bincount(image[both], minlength=count)[:, None]
    unit = _diameters(1.0 if diameter is None else diameter, count, estimated.device)  # (N,)
    distance = (d_gt[both] - d_estimated[both]).abs() / unit[image[both]]
    costs = _summed_costs(distance, image[both], count, taus, cost)  # (N, T)
    return torch.where(union > 0, (costs + outside) / union.clamp(min=1), 1.0)


def _ray_lengths(inverse: Tensor, image: Tensor, pixel: Tensor, width: int) -> Tensor:
    """Length of K^-1 [u, v, 1] at integer u, v, (P,): depth times this is the distance from the camera."""
    u, v = (pixel % width).double(), torch.div(pixel, width, rounding_mode="floor").double()
    camera = image if inverse.shape[0] > 1 else torch.zeros_like(image)
    squared = torch.zeros_like(u)
    for row in inverse.unbind(1):  # x, y, z of the ray, (N or 1, 3) each
        a, b, c = row.unbind(1)
        squared += (a[camera] * u + b[camera] * v + c[camera]).square()
    return squared.sqrt()


def _visible(rendered: Tensor, test: Tensor, delta: float, rule: Visibility) -> Tensor:
    """Rendered pixels that lie at most delta mm behind the measured scene, (P,) bool."""
    in_front = rendered - test <= delta
    in_front = in_front | (test == 0) if rule == "bop19" else in_front & (test > 0)
    return in_front & (rendered > 0)


def _summed_costs(distance: Tensor, image: Tensor, count: int, taus: Sequence[float], cost: Cost) -> Tensor:
    """Sum of the matching cost over each image's intersection, (N, T)."""
    sums = torch.zeros(len(taus), count, dtype=torch.float64, device=distance.device)
    for row, tau in zip(sums, taus, strict=True):
        values = (distance >= tau).double() if cost == "step" else (distance / tau).clamp(max=1)
        row.index_add_(0, image, values)
    return sums.T


def _tensor(values: ArrayOrTensor) -> Tensor:
    """The values as a floating-point tensor that shares their memory where it can."""
    if not isinstance(values, Tensor):
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return values if values.is_floating_point() else values.double()


def _inverse_camera(K: ArrayOrTensor, count: int, device: torch.device) -> Tensor:
    """K^-1 as (1, 3, 3) or (N, 3, 3) float64 on the device."""
    cameras = _tensor(K)
    if cameras.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(f"K must be (3, 3) or ({count}, 3, 3), got {tuple(cameras.shape)}")
    inverse: Tensor = torch.linalg.inv(cameras.to(device, torch.float64).reshape(-1, 3, 3))
    return inverse


def _diameters(diameter: float | ArrayOrTensor, count: int, device: torch.device) -> Tensor:
    """Diameters as (N,) float64 on the device."""
    values = torch.as_tensor(diameter, dtype=torch.float64, device=device)
    if values.shape not in ((), (count,)):
        raise ValueError(f"diameter must be one number or ({count},), got {tuple(values.shape)}")
    if not bool((torch.isfinite(values) & (values > 0)).all()):
        raise ValueError("diameter must be positive and finite, in mm")
    return values.expand(count)


def _check(
    estimated: Tensor,
    gt: Tensor,
    test: Tensor,
    delta: float,
    taus: Sequence[float],
    cost: str,
    visibility: str,
) -> None:
    if estimated.ndim != 3:
        raise ValueError(f"depth maps must be (N, H, W), got {tuple(estimated.shape)}; add a batch axis")
    for name, depth in (("depth_gt", gt), ("depth_test", test)):
        if depth.shape != estimated.shape:
            raise ValueError(f"{name} is {tuple(depth.shape)}, depth_estimated {tuple(estimated.shape)}")
        if depth.device != estimated.device:
            raise ValueError(f"{name} is on {depth.device}, move it to {estimated.device}")
    if not delta >= 0:
        raise ValueError(f"delta must be >= 0 mm, got {delta}")
    if len(taus) == 0 or not all(tau > 0 for tau in taus):
        raise ValueError(f"taus must be one or more positive numbers, got {list(taus)}")
    if cost not in get_args(Cost):
        raise ValueError(f"cost must be one of {get_args(Cost)}, got {cost!r}")
    if visibility not in get_args(Visibility):
        raise ValueError(f"visibility must be one of {get_args(Visibility)}, got {visibility!r}")
