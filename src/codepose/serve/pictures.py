"""Photos that came over the network: limits first, then pixels; and pixels on their way back."""

from __future__ import annotations

import base64
import io
import tempfile
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codepose.cameras import photos
from codepose.serve.problems import Problem

_one_at_a_time = threading.Lock()
"""The reader of photos turns warnings and C libraries' messages off and on again, for the whole process."""


def read_photo(data: bytes, most_pixels: int) -> NDArray[np.uint8]:
    """Decodes a photo of any format that ``predict`` reads, upright, (H, W, 3) uint8 RGB.

    Raises:
        Problem: It is none, damaged, or of more pixels than that; nothing is decoded then.
    """
    if not data:
        raise Problem(422, "image: the file is empty")
    with tempfile.TemporaryDirectory(prefix="codepose-") as folder, _one_at_a_time:
        path = Path(folder, "image")
        path.write_bytes(data)
        try:
            with photos.open_picture(path) as picture:
                width, height = picture.size
            if width * height > most_pixels:
                raise Problem(
                    413,
                    f"image: it has {width} x {height} pixels, {width * height / 1e6:.1f} megapixels; at most "
                    f"{most_pixels / 1e6:g} are taken: reduce it, and K with it",
                )
            return photos.read_image(path)
        except OSError as error:
            raise Problem(422, f"image: {error}") from None


def to_jpeg(image: NDArray[np.uint8]) -> bytes:
    """An (H, W, 3) uint8 image as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def to_data_url(image: NDArray[np.float32]) -> str:
    """A (3, H, W) image in [0, 1] as the URL of a PNG that holds it."""
    pixels = (image.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
