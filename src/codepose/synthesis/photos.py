"""Photo files of every kind as 8-bit RGB."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Of the files that a folder of photos is searched for."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photo, turned upright as its EXIF data say; of several frames, the first.

    More than 8 bits: integers are scaled by 255, 4095 (12-bit cameras) or 65535, the smallest of these that holds the
    photo's largest value; floats are taken as [0, 1], or by the same rule where they exceed 1; what is not finite
    becomes black. Pillow keeps the upper 8 bits of 16-bit colour. Transparency is laid over black.

    Args:
        path: Any format that Pillow reads.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        OSError: The file is missing, or is no photo that can be read.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":
                image = Image.fromarray(_to_8_bit(np.asarray(image)))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
            return np.array(image.convert("RGB"))
    except (ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise OSError(f"it cannot be read as a photo: {error}") from error  # what Pillow raises on damaged files


def _to_8_bit(values: NDArray[np.integer | np.floating]) -> NDArray[np.uint8]:
    peaks = (255.0, 4095.0, 65535.0) if np.issubdtype(values.dtype, np.integer) else (1.0, 255.0, 4095.0, 65535.0)
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(numbers.max())
    white = next((peak for peak in peaks if largest <= peak), largest)
    return (numbers / white * 255.0).round().clip(0, 255).astype(np.uint8)
