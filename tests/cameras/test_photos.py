"""Photos of every kind become upright 8-bit RGB."""

from __future__ import annotations

import re
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from codepose.cameras import photos
from codepose.cameras.photos import MOST_PIXELS, read_image

GREY = np.tile(np.arange(16, dtype=np.uint8) * 16, (8, 1))
COLOR = np.stack((GREY, GREY[:, ::-1], np.full_like(GREY, 77)), axis=-1)


def saved(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.shape[2] == 3
    return read


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "packed.tif", "photo.webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(tmp_path: Path, turn: int, name: str) -> None:
    """All eight orientations of the same upright picture, as a camera would store them."""
    upright = Image.fromarray(COLOR)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[turn]
    stored = upright if undo is None else upright.transpose(undo)
    exif = stored.getexif()
    exif[274] = turn
    how = {"photo.webp": {"lossless": True}, "packed.tif": {"compression": "tiff_lzw"}}.get(name, {})
    np.testing.assert_array_equal(saved(stored, tmp_path / name, exif=exif, **how), COLOR)


def test_grayscale_and_black_and_white(tmp_path: Path) -> None:
    np.testing.assert_array_equal(saved(Image.fromarray(GREY), tmp_path / "a.png"), np.stack([GREY] * 3, -1))
    binary = saved(Image.fromarray(GREY).point(lambda v: 255 * (v > 100), mode="1"), tmp_path / "b.png")
    np.testing.assert_array_equal(binary[..., 0], np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("white", [65535, 16383, 4095, 1023, 255])
def test_sixteen_bits_are_scaled_by_what_they_hold(tmp_path: Path, white: int, suffix: str) -> None:
    deep = np.linspace(0, white, 16).round().astype(np.uint16)[None].repeat(8, 0)
    read = saved(Image.fromarray(deep), tmp_path / f"deep.{suffix}")
    np.testing.assert_allclose(read[0, :, 1], np.linspace(0, 255, 16), atol=0.6)


def test_a_sixteen_bit_mask_of_ones_stays_dark(tmp_path: Path) -> None:
    assert saved(Image.fromarray(np.ones((4, 4), np.uint16)), tmp_path / "a.png").max() == 1


@pytest.mark.parametrize("suffix", ["png", "tif", "lzw.tif"])
@pytest.mark.parametrize("bits", [16, 14, 12, 10])
def test_sixteen_bit_colour_is_scaled_by_what_it_holds(tmp_path: Path, bits: int, suffix: str) -> None:
    """Of which Pillow alone would keep the upper eight bits: of ten used ones, two."""
    cv2 = pytest.importorskip("cv2")
    deep = (COLOR[..., ::-1] / 255.0 * (2**bits - 1)).round().astype(np.uint16)
    deep[0, 0] = 2**bits - 1
    packed = [cv2.IMWRITE_TIFF_COMPRESSION, 5 if suffix == "lzw.tif" else 1] if suffix != "png" else []
    cv2.imwrite(str(tmp_path / f"deep.{suffix}"), deep, packed)
    read = read_image(tmp_path / f"deep.{suffix}")
    np.testing.assert_allclose(read[1:].astype(int), COLOR[1:], atol=1)
    clear = np.dstack((deep, np.full(deep.shape[:2], 2**bits - 1, np.uint16)))
    cv2.imwrite(str(tmp_path / "clear.png"), clear)
    np.testing.assert_allclose(read_image(tmp_path / "clear.png").astype(int), read, atol=1)


def test_fewer_bits_are_said_once(tmp_path: Path) -> None:
    photos._say_bits.cache_clear()
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="no value above 1023: they are taken for photos of 10 bits"):
        read_image(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "a.png")


def test_nearly_black_photos_are_worth_a_word(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (64, 3, 0)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match=r"a\.png: it is nearly black, no value is above 64 of 255"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiffs_are_scaled_and_what_is_not_finite_is_black(tmp_path: Path, white: float) -> None:
    values = (GREY / 255.0 * white).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -white
    values[0, 3] = white
    read = saved(Image.fromarray(values), tmp_path / "float.tif")[..., 0]
    np.testing.assert_array_equal(read[0, :4], (0, 0, 0, 255))
    np.testing.assert_array_equal(read[1:], GREY[1:])


def test_highlights_of_float_tiffs_do_not_darken_them(tmp_path: Path) -> None:
    values = np.tile(GREY / 255.0, (4, 4)).astype(np.float32)
    values[0, :3] = 30.0  # three of two thousand
    read = saved(Image.fromarray(values), tmp_path / "float.tif")[..., 0]
    np.testing.assert_array_equal(read[0, :3], 255)
    np.testing.assert_array_equal(read[1:], np.tile(GREY, (4, 4))[1:])


def test_transparency_lies_over_black(tmp_path: Path) -> None:
    alpha = np.full((8, 16), 128, np.uint8)
    alpha[:, :8] = 0
    read = saved(Image.fromarray(np.dstack((COLOR, alpha))), tmp_path / "rgba.png")
    assert read[:, :8].max() == 0
    np.testing.assert_allclose(read[:, 8:], COLOR[:, 8:] * (128 / 255), atol=1)
    read = saved(Image.fromarray(np.dstack((GREY, alpha))), tmp_path / "la.png")
    assert read[:, :8].max() == 0
    np.testing.assert_allclose(read[:, 8:, 2], GREY[:, 8:] * (128 / 255), atol=1)
    palette = Image.fromarray(GREY).convert("P")
    first = palette.getpixel((0, 0)), palette.getpixel((15, 0))
    read = saved(palette, tmp_path / "p.png", transparency=first[1])
    assert read[:, 15].max() == 0
    np.testing.assert_array_equal(read[:, :15, 0], GREY[:, :15])


def test_of_a_wholly_transparent_photo_the_colours_count(tmp_path: Path) -> None:
    """As cameras write them whose fourth channel is unused."""
    read = saved(Image.fromarray(np.dstack((COLOR, np.zeros_like(GREY)))), tmp_path / "rgba.png")
    np.testing.assert_array_equal(read, COLOR)


def test_colour_profiles_are_applied(tmp_path: Path) -> None:
    """LittleCMS's own Lab and XYZ are far from sRGB: what they mean is a colour, not its numbers."""
    lab = Image.new("LAB", (4, 4), (136, 128, 128))  # L* = 53.3, no colour: sRGB's 127
    np.testing.assert_allclose(saved(lab, tmp_path / "lab.tif"), 127, atol=2)
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    plain = saved(Image.fromarray(COLOR), tmp_path / "xyz.png", icc_profile=xyz)
    np.testing.assert_array_equal(plain, COLOR)  # a profile of other colours than the file's is passed over
    np.testing.assert_array_equal(saved(Image.fromarray(COLOR), tmp_path / "d.png", icc_profile=b"damaged"), COLOR)
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag in (b"rXYZ", b"gXYZ"):
        swapped[swapped.index(tag)] ^= 0x80  # marked
    swapped = swapped.replace(bytes([ord("r") ^ 0x80]) + b"XYZ", b"gXYZ").replace(
        bytes([ord("g") ^ 0x80]) + b"XYZ", b"rXYZ"
    )
    read = saved(Image.fromarray(COLOR), tmp_path / "swapped.png", icc_profile=bytes(swapped))
    np.testing.assert_allclose(read.astype(int), COLOR[..., [1, 0, 2]], atol=2)


def test_the_largest_page_is_the_photo(tmp_path: Path) -> None:
    thumb = Image.fromarray(COLOR).resize((8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pages in ([thumb, Image.fromarray(COLOR)], [Image.fromarray(COLOR), thumb]):
            pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
            np.testing.assert_array_equal(read_image(tmp_path / "pages.tif"), COLOR)
        Image.fromarray(COLOR).save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[thumb], quality=95)
        assert read_image(tmp_path / "a.mpo").shape == COLOR.shape


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo"])
def test_of_several_equal_pictures_the_first_is_taken_with_a_word(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (16, 8), color) for color in ((200, 10, 20), (0, 200, 0), (0, 0, 200))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=re.escape(f"{name}: it holds 3 pictures of 16 x 8: the first is taken")):
        read = read_image(tmp_path / name)
    np.testing.assert_allclose(read[4, 8], (200, 10, 20), atol=8)


def test_damaged_exif_data_are_no_reason_to_lose_a_photo(tmp_path: Path) -> None:
    """Pillow writes all tags anew to take one out, and raises a TypeError on the first that is not what it says."""
    exif = Image.Exif()
    exif[274], exif[306] = 6, "2026:11:28 15:00:00"
    exif[37510] = b"comment"
    block = bytearray(exif.tobytes())
    kind = block.index(struct.pack(">H" if b"MM" in block[:8] else "<H", 306)) + 2
    block[kind : kind + 2] = struct.pack(">H" if b"MM" in block[:8] else "<H", 5)  # a text said to be fractions
    Image.fromarray(COLOR).save(tmp_path / "a.png", exif=bytes(block))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(COLOR, -1))
    Image.fromarray(COLOR).save(tmp_path / "b.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff")
    assert read_image(tmp_path / "b.png").shape == COLOR.shape


def claiming(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that says it has so many pixels."""
    head = b"IHDR" + struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, data, b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("side", [int(MOST_PIXELS**0.5) + 1, 13_000, 100_000])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    with pytest.raises(OSError, match="at most 120 megapixels are read: reduce it, and --K with it"):
        read_image(claiming(tmp_path / "a.png", side, side))
    with pytest.raises(OSError, match="cannot be read as a photo"):  # no data for so many: it went on to decode
        read_image(claiming(tmp_path / "b.png", 120, 100))


def test_a_png_whose_checksums_do_not_hold_is_refused(tmp_path: Path) -> None:
    """Pillow reads other pixels than those that were written."""
    Image.fromarray(COLOR).save(tmp_path / "a.png", compress_level=0)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 60] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError, match="it is damaged: a checksum does not hold"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("lost", [1, 12, 14])
def test_a_png_that_breaks_off_is_refused(tmp_path: Path, lost: int) -> None:
    """Of its end, or of the checksum of its pixels, which Pillow does not miss."""
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content + b"what follows is nobody's")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOR)
    (tmp_path / "a.png").write_bytes(content[:-lost])
    with pytest.raises(OSError, match="it is damaged: it breaks off"):
        read_image(tmp_path / "a.png")


def test_libtiff_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(COLOR).save(tmp_path / "a.tif", compression="tiff_lzw")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[8:40] = b"\xff" * 32
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(OSError, match="cannot be read as a photo"):
        read_image(tmp_path / "a.tif")
    print("still heard", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "still heard\n"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0", "it is a PostScript file, which is not read as a photo: JPEG, PNG"),
        (b"v/1\x01" + bytes(20), "it is an OpenEXR picture"),
        (b"8BPS\0\1" + bytes(20), "it is a Photoshop file"),
        (b"\0\0\0\x1cftypisom" + bytes(20), "it is a video under another name"),
        (b"RIFF\0\0\0\0AVI LIST", "it is a video under another name"),
        (b"\0\0\0\x18ftypcrx " + bytes(20), "it is a camera's raw photo"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), "it is a camera's raw photo"),
        (b"SIMPLE  =                    T", "it is no photo of a format that is read, or its beginning is damaged"),
        (b"", "it is no photo of a format that is read"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, start: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(start)
    with pytest.raises(OSError, match=words):
        read_image(tmp_path / "a.jpg")


def test_a_raw_photo_is_not_taken_for_its_thumbnail(tmp_path: Path) -> None:
    tags = {50706: b"\1\4\0\0"}
    Image.fromarray(COLOR).save(tmp_path / "a.dng", "TIFF", tiffinfo=tags)
    with pytest.raises(OSError, match="it is a camera's raw photo, which is not read"):
        read_image(tmp_path / "a.dng")


def test_heic_photos_need_an_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    large = Image.fromarray(COLOR).resize((64, 32))
    heif.from_pillow(large).save(tmp_path / "a.heic", quality=100)
    read = read_image(tmp_path / "a.heic")
    assert np.abs(read.astype(int) - np.asarray(large)).mean() < 3
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(OSError, match=r"type pip install pillow-heif, the extra codepose\[heic\]"):
        read_image(tmp_path / "a.heic")


def test_cmyk_and_palette(tmp_path: Path) -> None:
    cmyk = Image.fromarray(COLOR).convert("CMYK")
    np.testing.assert_allclose(saved(cmyk, tmp_path / "a.tif"), COLOR, atol=2)
    photo = saved(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(photo.reshape(-1, 3).mean(0), (200, 40, 90), atol=4)
    red = Image.new("RGB", (4, 4), (250, 10, 20)).quantize(4)
    assert red.mode == "P"
    np.testing.assert_allclose(saved(red, tmp_path / "p.png")[0, 0], (250, 10, 20), atol=4)
    np.testing.assert_allclose(saved(red, tmp_path / "p.gif")[0, 0], (250, 10, 20), atol=4)


def test_damaged_files_raise_oserror(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(good)
    content = good.read_bytes()
    broken = bytearray(content)
    broken[60:70] = b"\0" * 10
    damaged = {"cut.png": content[:500], "text.png": b"not a picture", "empty.jpg": b"", "broken.png": bytes(broken)}
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OSError, match=r"."):
            read_image(tmp_path / name)
    with pytest.raises(OSError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
