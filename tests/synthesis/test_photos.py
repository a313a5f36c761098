"""Photos of every kind become upright 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codepose.synthesis.photos import read_image

GREY = np.tile(np.arange(16, dtype=np.uint8) * 16, (8, 1))
COLOR = np.stack((GREY, GREY[:, ::-1], np.full_like(GREY, 77)), axis=-1)


def saved(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.shape[2] == 3
    return read


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(tmp_path: Path, turn: int) -> None:
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
    np.testing.assert_array_equal(saved(stored, tmp_path / "photo.png", exif=exif), COLOR)


def test_grayscale_and_black_and_white(tmp_path: Path) -> None:
    np.testing.assert_array_equal(saved(Image.fromarray(GREY), tmp_path / "a.png"), np.stack([GREY] * 3, -1))
    binary = saved(Image.fromarray(GREY).point(lambda v: 255 * (v > 100), mode="1"), tmp_path / "b.png")
    np.testing.assert_array_equal(binary[..., 0], np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize(("white", "suffix"), [(65535, "png"), (65535, "tif"), (4095, "png"), (255, "png")])
def test_sixteen_bits_are_scaled_by_what_they_hold(tmp_path: Path, white: int, suffix: str) -> None:
    deep = np.linspace(0, white, 16).round().astype(np.uint16)[None].repeat(8, 0)
    read = saved(Image.fromarray(deep), tmp_path / f"deep.{suffix}")
    np.testing.assert_allclose(read[0, :, 1], np.linspace(0, 255, 16), atol=0.6)


def test_a_sixteen_bit_mask_of_ones_stays_dark(tmp_path: Path) -> None:
    assert saved(Image.fromarray(np.ones((4, 4), np.uint16)), tmp_path / "a.png").max() == 1


def test_sixteen_bit_colour_keeps_its_upper_bits(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "deep.png"), COLOR[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), COLOR)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiffs_are_scaled_and_what_is_not_finite_is_black(tmp_path: Path, white: float) -> None:
    values = (GREY / 255.0 * white).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -white
    values[0, 3] = white
    read = saved(Image.fromarray(values), tmp_path / "float.tif")[..., 0]
    np.testing.assert_array_equal(read[0, :4], (0, 0, 0, 255))
    np.testing.assert_array_equal(read[1:], GREY[1:])


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
