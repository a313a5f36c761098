"""Depth files as mm."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""Of the files that a folder of depth images is searched for, in this order."""
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
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
            if not isinstance(values, np.ndarray):
                raise ValueError("it is an archive (NPZ); save one array as NPY")
        else:
            with Image.open(path) as opened:
                values = np.asarray(opened)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise OSError(f"it cannot be read as a depth image: {error}") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise OSError(f"depth has one channel, (H, W); this has the shape {values.shape}: a picture of depth is none")
    if values.dtype.kind not in "uif" or values.dtype.itemsize < 2:
        raise OSError(f"{values.dtype} is too coarse for depth: save a 16-bit PNG, a TIFF or NPY")
    depth = np.nan_to_num(values.astype(np.float32) * np.float32(scale), nan=0.0, posinf=0.0, neginf=0.0)
    return np.where(depth > 0.0, depth, np.float32(0.0))
