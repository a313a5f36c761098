"""Errors of our own benchmark that know a part's symmetries: against the pose that looks like the true one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from codepose import geometry
from codepose.evaluation.metrics import translation_error_mm
from codepose.evaluation.pose_errors import mspd, mssd, symmetry_transforms
from codepose.synthesis.objects import ObjectModel


class PoseErrors(NamedTuple):
    """Errors of N poses, (N,) float64 each.

    Attributes:
        rotation_deg, translation_mm: Against the equivalent true pose whose rotation is nearest.
        mssd_mm: Maximum symmetry-aware surface distance.
        mssd_share: The same as a share of the object's diameter.
        mspd_px: Maximum symmetry-aware projection distance, in pixels of the image itself.
    """

    rotation_deg: Tensor
    translation_mm: Tensor
    mssd_mm: Tensor
    mssd_share: Tensor
    mspd_px: Tensor


def pose_errors(
    models: Sequence[ObjectModel], objects: Tensor, R: Tensor, t: Tensor, R_gt: Tensor, t_gt: Tensor, K: Tensor
) -> PoseErrors:
    """Measures poses of several objects.

    MSSD and MSPD are BOP's, but for two things: continuous symmetries are cut into steps from the nearest angle on, so
    that a pose turned by any symmetry has no error; and only the corners of the convex hull are measured (of more than
    2,562 the outermost), which makes next to no difference. ``evaluate --bop`` does so for MSSD alone, and measures
    MSPD and ADD on all vertices.

    Args:
        models: The objects, with meshes and symmetries in the frame of the poses.
        objects: (N,) which of them.
        R: (N, 3, 3) estimated R_cam_obj.
        t: (N, 3) estimated t_cam_obj, mm.
        R_gt: (N, 3, 3) the true ones.
        t_gt: (N, 3) mm.
        K: (3, 3).
    """
    columns = torch.zeros(len(PoseErrors._fields), len(R), dtype=torch.float64, device=R.device)
    for index in sorted(set(objects.tolist())):
        rows = objects == index
        columns[:, rows] = _of_one(models[index], R[rows], t[rows], R_gt[rows], t_gt[rows], K)
    return PoseErrors(*columns)


def _of_one(model: ObjectModel, R: Tensor, t: Tensor, R_gt: Tensor, t_gt: Tensor, K: Tensor) -> Tensor:
    """The errors of one object's poses, (5, N)."""
    R_true, t_true = model.symmetries.nearest(R, R_gt, t_gt)
    turns = model.symmetries.any and not model.symmetries.ball  # a ball's nearest pose is turned as the estimate
    transforms = symmetry_transforms(model.symmetries.to_bop()) if turns else None
    poses = (torch.from_numpy(model.mesh.hull).to(R.device), R, t, R_true, t_true)
    surface = mssd(*poses, transforms)
    errors = PoseErrors(
        rotation_deg=geometry.geodesic_angle(R.to(R_true), R_true).rad2deg(),
        translation_mm=translation_error_mm(t.to(t_true), t_true),
        mssd_mm=surface,
        mssd_share=surface / model.mesh.diameter,
        mspd_px=mspd(*poses, K, transforms),
    )
    return torch.stack([column.double() for column in errors])
