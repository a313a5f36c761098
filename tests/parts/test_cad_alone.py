"""A stranger's CAD file makes no reader open another file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from codepose.parts.cad import gltf_data, obj, ply
from codepose.parts.cad.alone import standing_alone
from codepose.parts.cad.files import read_cad
from codepose.parts.cad.surface import MeshError

DATA = Path(__file__).parents[1] / "data" / "cad"
TRIANGLE = "v 0 0 0\nv 9 0 0\nv 0 9 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
HEADER = "ply\nformat ascii 1.0\n{}\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
HEADER += "property float s\nproperty float t\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
ROWS = "0 0 0 0 0\n9 0 0 1 0\n0 9 0 0 1\n3 0 1 2\n"
MESHES = {
    "a library": ("a.obj", f"mtllib {{}}.mtl\n{TRIANGLE}usemtl a\nf 1/1 2/2 3/3\n".encode()),
    "a library after spaces": ("a.obj", f"\t mtllib {{}}.mtl\n{TRIANGLE}usemtl a\nf 1/1 2/2 3/3\n".encode()),
    "a library on two lines": ("a.obj", f"mtllib \\\n{{}}.mtl\n{TRIANGLE}usemtl a\nf 1/1 2/2 3/3\n".encode()),
    "a library in UTF-16": ("a.obj", f"mtllib {{}}.mtl\r\n{TRIANGLE}usemtl a\r\nf 1/1 2/2 3/3\n".encode("utf-16")),
    "a picture": ("a.ply", (HEADER.replace("{}", "comment TextureFile {}.png") + ROWS).encode()),
    "a picture after old ends of lines": (
        "a.ply",
        (HEADER.replace("{}", "comment a\rcomment TextureFile {}.png\rcomment b") + ROWS).encode(),
    ),
}


@pytest.mark.parametrize("name", MESHES)
def test_files_that_a_mesh_names_are_not_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "other" / "x.png")
    (tmp_path / "other" / "x.mtl").write_text("newmtl a\nmap_Kd x.png\n")
    file, data = MESHES[name]
    marks = "utf-16-le" if data[:1] == b"\xff" else "utf-8"
    data = data.replace("{}".encode(marks), str(tmp_path / "other" / "x").encode(marks))
    (tmp_path / file).write_bytes(data)
    assert read_cad(tmp_path / file)[0].source == "texture"  # so it is a danger
    (tmp_path / file).write_bytes(standing_alone(Path(file).suffix, data))
    for module in (obj, ply, gltf_data):
        monkeypatch.setattr(module, "file_named", lambda folders, name: pytest.fail(f"it looks for {name}"))
    (surface,) = read_cad(tmp_path / file)
    assert surface.triangles.max() == 9
    assert surface.source == "none"


def test_a_gltf_file_that_needs_others_is_refused() -> None:
    document = {"asset": {"version": "2.0"}, "buffers": [{"uri": "part.bin", "byteLength": 3}]}
    with pytest.raises(MeshError, match=r"it names another file, 'part.bin'; export GLB"):
        standing_alone(".gltf", json.dumps(document).encode())
    document["buffers"] = [{"uri": "data:application/octet-stream;base64,AAAA", "byteLength": 3}]
    document["images"] = [{"extensions": {"X": [{"uri": "/etc/passwd"}]}}]
    with pytest.raises(MeshError, match="/etc/passwd"):
        standing_alone(".gltf", json.dumps(document).encode())


@pytest.mark.parametrize("file", ["03-gltf-quantized/reference.glb", "09-mixed-polygons/mixed_le.ply"])
def test_what_stands_alone_stays_as_it_is(file: str) -> None:
    data = (DATA / file).read_bytes()
    assert standing_alone(Path(file).suffix, data) == data
