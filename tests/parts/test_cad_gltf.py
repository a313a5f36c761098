"""glTF files beyond the plain: types of numbers, sparse ones, places in pictures, nodes, and what is not read."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codepose.parts import textures
from codepose.parts.cad.files import read_cad
from codepose.parts.cad.surface import MeshError, Surface
from codepose.parts.textures import painted

CODES = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
SQUARE = np.array([[0, 0, 0], [100, 0, 0], [100, 100, 0], [0, 100, 0]], np.float32)
TWO = np.array([0, 1, 2, 0, 2, 3], np.uint16)
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # glTF counts from the picture's upper left
LEFT_RED = np.zeros((8, 8, 3), np.uint8)
LEFT_RED[:, :4], LEFT_RED[:, 4:] = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def _longer_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "TEXTURED_EDGE", 0.03)


class Glb:
    """A .glb file of one square in the plane z = 0, to be changed before it is written."""

    def __init__(self) -> None:
        self.binary = b""
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "accessors": [], "bufferViews": [], "buffers": [{}],
        }  # fmt: skip
        self.primitive: dict[str, Any] = {"attributes": {"POSITION": self.add(SQUARE)}, "indices": self.add(TWO)}
        self.document["meshes"] = [{"primitives": [self.primitive]}]

    def view(self, data: bytes, **more: Any) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)} | more
        self.document["bufferViews"].append(view)
        self.binary += data
        return len(self.document["bufferViews"]) - 1

    def add(self, values: np.ndarray[Any, Any], **more: Any) -> int:
        kind = {1: "SCALAR"} | {n: f"VEC{n}" for n in (2, 3, 4)}
        width = values.shape[1] if values.ndim == 2 else 1
        entry = {"componentType": CODES[str(values.dtype)], "count": len(values), "type": kind[width]}
        self.document["accessors"].append({"bufferView": self.view(values.tobytes())} | entry | more)
        return len(self.document["accessors"]) - 1

    def texture(self, pixels: np.ndarray[Any, Any] = LEFT_RED, **sampler: int) -> dict[str, int]:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        self.document |= {
            "images": [{"bufferView": self.view(data.getvalue()), "mimeType": "image/png"}],
            "samplers": [sampler], "textures": [{"source": 0, "sampler": 0}],
        }  # fmt: skip
        return {"index": 0}

    def material(self, **base: Any) -> None:
        self.document["materials"] = [{"pbrMetallicRoughness": base}]
        self.primitive["material"] = 0

    def save(self, path: Path) -> Path:
        self.document["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        head = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(binary), len(text), 0x4E4F534A)
        path.write_bytes(head + text + struct.pack("<II", len(binary), 0x004E4942) + binary)
        return path

    def read(self, folder: Path) -> list[Surface]:
        return read_cad(self.save(folder / "part.glb"))


def area(surfaces: list[Surface]) -> float:
    triangles = np.concatenate([one.triangles for one in surfaces])
    sides = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return float(np.linalg.norm(sides, axis=1).sum()) / 2


def color_at(surfaces: list[Surface], x: float, y: float) -> list[int]:
    """Of the corner of the painted surface that is nearest."""
    whole = painted(surfaces)
    assert whole.colors is not None
    corners = whole.triangles.reshape(-1, 3)
    nearest = np.linalg.norm(corners[:, :2] - (x, y), axis=1).argmin()
    return [int(c) for c in whole.colors.reshape(-1, 3)[nearest]]


@pytest.mark.parametrize(("kind", "one"), [("int8", 127), ("uint8", 255), ("int16", 32767), ("uint16", 65535)])
@pytest.mark.parametrize("normalized", [True, False])
def test_whole_numbers_are_parts_of_one_where_the_file_says_so(
    tmp_path: Path, kind: str, one: int, normalized: bool
) -> None:
    glb = Glb()
    glb.primitive["attributes"]["POSITION"] = glb.add((SQUARE / 100 * one).astype(kind), normalized=normalized)
    glb.document["nodes"][0]["scale"] = [100 if normalized else 100 / one] * 3
    assert area(glb.read(tmp_path)) == pytest.approx(10_000)


def test_a_part_of_one_that_is_less_than_minus_one_is_minus_one(tmp_path: Path) -> None:
    glb = Glb()
    corners = np.array([[-128, 0, 0], [127, 0, 0], [0, 127, 0]], np.int8)
    glb.primitive["attributes"]["POSITION"] = glb.add(corners, normalized=True)
    glb.primitive["indices"] = glb.add(np.arange(3, dtype=np.uint8))
    assert glb.read(tmp_path)[0].triangles.min() == -1.0


@pytest.mark.parametrize("base", [True, False])
def test_sparse_numbers_change_others_or_zeros(tmp_path: Path, base: bool) -> None:
    glb = Glb()
    where, what = np.array([2, 3], np.uint8), SQUARE[2:] * 2
    sparse = {
        "count": 2,
        "indices": {"bufferView": glb.view(where.tobytes()), "componentType": CODES["uint8"]},
        "values": {"bufferView": glb.view(what.tobytes())},
    }
    accessor = glb.document["accessors"][0]
    accessor["sparse"] = sparse
    if not base:
        del accessor["bufferView"]
    corners = np.unique(glb.read(tmp_path)[0].triangles.reshape(-1, 3), axis=0)
    wanted = [[0, 0, 0], [0, 200, 0], [200, 200, 0]] + ([[100, 0, 0]] if base else [])
    np.testing.assert_array_equal(corners, np.unique(wanted, axis=0))


def test_numbers_of_several_kinds_in_turn_in_one_view(tmp_path: Path) -> None:
    glb = Glb()
    rows = np.zeros(4, [("p", "<f4", 3), ("c", "u1", 4)])
    rows["p"], rows["c"] = SQUARE, (255, 0, 0, 255)
    view = glb.view(rows.tobytes(), byteStride=16)
    glb.document["accessors"][0]["bufferView"] = view
    color = {
        "bufferView": view,
        "byteOffset": 12,
        "componentType": 5121,
        "count": 4,
        "type": "VEC4",
        "normalized": True,
    }
    glb.document["accessors"].append(color)
    glb.primitive["attributes"]["COLOR_0"] = len(glb.document["accessors"]) - 1
    (surface,) = glb.read(tmp_path)
    assert area([surface]) == pytest.approx(10_000)
    assert surface.colors is not None
    assert (surface.colors == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colors_count_light_and_are_multiplied_with_the_material(tmp_path: Path, kind: str, width: int) -> None:
    glb, one = Glb(), 1 if kind == "float32" else np.iinfo(kind).max
    light = np.tile(np.array([1.0, 0.5, 1.0, 1.0][:width]) * one, (4, 1)).astype(kind)
    glb.primitive["attributes"]["COLOR_0"] = glb.add(light, normalized=kind != "float32")
    glb.material(baseColorFactor=[1, 1, 0.2, 1])
    (surface,) = glb.read(tmp_path)
    assert surface.source == "vertex"
    assert surface.colors is not None
    np.testing.assert_allclose(surface.colors, np.broadcast_to((255, 188, 124), (2, 3, 3)), atol=1)


@pytest.mark.parametrize(("mode", "row"), [(4, [0, 1, 2, 0, 2, 3]), (5, [1, 2, 0, 3]), (6, [0, 1, 2, 3]), (4, None)])
def test_strips_and_fans_are_triangles_seen_from_the_same_side(
    tmp_path: Path, mode: int, row: list[int] | None
) -> None:
    glb = Glb()
    glb.primitive["mode"] = mode
    if row is None:
        del glb.primitive["indices"]
        glb.primitive["attributes"]["POSITION"] = glb.add(SQUARE[TWO])
    else:
        glb.primitive["indices"] = glb.add(np.array(row, np.uint32))
    (surface,) = glb.read(tmp_path)
    a, b, c = np.moveaxis(surface.triangles, 1, 0)
    np.testing.assert_allclose(np.cross(b - a, c - a), np.tile([0, 0, 10_000], (2, 1)))


def test_lines_and_points_are_passed_over(tmp_path: Path) -> None:
    glb = Glb()
    for mode in range(4):
        glb.document["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": mode})
    assert area(glb.read(tmp_path)) == pytest.approx(10_000)


@pytest.mark.parametrize(
    ("wrap", "at_right", "at_left"),
    [(10497, [255, 0, 0], [0, 0, 255]), (33071, [0, 0, 255], [255, 0, 0]), (33648, [0, 0, 255], [255, 0, 0])],
)
def test_beyond_a_picture_lies_what_its_sampler_says(
    tmp_path: Path, wrap: int, at_right: list[int], at_left: list[int]
) -> None:
    glb = Glb()
    thrice = np.array([[3, 1]], np.float32) * UV - np.array([[1, 0]], np.float32)  # the picture on the middle third
    glb.primitive["attributes"]["TEXCOORD_0"] = glb.add(thrice)
    glb.material(baseColorTexture=glb.texture(wrapS=wrap))
    surfaces = glb.read(tmp_path)
    assert color_at(surfaces, 41, 50) == [255, 0, 0]
    assert color_at(surfaces, 59, 50) == [0, 0, 255]
    assert color_at(surfaces, 74, 50) == at_right
    assert color_at(surfaces, 26, 50) == at_left
    mirrored_again = [255, 0, 0] if wrap == 33648 else at_right if wrap == 33071 else [0, 0, 255]
    assert color_at(surfaces, 92, 50) == mirrored_again


@pytest.mark.parametrize(("kind", "one"), [("uint8", 255), ("uint16", 65535)])
def test_places_in_a_picture_may_be_whole_numbers(tmp_path: Path, kind: str, one: int) -> None:
    glb = Glb()
    glb.primitive["attributes"]["TEXCOORD_0"] = glb.add((UV * one).astype(kind), normalized=True)
    glb.material(baseColorTexture=glb.texture())
    surfaces = glb.read(tmp_path)
    assert color_at(surfaces, 20, 50) == [255, 0, 0]
    assert color_at(surfaces, 80, 50) == [0, 0, 255]


def test_a_picture_stands_upright_and_is_moved_turned_and_placed_by_another_set(tmp_path: Path) -> None:
    """A quarter turn counter-clockwise of the places shows the picture turned clockwise."""
    quarters = np.zeros((8, 8, 3), np.uint8)
    quarters[:4, :4], quarters[:4, 4:], quarters[4:, :4] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    moved = {"rotation": np.pi / 2, "offset": [0, 1], "texCoord": 1}
    for extension, wanted in (({}, (255, 0, 0)), ({"KHR_texture_transform": moved}, (0, 0, 255))):
        glb = Glb()
        glb.primitive["attributes"]["TEXCOORD_0"] = glb.add(UV if not extension else UV * np.float32(0.01))
        glb.primitive["attributes"]["TEXCOORD_1"] = glb.add(UV)
        glb.material(baseColorTexture=glb.texture(quarters) | {"extensions": extension})
        surfaces = glb.read(tmp_path)
        assert color_at(surfaces, 20, 80) == list(wanted), "upper left"
    assert color_at(surfaces, 80, 80) == [255, 0, 0], "what was on the left is above"


def test_a_node_moves_turns_stretches_and_mirrors_what_hangs_on_it(tmp_path: Path) -> None:
    glb = Glb()
    half = np.sqrt(0.5)
    glb.document["nodes"] = [
        {"children": [1], "translation": [7, 0, 0], "rotation": [0, 0, half, half]},  # x becomes y
        {"mesh": 0, "matrix": [-2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 2, 3, 1]},
    ]
    (surface,) = glb.read(tmp_path)
    low, high = surface.triangles.min(axis=(0, 1)), surface.triangles.max(axis=(0, 1))
    np.testing.assert_allclose([low, high], [[-95, -199, 3], [5, 1, 3]], atol=1e-9)
    a, b, c = np.moveaxis(surface.triangles, 1, 0)
    assert (np.cross(b - a, c - a)[:, 2] > 0).all(), "still seen from above"


def test_the_scene_that_is_shown_is_read(tmp_path: Path) -> None:
    glb = Glb()
    glb.document["nodes"] = [{"mesh": 0}, {"mesh": 0, "scale": [2, 2, 2]}, {"mesh": 0, "children": [0]}]
    glb.document["scenes"] = [{"nodes": [0]}, {"nodes": [1]}]
    glb.document["scene"] = 1
    assert area(glb.read(tmp_path)) == pytest.approx(40_000)
    del glb.document["scene"], glb.document["scenes"]
    assert area(glb.read(tmp_path)) == pytest.approx(60_000), "without scenes, all of it"


@pytest.mark.parametrize("embedded", [True, False])
def test_buffers_and_pictures_in_files_of_their_own_or_in_the_text(tmp_path: Path, embedded: bool) -> None:
    glb = Glb()
    glb.primitive["attributes"]["TEXCOORD_0"] = glb.add(UV)
    glb.material(baseColorTexture=glb.texture())
    start = glb.document["bufferViews"][-1]["byteOffset"]
    picture = glb.binary[start:]
    glb.save(tmp_path / "unused.glb")
    (tmp_path / "my data.bin").write_bytes(glb.binary)
    (tmp_path / "my picture.png").write_bytes(picture)
    as_text = [base64.b64encode(data).decode() for data in (glb.binary, picture)]
    glb.document["buffers"][0]["uri"] = (
        f"data:application/octet-stream;base64,{as_text[0]}" if embedded else "my%20data.bin"
    )
    uri = f"data:image/png;base64,{as_text[1]}" if embedded else "my%20picture.png"
    glb.document["images"] = [{"uri": uri}]
    path = tmp_path / "part.gltf"
    path.write_text(json.dumps(glb.document))
    assert color_at(read_cad(path), 20, 50) == [255, 0, 0]
    if not embedded:
        (tmp_path / "my picture.png").unlink()
        (surface,) = read_cad(path)
        assert surface.missing == ("my%20picture.png",)
        (tmp_path / "my data.bin").unlink()
        with pytest.raises(MeshError, match=r"my%20data\.bin, named in the file, is not there; keep it beside"):
            read_cad(path)


def refusal(glb: Glb, folder: Path) -> str:
    with pytest.raises(MeshError) as caught:
        glb.read(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    "extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_basisu", "VENDOR_anything"]
)
def test_a_needed_extension_that_is_not_understood_is_named(tmp_path: Path, extension: str) -> None:
    glb = Glb()
    glb.document["extensionsRequired"] = [extension]
    assert f"needs the glTF extension {extension}, which is not read; export the part" in refusal(glb, tmp_path)
    glb.document["extensionsRequired"] = ["KHR_mesh_quantization", "KHR_materials_unlit", "KHR_texture_transform"]
    assert area(glb.read(tmp_path)) == pytest.approx(10_000)


def test_a_picture_in_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    glb = Glb()
    glb.primitive["attributes"]["TEXCOORD_0"] = glb.add(UV)
    glb.material(baseColorTexture=glb.texture())
    glb.document["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    assert "a picture is stored with KHR_texture_basisu, which is not read" in refusal(glb, tmp_path)
    glb.document["textures"][0]["source"] = 0
    assert color_at(glb.read(tmp_path), 20, 50) == [255, 0, 0], "what the file has for other readers"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["nodes"][0].update(skin=0), "hangs on bones"),
        (lambda d: d["nodes"][0].update(weights=[0.5]), "bent by morph targets"),
        (lambda d: d["meshes"][0].update(weights=[0, 0.5]), "bent by morph targets"),
        (lambda d: d["nodes"][0].update(extensions={"EXT_mesh_gpu_instancing": {}}), "EXT_mesh_gpu_instancing"),
        (lambda d: d["nodes"][0].update(children=[0]), "node 0 hangs in two places"),
        (lambda d: d["nodes"][0].update(mesh=1), "it names number 1 of 1 meshes"),
        (lambda d: d["nodes"][0].update(mesh=-1), "it names number -1 of 1 meshes"),
        (lambda d: d["nodes"][0].update(matrix=[1, 2]), "16 numbers should stand"),
        (lambda d: d["scenes"][0].update(nodes=[5]), "it names node 5 of 1"),
        (lambda d: d.update(scene=3), "it shows scene 3 of 1"),
        (lambda d: d["asset"].update(version="1.0"), "it is glTF 1.0"),
        (lambda d: d["accessors"][0].update(count=10**18), "accessor 0 has 1000000000000000000 elements"),
        (
            lambda d: d["accessors"][0].update(count=5),
            "the file ends early: 5 elements are more than a view of 48 bytes",
        ),
        (lambda d: d["accessors"][0].update(type="VEC2"), "accessor 0 is of type VEC2"),
        (lambda d: d["accessors"][0].update(componentType=1), "accessor 0 is of type VEC3"),
        (lambda d: d["accessors"][0].update(byteOffset=-4), "the file ends early"),
        (lambda d: d["bufferViews"][0].update(byteOffset=True), "byteOffset is True, which is no whole number"),
        (lambda d: d["bufferViews"][0].update(byteStride=12.5), "byteStride is 12.5, which is no whole number"),
        (lambda d: d["bufferViews"][0].update(byteStride=4), "the file ends early"),
        (lambda d: d["accessors"][1].update(count=5), "5 corners make no whole number of triangles"),
        (lambda d: d["bufferViews"][0].update(byteLength=10**9), "beyond the end of its buffer"),
        (lambda d: d["bufferViews"][0].update(extensions={"EXT_meshopt_compression": {}}), "EXT_meshopt_compression"),
        (lambda d: d["accessors"][0].pop("bufferView"), "numbers are compressed or not in it"),
        (lambda d: d["meshes"][0]["primitives"][0]["attributes"].clear(), "a body has no positions"),
        (lambda d: d["meshes"][0].update(primitives=7), "it is damaged, or no GLB file"),
    ],
)
def test_what_would_be_lost_or_read_wrong_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    glb = Glb()
    change(glb.document)
    assert words in refusal(glb, tmp_path)


def test_an_index_beyond_the_vertices_is_refused(tmp_path: Path) -> None:
    glb = Glb()
    glb.primitive["indices"] = glb.add(np.array([0, 1, 4], np.uint8))
    assert "a face names vertex 4 of 4" in refusal(glb, tmp_path)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    path = Glb().save(tmp_path / "part.glb")
    data = path.read_bytes()
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(MeshError):
            read_cad(path)
