"""Pose errors that know an object's symmetries: MSSD, MSPD, ADD, ADD-S.

Source: Hodaň et al., "BOP Challenge 2020 on 6D Object Localization", ECCVW 2020, as bop_toolkit computes them;
ADD and ADD-S (also called ADI): Hinterstoisser et al., ACCV 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from codepose import geometry
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries

FloatArray = npt.NDArray[np.float64]

SYMMETRY_STEP = 0.01
"""BOP's step between discretised symmetries: how far the outermost vertex moves, as a fraction of the diameter."""
_CHUNK = 1 << 22  # points held at a time


def symmetry_transforms(info: Mapping[str, Any], step: float = SYMMETRY_STEP) -> Tensor:
    """Every rigid motion that maps an object onto itself, as BOP's `models_info.json` describes them.

    Args:
        info: One object's entry: `symmetries_discrete`, 4 x 4 matrices row by row, and `symmetries_continuous`,
            rotations by any angle about `axis` through the point `offset` (mm). Both may be missing.
        step: A full turn is cut into ceil(pi / step) angles: no vertex moves further than about `step` diameters.

    Returns:
        (S, 4, 4) float64, the identity first: each discrete symmetry, then each of the continuous ones' angles.

    Raises:
        ValueError: As ``Symmetries.from_bop``.
    """
    symmetries = Symmetries.from_bop(info)
    fixed = torch.cat((torch.eye(4, dtype=torch.float64)[None], torch.from_numpy(symmetries.discrete)))  # (D, 4, 4)
    if not symmetries.continuous:
        return fixed
    turns = torch.cat([_turns(symmetry, step) for symmetry in symmetries.continuous])
    return (turns[None] @ fixed[:, None]).flatten(0, 1)  # the discrete one first, then the turn


def _turns(symmetry: ContinuousSymmetry, step: float) -> Tensor:
    """Rotations about an axis, (A, 4, 4), from the angle 0 on."""
    axis, offset = torch.from_numpy(symmetry.axis), torch.from_numpy(symmetry.offset)
    count = math.ceil(math.pi / step)
    angles = torch.arange(count, dtype=torch.float64) * (2.0 * math.pi / count)
    turns = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    turns[:, :3, :3] = torch.linalg.matrix_exp(angles[:, None, None] * geometry.cross_matrix(axis))
    turns[:, :3, 3] = offset - turns[:, :3, :3] @ offset
    return turns


def mssd(
    vertices: Tensor,
    R_estimated: Tensor,
    t_estimated: Tensor,
    R_gt: Tensor,
    t_gt: Tensor,
    symmetries: Tensor | None = None,
) -> Tensor:
    """Maximum symmetry-aware surface distance: the largest vertex distance under the most favourable symmetry.

    Args:
        vertices: (V, 3) mm, object frame. The convex hull's vertices give the same result as all of them.
        R_estimated: (N, 3, 3) R_cam_obj.
        t_estimated: (N, 3) t_cam_obj, mm.
        R_gt: (N, 3, 3) the true ones.
        t_gt: (N, 3) mm.
        symmetries: (S, 4, 4) of `symmetry_transforms`; None = no symmetry.

    Returns:
        (N,) float64 mm, on the vertices' device.

    Raises:
        ValueError: A shape is not as above.
    """
    poses = _Poses.checked(vertices, R_estimated, t_estimated, R_gt, t_gt)
    return poses.least_maximum(symmetries, poses.moved)


