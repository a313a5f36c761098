"""OBJ files with their materials: polygons, colours of vertices, and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.mtl import Material, read_mtl
from codepose.parts.cad.pictures import read_picture
from codepose.parts.cad.polygons import triangulate
from codepose.parts.cad.surface import Picture, Surface, Wrap, bytes_of, corners_of, refuse
from codepose.parts.cad.text import decoded, file_named, numbers, whole

CONTINUED = re.compile(r"\\[ \t]*\n")
_LIBRARIES = re.compile(r"(?<=\.mtl)\s+", re.IGNORECASE)
_UNCOLORED = 153.0  # of 255, a vertex without a colour among others that have one


@dataclass
class _Lines:
    """What the lines of an OBJ file hold, as words."""

    places: list[str] = field(default_factory=list)
    colors: dict[int, list[str]] = field(default_factory=dict)  # by vertex
    uv: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # corners of each face
    corners: list[str] = field(default_factory=list)
    so_far: list[tuple[int, int]] = field(default_factory=list)  # vertices and UVs before each face
    looks: list[int] = field(default_factory=list)  # place of each face's material in ``materials``
    materials: dict[str, int] = field(default_factory=lambda: {"": 0})
    libraries: list[str] = field(default_factory=list)


def read_obj(path: Path, data: bytes) -> list[Surface]:
    """The surfaces in an OBJ file, one for each material; libraries and pictures are looked for beside it.

    Raises:
        MeshError: A line is damaged, a face names a vertex that is not there, or a picture is damaged.
    """
    lines = _lines(CONTINUED.sub(" ", decoded(data)))
    places = numbers(lines.places).reshape(-1, 3)
    flat = numbers(lines.uv).reshape(-1, 2)
    v, vt = _indices(lines)
    at = triangulate(corners_of(places, v), np.asarray(lines.counts, np.int64))
    owner = np.repeat(np.arange(len(lines.counts)), lines.counts)
    look = np.asarray(lines.looks, np.int64)[owner[at[:, 0]]]
    triangles, rgb = corners_of(places, v)[at], _vertex_colors(lines, len(places))
    colors = None if rgb is None else corners_of(rgb, v)[at]
    uv = np.full((len(v), 2), np.nan)
    uv[vt >= 0] = corners_of(flat, vt[vt >= 0])
    materials, missing = _materials(path, lines.libraries)
    pictures: dict[Path, NDArray[np.uint8]] = {}
    surfaces = []
    for name, number in lines.materials.items():
        for textured in (True, False):
            rows = (look == number) & (np.isfinite(uv[at]).all(axis=(1, 2)) == textured)
            if rows.any():
                own = None if colors is None else colors[rows]
                material = materials.get(name, Material())
                one = _surface(triangles[rows], own, material, uv[at][rows] if textured else None, pictures, path)
                surfaces.append(_naming(one, missing))
    return surfaces


def _lines(text: str) -> _Lines:
    found, look, vertices, uvs = _Lines(), 0, 0, 0
    for line in text.split("\n"):
        words = line.split()
        if not words:
            continue
        key = words[0]
        if key == "v":
            if len(words) < 4:
                refuse(f"it is damaged: a vertex is given as {line.strip()[:60]!r}")
            found.places += words[1:4]
            if len(words) > 6:
                found.colors[vertices] = words[4:7]
            vertices += 1
        elif key == "vt":
            found.uv += (*words[1:3], "0")[:2]
            uvs += 1
        elif key in ("f", "fo"):
            corners = words[1:] if "#" not in line else line.partition("#")[0].split()[1:]
            found.counts.append(len(corners))
            found.corners += corners
            found.so_far.append((vertices, uvs))
            found.looks.append(look)
        elif key == "usemtl":
            look = found.materials.setdefault(_after_keyword(line), len(found.materials))
        elif key == "mtllib":
            found.libraries.append(_after_keyword(line))
        elif key == "surf":
            refuse("it has free-form surfaces, which are not read", "export the part as triangles")
    return found


def _after_keyword(line: str) -> str:
    return (line.split(None, 1)[1:] or [""])[0].strip()


def _indices(lines: _Lines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(C,) of all faces' corners: the vertex, and the place in the picture, -1 = none."""
    parts = [corner.split("/") for corner in lines.corners]
    so_far = np.repeat(np.asarray(lines.so_far, np.int64).reshape(-1, 2), lines.counts, axis=0)
    v = whole([part[0] for part in parts])
    vt = whole([part[1] if len(part) > 1 and part[1] else "0" for part in parts])
    if (v == 0).any():
        refuse("it is damaged: a face names vertex 0, and the first is 1")
    v = np.where(v < 0, v + so_far[:, 0], v - 1)
    if (vt < -so_far[:, 1]).any():
        refuse("it is damaged: a face names a vt line that is not there")
    return v, np.where(vt < 0, vt + so_far[:, 1], vt - 1)


def _vertex_colors(lines: _Lines, count: int) -> NDArray[np.uint8] | None:
    """(V, 3), None where no vertex has a colour."""
    if not lines.colors:
        return None
    given = numbers([word for words in lines.colors.values() for word in words]).reshape(-1, 3)
    rgb = np.full((count, 3), _UNCOLORED / 255)
    rgb[list(lines.colors)] = bytes_of(given) / 255.0
    return bytes_of(rgb)


def _materials(path: Path, libraries: list[str]) -> tuple[dict[str, Material], list[str]]:
    """The materials of all libraries by name, and the libraries that are not there."""
    materials, missing = dict[str, Material](), list[str]()
    for library in dict.fromkeys(libraries):
        for name in _files(path, library):
            file = file_named([path.parent], name)
            if file is None:
                missing.append(name)
            else:
                materials |= {k: m for k, m in read_mtl(file).items() if k not in materials}
    return materials, missing


def _files(path: Path, library: str) -> Iterator[str]:
    """The names in a mtllib line: one with spaces, or several."""
    if file_named([path.parent], library) is not None:
        yield library
    else:
        yield from (name for name in _LIBRARIES.split(library) if name)


def _surface(
    triangles: NDArray[np.float64],
    colors: NDArray[np.uint8] | None,
    material: Material,
    uv: NDArray[np.float64] | None,
    pictures: dict[Path, NDArray[np.uint8]],
    path: Path,
) -> Surface:
    """Triangles of one material: its picture's colours, else their vertices', else the material's."""
    lost: tuple[str, ...] = ()
    if material.picture and uv is not None:
        file = file_named([material.folder, path.parent], material.picture)
        if file is not None:
            if file not in pictures:
                pictures[file] = read_picture(file, material.picture)
            placed = uv * np.asarray(material.scale) + np.asarray(material.offset)
            wrap: Wrap = "clamp" if material.clamp else "repeat"
            return Surface(triangles, "texture", None, Picture(pictures[file], (wrap, wrap)), placed)
        lost = (material.picture,)
    if colors is not None:
        return Surface(triangles, "vertex", colors, missing=lost)
    if material.color is None:
        return Surface(triangles, missing=lost)
    return Surface(triangles, "material", np.broadcast_to(material.color, triangles.shape), missing=lost)


def _naming(surface: Surface, missing: list[str]) -> Surface:
    return Surface(
        surface.triangles, surface.source, surface.colors, surface.picture, surface.uv, (*missing, *surface.missing)
    )
