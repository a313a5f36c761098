"""PLY files, text and binary: polygons and triangle strips, colours of vertices or faces, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.pictures import read_picture
from codepose.parts.cad.ply_tables import List, Table, read_tables
from codepose.parts.cad.polygons import strips, triangulate
from codepose.parts.cad.surface import ColorSource, Picture, Surface, bytes_of, check_count, corners_of, refuse
from codepose.parts.cad.text import file_named

_RGB = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_UV = (("texture_u", "texture_v"), ("s", "t"), ("u", "v"))
_CORNERS = ("vertex_indices", "vertex_index")


def read_ply(path: Path, data: bytes) -> list[Surface]:
    """The surface in a PLY file; its picture is looked for beside it.

    Raises:
        MeshError: The file is damaged, ends early or names a vertex that is not there, or its picture is damaged.
    """
    tables, names = read_tables(data)
    vertices = tables.get("vertex", {})
    places = _columns(vertices, (("x", "y", "z"),))
    if places is None:
        return refuse("its vertices have no x, y and z")
    index, owner, at = _faces(tables)
    triangles = corners_of(places.astype(np.float64), index)
    colors, source = _colors(vertices, tables.get("face", {}), index, owner)
    uv = _uv(vertices, tables.get("face", {}), index, at)
    surface = Surface(triangles, source, colors) if colors is not None else Surface(triangles)
    if uv is None or not names:
        return [surface]
    numbers = tables.get("face", {}).get("texnumber")
    if len(names) > 1 and isinstance(numbers, np.ndarray) and len(owner):
        which = corners_of(np.arange(len(names)), numbers.astype(np.int64)[owner])
        return [_textured(surface, uv, path, name, which == k) for k, name in enumerate(names) if (which == k).any()]
    return [_textured(surface, uv, path, names[0], np.ones(len(index), bool))]


def _faces(tables: Mapping[str, Table]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Triangles (F, 3) as vertices, the face (F,) each was cut from, and their corners (F, 3) among all faces'.

    Of strips the last two are empty.
    """
    polygons, ribbons = (_list(tables.get(name, {}), _CORNERS) for name in ("face", "tristrips"))
    nothing = np.zeros(0, np.int64)
    if polygons is None or len(polygons.counts) == 0:
        index = np.zeros((0, 3), np.int64)
        if ribbons is not None:
            pieces = np.split(ribbons.values, np.cumsum(ribbons.counts)[:-1])
            index = np.concatenate([index, *(strips(piece.astype(np.int64)) for piece in pieces)])
        check_count(len(index))
        return index, nothing, nothing.reshape(0, 3)
    if ribbons is not None and len(ribbons.counts):
        refuse("it holds faces and triangle strips", "export the part as faces alone")
    places = _columns(tables.get("vertex", {}), (("x", "y", "z"),))
    assert places is not None
    corners = polygons.values.astype(np.int64)
    at = triangulate(corners_of(places.astype(np.float64), corners), polygons.counts)
    owner = np.repeat(np.arange(len(polygons.counts)), polygons.counts)
    return corners[at], owner[at[:, 0]], at


def _colors(
    vertices: Table, faces: Table, index: NDArray[np.int64], owner: NDArray[np.int64]
) -> tuple[NDArray[np.uint8] | None, ColorSource]:
    rgb = _columns(vertices, _RGB)
    if rgb is not None:
        return corners_of(bytes_of(rgb), index), "vertex"
    rgb = _columns(faces, _RGB)
    if rgb is not None and len(owner):
        return np.repeat(bytes_of(rgb)[owner][:, None], 3, axis=1), "face"
    return None, "none"


def _uv(vertices: Table, faces: Table, index: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """(F, 3, 2) from the faces' own list of two numbers a corner, or from the vertices."""
    own, corners = _list(faces, ("texcoord",)), _list(faces, _CORNERS)
    if own is not None and corners is not None and (own.counts == 2 * corners.counts).all() and len(at):
        return own.values.astype(np.float64).reshape(-1, 2)[at]
    of_vertices = _columns(vertices, _UV)
    return None if of_vertices is None else corners_of(of_vertices.astype(np.float64), index)


def _textured(surface: Surface, uv: NDArray[np.float64], path: Path, name: str, rows: NDArray[np.bool_]) -> Surface:
    triangles = surface.triangles[rows]
    colors = None if surface.colors is None else surface.colors[rows]
    file = file_named([path.parent], name)
    if file is None:
        return Surface(triangles, surface.source, colors, missing=(name,))
    return Surface(triangles, "texture", None, Picture(read_picture(file, name)), uv[rows])


def _columns(table: Table, options: Sequence[Sequence[str]]) -> NDArray[np.generic] | None:
    """(N, K) the first of the options that all are properties of an element."""
    for names in options:
        found = [table[name] for name in names if name in table]
        columns = [column for column in found if not isinstance(column, List)]
        if len(columns) == len(names):
            return np.stack(columns, axis=1)
    return None


def _list(table: Table, names: Sequence[str]) -> List | None:
    found = [table[name] for name in names if name in table]
    return next((column for column in found if isinstance(column, List)), None)
