"""OFF files: polygons with colours of vertices or faces, as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.polygons import triangulate
from codepose.parts.cad.surface import Surface, bytes_of, corners_of, refuse
from codepose.parts.cad.text import decoded, numbers, whole

_HEADERS = ("OFF", "COFF", "NOFF", "CNOFF")


def read_off(_: Path, data: bytes) -> list[Surface]:
    """The surface in an OFF file.

    Raises:
        MeshError: The file is of another flavour, damaged, or ends early.
    """
    lines = [line.partition("#")[0].split() for line in decoded(data).split("\n")]
    rows = [words for words in lines if words]
    header = rows[0][0] if rows else ""
    if header not in _HEADERS or "BINARY" in rows[0]:
        refuse(f"it is damaged, or an OFF file of a kind that is not read ({', '.join(_HEADERS)} as text are)")
    rows = [rows[0][1:], *rows[1:]] if len(rows[0]) > 1 else rows[1:]
    vertices, faces = (whole(rows[0][:2]) if rows and len(rows[0]) >= 2 else np.array([-1, -1])).tolist()
    if vertices < 0 or faces < 0 or len(rows) < 1 + vertices + faces:
        refuse("the file ends early, or its counts are wrong")
    places, colors = _vertices(rows[1 : 1 + vertices], header)
    polygons = rows[1 + vertices : 1 + vertices + faces]
    counts = whole([words[0] for words in polygons])
    if (counts < 0).any() or any(len(words) <= count for words, count in zip(polygons, counts, strict=True)):
        refuse("it is damaged: a face has fewer corners than it says")
    index = whole([word for words, k in zip(polygons, counts, strict=True) for word in words[1 : 1 + k]])
    at = triangulate(corners_of(places, index), counts)
    triangles = corners_of(places, index)[at]
    if colors is not None:
        return [Surface(triangles, "vertex", corners_of(colors, index)[at])]
    own = [words[1 + k : 4 + k] for words, k in zip(polygons, counts, strict=True)]
    if own and all(len(words) == 3 for words in own):
        rgb = _rgb([word for words in own for word in words])
        owner = np.repeat(np.arange(faces), counts)[at[:, 0]]
        return [Surface(triangles, "face", np.repeat(rgb[owner][:, None], 3, axis=1))]
    return [Surface(triangles)]


def _vertices(rows: list[list[str]], header: str) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None]:
    at = 6 if "N" in header else 3
    colored = "C" in header
    if any(len(words) < at + 3 * colored for words in rows):
        refuse("it is damaged: a vertex has too few numbers")
    places = numbers([word for words in rows for word in words[:3]]).reshape(-1, 3)
    return places, _rgb([word for words in rows for word in words[at : at + 3]]) if colored else None


def _rgb(words: list[str]) -> NDArray[np.uint8]:
    """(N, 3): whole numbers are of 255, decimals of 1."""
    values = numbers(words).reshape(-1, 3)
    return bytes_of(values if any("." in word for word in words) else values / 255.0)
