"""The fields that several requests have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, File, Form, UploadFile

from codepose.serve.problems import Problem, as_problem
from codepose.settings.distance import require_distance
from codepose.settings.errors import ConfigError


@dataclass(frozen=True)
class CameraFields:
    """What a request says of the camera.

    Attributes:
        K: As text; empty = a stored camera is named.
        camera: The stored camera's name; empty = none.
        distortion: With K; empty = none.
    """

    K: Annotated[
        str,
        Form(
            description="the upright photo's camera: fx,fy,cx,cy in pixels (OpenCV's convention), fov=60 (horizontal, "
            "degrees), a matrix or a calibration as JSON",
            examples=["615.2,615.4,322.1,241.8"],
        ),
    ] = ""
    camera: Annotated[str, Form(description="instead of K: the name of a stored camera (GET /v1/cameras)")] = ""
    distortion: Annotated[
        str, Form(description="OpenCV's coefficients k1,k2,p1,p2[,k3[,...]] with commas", examples=["-0.1,0.02,0,0"])
    ] = ""


def _distance(description: str, example: float) -> Any:
    """A form's field for a distance in mm."""
    return Form(gt=0, allow_inf_nan=False, description=description, examples=[example])


@dataclass(frozen=True)
class DistanceFields:
    """How far away a part may be, as a request says it.

    Attributes:
        nearest, farthest: Of the part's middle from the camera, mm; None = not said.
    """

    nearest: Annotated[
        float | None, _distance("the part's middle is no nearer to the camera, mm, roughly; with farthest", 400)
    ] = None
    farthest: Annotated[
        float | None, _distance("the part's middle is no farther from the camera, mm, roughly; with nearest", 700)
    ] = None

    def range(self) -> tuple[float, float] | None:
        """Nearest and farthest, mm; None = neither is said.

        Raises:
            Problem: One of them is missing, or the farthest is nearer than the nearest.
        """
        if self.nearest is None and self.farthest is None:
            return None
        if self.nearest is None or self.farthest is None:
            missing = "nearest" if self.nearest is None else "farthest"
            raise Problem(422, f"{missing} is missing: nearest and farthest go together, in mm")
        try:
            require_distance((self.nearest, self.farthest))
        except ConfigError as error:
            raise as_problem(error) from None
        return self.nearest, self.farthest


@dataclass(frozen=True)
class PhotoFields:
    """A photo and its camera.

    Attributes:
        image: The file.
        camera: Its camera.
    """

    image: Annotated[
        UploadFile, File(description="a photo: JPEG, PNG, BMP, GIF, TIFF, WebP, AVIF, JPEG 2000, PPM, HEIC")
    ]
    camera: Annotated[CameraFields, Depends()]


CameraOf = Annotated[CameraFields, Depends()]
DistanceOf = Annotated[DistanceFields, Depends()]
PhotoOf = Annotated[PhotoFields, Depends()]
ModelName = Annotated[str, Form(description="which model (GET /v1/models); may be left out where there is one")]
