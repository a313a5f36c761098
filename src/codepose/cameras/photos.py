"""Photo files of every kind as 8-bit RGB."""

from __future__ import annotations

import io
import os
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read, HEIF aside: of the many others some are programs, as PostScript is."""
_READ = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"}
_READ |= {".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".heic", ".heif", ".hif"}
_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"}
SUFFIXES = frozenset(_READ | _RAW | {".jxl", ".hdr", ".psd"})
"""Of the files that a folder of photos is searched for; some of them are then named as not read."""
MOST_PIXELS = 120_000_000
"""Larger pictures are refused before they are decoded: a small file may claim any size."""
_DARK = 65
"""A photo without a value that large uses fewer bits than it has, or is worth a word."""
_STARTS = (
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?R", "a Radiance HDR picture"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF file"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1aE\xdf\xa3", "a Matroska video"),
    (b"FUJIFILMCCD-RAW", "a camera's raw photo"),
    (b"IIRO", "a camera's raw photo"),
    (b"IIU\0", "a camera's raw photo"),
)
"""How files begin that are taken for pictures but are not read."""
_KNOWN = "JPEG, PNG, BMP, GIF, TIFF, WebP, AVIF, JPEG 2000, PPM and HEIC are read"
_REDUCE = f"at most {MOST_PIXELS // 10**6} megapixels are read: reduce it, and --K with it"
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a photo upright, by EXIF's orientation."""
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The order of bytes by which Pillow takes the lower eight of 16 bits, where it means to take the upper ones."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photo, turned upright as its EXIF data say; of several pages, the largest, of several frames, the first.

    More than 8 bits: integers are scaled by 255, or by the largest number of 10, 12, 14 or 16 bits, the smallest of
    these that holds the photo's largest value; floats are taken as [0, 1], or by the same rule where more than one in a
    hundred exceeds 1; what is not finite becomes black. Transparency is laid over black, but of a photo that is wholly
    transparent the colours count. Colours are brought to sRGB where an ICC profile says what they mean.

    A warning says what was guessed: how many bits are used, which of several equal pages, which way is up.

    Args:
        path: A file of one of ``FORMATS``; HEIF (HEIC) with the optional package pillow-heif.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        OSError: The file is missing, or is no photo that can be read, or one of more than ``MOST_PIXELS``.
    """
    with open_picture(path) as picture:
        page, lower = picture.tell(), _lower_bytes(picture)
        picture.load()
        image, turn = _rgb(picture), _turn(picture, path)
        if lower and np.asarray(image).max() < _DARK:  # Pillow keeps the upper bytes: of fewer bits, hardly anything
            image = _sixteen_bits(path, page, lower)
    photo = np.array(image if turn is None else image.transpose(turn))
    if photo.max() < _DARK:
        warnings.warn(f"{path}: it is nearly black, no value is above {photo.max()} of 255", stacklevel=1)
    return photo


@contextmanager
def open_picture(
    path: Path, what: str = "photo", formats: tuple[str, ...] = FORMATS, known: str = _KNOWN
) -> Iterator[Image.Image]:
    """Opens a picture at its largest page, not decoded yet; what Pillow raises inside the block becomes an OSError.

    Args:
        path: A file.
        what: It is to be, for the messages.
        formats: Pillow's names of those that it may have.
        known: The same, for people.

    Raises:
        OSError: The file is missing, of another format, of more than ``MOST_PIXELS`` or damaged; the text says which.
    """
    words: list[str] = []
    try:
        kind = _kind(path)
        if kind is not None:
            raise _Refusal(f"it is {kind}, which is not read as a {what}: {known}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # metadata, and sizes, which are refused below
            with Image.open(path, formats=_with_heif(formats)) as picture, _silence(picture.format == "TIFF"):
                _find_page(picture, words)
                if picture.format == "PNG":
                    _check_sums(path)
                yield picture
    except (FileNotFoundError, PermissionError, IsADirectoryError, _Refusal):
        raise
    except UnidentifiedImageError:
        raise OSError(f"it is no {what} of a format that is read, or its beginning is damaged: {known}") from None
    except Image.DecompressionBombError:
        raise OSError(f"it has far too many pixels: {_REDUCE}") from None
    except Exception as error:  # on damaged files Pillow's decoders raise whatever they run into
        raise OSError(f"it cannot be read as a {what}: it is damaged, cut off or of a rare kind") from error
    for word in words:
        warnings.warn(f"{path}: {word}", stacklevel=1)


class _Refusal(OSError):
    """Says it all."""


@contextmanager
def _silence(wanted: bool) -> Iterator[None]:
    """Sends what C libraries print, as libtiff does on damaged files, nowhere."""
    if not wanted:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_sums(path: Path) -> None:
    """Refuses a PNG whose pixels are not those that were written: Pillow does not look.

    Raises:
        _Refusal: A chunk that counts has another checksum, or the file breaks off before its last one.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(8)
        kind = b""
        while kind != b"IEND":
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if file.tell() + length + 4 > size:
                raise _Refusal("it is damaged: it breaks off")
            data, sums = file.read(length), file.read(4)
            if kind[:1].isupper() and zlib.crc32(kind + data).to_bytes(4, "big") != sums:
                raise _Refusal("it is damaged: a checksum does not hold")


