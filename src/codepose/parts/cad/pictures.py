"""The pictures that CAD files name or hold."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from codepose.parts.cad.surface import MeshError, bytes_of, refuse

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "TGA", "GIF", "PPM", "DDS")
MOST_PIXELS = 100_000_000


def read_picture(source: Path | bytes, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a picture of any depth, without its transparency.

    Args:
        source: The file, or its content.
        name: What to call it in messages.

    Raises:
        MeshError: It is no picture, damaged, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    refuse(f"its picture {name} has {image.width} x {image.height} pixels", "give it a smaller one")
                return _rgb(image)
    except MeshError:
        raise
    except Exception as error:  # the decoders raise whatever a damaged picture makes them raise
        if isinstance(error, UnidentifiedImageError):
            refuse(f"its picture {name} is none of {', '.join(FORMATS)}", "save it again as PNG or JPEG")
        reason = str(error).split("(")[0].split("<")[0].strip() or type(error).__name__
        return refuse(f"its picture {name} cannot be read ({reason})", "save the picture again as PNG or JPEG")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        return np.repeat(bytes_of(np.asarray(image))[..., None], 3, axis=2)
    if image.mode.startswith("I"):  # 16 bits
        grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 65535
        return np.repeat(bytes_of(grey)[..., None], 3, axis=2)
    rgb: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    return rgb