def mspd(
    vertices: Tensor,
    R_estimated: Tensor,
    t_estimated: Tensor,
    R_gt: Tensor,
    t_gt: Tensor,
    K: Tensor,
    symmetries: Tensor | None = None,
) -> Tensor:
    """Maximum symmetry-aware projection distance: the same in the image.

    BOP's thresholds hold for an image 640 pixels wide: multiply by 640 / width first.

    Args:
        vertices: (V, 3) mm, object frame.
        R_estimated: (N, 3, 3) R_cam_obj.
        t_estimated: (N, 3) t_cam_obj, mm.
        R_gt: (N, 3, 3) the true ones.
        t_gt: (N, 3) mm.
        K: (3, 3) or (N, 3, 3), pixels; where the first pixel's centre lies makes no difference.
        symmetries: (S, 4, 4) of `symmetry_transforms`; None = no symmetry.

    Returns:
        (N,) float64 pixels, on the vertices' device; infinite where a vertex lies in the camera's own plane.

    Raises:
        ValueError: A shape is not as above.
    """
    poses = _Poses.checked(vertices, R_estimated, t_estimated, R_gt, t_gt)
    if K.shape not in ((3, 3), (len(R_gt), 3, 3)):
        raise ValueError(f"K must be (3, 3) or ({len(R_gt)}, 3, 3), got {tuple(K.shape)}")
    camera = K.to(poses.vertices).expand(len(R_gt), 3, 3)[:, None]  # (N, 1, 3, 3)

    def projected(motion: Tensor) -> Tensor:
        image = poses.moved(camera @ motion)  # (N, s, 3, V)
        return image[:, :, :2] / image[:, :, 2:]

    return poses.least_maximum(symmetries, projected)


def add(vertices: Tensor, R_estimated: Tensor, t_estimated: Tensor, R_gt: Tensor, t_gt: Tensor) -> Tensor:
    """Average distance of the model's vertices, for objects without symmetry.

    Args:
        vertices: (V, 3) mm, object frame.
        R_estimated: (N, 3, 3) R_cam_obj.
        t_estimated: (N, 3) t_cam_obj, mm.
        R_gt: (N, 3, 3) the true ones.
        t_gt: (N, 3) mm.

    Returns:
        (N,) float64 mm, on the vertices' device.

    Raises:
        ValueError: A shape is not as above.
    """
    poses = _Poses.checked(vertices, R_estimated, t_estimated, R_gt, t_gt)
    motion = poses.estimated() - poses.equivalent(_symmetries(None, poses.vertices))
    averages: Tensor = poses.moved(motion).square().sum(2).sqrt().mean(2)[:, 0]
    return averages


def add_s(vertices: Tensor, R_estimated: Tensor, t_estimated: Tensor, R_gt: Tensor, t_gt: Tensor) -> Tensor:
    """Average distance of each true vertex to the nearest estimated one, for symmetric objects; also called ADI.

    Computed on the CPU: one tree of the vertices serves all poses, because the true vertices are brought into the
    frame of the estimated object.

    Args:
        vertices: (V, 3) mm, object frame.
        R_estimated: (N, 3, 3) R_cam_obj.
        t_estimated: (N, 3) t_cam_obj, mm.
        R_gt: (N, 3, 3) the true ones.
        t_gt: (N, 3) mm.

    Returns:
        (N,) float64 mm, on the vertices' device.

    Raises:
        ValueError: A shape is not as above.
    """
    poses = _Poses.checked(vertices, R_estimated, t_estimated, R_gt, t_gt)
    back = poses.R_estimated.mT  # (N, 3, 3)
    R = back @ poses.R_gt
    t = (back @ (poses.t_gt - poses.t_estimated)[..., None])[..., 0]
    tree = cKDTree(poses.vertices.cpu().numpy())
    means = [
        float(tree.query((poses.vertices @ R_one.T + t_one).cpu().numpy())[0].mean())
        for R_one, t_one in zip(R, t, strict=True)
    ]
    return torch.tensor(means, dtype=torch.float64, device=poses.vertices.device)


