"""The base colour of a glTF material: its factor, its picture, and where on it a surface lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.gltf_data import Data, array
from codepose.parts.cad.pictures import read_picture
from codepose.parts.cad.surface import Picture, Wrap, refuse

_WRAPS: dict[int, Wrap] = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_SOURCES = ("EXT_texture_webp", "MSFT_texture_dds")  # extensions with pictures that are read as they are
_NO_COLOR = 102 / 255  # what trimesh writes where a material has no colour; beside a picture, too
_SPECULAR = "KHR_materials_pbrSpecularGlossiness"


@dataclass(frozen=True, eq=False)
class Look:
    """How a material's surface is coloured.

    Attributes:
        named: Whether the file names a colour or a picture.
        factor: (3,) light, what colours are multiplied with.
        picture: Its texture, None = none.
        uv_set: Which of the surface's UV sets places it.
        transform: (2, 3) what those are moved by.
        missing: A picture that the file names and that is not there.
    """

    named: bool
    factor: NDArray[np.float64]
    picture: Picture | None = None
    uv_set: int = 0
    transform: NDArray[np.float64] | None = None
    missing: tuple[str, ...] = ()

    def from_lower_left(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """(F, 3, 2) places in the picture from its lower left; glTF counts (F, 3, 2) from its upper left."""
        if self.transform is not None:
            uv = uv @ self.transform[:, :2].T + self.transform[:, 2]
        return np.stack([uv[..., 0], 1.0 - uv[..., 1]], axis=-1)


def look_of(store: Data, number: Any) -> Look:
    """The base colour of a material of the file; white where it has none.

    Raises:
        MeshError: Its picture is damaged, or in a format that is not read.
    """
    white = np.ones(3)
    if number is None:
        return Look(False, white)
    material = store.entry("materials", number)
    base, factor_name, texture_name = material.get("pbrMetallicRoughness"), "baseColorFactor", "baseColorTexture"
    if base is None:
        base = material.get("extensions", {}).get(_SPECULAR, {})
        factor_name, texture_name = "diffuseFactor", "diffuseTexture"
    named = factor_name in base or texture_name in base
    factor = array(base[factor_name], 4)[:3] if factor_name in base else white
    if named and np.allclose(factor, _NO_COLOR) and "trimesh" in str(store.document["asset"].get("generator")):
        named, factor = texture_name in base, white
    if texture_name not in base:
        return Look(named, factor)
    info = base[texture_name]
    moved = info.get("extensions", {}).get("KHR_texture_transform", {})
    uv_set = moved.get("texCoord", info.get("texCoord", 0))
    picture, missing = _picture(store, info.get("index"))
    return Look(named, factor, picture, uv_set, _transform(moved), missing)


def _picture(store: Data, number: Any) -> tuple[Picture | None, tuple[str, ...]]:
    texture = store.entry("textures", number)
    extensions: Mapping[str, Any] = texture.get("extensions", {})
    sources = [texture.get("source"), *(extensions.get(name, {}).get("source") for name in _SOURCES)]
    source = next((one for one in sources if one is not None), None)
    if source is None:
        named = ", ".join(extensions) or "no extension"
        refuse(f"a picture is stored with {named}, which is not read", "export the part with PNG or JPEG pictures")
    image = store.entry("images", source)
    uri = str(image.get("uri", ""))
    found = store.uri(uri) if uri else bytes(store.view(image.get("bufferView")))
    name = f"number {source}" if not uri or uri.startswith("data:") else uri
    if found is None:
        return None, (name,)
    sampler = store.entry("samplers", texture["sampler"]) if "sampler" in texture else {}
    u, v = (_WRAPS.get(sampler.get(key, 10497), "repeat") for key in ("wrapS", "wrapT"))
    pixels = store.pictures.get(source)
    if pixels is None:
        pixels = store.pictures[source] = read_picture(found if isinstance(found, bytes) else Path(found), name)
    return Picture(pixels, (u, v)), ()


def _transform(moved: Mapping[str, Any]) -> NDArray[np.float64]:
    """(2, 3) of KHR_texture_transform: scaled, turned counter-clockwise as the picture is seen, moved."""
    angle = float(moved.get("rotation", 0.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale, offset = array(moved.get("scale", [1, 1]), 2), array(moved.get("offset", [0, 0]), 2)
    return np.column_stack([turn * scale, offset])
