"""A pose set by hand, brought onto the photo's edges."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from codepose import geometry
from codepose.estimation.box_poses import seen_boxes
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.photo import Photo
from codepose.estimation.window_boxes import given_boxes
from codepose.refinement.edge_fit import EdgeFit
from codepose.refinement.poses import InTurn, Poses
from codepose.refinement.render_and_compare import ContourRefiner

Array = NDArray[np.float64]
_EDGES_ALONE = {"agreement": 0.0, "similarity": 0.0, "step_deg": 2.0}
"""Whoever set the pose by hand knows better than the network how the part lies."""


@torch.no_grad()
def snap(
    estimator: PoseEstimator, image: NDArray[np.uint8], K: ArrayLike, index: int, R_cam_obj: Array, t_cam_obj: Array
) -> tuple[Array, Array, float]:
    """Searches around a pose for the one whose edges lie best on the photo's.

    Args:
        estimator: Loaded, refining or not.
        image: (H, W, 3) uint8 RGB without lens distortion.
        K: (3, 3) of the image in pixels, OpenCV's convention.
        index: Which of the run's objects.
        R_cam_obj: (3, 3) rotation from the CAD file's frame to the camera's.
        t_cam_obj: (3,) mm, position of the CAD file's origin; the part lies in front of the camera.

    Returns:
        R_cam_obj (3, 3), t_cam_obj (3,) in mm, and how well the edges lie on the photo's: 0 = by chance, 1 = perfectly.
    """
    device, world = estimator.device, estimator.world
    photo, objects = Photo.of(image, K, device), torch.tensor([index], device=device)
    R = torch.from_numpy(R_cam_obj).float().to(device)[None]
    offset = world.objects[index].offset.float().to(device)
    t = torch.from_numpy(t_cam_obj).float().to(device)[None] + R @ offset
    boxes = world.boxes(objects, R, t, photo.K)
    seen, _ = seen_boxes(estimator.pipeline, given_boxes(estimator.pipeline, photo, boxes, objects), finer=True)
    view = geometry.offaxis_rotation(t).transpose(1, 2) @ R
    start = Poses.start(view[:, None], t[:, None], torch.zeros(1, 1, device=device))
    search = ContourRefiner(world, estimator.settings.refinement, **_EDGES_ALONE)
    best = InTurn(search, EdgeFit(world))(seen, start).best(1)
    R_found, t_found = best.R[0, 0], best.t[0, 0]
    R_best, t_best = (x.double().cpu().numpy() for x in (R_found, t_found - R_found @ offset))
    return R_best, t_best, float(best.contour[0, 0])
