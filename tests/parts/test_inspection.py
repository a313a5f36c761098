"""What the look at a CAD file finds, and what it says to type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from codepose.parts import textures
from codepose.parts.inspection import MeshReport, inspect, symmetry_words
from codepose.parts.mesh import MeshError, Unit, load_mesh
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries

SIDES = np.array([30.0, 60.0, 90.0])


def box(**kwargs: Any) -> trimesh.Trimesh:
    return trimesh.creation.box(extents=SIDES, **kwargs)


@pytest.fixture(autouse=True)
def _coarse_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "TEXTURED_EDGE", 0.1)


def saved(mesh: trimesh.Trimesh | trimesh.Scene, path: Path) -> Path:
    mesh.export(str(path))
    return path


def finding(report: MeshReport, words: str) -> str:
    (found,) = [f for f in report.findings if words in f]
    return found


def test_the_report_of_a_box(tmp_path: Path) -> None:
    report = inspect(saved(box().apply_translation((10.0, -20.0, 30.0)), tmp_path / "part.stl"))
    assert (report.name, report.unit, report.usable) == ("part", "mm", True)
    np.testing.assert_allclose(report.size, SIDES, rtol=1e-5)
    assert report.diameter == pytest.approx(np.linalg.norm(SIDES), rel=1e-5)
    assert (report.faces, report.vertices, report.bodies) == (12, 8, 1)
    assert report.watertight
    assert report.winding == "outward"
    np.testing.assert_allclose(report.origin_offset, (10.0, -20.0, 30.0), atol=1e-4)
    assert report.colors == ("none",)
    assert len(report.symmetries.discrete) == 3
    turned = report.symmetries.discrete @ [10.0, -20.0, 30.0, 1.0]
    np.testing.assert_allclose(turned[:, :3], np.tile([10.0, -20.0, 30.0], (3, 1)), atol=1e-3)  # in the file's frame
    assert "type --data.augmentation.tint 0.6" in finding(report, "no colours")
    assert "180 degrees about x; 180 degrees about y; 180 degrees about z" in finding(report, "looks the same")


def test_the_report_holds_the_part_as_it_is_loaded(tmp_path: Path) -> None:
    path = saved(box().apply_translation((1.0, -2.0, 3.0)).apply_scale(0.1), tmp_path / "part.ply")
    part, loaded = inspect(path, "cm").mesh, load_mesh(path, unit="cm")
    for name in ("vertices", "normals", "colors", "hull", "grip"):
        np.testing.assert_allclose(getattr(part, name), getattr(loaded, name), atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(part.faces, loaded.faces)
    assert part.diameter == pytest.approx(loaded.diameter, rel=1e-6)


@pytest.mark.parametrize(("unit", "mm"), [("cm", 10.0), ("m", 1000.0), ("inch", 25.4)])
def test_lengths_are_in_mm(tmp_path: Path, unit: Unit, mm: float) -> None:
    path = saved(box().apply_translation((10.0, -20.0, 30.0)).apply_scale(1 / mm), tmp_path / "part.ply")
    report = inspect(path, unit)
    np.testing.assert_allclose(report.size, SIDES, rtol=1e-5)
    assert report.diameter == pytest.approx(np.linalg.norm(SIDES), rel=1e-5)
    np.testing.assert_allclose(report.origin_offset, (10.0, -20.0, 30.0), atol=1e-3)
    assert report.plausible[unit] == pytest.approx(report.diameter)


def test_a_wrong_unit_is_a_finding(tmp_path: Path) -> None:
    report = inspect(saved(box().apply_scale(0.001), tmp_path / "part.ply"))
    assert not report.usable
    assert list(report.plausible) == ["m"]
    assert report.findings[0] == (
        "taken as mm the part is 0.112 mm across: if the file is in metres type --unit m (112 mm across)"
    )
    tiny = inspect(saved(box().apply_scale(1e-9), tmp_path / "tiny.ply"))
    assert tiny.plausible == {}
    assert "scale the model so that it is between 5 and 5,000 mm across" in tiny.findings[0]


@pytest.mark.parametrize(
    ("mended", "words", "watertight", "winding"),
    [
        (lambda m: m.update_faces(np.arange(12) > 0), "the surface has holes", False, "outward"),
        (lambda m: m.invert(), "all faces are inside out", True, "inward"),
        (lambda m: setattr(m, "faces", np.vstack([m.faces[:1, ::-1], m.faces[1:]])), "some faces are", True, "mixed"),
    ],
    ids=["hole", "inside out", "mixed"],
)
def test_flaws_of_the_surface(tmp_path: Path, mended: Any, words: str, watertight: bool, winding: str) -> None:
    mesh = box()
    mended(mesh)
    report = inspect(saved(mesh, tmp_path / "part.ply"))
    assert finding(report, words)
    assert (report.watertight, report.winding) == (watertight, winding)


def test_bodies_are_counted_over_all_parts(tmp_path: Path) -> None:
    scene = trimesh.Scene([box(), box().apply_translation((100.0, 0.0, 0.0))])
    report = inspect(saved(scene, tmp_path / "part.glb"), "mm")
    assert (report.bodies, report.faces, report.watertight) == (2, 24, True)
    assert "2 separate bodies" in finding(report, "bodies")


def test_bodies_that_touch_leave_no_hole(tmp_path: Path) -> None:
    half = trimesh.creation.box(extents=SIDES)
    whole = trimesh.util.concatenate([half, half.copy().apply_translation((SIDES[0], 0.0, 0.0))])
    report = inspect(saved(whole, tmp_path / "part.ply"))
    assert report.watertight
    assert report.vertices == 12
    assert not any("holes" in f for f in report.findings)


def test_an_origin_far_away(tmp_path: Path) -> None:
    report = inspect(saved(box().apply_translation((0.0, 0.0, 400.0)), tmp_path / "part.ply"))
    assert finding(report, "400 mm from the part's middle").endswith(
        "type --center --save part-centered.ply for a copy whose origin is the middle"
    )


def test_too_many_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(box().subdivide(), tmp_path / "part.ply")
    monkeypatch.setattr("codepose.parts.inspection.ObjectSettings", lambda: type("S", (), {"max_faces": 40}))
    assert "training reduces them to 40; type --faces" in finding(inspect(path), "48 faces")


def _painted(kind: str) -> trimesh.Trimesh | trimesh.Scene:
    mesh = box()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    uv = mesh.vertices[:, :2] / SIDES[:2] + 0.5
    texture = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    if kind == "vertex":
        mesh.visual.vertex_colors = np.tile(np.array([10, 200, 30, 255], np.uint8), (8, 1))
    elif kind == "texture":
        mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=texture)
    elif kind == "material":
        plain = trimesh.visual.material.PBRMaterial(baseColorFactor=[10, 200, 30, 255])
        mesh.visual = trimesh.visual.TextureVisuals(material=plain)
    return mesh


@pytest.mark.parametrize("kind", ["none", "vertex", "material", "texture"])
def test_where_the_colours_come_from(tmp_path: Path, kind: str) -> None:
    report = inspect(saved(_painted(kind), tmp_path / "part.glb"))
    assert report.colors == (kind,)
    assert (report.faces, report.vertices) == (12, 8)  # of the file, however a texture divides them
    assert any("no colours" in f for f in report.findings) == (kind == "none")


def test_parts_with_colours_from_different_sources(tmp_path: Path) -> None:
    moved = _painted("texture").apply_translation((100.0, 0.0, 0.0))
    report = inspect(saved(trimesh.Scene([_painted("material"), moved]), tmp_path / "part.glb"))
    assert set(report.colors) == {"material", "texture"}


def test_the_built_in_hammer() -> None:
    report = inspect("hammer")
    assert report.usable
    assert report.watertight
    assert report.colors == ("vertex",)
    assert not report.symmetries.any
    assert symmetry_words(report.symmetries) == "none"


def test_symmetries_in_words() -> None:
    none, z = np.zeros((0, 4, 4)), ContinuousSymmetry(np.array([0.0, 0.0, -1.0]), np.zeros(3))
    tilted = ContinuousSymmetry(np.array([-0.8, 0.6, 0.0]), np.zeros(3))
    half, third = np.eye(4)[None].repeat(2, axis=0)
    half[:3, :3] = np.diag([1.0, -1.0, -1.0])
    third[:3, :3] = np.roll(np.eye(3), 1, axis=0)
    assert symmetry_words(Symmetries(none, (z, z, z))) == "any turn at all"
    assert symmetry_words(Symmetries(half[None], (z,))) == "any turn about z; 180 degrees about x"
    assert symmetry_words(Symmetries(none, (tilted,))) == "any turn about (0.80, -0.60, 0.00)"
    both_ways = np.stack([third, third @ third])
    assert symmetry_words(Symmetries(both_ways)) == "120 degrees about (0.58, 0.58, 0.58)"
    assert symmetry_words(Symmetries(none)) == "none"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="there is no file"):
        inspect(tmp_path / "none.ply")
    (tmp_path / "part.obj").write_text("v 0 0 0\n")
    with pytest.raises(MeshError):
        inspect(tmp_path / "part.obj")


def test_bytes_that_are_no_stl_are_not_blamed_on_the_installation(tmp_path: Path) -> None:
    (tmp_path / "junk.stl").write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(MeshError) as caught:
        inspect(tmp_path / "junk.stl")
    assert "junk.stl: the file ends early: its header counts 1,191,196,492 triangles, and 8 are" in str(caught.value)
    assert "charset" not in str(caught.value)


def test_materials_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Without its texture a part may seem to look the same from more sides."""
    path = tmp_path / "box.obj"
    trimesh.creation.box(extents=(30.0, 60.0, 90.0)).export(path)
    faces = path.read_text()
    textured = faces.replace("\nf ", "\nvt 0 0\nusemtl a\nf ", 1)
    textured = re.sub(r"^f (\d+) (\d+) (\d+)", r"f \1/1 \2/1 \3/1", textured, flags=re.MULTILINE)
    path.write_text(f"mtllib box paint.mtl\n{textured}")
    report = inspect(path)
    assert report.missing == ("box paint.mtl",)
    assert report.findings[0].startswith("box paint.mtl, named in the file, is not there")
    (tmp_path / "box paint.mtl").write_text("newmtl a\nmap_Kd -s 1 1 1 wood.png\n")
    assert inspect(path).missing == ("wood.png",)
    Image.new("RGB", (4, 4)).save(tmp_path / "wood.png")
    assert inspect(path).missing == ()


def test_a_part_far_away_is_looked_at_where_it_lies(tmp_path: Path) -> None:
    """In single precision a box a thousand kilometres off has steps of 64 mm, and no symmetry."""
    box = trimesh.creation.box(extents=(100.0, 60.0, 20.0))
    corners = "".join(f"v {x + 1e9:.3f} {y:.3f} {z:.3f}\n" for x, y, z in box.vertices)
    path = tmp_path / "plant.obj"
    path.write_text(corners + "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in box.faces))
    report = inspect(path)
    assert report.diameter == pytest.approx(np.linalg.norm((100, 60, 20)), rel=1e-4)
    assert len(report.symmetries.discrete) == 3
    np.testing.assert_allclose(report.symmetries.discrete[0] @ [1e9, 0, 0, 1], [1e9, 0, 0, 1], atol=1.0)
    assert any("--center --save plant-centered.ply" in finding for finding in report.findings)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_sheet_without_thickness_is_described_like_any_part(tmp_path: Path) -> None:
    corners = np.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [100.0, 60.0, 0.0], [0.0, 60.0, 0.0]])
    report = inspect(saved(trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]]), tmp_path / "sheet.stl"))
    assert report.winding == "outward"
    finding(report, "the surface has holes")
