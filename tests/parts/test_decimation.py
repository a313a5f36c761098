"""Fewer faces, the same look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from codepose import geometry
from codepose.parts.decimation import decimate
from codepose.parts.mesh import Mesh, mesh_from_trimesh, save_mesh
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.settings.files import override
from codepose.synthesis.world import World


def seen(mesh: Mesh) -> Buffers:
    """From the icosahedron's 12 directions, 100 pixels to the diameter."""
    R = geometry.view_rotation(geometry.view_sphere(0), torch.zeros(12))
    t = torch.tensor([0.0, 0.0, 10 * mesh.diameter]).expand(12, 3) - R @ torch.from_numpy(mesh.center)
    K = geometry.camera_matrix(1000.0, 56.0, 56.0).expand(12, 3, 3)
    return Renderer([mesh], threads=1).render(Instances.single(torch.zeros(12, dtype=torch.long), R, t), K, (112, 112))


def colored_vase(**kwargs: Any) -> trimesh.Trimesh:
    """A body of revolution of 9,000 faces, red below and white above, with a handle's worth of asymmetry."""
    profile = np.array([[0, -50], [22, -50], [30, -20], [12, 15], [20, 50], [0, 50]], float)
    vase = trimesh.creation.revolve(profile, sections=40)
    for _ in range(2):
        vase = vase.subdivide()
    handle = trimesh.creation.torus(15.0, 4.0, major_sections=64, minor_sections=32)
    handle.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
    whole = trimesh.util.concatenate([vase, handle.apply_translation((28.0, 0.0, 5.0))])
    whole.apply_translation((100.0, 0.0, 0.0))
    red = whole.vertices[:, 2] < -5.0
    whole.visual.vertex_colors = np.where(red[:, None], [200, 30, 30, 255], [240, 240, 240, 255]).astype(np.uint8)
    return whole


@pytest.fixture(scope="module")
def vase() -> Mesh:
    return mesh_from_trimesh(colored_vase(), "vase", grip=[[100, 0, -10], [100, 0, 10]])


def test_the_same_look_with_a_quarter_of_the_faces(vase: Mesh) -> None:
    fewer = decimate(vase, len(vase.faces) // 4)
    assert 0.5 * len(vase.faces) // 4 < len(fewer.faces) <= len(vase.faces) // 4
    before, after = seen(vase), seen(fewer)
    hit, still = before.depth > 0, after.depth > 0
    assert (hit ^ still).sum() / hit.sum() < 0.01
    both = hit & still
    off = (before.depth - after.depth)[both].abs()
    assert off.median() < 0.001 * vase.diameter
    assert (off > 0.01 * vase.diameter).float().mean() < 0.01
    angle = (before.normal * after.normal).sum(-1)[both].clamp(-1, 1).acos().rad2deg()
    assert angle.median() < 3.0
    away = np.abs(fewer.vertices[:, 2] + 5.0) > 9.0  # from the border of red and white
    wanted = np.where(fewer.vertices[away, 2:] < -5.0, vase.colors.min(axis=0), vase.colors.max(axis=0))
    np.testing.assert_allclose(fewer.colors[away], wanted, atol=0.01)


def test_what_stays(vase: Mesh) -> None:
    fewer = decimate(vase, 2000)
    assert (fewer.name, fewer.diameter) == (vase.name, vase.diameter)
    np.testing.assert_array_equal(fewer.grip, vase.grip)
    np.testing.assert_allclose(fewer.center, vase.center, atol=0.01 * vase.diameter)
    np.testing.assert_allclose(fewer.extents, vase.extents, atol=0.01 * vase.diameter)
    body = trimesh.Trimesh(fewer.vertices, fewer.faces, process=False)
    body.merge_vertices()
    assert body.is_watertight
    assert body.is_winding_consistent


def test_a_flat_side_keeps_its_pattern() -> None:
    """The geometry of a box needs 12 faces; the board painted on it needs many."""
    box = trimesh.creation.box(extents=(60.0, 60.0, 20.0))
    for _ in range(5):
        box = box.subdivide()  # 12,288 faces
    dark = (np.floor(box.vertices[:, 0] / 15) + np.floor(box.vertices[:, 1] / 15)) % 2 > 0
    box.visual.vertex_colors = np.where(dark[:, None], [0, 0, 0, 255], [255, 255, 255, 255]).astype(np.uint8)
    fewer = decimate(mesh_from_trimesh(box, "board"), 4000)
    assert 1000 < len(fewer.faces) <= 4000
    x, y = fewer.vertices[:, :2].T
    inside = (np.abs(x / 15 % 1 - 0.5) < 0.3) & (np.abs(y / 15 % 1 - 0.5) < 0.3)
    wanted = 1.0 - (np.floor(x / 15) + np.floor(y / 15)) % 2
    assert inside.sum() > 100
    np.testing.assert_allclose(fewer.colors[inside, 0], wanted[inside], atol=1e-6)


def test_a_plain_part_uses_all_its_faces_for_the_shape() -> None:
    ball = mesh_from_trimesh(trimesh.creation.icosphere(subdivisions=4, radius=50.0), "ball")
    fewer = decimate(ball, 1000)
    assert 900 < len(fewer.faces) <= 1000
    assert np.abs(np.linalg.norm(fewer.vertices, axis=1) - 50.0).max() < 0.5
    np.testing.assert_allclose(fewer.colors, 0.6, atol=1e-6)


@pytest.mark.parametrize("faces", [0, 10**6])
def test_nothing_to_do(vase: Mesh, faces: int) -> None:
    assert decimate(vase, faces) is vase


def test_a_world_keeps_the_frame_of_the_poses(tmp_path: Any, make_settings: Any, vase: Mesh) -> None:
    path = tmp_path / "vase.ply"
    save_mesh(vase, path)
    base = make_settings()
    few, all_faces = (
        World(override(base, {"objects": [{"mesh": str(path), "max_faces": limit}]})).objects[0] for limit in (2000, 0)
    )
    assert len(few.mesh.faces) <= 2000
    assert len(all_faces.mesh.faces) == len(vase.faces)
    assert torch.equal(few.offset, all_faces.offset)
    assert few.z_ref == all_faces.z_ref
    np.testing.assert_allclose(few.offset, vase.center, atol=1e-4)