def _kind(path: Path) -> str | None:
    """What a file is whose first bytes say that it is nothing Pillow should try; None = it may be a picture."""
    with open(path, "rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        try:
            import pillow_heif
        except ImportError:
            return "a HEIC photo (to have it read, type pip install pillow-heif, the extra codepose[heic])"
        pillow_heif.register_heif_opener()
        return None
    if start[4:8] == b"ftyp" and start[8:11] != b"avi":
        return "a camera's raw photo" if start[8:11] == b"crx" else "a video under another name"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "a video under another name"
    if start[8:10] == b"CR" and start[:2] == b"II":
        return "a camera's raw photo"
    return next((kind for begin, kind in _STARTS if start.startswith(begin)), None)


def _with_heif(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those of photos with HEIF, once ``_kind`` has met one and found its reader."""
    return (*formats, "HEIF") if formats == FORMATS and "HEIF" in Image.OPEN else formats


def _find_page(picture: Image.Image, words: list[str]) -> None:
    """Goes to the largest page, the first of several, and refuses what is too large.

    Raises:
        _Refusal: It is too large, or a preview of a raw photo that is not read.
    """
    frames = getattr(picture, "n_frames", 1)
    sizes = [picture.width * picture.height]
    for number in range(1, frames if picture.format in ("TIFF", "MPO") else 1):
        try:
            picture.seek(number)
        except Exception:
            if picture.format == "TIFF":  # the photo itself may follow its thumbnail
                raise
            break  # programs that change a JPEG forget what hangs on it
        sizes.append(picture.width * picture.height)
    largest = max(sizes)
    if picture.format != "HEIF":  # stands at its main photo
        picture.seek(sizes.index(largest))
    same = frames if len(sizes) == 1 and picture.format != "MPO" else sizes.count(largest)
    if largest > MOST_PIXELS:
        raise _Refusal(f"it has {picture.width} x {picture.height} pixels, {largest / 1e6:.0f} megapixels: {_REDUCE}")
    tags = getattr(picture, "tag_v2", {})
    if 50706 in tags or (330 in tags and int(tags.get(254, 0)) & 1):  # DNGVersion; SubIFDs behind a reduced picture
        raise _Refusal("it is a camera's raw photo, which is not read: save it as JPEG, PNG or TIFF")
    if same > 1 and picture.format != "HEIF":
        words.append(f"it holds {same} pictures of {picture.width} x {picture.height}: the first is taken")


def _turn(picture: Image.Image, path: Path) -> Image.Transpose | None:
    """What turns a loaded photo upright; Pillow itself turns TIFF when it is loaded."""
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow runs into in damaged EXIF data
        warnings.warn(f"{path}: its EXIF data are damaged: it is taken for upright", stacklevel=1)
        return None


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB."""
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "CMYK", "P") else None
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        seen = colours.getchannel("A").getextrema() != (0, 0)
        image = (Image.alpha_composite(black, colours) if seen else colours).convert("RGB")
    if image.mode == "LAB":
        return _in_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile:
        image = image if image.mode == "CMYK" else image.convert("RGB")
        try:
            return _in_srgb(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # damaged, or of other colours than the photo's
            pass
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    wanted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert wanted is not None  # it is none only of those that are changed in place
    return wanted


def _lower_bytes(picture: Image.Image) -> list[Any]:
    """Pillow's instructions for a photo of 16 bits a colour, so changed that they give the lower bytes; or none."""
    changed = []
    for tile in getattr(picture, "tile", []):
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        mode = args[0] if args else None
        if not isinstance(mode, str) or not mode.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
            return []
        other = mode[:-1] + _SWAPPED[mode[-1]]
        changed.append(tile._replace(args=(other, *args[1:]) if isinstance(tile.args, tuple) else other))
    return changed


def _sixteen_bits(path: Path, page: int, lower: list[Any]) -> Image.Image:
    """A photo of 16 bits a colour of which few are used, through instructions for its lower bytes."""
    halves = []
    for tiles in ([], lower):
        with Image.open(path, formats=_with_heif(FORMATS)) as picture:
            picture.seek(page)
            picture.tile = tiles or picture.tile
            halves.append(np.asarray(picture.convert("RGB")).astype(np.uint16))
    return Image.fromarray(_to_8_bit(halves[0] * 256 + halves[1]))


def _to_8_bit(values: NDArray[np.integer | np.floating]) -> NDArray[np.uint8]:
    whole = np.issubdtype(values.dtype, np.integer)
    numbers = np.where(np.isfinite(values), values, 0).astype(np.float32, copy=False)
    largest = float(numbers.max())
    bits = next((bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits), None)
    white = largest if bits is None else 2**bits - 1
    if not whole and (numbers > 1.0).mean() < 0.01:  # highlights are cut off
        white = 1.0
    elif whole and bits in (10, 12, 14):
        _say_bits(bits)
    numbers *= 255.0 / white
    return np.rint(numbers, out=numbers).clip(0, 255, out=numbers).astype(np.uint8)


@cache
def _say_bits(bits: int) -> None:
    """Says once how photos are understood."""
    warnings.warn(
        f"there are photos of 16 bits with no value above {2**bits - 1}: they are taken for photos of {bits} bits; if "
        "they are dark ones of more, save all with 8 bits",
        stacklevel=1,
    )
