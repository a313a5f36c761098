"""glTF 2.0 files, .glb and .gltf: every triangle of the scene at its place, with its colours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.gltf_data import Data, array
from codepose.parts.cad.gltf_looks import look_of
from codepose.parts.cad.polygons import strips
from codepose.parts.cad.surface import Surface, check_count, corners_of, displayed, refuse

_MAGIC, _JSON, _BIN = b"glTF", 0x4E4F534A, 0x004E4942
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_UNDERSTOOD = (
    "KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "MSFT_texture_dds", "KHR_lights_punctual",
    "KHR_xmp_json_ld", "KHR_node_visibility",
)  # fmt: skip
_OF_MATERIALS = "KHR_materials_"  # how a material shines, or the file's default among several: no shape is in them
_UNCOMPRESSED = "export the part again without it: uncompressed, with PNG or JPEG pictures"


def read_gltf(path: Path, data: bytes) -> list[Surface]:
    """The surfaces in a glTF file; other files that it names are looked for beside it.

    Raises:
        MeshError: The file is damaged or cut off, or needs an extension that is not read.
    """
    document, binary = _parts(data)
    version = str(document.get("asset", {}).get("version", ""))
    if not version.startswith("2"):
        refuse(f"it is glTF {version or 'of no version'}, and 2.0 is read", "export the part as glTF 2.0")
    for extension in document.get("extensionsRequired", []):
        if extension not in _UNDERSTOOD and not str(extension).startswith(_OF_MATERIALS):
            refuse(f"it needs the glTF extension {extension}, which is not read", _UNCOMPRESSED)
    store = Data(document, binary, path.parent)
    surfaces, total = [], 0
    for node, transform, bodies in _nodes(document):
        mesh = store.entry("meshes", node["mesh"])
        _check_still(node, mesh)
        for primitive in mesh.get("primitives", []):
            if primitive.get("mode", _TRIANGLES) in (_TRIANGLES, _STRIP, _FAN):
                surface = _primitive(store, primitive, transform)
                total += len(surface.triangles)
                check_count(total)
                surfaces.append(replace(surface, bodies=bodies))
    return surfaces


def document_of(data: bytes) -> dict[str, Any]:
    """A glTF file's JSON.

    Raises:
        MeshError: There is none.
    """
    return _parts(data)[0]


def _parts(data: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The document and, of a .glb file, the binary chunk."""
    if not data.startswith(_MAGIC):
        return _document(data), None
    length = int.from_bytes(data[8:12], "little")
    if int.from_bytes(data[4:8], "little") != 2:
        refuse("it is a GLB file of a version other than 2", "export the part as glTF 2.0")
    if length > len(data):
        refuse(f"the file ends early: it should have {length:,} bytes and has {len(data):,}")
    chunks, at = dict[int, bytes](), 12
    while at + 8 <= length:
        size, kind = (int.from_bytes(data[at + k : at + k + 4], "little") for k in (0, 4))
        if at + 8 + size > length:
            refuse("it is damaged: a chunk is longer than the file")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    if _JSON not in chunks:
        refuse("it is damaged: it has no JSON chunk")
    return _document(chunks[_JSON]), chunks.get(_BIN)


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return refuse("it is damaged, or no glTF file")
    if not isinstance(found, dict):
        refuse("it is damaged, or no glTF file")
    return dict(found)


