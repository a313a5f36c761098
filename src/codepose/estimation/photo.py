"""What a caller gives, checked and brought onto the device; here alone OpenCV's K becomes the renderer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from codepose import geometry
from codepose.cameras.camera import checked_intrinsics, require_lens
from codepose.cameras.depth_images import NEAREST_MM


@dataclass(frozen=True, eq=False)
class Photo:
    """An image and its camera.

    Attributes:
        pixels: (1, 3, H, W) in [0, 1].
        K: (3, 3), pixel centres at integer + 0.5.
    """

    pixels: Tensor
    K: Tensor

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.pixels.shape[2]

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.pixels.shape[3]

    @classmethod
    def of(cls, image: NDArray[np.uint8], camera: ArrayLike, device: torch.device) -> Self:
        """Takes an image as a user has it.

        Args:
            image: (H, W, 3) uint8 RGB, without lens distortion.
            camera: (3, 3) its K in pixels, OpenCV's convention: the centre of the first pixel is (0, 0).
            device: Where it is to be.

        Raises:
            ValueError: One of them has the wrong shape or type, or the camera sees more than a lens can.
        """
        K = geometry.from_opencv(torch.from_numpy(checked_intrinsics(camera)).float())
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError("the image must be an (H, W, 3) uint8 RGB array")
        if image.size == 0:
            raise ValueError(f"the image is empty: {image.shape}")
        require_lens(camera, image.shape[1], image.shape[0])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div_(255.0)
        return cls(pixels.to(device), K.to(device))


def checked_depth(depth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns a depth image in mm, 0 = not measured.

    Args:
        depth: (H, W) mm, 0 or not finite = not measured.
        shape: (H, W) of its photo.

    Raises:
        ValueError: It has another shape or type, or is in metres.
    """
    if not isinstance(depth, np.ndarray) or depth.shape != shape or depth.dtype.kind not in "uif":
        raise ValueError(f"the depth must be an (H, W) array of numbers in mm, of the image's size {shape}")
    values = np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if 0.0 < values.max(initial=0.0) < NEAREST_MM:
        raise ValueError(f"the depth ends {values.max():.3g} mm from the camera: it must be in mm, not in metres")
    return np.where(values > 0.0, values, np.float32(0.0))
