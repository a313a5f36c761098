"""The colours of a CAD file's surface: of vertices, faces or materials, or a texture, for which faces are divided.

The renderer knows a colour per vertex and no pictures. So a textured face is divided until its edges are about as
long as a pixel of a training crop, and each corner takes the mean of the picture around it. The new corners lie in
the old faces: a coarse round part shows its facets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimesh.remesh import subdivide_to_size

from codepose.parts.cad.surface import Picture, Surface, Wrap

NEUTRAL = 153  # grey 0.6 of 255, where a file has no colour
TEXTURED_EDGE = 0.01  # longest edge of a textured face as a fraction of the part's size
TEXTURED_FACES = 150_000  # about so many at most; a large surface gets longer edges

_FACE_SHARE = 0.25  # mean area of the divided faces over the square of the longest edge
_AROUND = np.array(  # barycentric: the third of a face that is nearest to its first corner
    [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.5, 0.4, 0.1], [0.5, 0.1, 0.4], [0.4, 0.3, 0.3]]
)


def painted(surfaces: Sequence[Surface]) -> Surface:
    """All surfaces as one with a colour at each corner; textured ones are divided until they carry the picture.

    Args:
        surfaces: In one frame, with at least one triangle.

    Returns:
        Triangles in the surfaces' own unit, with colours and without a picture.
    """
    area = sum(_area(one.triangles) for one in surfaces if one.picture is not None)
    edge = _longest_edge(surfaces, area) if area > 0 else 0.0
    pieces = []
    for one in surfaces:
        if edge and one.picture is not None and one.uv is not None:
            most = math.ceil(TEXTURED_FACES * _area(one.triangles) / area)
            pieces.append(_textured(one, one.picture, one.uv, edge, most))
        else:
            plain = np.uint8(NEUTRAL) if one.colors is None else one.colors
            pieces.append((one.triangles, np.broadcast_to(plain, one.triangles.shape)))
    triangles, colors = (np.concatenate([piece[k] for piece in pieces]) for k in (0, 1))
    return Surface(triangles, "vertex", colors)


def edge_length(area: float, faces: int) -> float:
    """The longest edge at which a surface of ``area``, its edges halved, has about so many faces."""
    return float(np.sqrt(area / (_FACE_SHARE * faces)))


def divided(
    places: NDArray[np.float64], faces: NDArray[np.int64], edge: float, most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Halves edges until none is longer than ``edge``, or than the length at which there are at most ``most`` faces.

    Args:
        places: (V, 3 or more), x, y and z first; the rest is interpolated with them.
        faces: (F, 3) vertex indices.
        edge: In the unit of the places.
        most: Of the faces that come out; where there are more already, they stay as they are.

    Returns:
        (W, 3 or more) and (G, 3).
    """
    halve: Any = subdivide_to_size  # has no types
    while True:
        new_places, new_faces = halve(places, faces, edge, max_iter=64)
        if len(new_faces) <= max(most, len(faces)):
            return new_places, new_faces
        edge *= 1.15


def _area(triangles: NDArray[np.float64]) -> float:
    sides = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return float(np.linalg.norm(sides, axis=1).sum()) / 2


def _longest_edge(surfaces: Sequence[Surface], area: float) -> float:
    """How long an edge may be where ``area`` of the surfaces is textured, in their unit."""
    low = np.min([one.triangles.min(axis=(0, 1)) for one in surfaces], axis=0)
    high = np.max([one.triangles.max(axis=(0, 1)) for one in surfaces], axis=0)
    return max(TEXTURED_EDGE * float(np.linalg.norm(high - low)), edge_length(area, TEXTURED_FACES))


def _textured(
    surface: Surface, picture: Picture, uv: NDArray[np.float64], edge: float, most: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(G, 3, 3) corners and RGB of a textured surface, longer edges halved until none exceeds ``edge``."""
    tint = np.broadcast_to(np.uint8(255) if surface.colors is None else surface.colors, surface.triangles.shape)
    rows = np.concatenate([surface.triangles, uv, tint / 255.0], axis=2).reshape(-1, 8)
    places, index = np.unique(rows, axis=0, return_inverse=True)
    places, faces = divided(places, index.reshape(-1, 3), edge, most)
    corners = places[faces]  # (G, 3, 8)
    total, count = np.zeros((len(places), 3)), np.bincount(faces.reshape(-1), minlength=len(places))
    for weights in _AROUND:
        for corner in range(3):
            seen = np.einsum("k,gkc->gc", np.roll(weights, corner), corners[..., 3:])
            shown = _sampled(picture, seen[:, :2]) * seen[:, 2:]
            total += np.stack([np.bincount(faces[:, corner], c, len(places)) for c in shown.T], axis=1)
    mean = np.round(total / (len(_AROUND) * np.maximum(count, 1))[:, None]).astype(np.uint8)
    return corners[..., :3], mean[faces]


def _sampled(picture: Picture, uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) in [0, 255] of the picture at places (N, 2), between its pixels' middles."""
    height, width = picture.pixels.shape[:2]
    uv = np.nan_to_num(uv)
    x, y = _unwrapped(uv[:, 0], picture.wrap[0]) * width - 0.5, _unwrapped(1 - uv[:, 1], picture.wrap[1]) * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, below = x - left, y - top
    seen = np.zeros((len(uv), 3))
    for dx, across in ((0, 1 - right), (1, right)):
        for dy, down in ((0, 1 - below), (1, below)):
            column, row = _inside(left + dx, width, picture.wrap[0]), _inside(top + dy, height, picture.wrap[1])
            seen += (across * down)[:, None] * picture.pixels[row, column]
    return seen


def _unwrapped(places: NDArray[np.float64], wrap: Wrap) -> NDArray[np.float64]:
    """Places along one side of a picture, brought to [0, 1] without the edge between two copies being lost."""
    if wrap == "repeat":
        return places - np.floor(places)
    if wrap == "mirror":
        folded = np.abs(places) % 2.0
        return np.where(folded > 1.0, 2.0 - folded, folded)
    return np.clip(places, 0.0, 1.0)


def _inside(pixels: NDArray[np.int64], count: int, wrap: Wrap) -> NDArray[np.int64]:
    """Pixels, of which the first may be -1 and the last ``count``, in [0, count)."""
    inside: NDArray[np.int64] = pixels % count if wrap == "repeat" else np.clip(pixels, 0, count - 1)
    return inside
