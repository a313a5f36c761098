"""Pictures on CAD models: coarse faces must carry them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from codepose.parts import textures
from codepose.parts.mesh import Mesh, MeshError, load_mesh, save_mesh

SIDE = 80.0


def picture(size: int = 256) -> Image.Image:
    """Smooth in red and green, a board of 8 x 8 squares in blue."""
    y, x = np.mgrid[:size, :size] / size
    board = (np.floor(8 * x) + np.floor(8 * y)) % 2
    return Image.fromarray((np.stack([x, y, board], axis=2) * 255).astype(np.uint8))


def wanted(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The picture's colours at (x, y) in [0, 1], y downwards, and whether that is away from its squares' edges."""
    board = (np.floor(8 * x) + np.floor(8 * y)) % 2
    edges = np.minimum(np.abs(8 * x - np.round(8 * x)), np.abs(8 * y - np.round(8 * y)))
    return np.stack([x, y, board], axis=1), edges > 0.25


def quad(image: Image.Image) -> trimesh.Trimesh:
    """Two triangles in the plane z = 0, the picture upright with its lower left corner at the origin."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    flat = trimesh.Trimesh(corners * SIDE, [[0, 1, 2], [0, 2, 3]], process=False)
    material = trimesh.visual.material.SimpleMaterial(image=image)
    flat.visual = trimesh.visual.TextureVisuals(uv=corners[:, :2], material=material)
    return flat


def cube(image: Image.Image) -> trimesh.Trimesh:
    """Twelve triangles, the whole picture on each of the six sides."""
    box = trimesh.creation.box(extents=(SIDE, SIDE, SIDE))
    corners = box.triangles.reshape(-1, 3)
    axis = np.repeat(np.abs(box.face_normals).argmax(axis=1), 3)
    places = np.stack([np.delete(c, a) for c, a in zip(corners, axis, strict=True)]) / SIDE + 0.5
    soup = trimesh.Trimesh(corners, np.arange(36).reshape(-1, 3), process=False)
    soup.visual = trimesh.visual.TextureVisuals(uv=places, material=trimesh.visual.material.SimpleMaterial(image=image))
    return soup


def saved(mesh: trimesh.Trimesh, path: Path) -> Path:
    mesh.export(str(path))
    return path


@pytest.fixture
def _longer_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "TEXTURED_EDGE", 0.02)


def errors_on_sides(mesh: Mesh) -> np.ndarray[Any, Any]:
    """Difference from the picture at the vertices of the cube's sides, away from the squares' edges."""
    found = []
    for axis in range(3):
        side = np.abs(mesh.normals[:, axis]) > 0.99
        x, y = np.delete(mesh.vertices[side] / SIDE + 0.5, axis, axis=1).T
        colors, inside = wanted(x, 1 - y)
        found.append(np.abs(mesh.colors[side] - colors)[inside].max(axis=1))
    return np.concatenate(found)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_two_triangles_carry_a_picture(tmp_path: Path, suffix: str) -> None:
    path = saved(quad(picture()), tmp_path / f"part.{suffix}")
    mesh = load_mesh(path, center=False)
    assert 5_000 < len(mesh.faces) <= textures.TEXTURED_FACES
    np.testing.assert_allclose(mesh.extents, [SIDE, SIDE, 0.0])
    x, y = mesh.vertices[:, 0] / SIDE, 1 - mesh.vertices[:, 1] / SIDE
    colors, inside = wanted(x, y)
    assert inside.mean() > 0.15
    np.testing.assert_allclose(mesh.colors[inside], colors[inside], atol=0.03)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
@pytest.mark.usefixtures("_longer_edges")
def test_a_cube_of_twelve_triangles_carries_a_picture_on_each_side(tmp_path: Path, suffix: str) -> None:
    mesh = load_mesh(saved(cube(picture()), tmp_path / f"part.{suffix}"))
    assert errors_on_sides(mesh).max() < 0.03
    np.testing.assert_array_equal(np.sort(np.abs(mesh.normals), axis=1)[:, :2], 0.0)  # flat sides stay flat
    assert mesh.diameter == pytest.approx(np.sqrt(3) * SIDE, rel=1e-6)


@pytest.mark.usefixtures("_longer_edges")
def test_the_divided_surface_has_no_gaps(tmp_path: Path) -> None:
    mesh = load_mesh(saved(cube(picture()), tmp_path / "part.obj"))
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    body.merge_vertices()
    assert body.is_watertight
    assert body.volume == pytest.approx(SIDE**3, rel=1e-5)


@pytest.mark.usefixtures("_longer_edges")
def test_the_picture_survives_a_run_folders_copy(tmp_path: Path) -> None:
    mesh = load_mesh(saved(cube(picture()), tmp_path / "part.glb"))
    save_mesh(mesh, tmp_path / "own.ply")
    again = load_mesh(tmp_path / "own.ply", center=False)
    assert len(again.faces) == len(mesh.faces)
    assert errors_on_sides(again).max() < 0.03


def test_fine_noise_is_averaged_not_sampled(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (1024, 1024, 1), np.uint8) * 255  # 10 pixels an edge and more
    mesh = load_mesh(saved(quad(Image.fromarray(noise.repeat(3, axis=2))), tmp_path / "part.glb"))
    assert mesh.colors.mean() == pytest.approx(0.5, abs=0.01)
    assert mesh.colors.std() < 0.15  # of single pixels: 0.5


def test_a_large_surface_gets_longer_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "TEXTURED_FACES", 1000)
    mesh = load_mesh(saved(quad(picture()), tmp_path / "part.obj"))
    assert 300 < len(mesh.faces) < 1500


@pytest.mark.usefixtures("_longer_edges")
def test_untextured_parts_are_left_as_they_are(tmp_path: Path) -> None:
    plain = trimesh.creation.box(extents=(SIDE, SIDE, SIDE)).apply_translation((2 * SIDE, 0.0, 0.0))
    scene = trimesh.Scene([cube(picture()), plain])
    mesh = load_mesh(saved(scene, tmp_path / "part.glb"), center=False)
    beside = mesh.vertices[mesh.faces][:, :, 0].min(axis=1) > SIDE
    assert beside.sum() == 12
    np.testing.assert_allclose(mesh.colors[mesh.faces][beside], 0.6, atol=1e-6)


def test_coordinates_outside_the_picture_repeat_it(tmp_path: Path) -> None:
    repeated = quad(picture())
    repeated.visual.uv = repeated.visual.uv * 2 - 1
    mesh = load_mesh(saved(repeated, tmp_path / "part.obj"), center=False)
    x, y = (2 * mesh.vertices[:, 0] / SIDE) % 1, (-2 * mesh.vertices[:, 1] / SIDE) % 1
    colors, inside = wanted(x, y)
    inside &= np.abs(8 * x % 1 - 0.5) < 0.2
    inside &= np.abs(8 * y % 1 - 0.5) < 0.2
    np.testing.assert_allclose(mesh.colors[inside], colors[inside], atol=0.05)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    saved(quad(picture()), tmp_path / "part.obj")
    (image,) = tmp_path.glob("*.png")
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(
        MeshError, match=r"part\.obj: its picture material_0\.png cannot be read \(.*\); save the picture again as PNG"
    ):
        load_mesh(tmp_path / "part.obj")
