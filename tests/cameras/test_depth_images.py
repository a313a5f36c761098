"""Depth files of every kind."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codepose.cameras.depth_images import read_depth

VALUES = np.array([[0, 1, 500], [1234, 40000, 65535]])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("d.png", np.uint16),
        ("d.tif", np.uint16),
        ("d.tiff", np.int32),
        ("e.tif", np.float32),
        ("d.npy", np.uint16),
        ("e.npy", np.float64),
    ],
)
def test_values_times_the_scale_are_mm(tmp_path: Path, name: str, kind: type) -> None:
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, VALUES.astype(kind))
    else:
        Image.fromarray(VALUES.astype(kind)).save(path)
    assert np.array_equal(read_depth(path), VALUES)
    assert read_depth(path).dtype == np.float32
    np.testing.assert_allclose(read_depth(path, 0.1), VALUES * 0.1, rtol=1e-6)


def test_what_is_no_depth_is_not_measured(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[np.nan, np.inf, -np.inf], [-3.0, 0.0, 0.7]])[..., None])
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", 1000.0), [[0, 0, 0], [0, 0, 700]], rtol=1e-6)


def test_files_that_hold_no_depth_are_refused_in_words(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "grey.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "colour.png")
    np.save(tmp_path / "bytes.npy", np.zeros((3, 4), np.uint8))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    with open(tmp_path / "archive.npy", "wb") as file:
        np.savez(file, depth=np.ones((3, 4)))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "deep.exr").write_bytes(b"v/1\x01" + bytes(40))
    (tmp_path / "scaled.pgm").write_bytes(b"P5 2 1 1000 " + bytes(4))  # Pillow would scale 1000 to 65535
    np.save(tmp_path / "empty.npy", np.zeros((0, 4)))
    words = {
        "grey.png": "uint8 is too coarse",
        "bytes.npy": "uint8 is too coarse",
        "colour.png": "one channel",
        "pickled.npy": "cannot be read",
        "broken.png": "no depth image of a format that is read, .*: 16-bit PNG, TIFF and NPY are read",
        "deep.exr": "an OpenEXR picture, which is not read as a depth image: 16-bit PNG, TIFF and NPY are read",
        "scaled.pgm": "no depth image of a format that is read",
        "empty.npy": r"it is empty: its shape is \(0, 4\)",
        "archive.npy": "archive",
    }
    for name, text in words.items():
        with pytest.raises(OSError, match=text):
            read_depth(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_depth(tmp_path / "nowhere.png")


def claiming(path: Path, shape: tuple[int, ...]) -> Path:
    """An NPY file of a few bytes that says it has this shape."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": shape})
        file.write(bytes(64))
    return path


@pytest.mark.parametrize("shape", [(10**9, 10**9), (10**30, 2), (100_000, 100_000), (-3, 4), (5, 7)])
def test_an_array_as_large_as_it_says_is_not_waited_for(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(OSError, match="it cannot be read as a depth image"):
        read_depth(claiming(tmp_path / "a.npy", shape))
    assert read_depth(claiming(tmp_path / "b.npy", (4, 8))).shape == (4, 8)


def test_an_array_of_too_many_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codepose.cameras.depth_images.MOST_PIXELS", 31)
    with pytest.raises(OSError, match=r"it has the shape \(4, 8\), far too large"):
        read_depth(claiming(tmp_path / "a.npy", (4, 8)))


def test_the_largest_page_holds_the_depth(tmp_path: Path) -> None:
    small = Image.fromarray(np.full((1, 2), 7, np.uint16))
    small.save(tmp_path / "d.tif", save_all=True, append_images=[Image.fromarray(VALUES.astype(np.uint16))])
    assert np.array_equal(read_depth(tmp_path / "d.tif"), VALUES)


def test_what_single_precision_cannot_hold_is_not_measured(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[1e300, 5.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_depth(tmp_path / "d.npy"), [[0.0, 5.0]])
