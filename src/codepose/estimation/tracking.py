"""Parts followed from image to image: who is who, where one is that was not found, and that it is there again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from codepose.estimation.detection import Array, Detection
from codepose.parts.symmetry_group import Symmetries

_FAR = 1e6
_DEPTH = 1 / 3
"""What a mm along the optical axis counts, of one across it: one camera sees it worse."""
_TURN = 0.25
"""What half a turn counts, in diameters."""


@dataclass
class _Track:
    """One part that is followed.

    Attributes:
        number: Among those of its object, from 1.
        last: As it was found last.
        velocity: (3,) mm an image, of the part's middle.
        spin: (3,) rotation vector an image, in the camera's frame.
        found: In how many images it was found.
        missed: In how many images it was not found since.
    """

    number: int
    last: Detection
    velocity: Array = field(default_factory=lambda: np.zeros(3))
    spin: Array = field(default_factory=lambda: np.zeros(3))
    found: int = 1
    missed: int = 0


class Tracker:
    """Gives the parts of a video their identities, and says where those are that are not found for a while.

    Each track predicts its part's pose at constant velocity. Detections and tracks of one object are paired so that
    the sum of their distances is smallest; a detection too far from all begins a track. What is not found is told at
    its predicted pose as lost; what comes back near to that is found again, with its old number.

    Args:
        diameters: mm, each object's.
        symmetries: Each object's, in the CAD file's frame; empty = none has any.
        centers: (3,) mm, each object's middle in that frame; empty = its origin.
        gate: So many diameters a part may be from where it is predicted.
        widening: So many diameters more for each image in which it was not found, up to twice the gate.
        weight: Of the new velocity, in (0, 1]; the rest is the old one's.
        patience: After so many images in which it was not found, a part is forgotten.
    """

    def __init__(
        self,
        diameters: Sequence[float],
        symmetries: Sequence[Symmetries] = (),
        centers: Sequence[NDArray[np.floating]] = (),
        *,
        gate: float = 0.75,
        widening: float = 0.05,
        weight: float = 0.3,
        patience: int = 30,
    ) -> None:
        self.diameters = diameters
        self.symmetries = symmetries
        self.centers = centers
        self.gate = gate
        self.widening = widening
        self.weight = weight
        self.patience = patience
        self._tracks: list[_Track] = []
        self._numbers = Counter[int]()

    def __call__(self, found: list[Detection], K: Array) -> list[Detection]:
        """Follows the parts into the next image.

        Args:
            found: The image's detections, best first.
            K: (3, 3) the camera, in pixels.

        Returns:
            The same detections in the same order with their tracks' numbers, then the lost ones at their predicted
            poses. What was found once only, and then not, is not told.
        """
        predicted = [self._predicted(track, K) for track in self._tracks]
        pairs = self._pairs(found, predicted)
        tracks = [self._tracks[pairs[i]] if i in pairs else None for i in range(len(found))]
        followed = [self._follow(track, detection) for track, detection in zip(tracks, found, strict=True)]
        lost = []
        for j in sorted(set(range(len(predicted))) - set(pairs.values())):
            track = self._tracks[j]
            track.missed += 1
            if track.missed <= self.patience and track.found > 1 and predicted[j].t_cam_obj[2] > 0:
                lost.append(predicted[j])
        self._tracks = [t for t in self._tracks if t.missed <= (self.patience if t.found > 1 else 1)]
        self._tracks += [track for track, _ in followed if track not in self._tracks]
        return [detection for _, detection in followed] + lost

    def _follow(self, track: _Track | None, detection: Detection) -> tuple[_Track, Detection]:
        """Goes on with a track, or begins one."""
        index = detection.object_index
        if track is None:
            self._numbers[index] += 1
            detection = replace(detection, track=self._numbers[index])
            return _Track(self._numbers[index], detection), detection
        detection = replace(detection, track=track.number)
        same = detection.nearest_to(track.last, self.symmetries[index]) if self.symmetries else detection
        steps = track.missed + 1
        moved = (self._middle(same) - self._middle(track.last)) / steps
        turned = (Rotation.from_matrix(same.R_cam_obj @ track.last.R_cam_obj.T)).as_rotvec() / steps
        weight = self.weight if track.found > 1 else 1.0
        track.velocity = track.velocity + weight * (moved - track.velocity)
        track.spin = track.spin + weight * (turned - track.spin)
        track.last, track.found, track.missed = same, track.found + 1, 0
        return track, same

    def _predicted(self, track: _Track, K: Array) -> Detection:
        """Where a track's part is in the next image, at constant velocity."""
        last, steps = track.last, track.missed + 1
        before = self._middle(last)
        middle = before + steps * track.velocity
        R = Rotation.from_rotvec(steps * track.spin).as_matrix() @ last.R_cam_obj
        t = middle - R @ self._center(last.object_index)
        return replace(
            last, score=0.0, confidence=None, judged=None, contour=None, reconstruction=None, track=track.number,
            lost=True, box=_moved_box(last.box, before, middle, K), R_cam_obj=R, t_cam_obj=t,
        )  # fmt: skip

    def _pairs(self, found: list[Detection], predicted: list[Detection]) -> dict[int, int]:
        """The track that each detection goes on with, by their places."""
        if not found or not predicted:
            return {}
        costs = np.array([[self._distance(detection, other) for other in predicted] for detection in found])
        gates = [min(2 * self.gate, self.gate + self.widening * track.missed) for track in self._tracks]
        costs = np.where(costs <= gates, costs, _FAR)
        rows, columns = linear_sum_assignment(costs)
        return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if costs[i, j] < _FAR}

    def _distance(self, detection: Detection, other: Detection) -> float:
        """In diameters; of two objects infinite."""
        if detection.object_index != other.object_index:
            return _FAR
        if self.symmetries:
            detection = detection.nearest_to(other, self.symmetries[detection.object_index])
        apart = (self._middle(detection) - self._middle(other)) * (1.0, 1.0, _DEPTH)
        turn = Rotation.from_matrix(detection.R_cam_obj @ other.R_cam_obj.T).magnitude() / np.pi
        return float(np.linalg.norm(apart)) / self.diameters[detection.object_index] + _TURN * float(turn)

    def _center(self, index: int) -> Array:
        return np.asarray(self.centers[index], dtype=np.float64) if self.centers else np.zeros(3)

    def _middle(self, detection: Detection) -> Array:
        return detection.to_camera(self._center(detection.object_index))


def _moved_box(box: Array, before: Array, after: Array, K: Array) -> Array:
    """A box (4,) xyxy of a part whose middle has moved, mm, in the camera's frame."""
    if min(before[2], after[2]) <= 0:
        return box
    old, new = ((K @ place)[:2] / place[2] for place in (before, after))
    scale = before[2] / after[2]
    corners: Array = (box.reshape(2, 2) - old) * scale + new
    return corners.reshape(4)
