"""Poses of a video, smoothed over time: exponential smoothing of t and, on SO(3), of R."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torchvision.ops import box_iou

from codepose.estimation.detection import Detection
from codepose.synthesis.symmetry_group import Symmetries


class PoseSmoother:
    """Follows each object from frame to frame and smooths its pose; boxes and scores stay as measured.

    A detection goes on with the last frame's one of the same object whose box overlaps it most. It starts anew,
    unsmoothed, where there is none, as after a frame without it, and where it jumps. Of the poses of a part that look
    the same, it goes on with the one nearest to the last.

    Args:
        symmetries: Each object's, in the CAD file's frame; empty = none has any.
        centers: (3,) mm, each object's middle in that frame; empty = its origin.
        weight: Of the new frame, in (0, 1]; 1 = no smoothing.
        min_iou: A box that overlaps the last frame's less has jumped.
        max_turn_deg: A rotation further than this from the smoothed one has jumped.

    Raises:
        ValueError: The weight is not in (0, 1].
    """

    def __init__(
        self,
        symmetries: Sequence[Symmetries] = (),
        centers: Sequence[NDArray[np.floating]] = (),
        *,
        weight: float = 0.4,
        min_iou: float = 0.3,
        max_turn_deg: float = 30.0,
    ) -> None:
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"the weight of the new frame must lie in (0, 1], not be {weight}")
        self.symmetries = symmetries
        self.centers = centers
        self.weight = weight
        self.min_iou = min_iou
        self.max_turn_deg = max_turn_deg
        self._last: list[Detection] = []

    def __call__(self, found: list[Detection]) -> list[Detection]:
        """Smooths one frame's detections.

        Args:
            found: The frame's, best first.

        Returns:
            The same detections in the same order, with smoothed R_cam_obj and t_cam_obj.
        """
        free, smoothed = list(self._last), []
        for detection in found:
            before = self._match(detection, free)
            if before is not None:
                free.remove(before)
                detection = self._blend(before, detection)
            smoothed.append(detection)
        self._last = smoothed
        return list(smoothed)

    def _match(self, detection: Detection, free: list[Detection]) -> Detection | None:
        """The last frame's detection that this one goes on with."""
        same = [d for d in free if d.object_index == detection.object_index]
        if not same:
            return None
        boxes = torch.tensor([d.box.tolist() for d in same])
        overlaps = box_iou(torch.tensor([detection.box.tolist()]), boxes)[0]
        best = int(overlaps.argmax())
        return same[best] if float(overlaps[best]) >= self.min_iou else None

    def _blend(self, before: Detection, now: Detection) -> Detection:
        """Moves the smoothed pose towards the new one: its middle along a line, its rotation along the shortest arc."""
        if self.symmetries:
            now = self._nearest(before, now)
        R = Rotation.from_matrix(before.R_cam_obj)
        turn = (R.inv() * Rotation.from_matrix(now.R_cam_obj)).as_rotvec()
        if float((turn**2).sum()) > math.radians(self.max_turn_deg) ** 2:
            return now
        smoothed = (R * Rotation.from_rotvec(self.weight * turn)).as_matrix()
        # the part's middle goes along the line, not the CAD file's origin, which may lie far from it
        middle = self.centers[now.object_index] if self.centers else np.zeros(3)
        start, end = (d.t_cam_obj + d.R_cam_obj @ middle for d in (before, now))
        place = start + self.weight * (end - start)
        return dataclasses.replace(now, R_cam_obj=smoothed, t_cam_obj=place - smoothed @ middle)

    def _nearest(self, before: Detection, now: Detection) -> Detection:
        """The new pose, or one that looks the same, whichever is nearest to the last."""
        last, R, t = (torch.from_numpy(x)[None] for x in (before.R_cam_obj, now.R_cam_obj, now.t_cam_obj))
        R, t = self.symmetries[now.object_index].nearest(last, R, t)
        return dataclasses.replace(now, R_cam_obj=R[0].numpy(), t_cam_obj=t[0].numpy())
