"""Loading, checking and splitting of CAD models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from codepose.parts.mesh import (
    CREASE_DEG,
    EXACT_HULL,
    Mesh,
    MeshError,
    Unit,
    load_mesh,
    mesh_from_trimesh,
)

SIDES = (60.0, 40.0, 20.0)


def box(**kwargs: Any) -> trimesh.Trimesh:
    return trimesh.creation.box(extents=SIDES, **kwargs)


def saved(mesh: trimesh.Trimesh | trimesh.Scene, path: Path) -> Path:
    mesh.export(str(path))
    return path


def face_normals(mesh: Mesh) -> np.ndarray[Any, Any]:
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    normals = np.cross(b - a, c - a)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def test_a_box_has_its_exact_size_hull_and_normals() -> None:
    mesh = mesh_from_trimesh(box(), "box")
    assert mesh.name == "box"
    assert mesh.diameter == pytest.approx(np.linalg.norm(SIDES), abs=1e-6)
    np.testing.assert_array_equal(mesh.extents, SIDES)
    np.testing.assert_array_equal(mesh.center, 0)
    assert mesh.hull.shape == (8, 3)
    np.testing.assert_array_equal(np.abs(mesh.hull), np.tile(np.array(SIDES) / 2, (8, 1)))
    assert mesh.vertices.shape == (24, 3)  # three sides meet at each of 8 corners
    assert mesh.faces.shape == (12, 3)
    np.testing.assert_array_equal(mesh.normals[mesh.faces[:, 0]], face_normals(mesh))  # exactly along an axis
    np.testing.assert_array_equal(np.sort(np.abs(mesh.normals), axis=1), np.tile([0, 0, 1], (24, 1)))
    assert (np.einsum("ij,ij->i", mesh.vertices, mesh.normals) > 0).all()
    np.testing.assert_allclose(mesh.grip, [[-21, 0, 0], [21, 0, 0]], atol=1e-5)


def test_dtypes() -> None:
    mesh = mesh_from_trimesh(box(), "box")
    for array in (mesh.vertices, mesh.normals, mesh.colors, mesh.hull, mesh.grip, mesh.extents, mesh.center):
        assert array.dtype == np.float32
    assert mesh.faces.dtype == np.int32
    assert isinstance(mesh.diameter, float)


def test_a_sphere_stays_smooth_and_its_normals_are_radial() -> None:
    source = trimesh.creation.icosphere(subdivisions=3, radius=50.0)
    mesh = mesh_from_trimesh(source, "sphere")
    assert len(mesh.vertices) == len(source.vertices)
    assert np.einsum("ij,ij->i", mesh.normals, mesh.vertices / 50.0).min() > np.cos(np.radians(1.0))
    assert mesh.diameter == pytest.approx(100.0, abs=1e-4)


def test_a_cylinder_is_split_at_its_rims_only() -> None:
    mesh = mesh_from_trimesh(trimesh.creation.cylinder(radius=20.0, height=50.0, sections=32), "cylinder")
    assert len(mesh.vertices) == 4 * 32 + 2  # both rims twice, and the two middles of the caps
    side = np.abs(mesh.normals[:, 2]) < 0.5
    assert side.sum() == 64
    np.testing.assert_allclose(mesh.normals[side][:, :2], mesh.vertices[side][:, :2] / 20.0, atol=1e-6)
    np.testing.assert_allclose(np.abs(mesh.normals[~side]), np.tile([0, 0, 1], (66, 1)), atol=1e-6)


@pytest.mark.parametrize("sections", [3, 4, 6, 12, 48])
def test_no_normal_is_further_from_its_face_than_the_crease_angle(sections: int) -> None:
    mesh = mesh_from_trimesh(trimesh.creation.cone(radius=30.0, height=80.0, sections=sections), "cone")
    at_corners = mesh.normals[mesh.faces]
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    cosine = np.einsum("fkj,fj->fk", at_corners, face_normals(mesh))
    assert cosine.min() >= np.cos(np.radians(CREASE_DEG)) - 1e-6


def test_a_file_without_shared_vertices_gives_the_same_mesh(tmp_path: Path) -> None:
    source = trimesh.creation.cylinder(radius=20.0, height=50.0, sections=32)
    whole = mesh_from_trimesh(source, "cylinder")
    soup = load_mesh(saved(source, tmp_path / "cylinder.stl"))  # an STL stores three vertices a face
    assert len(soup.vertices) == len(whole.vertices)
    assert len(soup.faces) == len(whole.faces)
    assert soup.diameter == pytest.approx(whole.diameter, rel=1e-6)


@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "glb"])
def test_every_format_gives_the_same_box(tmp_path: Path, suffix: str) -> None:
    mesh = load_mesh(saved(box(), tmp_path / f"part.{suffix}"))
    assert mesh.name == "part"
    assert (len(mesh.vertices), len(mesh.faces), len(mesh.hull)) == (24, 12, 8)
    assert mesh.diameter == pytest.approx(np.linalg.norm(SIDES), abs=1e-4)
    np.testing.assert_allclose(mesh.colors, 0.6, atol=1e-6)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("cm", 10.0), ("m", 1000.0), ("inch", 25.4)])
def test_units_scale_to_millimetres(tmp_path: Path, unit: Unit, mm: float) -> None:
    path = saved(trimesh.creation.box(extents=np.array(SIDES) / mm), tmp_path / "part.ply")
    mesh = load_mesh(path, unit=unit)
    np.testing.assert_allclose(mesh.extents, SIDES, rtol=1e-5)
    assert mesh.diameter == pytest.approx(np.linalg.norm(SIDES), rel=1e-5)


def test_center_moves_the_box_and_its_absence_keeps_the_origin(tmp_path: Path) -> None:
    path = saved(box().apply_translation((100.0, -7.0, 3.0)), tmp_path / "part.ply")
    np.testing.assert_allclose(load_mesh(path).center, 0.0, atol=1e-5)
    kept = load_mesh(path, center=False, name="kept")
    np.testing.assert_allclose(kept.center, [100.0, -7.0, 3.0], atol=1e-5)
    np.testing.assert_allclose(kept.grip.mean(axis=0), kept.center, atol=1e-5)
    assert kept.name == "kept"


@pytest.mark.parametrize("suffix", ["ply", "glb"])
def test_vertex_colours_survive_a_round_trip(tmp_path: Path, suffix: str) -> None:
    source = box()
    rgb = np.random.default_rng(0).integers(0, 256, (8, 3), dtype=np.uint8)
    source.visual.vertex_colors = np.column_stack([rgb, np.full(8, 255, np.uint8)])
    mesh = load_mesh(saved(source, tmp_path / f"part.{suffix}"))
    assert mesh.vertices.shape == (24, 3)
    nearest = np.linalg.norm(mesh.vertices[:, None] - source.vertices[None], axis=2).argmin(axis=1)
    light = rgb / 255.0  # glTF's vertex colours count light: IEC 61966-2-1
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    np.testing.assert_array_equal(np.round(mesh.colors * 255), (np.round(shown) if suffix == "glb" else rgb)[nearest])


def test_face_colours_stay_sharp_and_do_not_bend_normals(tmp_path: Path) -> None:
    source = trimesh.creation.icosphere(subdivisions=2, radius=50.0)
    red = source.triangles_center[:, 2] > 0
    source.visual.face_colors = np.where(red[:, None], [255, 0, 0, 255], [0, 0, 255, 255]).astype(np.uint8)
    mesh = load_mesh(saved(source, tmp_path / "part.ply"), center=False)
    above = mesh.vertices[mesh.faces].mean(axis=1)[:, 2] > 0
    wanted = np.where(above[:, None, None], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(mesh.colors[mesh.faces], np.broadcast_to(wanted, (len(mesh.faces), 3, 3)))
    assert np.einsum("ij,ij->i", mesh.normals, mesh.vertices / 50.0).min() > np.cos(np.radians(3.0))


def test_a_texture_lends_its_colours(tmp_path: Path) -> None:
    source = trimesh.Trimesh([[0, 0, 0], [50, 0, 0], [50, 50, 0], [0, 50, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (255, 0, 0), (0, 255, 0)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(pixels))
    uv = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
    source.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    mesh = load_mesh(saved(source, tmp_path / "part.glb"))
    away = np.abs(mesh.vertices[:, 0]) > 1.5
    wanted = np.where(mesh.vertices[:, :1] > 0, [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(mesh.colors[away], wanted[away], atol=0.02)


def test_a_colour_factor_without_texture_gives_its_colour(tmp_path: Path) -> None:
    source = box()
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[10, 200, 30, 255])
    source.visual = trimesh.visual.TextureVisuals(material=material)
    mesh = load_mesh(saved(source, tmp_path / "part.glb"))
    # glTF's factors count light, colours here are sRGB: IEC 61966-2-1 of 10, 200 and 30 of 255
    np.testing.assert_array_equal(np.round(mesh.colors * 255), np.tile([56, 229, 96], (24, 1)))


def test_a_colour_factor_dyes_the_texture(tmp_path: Path) -> None:
    """glTF multiplies them: white times red is red."""
    source = box()
    image = Image.fromarray(np.full((8, 8, 3), (255, 255, 128), np.uint8))
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 255, 255], baseColorTexture=image)
    source.visual = trimesh.visual.TextureVisuals(uv=np.full((8, 2), 0.5), material=material)
    mesh = load_mesh(saved(source, tmp_path / "part.glb"))
    np.testing.assert_allclose(mesh.colors * 255, np.tile([255, 0, 128], (len(mesh.colors), 1)), atol=1)


def test_a_part_far_from_its_origin_is_refused_until_it_is_centred(tmp_path: Path) -> None:
    """A hundred kilometres off, float32 has steps of 8 mm."""
    source = box()
    source.apply_translation([1e8, 0.0, 0.0])
    for center in (True, False):  # what single precision has blurred cannot be brought back
        with pytest.raises(MeshError, match=r"in steps of 8 there: its shape is lost; export it with an origin near"):
            load_mesh(saved(source, tmp_path / "plant.stl"), center=center)
    exact = tmp_path / "plant.obj"
    corners = "".join(f"v {x + 1e8:.3f} {y:.3f} {z:.3f}\n" for x, y, z in box().vertices)
    exact.write_text(corners + "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in box().faces))
    with pytest.raises(MeshError, match=r"--center --save plant-centered\.ply"):
        load_mesh(exact, center=False)
    np.testing.assert_allclose(
        load_mesh(exact).extents, load_mesh(saved(box(), tmp_path / "box.stl")).extents, atol=1e-3
    )


def test_two_materials_in_one_file_meet_in_a_sharp_line(tmp_path: Path) -> None:
    (tmp_path / "two.mtl").write_text("newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n")
    corners = "v 0 0 0\nv 50 0 0\nv 50 50 0\nv 0 50 0\n"
    (tmp_path / "two.obj").write_text(f"mtllib two.mtl\n{corners}usemtl a\nf 1 2 3\nusemtl b\nf 1 3 4\n")
    mesh = load_mesh(tmp_path / "two.obj")
    below = mesh.vertices[mesh.faces].mean(axis=1)
    wanted = np.where((below[:, 0] > below[:, 1])[:, None], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(mesh.colors[mesh.faces], np.repeat(wanted[:, None], 3, axis=1))


def test_a_material_without_texture_gives_its_colour(tmp_path: Path) -> None:
    path = saved(box(), tmp_path / "part.obj")
    (tmp_path / "paint.mtl").write_text("newmtl paint\nKd 1.0 0.2 0.0\n")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("mtllib", "usemtl"))]
    path.write_text("mtllib paint.mtl\nusemtl paint\n" + "\n".join(lines) + "\n")
    np.testing.assert_allclose(load_mesh(path).colors, np.tile([1.0, 0.2, 0.0], (24, 1)), atol=1e-6)


def test_a_scene_keeps_places_and_colours_of_its_parts(tmp_path: Path) -> None:
    one, two = box(), box()
    one.visual.vertex_colors = np.tile(np.array([[255, 0, 0, 255]], np.uint8), (8, 1))
    two.visual.vertex_colors = np.tile(np.array([[0, 0, 255, 255]], np.uint8), (8, 1))
    scene = trimesh.Scene()
    scene.add_geometry(one)
    scene.add_geometry(two, transform=trimesh.transformations.translation_matrix((100.0, 0.0, 0.0)))
    mesh = load_mesh(saved(scene, tmp_path / "scene.glb"))
    assert (len(mesh.vertices), len(mesh.faces)) == (48, 24)
    np.testing.assert_allclose(mesh.extents, (160.0, 40.0, 20.0), rtol=1e-6)
    wanted = np.where(mesh.vertices[:, :1] < 0, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(mesh.colors, wanted)


@pytest.mark.parametrize("turned", ["one face", "every face", "half the faces"])
def test_wrong_winding_is_repaired_with_colours_in_place(turned: str) -> None:
    source = box()
    source.visual.vertex_colors = np.column_stack([np.arange(8) * 30, np.zeros((8, 2)), np.full(8, 255)])
    right = mesh_from_trimesh(source, "right")
    faces = source.faces.copy()
    rows = {"one face": [3], "every face": np.arange(12), "half the faces": np.arange(0, 12, 2)}[turned]
    faces[rows] = faces[rows][:, ::-1]
    wrong = trimesh.Trimesh(source.vertices, faces, vertex_colors=source.visual.vertex_colors, process=False)
    fixed = mesh_from_trimesh(wrong, "fixed")
    assert (np.einsum("ij,ij->i", face_normals(fixed), fixed.vertices[fixed.faces].mean(axis=1)) > 0).all()
    np.testing.assert_array_equal(fixed.normals[fixed.faces[:, 0]], face_normals(fixed))

    def rows_of(mesh: Mesh) -> np.ndarray[Any, Any]:
        return np.unique(np.column_stack([mesh.vertices, mesh.normals, mesh.colors]), axis=0)

    np.testing.assert_array_equal(rows_of(fixed), rows_of(right))


def test_the_source_is_left_unchanged() -> None:
    source = box()
    source.invert()
    before = source.vertices.copy(), source.faces.copy()
    mesh_from_trimesh(source, "box", unit="inch")
    np.testing.assert_array_equal(source.vertices, before[0])
    np.testing.assert_array_equal(source.faces, before[1])


def test_degenerate_faces_and_unused_vertices_are_dropped() -> None:
    source = box()
    vertices = np.vstack([source.vertices, [[900.0, 900.0, 900.0]]])
    faces = np.vstack([source.faces, [[0, 0, 1], [2, 2, 2]]])
    mesh = mesh_from_trimesh(trimesh.Trimesh(vertices, faces, process=False), "box")
    assert (len(mesh.vertices), len(mesh.faces)) == (24, 12)
    np.testing.assert_array_equal(mesh.extents, SIDES)
    assert mesh.diameter == pytest.approx(np.linalg.norm(SIDES), abs=1e-6)


@pytest.mark.parametrize("tilt", [0.0, 0.7])
def test_a_flat_part_has_its_outline_as_hull(tilt: float) -> None:
    flat = trimesh.Trimesh(
        [[0, 0, 0], [30, 0, 0], [30, 40, 0], [0, 40, 0], [15, 20, 0]],
        [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]],
        process=False,
    )
    flat.apply_transform(trimesh.transformations.rotation_matrix(tilt, (1.0, 0.3, 0.2)))
    mesh = mesh_from_trimesh(flat, "flat")
    assert mesh.diameter == pytest.approx(50.0, abs=1e-4)
    assert {tuple(np.round(p, 3)) for p in flat.vertices[:4].astype(np.float32)} <= {
        tuple(np.round(p, 3)) for p in mesh.hull
    }
    assert len(np.unique(mesh.normals.round(5), axis=0)) == 1


def test_hull_boxes_and_diameter_equal_those_of_all_vertices() -> None:
    rng = np.random.default_rng(1)
    cloud = trimesh.PointCloud(rng.normal(size=(300, 3)) * (50, 30, 10)).convex_hull
    mesh = mesh_from_trimesh(cloud, "cloud")
    rotation = trimesh.transformations.random_rotation_matrix(rng.random(3))[:3, :3]
    for points in (mesh.vertices, mesh.hull):
        moved = points.astype(np.float64) @ rotation.T + (0.0, 0.0, 800.0)
        pixels = 600.0 * moved[:, :2] / moved[:, 2:]
        limits = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
        if points is mesh.vertices:
            wanted = limits
    np.testing.assert_allclose(limits, wanted, atol=1e-9)
    pairs = np.linalg.norm(mesh.vertices[:, None].astype(np.float64) - mesh.vertices[None], axis=2)
    assert mesh.diameter == pytest.approx(pairs.max(), abs=1e-9)


def test_a_large_hull_keeps_what_sticks_out() -> None:
    egg = trimesh.creation.icosphere(subdivisions=5, radius=50.0).apply_scale((1.0, 0.9, 1.04))
    mesh = mesh_from_trimesh(egg, "egg")
    assert len(mesh.hull) <= EXACT_HULL < len(egg.vertices)
    assert 0.999 * 104.0 < mesh.diameter <= 104.0 + 1e-4
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    reach, kept = ((points @ directions.T).max(axis=0) for points in (mesh.vertices, mesh.hull))
    assert (reach - kept).max() < 1e-3 * mesh.diameter


def test_texture_coordinates_without_a_texture_are_grey(tmp_path: Path) -> None:
    path = tmp_path / "part.obj"
    path.write_text("v 0 0 0\nv 50 0 0\nv 0 50 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n")
    np.testing.assert_allclose(load_mesh(path).colors, 0.6, atol=1e-6)


def test_a_grip_of_ones_own() -> None:
    mesh = mesh_from_trimesh(box(), "box", grip=[[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(mesh.grip, [[0, 1, 2], [3, 4, 5]])


def message(path: Path, **kwargs: Any) -> str:
    with pytest.raises(MeshError) as caught:
        load_mesh(path, **kwargs)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    text = message(tmp_path / "none.ply")
    assert "there is no file" in text
    assert "none.ply" in text
    assert "give the path" in text


@pytest.mark.parametrize("name", ["part.igs", "part.FCStd", "part"])
def test_unknown_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    text = message(tmp_path / name)
    assert "cannot be read" in text
    assert "export the part as STEP, PLY, OBJ, STL, GLB or 3MF" in text


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "part.ply").touch()
    assert "is empty; export the part again" in message(tmp_path / "part.ply")


@pytest.mark.parametrize("suffix", ["ply", "glb"])
def test_damaged_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part.{suffix}"
    path.write_bytes(b"\x00\x01 this is no mesh \xff" * 20)
    kind = "GLB" if suffix == "glb" else "PLY"
    assert re.fullmatch(
        rf".*part\.{suffix}: it is damaged, or no (gltf|{kind}) file; export the part again", message(path), re.I
    )


def test_points_without_faces(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    trimesh.PointCloud(np.random.default_rng(0).normal(size=(20, 3))).export(str(path))
    assert "no faces; export the part as a surface" in message(path)
    with pytest.raises(MeshError, match="no faces; export the part as a surface"):
        mesh_from_trimesh(trimesh.Trimesh(box().vertices, process=False), "points")


def test_empty_mesh() -> None:
    with pytest.raises(MeshError, match="nothing: the model is empty; export the part again"):
        mesh_from_trimesh(trimesh.Trimesh(), "nothing")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vertices_that_are_not_finite(tmp_path: Path, value: float) -> None:
    source = box()
    vertices = source.vertices.copy()
    vertices[2, 1] = value
    broken = trimesh.Trimesh(vertices, source.faces, process=False)
    with pytest.raises(MeshError, match="1 vertices are not finite numbers; export the part again"):
        mesh_from_trimesh(broken, "broken")
    assert "not finite" in message(saved(broken, tmp_path / "broken.ply"))


@pytest.mark.parametrize("points", [np.zeros((3, 3)), np.outer([0.0, 20.0, 50.0], [1.0, 0.3, 0.7])])
def test_no_surface(points: np.ndarray[Any, Any]) -> None:
    with pytest.raises(MeshError, match="all faces have zero area; export the part again"):
        mesh_from_trimesh(trimesh.Trimesh(points, [[0, 1, 2]], process=False), "line")


def test_a_sliver_is_no_crash() -> None:
    points = np.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [50.0, 3e-4, 0.0]])
    mesh = mesh_from_trimesh(trimesh.Trimesh(points, [[0, 1, 2]], process=False), "sliver")
    assert mesh.diameter == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("diameter", "unit", "words"),
    [
        (
            0.3,
            "mm",
            "taken as millimetres this part is 0.3 mm across; if the file is in metres type --unit m",
        ),
        (6.0, "cm", None),
        (1.0, "mm", "if the file is in inches type --unit inch (25.4 mm across)"),
        (
            300.0,
            "m",
            "as metres this part is 300,000 mm across; if the file is in millimetres type --unit mm",
        ),
        (300.0, "inch", "if the file is in millimetres type --unit mm (300 mm across)"),
        (1e5, "mm", "scale the model so that it is between 5 and 5,000 mm across"),
        (1e-4, "mm", "scale the model so that it is between 5 and 5,000 mm across"),
    ],
)
def test_implausible_size(tmp_path: Path, diameter: float, unit: Unit, words: str | None) -> None:
    cube = trimesh.creation.box(extents=[diameter / np.sqrt(3)] * 3)
    path = saved(cube, tmp_path / "part.ply")
    if words is None:
        assert load_mesh(path, unit=unit).diameter == pytest.approx(10 * diameter, rel=1e-5)
    else:
        assert words in message(path, unit=unit)


def test_unknown_unit(tmp_path: Path) -> None:
    assert "type --unit with one of mm, cm, m, inch" in message(saved(box(), tmp_path / "a.ply"), unit="yard")
