"""A photo's camera: its intrinsics and lens distortion, fitted to the photo's size."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from kornia.geometry.calibration import distort_points
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from codepose.cameras.camera_entries import CameraError
from codepose.cameras.camera_files import SUFFIXES, read_calibration

WIDEST_DEG = 150.0
"""Widest field of view of a photo without lens distortion; more is a focal length in mm, or a fisheye's photo."""
NARROWEST_DEG = 0.05
"""No lens on a robot is longer: a camera a metre away would see a millimetre."""
_STEEPEST_DEG = 80.0
"""Largest angle between the optical axis and what a photo's edge sees."""
_MOST = 1e7
"""No intrinsics of a photo have larger numbers, in pixels."""
_ROWS = 256
"""Rows of a photo whose distortion is computed at once: it takes ten times the memory of its result."""
_LENGTHS = (4, 5, 8, 12, 14)
"""How many distortion coefficients OpenCV's models have."""
_WAYS = (
    "type --K fx,fy,cx,cy in pixels, --K fov=60 (the horizontal field of view in degrees, a rough guess), or a "
    "calibration file: camera.json, camera.yaml (OpenCV, ROS, Kalibr) or cameras.txt (COLMAP)"
)


def checked_intrinsics(K: ArrayLike) -> NDArray[np.float64]:
    """Returns K (3, 3) with exact zeros where an intrinsic matrix has them.

    Raises:
        CameraError: It is none: another shape, numbers that are not finite, a skew, a last row other than 0 0 1.
    """
    matrix = np.asarray(K, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise CameraError("K must be a 3 x 3 matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0 pixels")
    if np.abs(matrix).max() > _MOST:
        raise CameraError(
            f"K holds {np.abs(matrix).max():.3g}: no camera has more than {_MOST:g} pixels of focal length"
        )
    if np.abs(matrix[2] - (0, 0, 1)).max() > 1e-6 or np.abs(matrix[[0, 1], [1, 0]]).max() > 1e-6 * matrix[0, 0]:
        raise CameraError("K must have no skew and a last row of 0 0 1: give the intrinsics, not a projection")
    clean: NDArray[np.float64] = matrix * [[1, 0, 1], [0, 1, 1], [0, 0, 0]] + [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    return clean


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera behind a lens, with OpenCV's conventions.

    Attributes:
        K: (3, 3) float64 [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the upright photo; the centre of the
            first pixel is (0, 0).
        width: Of the images it holds for, in pixels; None = whatever they are.
        height: The same; both or neither.
        distortion: k1, k2, p1, p2[, k3[, k4, k5, k6[, s1 ... s4[, tx, ty]]]]; empty = none.
        uncut: Width and height of the sensor, of which the images show a region; None = they show it all.

    Raises:
        CameraError: K is no intrinsic matrix, or there are as many coefficients as no model of OpenCV has.
    """

    K: NDArray[np.float64]
    width: int | None = None
    height: int | None = None
    distortion: tuple[float, ...] = ()
    uncut: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        lens = tuple(np.asarray(self.distortion, dtype=np.float64).ravel().tolist())  # OpenCV gives (1, 5)
        if lens and len(lens) not in _LENGTHS:
            raise CameraError(f"OpenCV's lens models have 4, 5, 8, 12 or 14 coefficients, not {len(lens)}")
        if not np.isfinite(lens).all():
            raise CameraError("the distortion coefficients hold numbers that are not finite")
        if (self.width is None) != (self.height is None):
            raise CameraError("give both the calibration's width and its height, or neither")
        object.__setattr__(self, "K", checked_intrinsics(self.K))
        object.__setattr__(self, "distortion", lens if any(lens) else ())

    def for_size(self, width: int, height: int) -> Camera:
        """Returns this camera for photos of another size that show the same picture, larger or smaller.

        Args:
            width: Of the upright photo, in pixels.
            height: The same.

        Raises:
            CameraError: The photo is no enlarged or reduced picture of the calibration's size.
        """
        if self.width is None or self.height is None:
            return replace(self, width=width, height=height)
        if (self.width, self.height) == (width, height):
            return self
        if self.uncut == (width, height):
            raise CameraError(
                f"the calibration's region of interest has {self.width} x {self.height} pixels, the photo {width} x "
                f"{height} as the whole sensor has: leave roi out of the calibration"
            )
        if not _same_shape(self.width, self.height, width, height):
            raise CameraError(_misfit(self.width, self.height, width, height))
        scale = np.array([width / self.width, height / self.height])
        K = self.K.copy()
        K[:2] *= scale[:, None]
        K[:2, 2] += (scale - 1.0) / 2.0  # pixels scale around the image's corner, not around the first one's centre
        return Camera(K, width, height, self.distortion)

    def undistort(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Takes the lens distortion out of a photo; K holds for the result, as with ``cv2.undistort``.

        Args:
            image: (H, W, 3) uint8 of the camera's size.

        Returns:
            (H, W, 3) uint8, bilinear; black where the lens did not look.

        Raises:
            CameraError: The image has another size.
        """
        fitted = self._checked_size(image.shape[1], image.shape[0])
        if not fitted.distortion:
            return image
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        straight = F.grid_sample(pixels, fitted._sampling_grid, mode="bilinear", align_corners=True)
        return straight[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()

    def undistort_depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes the lens distortion out of a depth image; no value is mixed with its neighbours'.

        Args:
            depth: (H, W) mm along the optical axis, of the camera's size.

        Returns:
            (H, W), each pixel the nearest one's value; 0 where the lens did not look.

        Raises:
            CameraError: The image has another size.
        """
        fitted = self._checked_size(depth.shape[1], depth.shape[0])
        if not fitted.distortion:
            return depth
        values = torch.from_numpy(np.ascontiguousarray(depth))[None, None]
        straight = F.grid_sample(values, fitted._sampling_grid, mode="nearest", align_corners=True)
        nearest: NDArray[np.float32] = straight[0, 0].numpy()
        return nearest

    def _checked_size(self, width: int, height: int) -> Camera:
        """This camera for an image of a size that is its own, if it has one."""
        if self.width is None:
            return self.for_size(width, height)
        if (self.width, self.height) != (width, height):
            raise CameraError(f"the image is {width} x {height}, the camera {self.width} x {self.height}: use for_size")
        return self

    @cached_property
    def _sampling_grid(self) -> Tensor:
        """Where each undistorted pixel lies in the photo, (1, H, W, 2), -1 and 1 at the outermost pixels' centres."""
        assert self.width is not None
        assert self.height is not None
        K, lens = torch.from_numpy(self.K).float(), torch.tensor(self.distortion)
        size = torch.tensor([self.width - 1, self.height - 1]).clamp_min(1)
        grid = torch.empty(1, self.height, self.width, 2)
        for rows in torch.split(torch.arange(self.height), _ROWS):
            points = torch.cartesian_prod(rows, torch.arange(self.width)).flip(1).float()  # (rows * W, 2), x first
            seen = distort_points(points, K, lens) / size * 2.0 - 1.0
            grid[0, rows] = seen.reshape(len(rows), self.width, 2)
        return grid


def require_lens(K: ArrayLike, width: int, height: int) -> None:
    """Refuses a camera that no photo without lens distortion can be of.

    Args:
        K: (3, 3) in pixels.
        width, height: Of the photo.

    Raises:
        CameraError: Its field of view is wider than ``WIDEST_DEG`` or narrower than ``NARROWEST_DEG``, or its axis lies
            too far outside the photo.
    """
    matrix = np.asarray(K)
    for axis, name, focal, side in zip((0, 1), ("fx", "fy"), matrix.diagonal(), (width, height), strict=False):
        angle = math.degrees(2.0 * math.atan2(side / 2.0, focal))
        if angle > WIDEST_DEG or (angle < NARROWEST_DEG and side == max(width, height)):
            raise CameraError(
                f"{name} {focal:g} on a photo of {width} x {height} pixels is a field of view of {angle:.3g} degrees; "
                "fx and fy are in pixels of this photo, not in mm: multiply mm by the photo's width over the sensor's"
            )
        middle = float(matrix[axis, 2])
        steepest = max(math.degrees(math.atan2(abs(edge - middle), focal)) for edge in (-0.5, side - 0.5))
        if steepest > _STEEPEST_DEG:
            raise CameraError(
                f"c{'xy'[axis]} {middle:g} with {name} {focal:g} on a photo of {width} x {height} pixels: its edge "
                f"would be seen {steepest:.1f} degrees off the optical axis; give the K of this photo, in its pixels"
            )


@dataclass(frozen=True)
class FieldOfView:
    """A camera of which only the horizontal field of view is known: square pixels, principal point in the middle.

    Attributes:
        horizontal_deg: Angle in degrees between the left and the right edge of the upright photo.

    Raises:
        CameraError: The angle is not between 0 and ``WIDEST_DEG``.
    """

    horizontal_deg: float

    def __post_init__(self) -> None:
        if not 0.0 < self.horizontal_deg <= WIDEST_DEG:
            raise CameraError(
                f"a field of view lies between 0 and {WIDEST_DEG:g} degrees: fov=60, not fov={self.horizontal_deg}"
            )

    def for_size(self, width: int, height: int) -> Camera:
        """Returns the camera of photos of this size in pixels."""
        focal = width / 2.0 / math.tan(math.radians(self.horizontal_deg) / 2.0)
        K = np.array([[focal, 0.0, (width - 1) / 2.0], [0.0, focal, (height - 1) / 2.0], [0.0, 0.0, 1.0]])
        return Camera(K, width, height)


def read_camera(text: str) -> Camera | FieldOfView:
    """Reads a camera; ``for_size(width, height)`` then fits it to a photo.

    Args:
        text: "fx,fy,cx,cy" in pixels (OpenCV's convention), "fov=60" (horizontal, degrees), or a file: JSON (BOP's
            camera.json, Open3D's, RealSense's, or {"K": ..., "distortion": [...], "width": ..., "height": ...}),
            OpenCV's FileStorage as YAML or XML, ROS's camera_info YAML, Kalibr's chain of one pinhole camera, COLMAP's
            cameras.txt or cameras.bin, the numbers of K as text.

    Raises:
        CameraError: It is none of these, or its lens model is not supported; the text says what to type.
    """
    text = text.strip()
    if not text:
        raise CameraError(f"give the photo's camera: {_WAYS}")
    if Path(text).suffix.lower() in SUFFIXES or os.path.isfile(text):
        try:
            return Camera(*read_calibration(Path(text)))
        except CameraError as error:
            raise CameraError(f"{text}: {error}") from None
    try:
        if text.lower().startswith("fov="):
            return FieldOfView(float(text[4:]))
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except CameraError:
        raise
    except ValueError:
        raise CameraError(f"--K {text[:60]} is not four numbers fx,fy,cx,cy with commas: {_WAYS}") from None
    return Camera(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]))


def _same_shape(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether one factor leads from one size to the other, but for sides rounded to whole pixels."""
    across, down = new_width / width, new_height / height
    return abs(across - down) * min(width, height) <= max(1.0, across, down)


def _misfit(width: int, height: int, new_width: int, new_height: int) -> str:
    text = f"the calibration is for {width} x {height} pixels, the photo has {new_width} x {new_height}"
    if _same_shape(height, width, new_width, new_height):
        return (
            f"{text}: it fits the photo only before its EXIF rotation by a quarter turn. K must be that of the upright "
            f"photo: calibrate with upright photos, or give --K fx,fy,cx,cy for {new_width} x {new_height}"
        )
    return (
        f"{text}: factors {new_width / width:.4g} across and {new_height / height:.4g} down, so it is not the same "
        "picture at another size but a cropped or stretched one; calibrate at this size, or give this size's "
        "--K fx,fy,cx,cy"
    )
