"""The colours of a CAD file's surface: of vertices, faces or materials, or a texture, for which faces are divided.

The renderer knows a colour per vertex and no pictures. So a textured face is divided until its edges are about as
long as a pixel of a training crop, and each corner takes the mean of the picture around it. The new corners lie in
the old faces: a coarse round part shows its facets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.remesh import subdivide_to_size
from trimesh.visual.color import uv_to_interpolated_color
from trimesh.visual.material import PBRMaterial

ColorSource = Literal["none", "vertex", "face", "material", "texture"]

NEUTRAL = 153  # grey 0.6 of 255, where a file has no colour
TEXTURED_EDGE = 0.01  # longest edge of a textured face as a fraction of the part's size
TEXTURED_FACES = 150_000  # about so many at most; a large surface gets longer edges

_FACE_SHARE = 0.25  # mean area of the divided faces over the square of the longest edge
_AROUND = np.array(  # barycentric: the third of a face that is nearest to its first corner
    [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.5, 0.4, 0.1], [0.5, 0.1, 0.4], [0.4, 0.3, 0.3]]
)


def color_source(part: trimesh.Trimesh) -> ColorSource:
    """Where a part's colours come from; "none" = it is shown in neutral grey."""
    visual: Any = part.visual
    if visual.kind in ("face", "vertex"):
        return "face" if visual.kind == "face" else "vertex"
    if visual.kind != "texture":
        return "none"
    if _picture(visual) is not None:
        return "texture"
    return "none" if _plain_color(visual) is None else "material"


def colored_triangles(parts: Sequence[trimesh.Trimesh]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The faces of all parts with a colour at each corner; textured ones are divided until they carry the picture.

    Args:
        parts: In one frame, each with at least one face.

    Returns:
        (F, 3, 3) corners in the parts' own unit and (F, 3, 3) RGB.
    """
    area = sum(float(part.area) for part in parts if color_source(part) == "texture")
    edge = _longest_edge(parts, area) if area > 0 else 0.0
    pieces = []
    for part in parts:
        if edge and color_source(part) == "texture":
            pieces.append(_textured(part, edge, math.ceil(TEXTURED_FACES * float(part.area) / area)))
        else:
            pieces.append(_plain(part))
    return np.concatenate([corners for corners, _ in pieces]), np.concatenate([colors for _, colors in pieces])


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


def _longest_edge(parts: Sequence[trimesh.Trimesh], area: float) -> float:
    """How long an edge may be where ``area`` of the parts' surface is textured, in their unit; 0 = do not divide."""
    bounds = np.stack([np.asarray(part.bounds) for part in parts])  # (N, 2, 3)
    size = float(np.linalg.norm(bounds[:, 1].max(axis=0) - bounds[:, 0].min(axis=0)))
    edge = max(TEXTURED_EDGE * size, edge_length(area, TEXTURED_FACES))
    return edge if np.isfinite(edge) else 0.0  # a vertex that is no number is refused later, with a message


def _plain(part: trimesh.Trimesh) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(F, 3, 3) corners and RGB of a part without a texture."""
    visual: Any = part.visual
    corners = np.asarray(part.vertices, np.float64)[part.faces]
    if visual.kind == "face":
        return corners, np.repeat(np.asarray(visual.face_colors, np.uint8)[:, None, :3], 3, axis=1)
    if visual.kind == "vertex":
        return corners, np.asarray(visual.vertex_colors, np.uint8)[:, :3][part.faces]
    color = _plain_color(visual) if visual.kind == "texture" else None
    return corners, np.broadcast_to(np.uint8(NEUTRAL) if color is None else color, corners.shape)


def _textured(part: trimesh.Trimesh, edge: float, most: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(G, 3, 3) corners and RGB of a textured part whose longer edges were halved until none exceeds ``edge``."""
    visual: Any = part.visual
    image, tint = _picture(visual), _tint(visual)
    places, faces = divided(np.hstack([part.vertices, visual.uv]), part.faces, edge, most)
    corners = places[faces]  # (G, 3, 5)
    total, count = np.zeros((len(places), 3)), np.bincount(faces.reshape(-1), minlength=len(places))
    for weights in _AROUND:
        for corner in range(3):
            uv = np.einsum("k,gkc->gc", np.roll(weights, corner), corners[..., 3:])
            seen = uv_to_interpolated_color(uv, image)[:, :3] * tint
            total += np.stack([np.bincount(faces[:, corner], c, len(places)) for c in seen.T], axis=1)
    mean = np.round(total / (len(_AROUND) * np.maximum(count, 1))[:, None]).astype(np.uint8)
    return corners[..., :3], mean[faces]


def _picture(visual: Any) -> Any | None:
    """The PIL image of a textured part, None where a file has coordinates but no picture, or a picture of nothing."""
    image = getattr(visual.material, "image", None)
    if image is None:
        image = getattr(visual.material, "baseColorTexture", None)
    if image is None or visual.uv is None or len(visual.uv) == 0:
        return None
    if image.size == (2, 2) and (np.asarray(image.convert("RGB")) == 100).all():
        return None  # what trimesh puts in where a file has texture coordinates but no texture
    return image


def _tint(visual: Any) -> NDArray[np.float64]:
    """(3,) what a texture's colours are multiplied with: glTF's factor, to the eye."""
    factor = getattr(visual.material, "baseColorFactor", None)
    if factor is None or np.array_equal(factor, trimesh.visual.color.DEFAULT_COLOR):  # what trimesh writes for "none"
        return np.ones(3)
    return _displayed(factor) / 255.0


def _plain_color(visual: Any) -> NDArray[np.uint8] | None:
    """(3,) RGB of a material without a picture, None where it names no colour."""
    of_light = isinstance(visual.material, PBRMaterial)
    plain = getattr(visual.material, "baseColorFactor" if of_light else "main_color", None)
    if plain is None or np.array_equal(plain, trimesh.visual.color.DEFAULT_COLOR):
        return None
    return _displayed(plain).round().astype(np.uint8) if of_light else np.asarray(plain, np.uint8)[:3]


def _displayed(factor: Any) -> NDArray[np.float64]:
    """(3,) sRGB in [0, 255] of glTF's base colour factor, which counts light (linear, in [0, 255])."""
    light = np.asarray(factor, np.float64)[:3] / 255.0
    shown: NDArray[np.float64] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255.0 * shown
