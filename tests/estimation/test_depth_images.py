"""Depth files of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codepose.estimation.depth_images import read_depth

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
    words = {
        "grey.png": "uint8 is too coarse",
        "bytes.npy": "uint8 is too coarse",
        "colour.png": "one channel",
        "pickled.npy": "cannot be read",
        "broken.png": "cannot be read",
        "archive.npy": "archive",
    }
    for name, text in words.items():
        with pytest.raises(OSError, match=text):
            read_depth(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_depth(tmp_path / "nowhere.png")
