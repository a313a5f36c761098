"""One small part in every CAD format that people export; multi-file ones with all their files."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

SUFFIXES = (".ply", ".obj", ".stl", ".glb", ".gltf", ".off", ".3mf", ".dae")
Files = dict[str, bytes]
"""A file that is opened, first, and those that it names."""


def part(colored: bool = True) -> trimesh.Trimesh:
    """An L of 60 x 40 x 15 mm with a boss: no symmetry, 60 faces or so."""
    boxes = [trimesh.creation.box((60, 12, 15)), trimesh.creation.box((14, 40, 15))]
    boxes[1].apply_translation((-23, 26, 0))
    boss = trimesh.creation.cylinder(5.0, 10.0, sections=8)
    boss.apply_translation((18, 0, 12.5))
    whole = trimesh.util.concatenate([*boxes, boss])
    if colored:
        colors = np.tile([200, 120, 40, 255], (len(whole.vertices), 1)).astype(np.uint8)
        colors[whole.vertices[:, 0] < 0] = (40, 90, 200, 255)
        whole.visual = trimesh.visual.ColorVisuals(whole, vertex_colors=colors)
    return whole


def _textured() -> trimesh.Trimesh:
    whole = part(colored=False)
    uv = (whole.vertices[:, :2] - whole.vertices[:, :2].min(0)) / np.ptp(whole.vertices[:, :2], axis=0)
    y, x = np.mgrid[:16, :16]
    image = Image.fromarray(np.stack((x * 16, y * 16, 255 - x * 16), 2).astype(np.uint8))
    material = trimesh.visual.material.SimpleMaterial(image=image)
    whole.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return whole


def _exported(mesh: trimesh.Trimesh, kind: str, **options: object) -> bytes:
    content = mesh.export(file_type=kind, **options)
    return content.encode() if isinstance(content, str) else bytes(content)


@cache
def corpus() -> tuple[tuple[str, Files], ...]:
    """Names and files."""
    plain, colored, textured = part(colored=False), part(), _textured()
    found: list[tuple[str, Files]] = [
        ("binary.ply", {"part.ply": _exported(colored, "ply")}),
        ("ascii.ply", {"part.ply": _exported(colored, "ply", encoding="ascii")}),
        ("plain.ply", {"part.ply": _exported(plain, "ply")}),
        ("binary.stl", {"part.stl": _exported(plain, "stl")}),
        ("ascii.stl", {"part.stl": _exported(plain, "stl_ascii")}),
        ("plain.obj", {"part.obj": _exported(plain, "obj")}),
        ("colored.obj", {"part.obj": _exported(colored, "obj")}),
        ("textured.obj", _obj_with_texture(textured)),
        ("plain.glb", {"part.glb": _exported(plain, "glb")}),
        ("colored.glb", {"part.glb": _exported(colored, "glb")}),
        ("textured.glb", {"part.glb": _exported(textured, "glb")}),
        ("assembly.glb", {"part.glb": bytes(_assembly().export(file_type="glb"))}),
        ("several.gltf", _gltf(textured)),
        ("plain.off", {"part.off": _exported(plain, "off")}),
    ]
    for file in sorted((Path(__file__).parents[1] / "data").rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.stat().st_size < 20_000:
            found.append((f"data/{file.name}", {file.name: file.read_bytes()}))
    return tuple(found)


def _assembly() -> trimesh.Scene:
    """Two bodies, each at its place in a tree of nodes."""
    scene = trimesh.Scene()
    turned = trimesh.transformations.rotation_matrix(0.5, (0, 0, 1), (1, 2, 3))
    scene.add_geometry(trimesh.creation.box((60, 12, 15)), node_name="base")
    scene.add_geometry(trimesh.creation.box((14, 40, 10)), node_name="arm", parent_node_name="base", transform=turned)
    return scene


def _obj_with_texture(textured: trimesh.Trimesh) -> Files:
    text, extra = trimesh.exchange.obj.export_obj(textured, return_texture=True, mtl_name="part.mtl")
    return {"part.obj": text.encode(), **{name: _bytes(value) for name, value in extra.items()}}


def _gltf(textured: trimesh.Trimesh) -> Files:
    files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(textured))
    found = {name: _bytes(value) for name, value in files.items()}
    main = found.pop("model.gltf")
    json.loads(main)
    return {"part.gltf": main, **found}


def _bytes(value: object) -> bytes:
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return file.getvalue()
    return value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload,no-any-return]
