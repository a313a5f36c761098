"""The one result type that every consumer takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codepose.geometry import is_rotation
from codepose.parts.symmetry_group import Symmetries

Array = NDArray[np.float64]

_CONTOUR, _DETECTOR = 10.0, 0.5
"""What counts beside the judge's log-odds in ranking: a contour that matches wholly, and the log-odds of the detector's
score (docs/log/2026-11-30-ranking.md)."""
_SURE = 1e-3
"""Nearer to 0 and 1 scores are not believed."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One object found in one image.

    Attributes:
        label: The object's name.
        object_index: Its number in the run's settings, from 0.
        score: The detector's confidence in [0, 1].
        similarity: Cosine of the code with the codebook's nearest, in [-1, 1].
        box: (4,) amodal, unpadded box, xyxy pixels of the image as given (continuous: the first pixel is [0, 1)).
        R_cam_obj: (3, 3) rotation from the object frame to the OpenCV camera frame.
        t_cam_obj: (3,) position of the CAD file's origin in the camera frame, mm.
        agreement: Correlation of the clean render at this pose with the reconstruction, in [-1, 1].
        contour: How well the render's edges lie on the photo's, 0 = by chance, 1 = perfectly; None without refinement.
        judged: Log-odds by which the judge, the network that compares photo and render, holds the pose right; None
            where it was not asked.
        confidence: Calibrated probability in [0, 1] that the pose is right: no point of the part's surface off by more
            than a fifth of its diameter, before any fit to measured depth. None where the run has not been calibrated.
        depth_fitted: Whether the pose was fitted to measured depth; False = nothing measured there supports it, and it
            is the photo's alone. None where there was no depth image.
        reconstruction: (3, c, c) float32 in [0, 1], the network's view of the part without occluders; or None.
        track: In a video that is tracked, the part's number among those of its object, from 1; else None.
        lost: Whether it was not found: the pose is predicted from those before.

    Raises:
        ValueError: A shape is wrong, R is no rotation, or a number is not finite.
    """

    label: str
    object_index: int
    score: float
    similarity: float
    box: Array
    R_cam_obj: Array
    t_cam_obj: Array
    agreement: float = 0.0
    contour: float | None = None
    judged: float | None = None
    confidence: float | None = None
    depth_fitted: bool | None = None
    reconstruction: NDArray[np.float32] | None = None
    track: int | None = None
    lost: bool = False

    def __post_init__(self) -> None:
        for name, shape in (("box", (4,)), ("R_cam_obj", (3, 3)), ("t_cam_obj", (3,))):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} holds numbers that are not finite")
            object.__setattr__(self, name, value)
        if not is_rotation(self.R_cam_obj, 1e-3):
            raise ValueError("R_cam_obj is no rotation matrix")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score must lie in [0, 1], not be {self.score}")
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence must lie in [0, 1], not be {self.confidence}")

    @property
    def rank(self) -> float:
        """By what detections of one image are best first: all that speaks for a judged pose, else the detector's score.

        Log-odds add up: the judge's, those of the photo's edges, and half of the detector's, which on photographs is
        often surer of what looks like the part than of the part.
        """
        if self.judged is None:
            return self.score
        detected = math.log(max(self.score, _SURE) / max(1.0 - self.score, _SURE))
        return self.judged + _CONTOUR * (self.contour or 0.0) + _DETECTOR * detected

    @property
    def name(self) -> str:
        """What a person calls it: its label, and which of them it is where that is known."""
        return self.label if self.track is None else f"{self.label} #{self.track}"

    @property
    def sureness(self) -> str:
        """How sure one may be of it, in words for a person.

        The probability that the pose is right, where that is calibrated; else what decides whether it is shown: the
        judge's log-odds, or the detector's score.
        """
        if self.lost:
            return "lost"
        if self.confidence is not None:
            return f"{100 * self.confidence:.0f} % sure"
        return f"score {self.score:.2f}" if self.judged is None else f"judged {self.judged:.1f}"

    def to_camera(self, point: Array) -> Array:
        """Returns where a point (3,) of the CAD file's frame lies in the camera's, (3,) mm."""
        return self.R_cam_obj @ point + self.t_cam_obj

    def nearest_to(self, other: Detection, symmetries: Symmetries) -> Detection:
        """Returns this detection in that of the poses that look the same whose rotation is nearest to another's.

        Args:
            other: Of the same object.
            symmetries: The object's, in the CAD file's frame.
        """
        R, t = symmetries.nearest(
            *(torch.from_numpy(x)[None] for x in (other.R_cam_obj, self.R_cam_obj, self.t_cam_obj))
        )
        return replace(self, R_cam_obj=R[0].numpy(), t_cam_obj=t[0].numpy())

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for a JSON file; the reconstruction is left out."""
        values: dict[str, Any] = {
            "label": self.label,
            "score": round(self.score, 6),
            "confidence": None if self.confidence is None else round(self.confidence, 6),
            "similarity": round(self.similarity, 6),
            "agreement": round(self.agreement, 6),
            "contour": None if self.contour is None else round(self.contour, 6),
            "judged": None if self.judged is None else round(self.judged, 6),
            "box_xyxy": [round(v, 3) for v in self.box.tolist()],
            "R_cam_obj": [[round(v, 8) for v in row] for row in self.R_cam_obj.tolist()],
            "t_cam_obj_mm": [round(v, 3) for v in self.t_cam_obj.tolist()],
        }
        if self.depth_fitted is not None:
            values["depth_fitted"] = self.depth_fitted
        if self.track is not None:
            values |= {"track": self.track, "state": "lost" if self.lost else "found"}
        return values
