"""Poses of a video, smoothed over time: exponential smoothing of t and, on SO(3), of R."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from codepose.estimation.detection import Detection
from codepose.parts.symmetry_group import Symmetries
from codepose.runtime.vision import box_iou


class PoseSmoother:
    """Follows each object from frame to frame and smooths its pose; boxes and scores stay as measured.

    Detections go on with the last frame's ones of the same object, paired so that their boxes overlap most in all. One
    starts anew, unsmoothed, where there is none, as after a frame without it, and where it jumps. Of the poses
    of a part that look the same, it goes on with the one nearest to the last.

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
        before = self._matched(found)
        self._last = [self._blend(before[i], one) if i in before else one for i, one in enumerate(found)]
        return list(self._last)

    def _matched(self, found: list[Detection]) -> dict[int, Detection]:
        """The last frame's detection that each goes on with, by its place: the pairs that overlap most together."""
        if not found or not self._last:
            return {}
        now, last = (torch.from_numpy(np.stack([d.box for d in frame])) for frame in (found, self._last))
        objects = ([d.object_index for d in frame] for frame in (found, self._last))
        overlaps = box_iou(now, last).numpy() * np.equal.outer(*map(np.array, objects))
        overlaps = np.where(overlaps >= self.min_iou, overlaps, 0.0)
        rows, columns = linear_sum_assignment(overlaps, maximize=True)
        return {int(i): self._last[j] for i, j in zip(rows, columns, strict=True) if overlaps[i, j] > 0}

    def _blend(self, before: Detection, now: Detection) -> Detection:
        """Moves the smoothed pose towards the new one: its middle along a line, its rotation along the shortest arc."""
        if self.symmetries:
            now = now.nearest_to(before, self.symmetries[now.object_index])
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
