"""The one result type that every consumer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
        reconstruction: (3, c, c) float32 in [0, 1], the network's view of the part without occluders; or None.

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
    reconstruction: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, shape in (("box", (4,)), ("R_cam_obj", (3, 3)), ("t_cam_obj", (3,))):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} holds numbers that are not finite")
            object.__setattr__(self, name, value)
        if np.abs(self.R_cam_obj @ self.R_cam_obj.T - np.eye(3)).max() > 1e-3 or np.linalg.det(self.R_cam_obj) < 0:
            raise ValueError("R_cam_obj is no rotation matrix")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score must lie in [0, 1], not be {self.score}")

    def to_json(self) -> dict[str, Any]:
        """Returns plain numbers for a JSON file; the reconstruction is left out."""
        return {
            "label": self.label,
            "score": round(self.score, 6),
            "similarity": round(self.similarity, 6),
            "box_xyxy": [round(v, 3) for v in self.box.tolist()],
            "R_cam_obj": [[round(v, 8) for v in row] for row in self.R_cam_obj.tolist()],
            "t_cam_obj_mm": [round(v, 3) for v in self.t_cam_obj.tolist()],
        }
