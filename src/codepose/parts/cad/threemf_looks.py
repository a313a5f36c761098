"""Colours of 3MF files: base materials, colour groups, and pictures by their groups of places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.pictures import read_picture
from codepose.parts.cad.surface import ColorSource, Picture, Surface, Wrap, corners_of, refuse
from codepose.parts.cad.text import numbers, whole

_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
_MATERIAL = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"
_TILES: dict[str, Wrap] = {"wrap": "repeat", "mirror": "mirror", "clamp": "clamp", "none": "clamp"}
_MIXED = (f"{_MATERIAL}compositematerials", f"{_MATERIAL}multiproperties")


@dataclass(frozen=True, eq=False)
class Palette:
    """What a property's number means: a colour, or a place in a picture.

    Attributes:
        source: What a surface in these colours is coloured by.
        colors: (N, 3) uint8, None for places in a picture.
        places: (N, 2) in the picture, from its lower left.
        picture: The picture, None for colours.
    """

    source: ColorSource
    colors: NDArray[np.uint8] | None = None
    places: NDArray[np.float64] | None = None
    picture: Picture | None = None


def read_palettes(resources: Element, content: Callable[[str], bytes | None]) -> dict[str, Palette]:
    """The groups of properties of a model by number.

    Args:
        resources: Of the model's XML.
        content: What a file in the archive holds.

    Raises:
        MeshError: A colour is none, or a picture is damaged or not there.
    """
    palettes, pictures = dict[str, Palette](), dict[str, Element]()
    for one in resources:
        number = one.get("id", "")
        if one.tag == f"{_CORE}basematerials":
            shown = [_color(base.get("displaycolor", "")) for base in one.iter(f"{_CORE}base")]
            palettes[number] = Palette("material", np.asarray(shown, np.uint8).reshape(-1, 3))
        elif one.tag == f"{_MATERIAL}colorgroup":
            shown = [_color(color.get("color", "")) for color in one.iter(f"{_MATERIAL}color")]
            palettes[number] = Palette("vertex", np.asarray(shown, np.uint8).reshape(-1, 3))
        elif one.tag == f"{_MATERIAL}texture2d":
            pictures[number] = one
        elif one.tag == f"{_MATERIAL}texture2dgroup":
            words = [c.get(axis, "?") for c in one.iter(f"{_MATERIAL}tex2coord") for axis in "uv"]
            picture = _picture(pictures.get(one.get("texid", "")), content)
            palettes[number] = Palette("texture", None, numbers(words).reshape(-1, 2), picture)
        elif one.tag in _MIXED:
            refuse("it mixes materials in one colour, which is not read", "export the part in plain colours")
    return palettes


def colored(
    triangles: NDArray[np.float64], faces: Sequence[Element], default: tuple[str, str], palettes: Mapping[str, Palette]
) -> list[Surface]:
    """One surface for each group of properties that an object's triangles name.

    Args:
        triangles: (F, 3, 3) of the object.
        faces: The XML of each.
        default: Group and number of what names none.
        palettes: From `read_palettes`.
    """
    groups = np.array([face.get("pid", default[0]) for face in faces], dtype=object)
    surfaces = []
    for group in dict.fromkeys(groups.tolist()):
        rows = groups == group
        palette = palettes.get(group)
        if palette is None:
            surfaces.append(Surface(triangles[rows]))
            continue
        words = [word for face, mine in zip(faces, rows, strict=True) if mine for word in _properties(face, default[1])]
        which = whole(words).reshape(-1, 3)
        if palette.colors is not None:
            surfaces.append(Surface(triangles[rows], palette.source, corners_of(palette.colors, which)))
        elif palette.places is not None:
            surfaces.append(
                Surface(triangles[rows], "texture", None, palette.picture, corners_of(palette.places, which))
            )
    return surfaces


def _properties(face: Element, default: str) -> tuple[str, str, str]:
    first = face.get("p1", default)
    return first, face.get("p2", first), face.get("p3", first)


def _color(text: str) -> tuple[int, int, int]:
    try:
        if text[:1] != "#" or len(text) not in (7, 9):
            raise ValueError
        red, green, blue, *_ = bytes.fromhex(text[1:])
    except ValueError:
        refuse(f"it is damaged: {text[:20]!r} is no colour")
    return red, green, blue


def _picture(texture: Element | None, content: Callable[[str], bytes | None]) -> Picture:
    name = "" if texture is None else texture.get("path", "")
    data = content(name) if name else None
    if texture is None or data is None:
        return refuse(f"its picture {name[:80]!r} is not in it")
    u, v = (_TILES.get(texture.get(key, "wrap"), "repeat") for key in ("tilestyleu", "tilestylev"))
    return Picture(read_picture(data, name), (u, v))
