"""One small photo of every format and mode that cameras and programs write."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

_JPEG = {"quality": 90}
_SAVES: tuple[tuple[str, str, str, dict[str, object]], ...] = (
    ("grey.jpg", "JPEG", "L", _JPEG),
    ("color.jpg", "JPEG", "RGB", _JPEG),
    ("cmyk.jpg", "JPEG", "CMYK", _JPEG),
    ("progressive.jpg", "JPEG", "RGB", {"progressive": True}),
    ("subsampled.jpg", "JPEG", "RGB", {"quality": 50, "subsampling": 2, "comment": "hello"}),
    ("upright.jpg", "JPEG", "RGB", _JPEG),
    ("bilevel.png", "PNG", "1", {}),
    ("grey.png", "PNG", "L", {}),
    ("grey_alpha.png", "PNG", "LA", {}),
    ("palette.png", "PNG", "P", {}),
    ("color.png", "PNG", "RGB", {"dpi": (72, 72)}),
    ("alpha.png", "PNG", "RGBA", {}),
    ("sixteen.png", "PNG", "I;16", {}),
    ("turned.png", "PNG", "RGB", {}),
    ("plain.tif", "TIFF", "RGB", {}),
    ("lzw.tif", "TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("deflate.tif", "TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
    ("jpeg.tif", "TIFF", "RGB", {"compression": "jpeg"}),
    ("packbits.tif", "TIFF", "L", {"compression": "packbits"}),
    ("fax.tif", "TIFF", "1", {"compression": "group4"}),
    ("sixteen.tif", "TIFF", "I;16", {}),
    ("integer.tif", "TIFF", "I", {}),
    ("float.tif", "TIFF", "F", {}),
    ("palette.tif", "TIFF", "P", {}),
    ("cmyk.tif", "TIFF", "CMYK", {}),
    ("lab.tif", "TIFF", "LAB", {}),
    ("bilevel.bmp", "BMP", "1", {}),
    ("grey.bmp", "BMP", "L", {}),
    ("palette.bmp", "BMP", "P", {}),
    ("color.bmp", "BMP", "RGB", {}),
    ("alpha.bmp", "BMP", "RGBA", {}),
    ("lossy.webp", "WEBP", "RGB", {}),
    ("lossless.webp", "WEBP", "RGB", {"lossless": True}),
    ("alpha.webp", "WEBP", "RGBA", {}),
    ("pages.tif", "TIFF", "RGB", {"save_all": True}),
    ("moving.webp", "WEBP", "RGB", {"save_all": True}),
)


@cache
def corpus() -> tuple[tuple[str, bytes], ...]:
    """Names and contents of photos of one picture, 64 x 48."""
    return tuple((name, _saved(name, kind, mode, options)) for name, kind, mode, options in _SAVES)


def _saved(name: str, kind: str, mode: str, options: dict[str, object]) -> bytes:
    picture = picture_of(64, 48)
    image = _in_mode(picture, mode)
    extra: dict[str, object] = dict(options)
    if name in ("upright.jpg", "turned.png"):
        extra["exif"] = _exif(6 if name == "upright.jpg" else 8)
    if extra.get("save_all"):
        extra["append_images"] = [_in_mode(np.roll(picture, 9, 1), mode)]
    file = io.BytesIO()
    image.save(file, kind, **extra)
    return file.getvalue()


def _in_mode(picture: NDArray[np.uint8], mode: str) -> Image.Image:
    image = Image.fromarray(picture)
    grey = np.asarray(image.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 16)
    if mode == "F":
        return Image.fromarray((grey / 255.0).astype(np.float32))
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, picture.tobytes())
    return image.convert(mode)


def picture_of(width: int, height: int) -> NDArray[np.uint8]:
    """Something with edges, slopes and colours, (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    red = 255.0 * x / width
    green = 127.5 + 127.5 * np.sin(x / 5.0) * np.cos(y / 7.0)
    blue = np.where((x // 8 + y // 8) % 2, 220.0, 30.0)
    return np.stack((red, green, blue), 2).astype(np.uint8)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.DateTime] = "2026:11:28 12:00:00"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLength] = 4.2
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    return exif
