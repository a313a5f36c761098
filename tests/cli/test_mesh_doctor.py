"""codepose mesh, on files as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
import tyro
from PIL import Image

from codepose.cli.mesh_doctor import MeshDoctor, mesh
from codepose.parts.mesh import MeshError, load_mesh, mesh_from_trimesh
from codepose.parts.shapes import RUBBER, hammer
from codepose.reports.six_views import GROUND, VIEWS, six_views

SIDES = np.array([30.0, 60.0, 90.0])


def file_in_metres(path: Path) -> Path:
    """The built-in hammer, its origin 200 mm below its middle."""
    part = hammer()
    colors = (part.colors * 255).round().astype(np.uint8)
    vertices = (part.vertices + np.array([0.0, 0.0, 200.0])) / 1000
    trimesh.Trimesh(vertices, part.faces, vertex_colors=colors, process=False).export(str(path))
    return path


def test_the_options_are_read() -> None:
    typed = ["part.stl", "--unit", "m", "--center", "--faces", "500", "--out", "a.png", "--save", "b.ply"]
    options = tyro.cli(MeshDoctor, args=typed)
    assert options == MeshDoctor(Path("part.stl"), "m", True, 500, Path("a.png"), Path("b.ply"))


def test_a_report_a_sheet_and_the_command_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = file_in_metres(tmp_path / "part.ply"), tmp_path / "sheet.png"
    assert mesh(MeshDoctor(path, "m", out=out)).status == 0
    text = capsys.readouterr().out
    assert "128 x 300 x 28.8 mm" in text
    assert "vertex" in text
    assert "--center --save part-centered.ply" in text
    assert f"train: codepose train {path} --unit m --out runs/part\n" in text
    picture = np.array(Image.open(out))
    assert picture.shape[1] > 900
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_one_body_of_an_assembly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cascadio", reason="the extra step is not installed")
    path = Path(__file__).parents[1] / "data" / "cad" / "25-step" / "assembly.step"
    assert mesh(MeshDoctor(path, body="screw#2", out=tmp_path / "sheet.png")).status == 0
    text = capsys.readouterr().out
    assert "4 x 4 x 8 mm" in text
    assert "the file says it; here mm" in text
    assert f"train: codepose train {path} --body 'screw#2' --out runs/assembly\n" in text


def test_a_wrong_unit_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(MeshError, match=r"part\.ply: .* if the file is in metres type --unit m \(307 mm across\)"):
        mesh(MeshDoctor(file_in_metres(tmp_path / "part.ply"), out=out))
    shown = capsys.readouterr().out
    assert "plausible: m (307 mm across)" in shown
    assert "if the file" not in shown, "said once"
    assert not out.exists()


def test_a_centred_and_lighter_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, copy = file_in_metres(tmp_path / "part.ply"), tmp_path / "copy.ply"
    options = MeshDoctor(path, "m", center=True, faces=600, out=tmp_path / "sheet.png", save=copy)
    assert mesh(options).status == 0
    assert f"train: codepose train {copy} --out" in capsys.readouterr().out
    part = load_mesh(copy, center=False)
    assert len(part.faces) <= 600
    np.testing.assert_allclose(part.center, 0.0, atol=1e-3)
    np.testing.assert_allclose(part.extents, hammer().extents, atol=2.0)
    grip = part.vertices[:, 1] > 100.0
    np.testing.assert_allclose(part.colors[grip], np.tile(RUBBER, (grip.sum(), 1)), atol=0.01)


def test_a_copy_keeps_the_frame_of_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "copy.ply"
    assert mesh(MeshDoctor(file_in_metres(tmp_path / "part.ply"), "m", out=tmp_path / "s.png", save=copy)).status == 0
    np.testing.assert_allclose(load_mesh(copy, center=False).center, [0.0, 0.0, 200.0], atol=0.1)


def test_the_cad_file_itself_is_not_overwritten(tmp_path: Path) -> None:
    path = file_in_metres(tmp_path / "part.ply")
    before = path.read_bytes()
    with pytest.raises(MeshError, match="name another file"):
        mesh(MeshDoctor(path, "m", center=True, out=tmp_path / "sheet.png", save=path))
    assert path.read_bytes() == before


def test_only_ply_files_are_written(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match=r"type --save NAME\.ply"):
        mesh(MeshDoctor(Path("hammer"), out=tmp_path / "sheet.png", save=tmp_path / "part.obj"))


def test_each_view_shows_the_side_it_names() -> None:
    """A box whose six sides have colours of their own."""
    solid = trimesh.creation.box(extents=SIDES)
    paint = {"x": (200, 0, 0), "y": (0, 200, 0), "z": (0, 0, 200)}
    colors = np.zeros((12, 4), np.uint8)
    for face, normal in enumerate(solid.face_normals):
        axis = int(np.abs(normal).argmax())
        bright = np.array(paint["xyz"[axis]]) + (50 if normal[axis] > 0 else 0)
        colors[face] = [*bright, 255]
    solid.visual.face_colors = colors
    tile = 120
    sheet = six_views(mesh_from_trimesh(solid, "box"), tile=tile)
    height = (sheet.shape[0] - 4) // 2  # of a view and the strip below it
    assert tile < height
    assert sheet.shape[1] == 3 * tile + 8
    for index, name in enumerate(VIEWS):
        row, column = divmod(index, 3)
        middle = sheet[row * (height + 4) + tile // 2, column * (tile + 4) + tile // 2].astype(int)
        sign, axis = name[-2], "xyz".index(name[-1])
        others = np.delete(middle, axis)
        assert middle[axis] > middle.min() + 100, name
        assert (others > 40).all() == (sign == "+"), name
    wide = (np.abs(sheet[tile // 2, :tile].astype(int) - GROUND).max(axis=1) > 40).sum()
    tall = (np.abs(sheet[:tile, tile // 2].astype(int) - GROUND).max(axis=1) > 40).sum()
    assert tall / wide == pytest.approx(3.0, rel=0.1)


def test_the_sheet_of_the_hammer_has_a_title() -> None:
    part = hammer()
    assert six_views(part, "hammer", tile=96).shape[0] == six_views(part, tile=96).shape[0] + 28


def test_programs_read_the_report_from_a_file(tmp_path: Path) -> None:
    path, told = file_in_metres(tmp_path / "part.ply"), tmp_path / "out" / "report.json"
    mesh(MeshDoctor(path, "m", out=tmp_path / "sheet.png", report=told))
    report = json.loads(told.read_text())
    assert report["size_mm"] == pytest.approx([128.3, 300.1, 28.8], abs=0.1)
    assert (report["unit"], report["usable"], report["looks_the_same_after"]) == ("m", True, "none")
    assert report["plausible_mm"]["m"] == pytest.approx(report["diameter_mm"])
    assert report["origin_offset_mm"] == pytest.approx([0, 0, 200], abs=0.1)
    assert any("origin is 200 mm" in finding for finding in report["findings"])
    with pytest.raises(MeshError):
        mesh(MeshDoctor(path, "mm", out=tmp_path / "sheet.png", report=told))
    assert not json.loads(told.read_text())["usable"]  # what is refused is told, too
