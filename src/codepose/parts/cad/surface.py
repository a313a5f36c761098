"""What every reader of CAD files returns: triangles in the file's frame, with their colours or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

ColorSource = Literal["none", "vertex", "face", "material", "texture"]
Wrap = Literal["repeat", "clamp", "mirror"]

_Number = TypeVar("_Number", bound=np.generic)

MOST_TRIANGLES = 5_000_000
"""In one file; each takes about a kilobyte on its way to the renderer."""


class MeshError(ValueError):
    """A CAD model that cannot be used; the text says what to do instead."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What a texture shows.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, the first row at the top.
        wrap: What lies beyond the picture along u and v.
    """

    pixels: NDArray[np.uint8]
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles of one look.

    Attributes:
        triangles: (F, 3, 3) corners, counter-clockwise seen from outside, in the file's unit and frame.
        source: Where the colours come from; "none" = there are none.
        colors: (F, 3, 3) uint8 sRGB at the corners; beside a picture what it is multiplied with; None = no colour.
        picture: The texture, None where there is none.
        uv: (F, 3, 2) where the corners lie in the picture: (0, 0) = its lower left, (1, 1) = its upper right.
        missing: Files with materials or pictures that the CAD file names and that are not there.
        bodies: The names of the body that it belongs to, and of the assemblies that hold this, the largest first; of
            equal names the second is NAME#2. () = the file names none.
    """

    triangles: NDArray[np.float64]
    source: ColorSource = "none"
    colors: NDArray[np.uint8] | None = None
    picture: Picture | None = None
    uv: NDArray[np.float64] | None = None
    missing: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()


def refuse(reason: str, advice: str = "export the part again") -> NoReturn:
    """Stops reading a file; `read_cad` puts the file's name before it.

    Raises:
        MeshError: Always.
    """
    raise MeshError(f"{reason}; {advice}")


def check_count(triangles: int) -> None:
    """Refuses more triangles than are worth the memory, before there are any.

    Raises:
        MeshError: There are more than ``MOST_TRIANGLES``.
    """
    if triangles > MOST_TRIANGLES:
        refuse(
            f"{triangles:,} triangles are more than the {MOST_TRIANGLES:,} that are read",
            "export the part with a coarser mesh",
        )


def corners_of(places: NDArray[_Number], index: NDArray[np.int64]) -> NDArray[_Number]:
    """The rows of ``places`` (V, ...) that an index (...) of any shape names.

    Raises:
        MeshError: The index names a row that is not there.
    """
    if index.size and not (index.min() >= 0 and index.max() < len(places)):
        wrong = int(index.min()) if index.min() < 0 else int(index.max())
        refuse(f"it is damaged: a face names vertex {wrong} of {len(places)}")
    picked: NDArray[_Number] = places[index]
    return picked


def displayed(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    """sRGB of amounts of light in [0, 1], which glTF counts (IEC 61966-2-1); what is beyond is cut off."""
    light = np.clip(np.nan_to_num(light), 0.0, 1.0)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255.0 * shown).astype(np.uint8)


def bytes_of(colors: NDArray[np.generic]) -> NDArray[np.uint8]:
    """uint8 colours of 8- or 16-bit integers, or of numbers in [0, 1]."""
    values = np.asarray(colors)
    if values.dtype == np.uint8:
        return values.astype(np.uint8)
    if values.dtype.kind in "ui":
        most = 65535.0 if values.size and values.max() > 255 else 255.0
    else:
        values = np.nan_to_num(values.astype(np.float64))
        most = 255.0 if values.size and values.max() > 2.0 else 1.0  # some write 0 to 255 as decimals
    return np.round(np.clip(values.astype(np.float64) / most, 0.0, 1.0) * 255.0).astype(np.uint8)
