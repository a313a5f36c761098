"""Depth files as mm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.cameras.photos import MOST_PIXELS, open_picture

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".exr")
"""Of the files that a folder of depth images is searched for, in this order; EXR is then named as not read."""
_KNOWN = "16-bit PNG, TIFF and NPY are read"
NEAREST_MM = 50.0
"""No depth camera sees a part nearer than this: such depth is in metres."""


def read_depth(path: Path, scale: float = 1.0) -> NDArray[np.float32]:
    """Reads a depth image.

    Args:
        path: 16-bit PNG, TIFF of 16 bits or more, integer or float, or NPY.
        scale: A stored value times this is mm.

    Returns:
        (H, W) mm, 0 = not measured: what is stored as 0, negative or not finite.

    Raises:
        OSError: The file is missing, cannot be read, or holds no depth; the text says why.
    """
    if path.suffix.lower() == ".npy":
        values = _array(path)
    else:
        with open_picture(path, "depth image", ("PNG", "TIFF"), _KNOWN) as picture:
            values = np.asarray(picture)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise OSError(f"depth has one channel, (H, W); this has the shape {values.shape}: a picture of depth is none")
    if values.dtype.kind not in "uif" or values.dtype.itemsize < 2:
        raise OSError(f"{values.dtype} is too coarse for depth: save a 16-bit PNG, a TIFF or NPY")
    if values.size == 0:
        raise OSError(f"it is empty: its shape is {values.shape}")
    with np.errstate(over="ignore"):  # what single precision cannot hold is no depth either
        depth = np.nan_to_num(values.astype(np.float32) * np.float32(scale), nan=0.0, posinf=0.0, neginf=0.0)
    return np.where(depth > 0.0, depth, np.float32(0.0))


def _array(path: Path) -> NDArray[Any]:
    """An NPY file's array, whose size is looked at before memory is taken."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(values, np.ndarray) and values.size <= MOST_PIXELS:
            return np.array(values)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # on damaged files NumPy raises whatever it runs into
        raise OSError("it cannot be read as a depth image: it is damaged, cut off or no array of numbers") from error
    if isinstance(values, np.ndarray):
        raise OSError(f"it cannot be read as a depth image: it has the shape {values.shape}, far too large")
    raise OSError("it cannot be read as a depth image: it is an archive (NPZ); save one array as NPY")
