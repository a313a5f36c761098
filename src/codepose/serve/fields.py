"""The fields that several requests have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, File, Form, UploadFile


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
PhotoOf = Annotated[PhotoFields, Depends()]
ModelName = Annotated[str, Form(description="which model (GET /v1/models); may be left out where there is one")]