def symmetric_distance(
    R_estimated: Tensor, t_estimated: Tensor, R_gt: Tensor, t_gt: Tensor, symmetries: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rotation and translation error against the equivalent true pose whose rotation is nearest.

    Args:
        R_estimated: (N, 3, 3) R_cam_obj.
        t_estimated: (N, 3) t_cam_obj, mm.
        R_gt: (N, 3, 3) the true ones.
        t_gt: (N, 3) mm.
        symmetries: (S, 4, 4) of `symmetry_transforms`; None = no symmetry.

    Returns:
        (N,) radians in [0, pi] and (N,) mm, float64.

    Raises:
        ValueError: A shape is not as above.
    """
    poses = _Poses.checked(torch.zeros(1, 3, device=R_gt.device), R_estimated, t_estimated, R_gt, t_gt)
    true = poses.equivalent(_symmetries(symmetries, poses.vertices))  # (N, S, 3, 4)
    angles = geometry.geodesic_angle(poses.R_estimated[:, None], true[..., :3])  # (N, S)
    angle, which = angles.min(1)
    nearest = true[torch.arange(len(true), device=true.device), which, :, 3]
    return angle, (poses.t_estimated - nearest).norm(dim=-1)


@dataclass(frozen=True, eq=False)
class _Poses:
    """N pairs of poses and the vertices, float64 on one device."""

    vertices: Tensor
    R_estimated: Tensor
    t_estimated: Tensor
    R_gt: Tensor
    t_gt: Tensor

    @classmethod
    def checked(cls, vertices: Tensor, R_estimated: Tensor, t_estimated: Tensor, R_gt: Tensor, t_gt: Tensor) -> _Poses:
        if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) == 0:
            raise ValueError(f"vertices must be (V, 3) with V >= 1, got {tuple(vertices.shape)}")
        count = len(R_estimated)
        for name, value, shape in (
            ("R_estimated", R_estimated, (count, 3, 3)),
            ("t_estimated", t_estimated, (count, 3)),
            ("R_gt", R_gt, (count, 3, 3)),
            ("t_gt", t_gt, (count, 3)),
        ):
            if value.shape != shape:
                raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")
        return cls(*(x.to(vertices.device, torch.float64) for x in (vertices, R_estimated, t_estimated, R_gt, t_gt)))

    def estimated(self) -> Tensor:
        """The estimated poses as motions [R t], (N, 1, 3, 4)."""
        return torch.cat((self.R_estimated, self.t_estimated[..., None]), -1)[:, None]

    def equivalent(self, transforms: Tensor) -> Tensor:
        """The true poses after each symmetry (s, 4, 4), as motions [R t], (N, s, 3, 4)."""
        return torch.cat((self.R_gt, self.t_gt[..., None]), -1)[:, None] @ transforms

    def moved(self, motions: Tensor) -> Tensor:
        """The vertices after motions (N, s, 3, 4), (N, s, 3, V): one matrix product, one row a coordinate."""
        homogeneous = torch.nn.functional.pad(self.vertices, (0, 1), value=1.0).T  # (4, V)
        return (motions.reshape(-1, 4) @ homogeneous).view(*motions.shape[:3], -1)

    def least_maximum(self, symmetries: Tensor | None, measured: Callable[[Tensor], Tensor]) -> Tensor:
        """The largest distance of points measured (N, s, d, V) under each symmetry, and of these the least, (N,)."""
        estimated = measured(self.estimated())  # (N, 1, d, V)
        least = torch.full((len(self.R_gt),), torch.inf, dtype=torch.float64, device=self.vertices.device)
        for part in _parts(_symmetries(symmetries, self.vertices), len(self.R_gt) * len(self.vertices)):
            squared = (measured(self.equivalent(part)) - estimated).square().sum(2).amax(2)  # (N, s)
            least = torch.minimum(least, squared.nan_to_num(torch.inf, posinf=torch.inf).amin(1))
        return least.sqrt()


def _symmetries(symmetries: Tensor | None, like: Tensor) -> Tensor:
    if symmetries is None:
        return torch.eye(4).to(like)[None]
    if symmetries.ndim != 3 or symmetries.shape[1:] != (4, 4) or len(symmetries) == 0:
        raise ValueError(f"symmetries must be (S, 4, 4) with S >= 1, got {tuple(symmetries.shape)}")
    return symmetries.to(like)


def _parts(symmetries: Tensor, points: int) -> Iterator[Tensor]:
    """Cuts the symmetries so that each part times so many points fits into memory."""
    count = max(1, _CHUNK // max(points, 1))
    for start in range(0, len(symmetries), count):
        yield symmetries[start : start + count]
