"""Material libraries of OBJ files: the colour of a material and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.text import decoded

_ONE_WORD = ("-blendu", "-blendv", "-boost", "-texres", "-clamp", "-bm", "-imfchan", "-type", "-cc")
_NUMBERS = {"-mm": 2, "-o": 3, "-s": 3, "-t": 3}  # so many at most


@dataclass
class Material:
    """A material as its library has it.

    Attributes:
        color: (3,) uint8 sRGB, None where none is named.
        picture: What the picture is called, "" = none.
        folder: Where the library lies.
        scale: What places in the picture are multiplied with, along u and v.
        offset: What is then added.
        clamp: Whether the picture does not repeat.
    """

    color: NDArray[np.uint8] | None = None
    picture: str = ""
    folder: Path = Path()
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False


def read_mtl(path: Path) -> dict[str, Material]:
    """The materials of a library by name."""
    materials, one = dict[str, Material](), Material()
    for line in decoded(path.read_bytes()).split("\n"):
        key, rest = (*line.split(None, 1), "", "")[:2]
        if key == "newmtl":
            one = materials.setdefault(rest.strip(), Material(folder=path.parent))
        elif key.lower() == "kd":
            one.color = _color(rest) if one.color is None else one.color
        elif key.lower() == "map_kd" and not one.picture:
            _read_map(one, rest)
    return materials


def _color(rest: str) -> NDArray[np.uint8] | None:
    values = _leading_numbers(rest.split(), 3)
    if not values:
        return None  # a spectral curve, or CIE XYZ
    rgb = np.array((values * 3)[:3] if len(values) < 3 else values)
    color: NDArray[np.uint8] = np.round(np.clip(rgb, 0.0, 1.0) * 255).astype(np.uint8)
    return color


def _read_map(material: Material, rest: str) -> None:
    """Takes a picture's options off the front of its line; what is left is its name, spaces and all."""
    while rest.startswith("-"):
        option, _, after = rest.partition(" ")
        words = after.split()
        if option in _NUMBERS:
            values = _leading_numbers(words, _NUMBERS[option])
            used = len(values)
            if option in ("-s", "-o") and values:
                fill = 1.0 if option == "-s" else 0.0
                pair = (values[0], values[1] if used > 1 else fill)
                material.scale, material.offset = (pair, material.offset) if option == "-s" else (material.scale, pair)
        elif option in _ONE_WORD:
            used = 1
            material.clamp = words[:1] == ["on"] if option == "-clamp" else material.clamp
        else:
            break
        rest = (after.split(None, used) + [""] * (used + 1))[used]
    material.picture = rest.strip()


def _leading_numbers(words: list[str], most: int) -> list[float]:
    values: list[float] = []
    for word in words[:most]:
        try:
            values.append(float(word))
        except ValueError:
            break
    return values if np.isfinite(values).all() else []