def _nodes(document: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.float64], tuple[str, ...]]]:
    """The nodes of the scene that have a mesh, each with its (4, 4) place and `Surface.bodies`."""
    nodes = document.get("nodes", [])
    scenes = document.get("scenes", [])
    if scenes:
        number = document.get("scene", 0)
        if not 0 <= number < len(scenes):
            refuse(f"it is damaged: it shows scene {number} of {len(scenes)}")
        roots = scenes[number].get("nodes", [])
    else:
        roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get("children", [])})
    none: tuple[str, ...] = ()
    waiting, seen, names = [(root, np.eye(4), none) for root in reversed(roots)], set[int](), Counter[str]()
    while waiting:
        number, above, bodies = waiting.pop()
        if not 0 <= number < len(nodes):
            refuse(f"it is damaged: it names node {number} of {len(nodes)}")
        if number in seen:
            refuse(f"it is damaged: node {number} hangs in two places")
        seen.add(number)
        node = nodes[number]
        shown = node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True)
        if not shown:
            continue
        place = above @ _transform(node)
        name = str(node.get("name", "")).strip()
        if name:
            names[name] += 1
            bodies = (*bodies, name if names[name] == 1 else f"{name}#{names[name]}")
        if "mesh" in node:
            yield node, place, bodies
        waiting += [(child, place, bodies) for child in reversed(node.get("children", []))]


def _transform(node: Mapping[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        return array(node["matrix"], 16).reshape(4, 4).T
    place, scale = np.eye(4), array(node.get("scale", [1, 1, 1]), 3)
    x, y, z, w = array(node.get("rotation", [0, 0, 0, 1]), 4)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    place[:3, :3], place[:3, 3] = turn * scale, array(node.get("translation", [0, 0, 0]), 3)
    return place


def _check_still(node: Mapping[str, Any], mesh: Mapping[str, Any]) -> None:
    """Refuses what changes the shape or the number of a mesh and is not read."""
    if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
        refuse("it repeats a body with EXT_mesh_gpu_instancing, which is not read", "export each body by itself")
    if "skin" in node:
        refuse("a body hangs on bones (a glTF skin)", "apply the armature and export the part without it")
    if any(node.get("weights", mesh.get("weights", []))):
        refuse("a body is bent by morph targets", "apply them and export the part without")


def _primitive(store: Data, primitive: Mapping[str, Any], transform: NDArray[np.float64]) -> Surface:
    attributes = primitive["attributes"]
    if "POSITION" not in attributes:
        refuse("it is damaged: a body has no positions")
    places = store.accessor(attributes["POSITION"], ("VEC3",))
    places = places @ transform[:3, :3].T + transform[:3, 3]
    index = _triangles(store, primitive, len(places))
    if np.linalg.det(transform[:3, :3]) < 0:
        index = index[:, ::-1]  # a mirrored body would show its inside
    triangles = corners_of(places, index)
    look = look_of(store, primitive.get("material"))
    light = np.broadcast_to(look.factor, triangles.shape)
    colored = "COLOR_0" in attributes
    if colored:
        light = light * corners_of(store.accessor(attributes["COLOR_0"], ("VEC3", "VEC4"), whole=True)[:, :3], index)
    uv_name = f"TEXCOORD_{look.uv_set}"
    if look.picture is not None and uv_name in attributes:
        uv = look.from_lower_left(corners_of(store.accessor(attributes[uv_name], ("VEC2",)), index))
        colors = None if (light == 1).all() else displayed(light)
        return Surface(triangles, "texture", colors, look.picture, uv, look.missing)
    if colored:
        return Surface(triangles, "vertex", displayed(light), missing=look.missing)
    if look.named:
        return Surface(triangles, "material", displayed(light), missing=look.missing)
    return Surface(triangles, missing=look.missing)


def _triangles(store: Data, primitive: Mapping[str, Any], count: int) -> NDArray[np.int64]:
    """(F, 3) the vertices of a primitive's triangles."""
    if "indices" in primitive:
        row = store.accessor(primitive["indices"], ("SCALAR",)).reshape(-1).astype(np.int64)
    else:
        row = np.arange(count)
    mode = primitive.get("mode", _TRIANGLES)
    if mode == _STRIP:
        return strips(row.tolist())
    if mode == _FAN:
        return np.stack([np.full(max(len(row) - 2, 0), row[0]), row[1:-1], row[2:]], axis=1)
    if len(row) % 3:
        refuse(f"it is damaged: {len(row)} corners make no whole number of triangles")
    return row.reshape(-1, 3)
