"""The built-in meshes: shape, frame, size, and that the hand holds the bar without touching its core."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from codepose.parts import shapes
from codepose.parts.mesh import Mesh, MeshError, mesh_from_trimesh

Array = np.ndarray[Any, Any]


@cache
def hammer() -> Mesh:
    return shapes.hammer()


@cache
def hand() -> Mesh:
    return shapes.hand()


@cache
def distractors() -> tuple[Mesh, ...]:
    return shapes.distractors()


EVERY = ["hammer", "hand", "box", "cylinder", "cone", "ring", "l-bracket", "plate"]


def by_name(name: str) -> Mesh:
    return {m.name: m for m in (hammer(), hand(), *distractors())}[name]


def parts(mesh: Mesh) -> list[trimesh.Trimesh]:
    """The bodies of a mesh, with the vertices joined again that creases and colours have split."""
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    whole.merge_vertices(merge_tex=True, merge_norm=True)
    return list(whole.split(only_watertight=False))


def winding_number(mesh: Mesh, points: Array) -> Array:
    """(N,) how many times the surface goes round each point: 0 is outside (Van Oosterom & Strackee, 1983)."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64)[None] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=2) for x in (a, b, c))
    top = np.einsum("pfj,pfj->pf", a, np.cross(b, c))
    bottom = la * lb * lc
    for x, y, length in ((a, b, lc), (b, c, la), (c, a, lb)):
        bottom += np.einsum("pfj,pfj->pf", x, y) * length
    total: Array = np.arctan2(top, bottom).sum(axis=1) / (2 * np.pi)
    return total


def surface_points(mesh: Mesh) -> Array:
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(body, 6000, seed=3)[0])


def chamfer(a: Array, b: Array) -> float:
    """Mean distance of two point sets to each other, mm."""
    return float((cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean()) / 2)


@pytest.mark.parametrize("name", EVERY)
def test_every_part_is_closed_and_wound_outward(name: str) -> None:
    for part in parts(by_name(name)):
        assert part.is_watertight
        assert part.is_winding_consistent
        assert part.volume > 0


@pytest.mark.parametrize("name", EVERY)
def test_normals_are_unit_and_on_the_side_of_their_face(name: str) -> None:
    mesh = by_name(name)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    face = np.cross(b - a, c - a)
    assert (np.einsum("fkj,fj->fk", mesh.normals[mesh.faces], face) > 0).all()
    assert mesh.colors.min() >= 0
    assert mesh.colors.max() <= 1


@pytest.mark.parametrize("name", EVERY)
def test_a_shape_is_the_same_each_time(name: str) -> None:
    again = {m.name: m for m in (shapes.hammer(), shapes.hand(), *shapes.distractors())}[name]
    np.testing.assert_array_equal(again.vertices, by_name(name).vertices)
    np.testing.assert_array_equal(again.faces, by_name(name).faces)


def test_the_hammer_has_a_hammers_size_and_lies_flat() -> None:
    mesh = hammer()
    x, y, z = mesh.extents
    assert 115 < x < 140
    assert 295 < y < 305
    assert 25 < z < 32
    np.testing.assert_allclose(mesh.center, 0, atol=1e-4)
    assert y < mesh.diameter < np.linalg.norm(mesh.extents)
    assert 1000 <= len(mesh.faces) <= 2500
    assert len(parts(mesh)) == 4  # head, two prongs, handle


def test_the_hammers_head_is_at_minus_y_and_its_claw_at_minus_x() -> None:
    v = hammer().vertices
    head = v[:, 1] < -100
    assert np.ptp(v[head, 0]) > 115
    assert np.ptp(v[~head, 0]) < 40
    assert v[v[:, 0] > 45, 1].max() < -115  # the striking face stays in the head's axis ...
    assert v[v[:, 0] < -45, 1].max() > -112  # ... the claw bends down towards the handle


def solid_runs_along_z(mesh: Mesh, x: float) -> int:
    """Into how many pieces, one above the other in z, the plane at x cuts the head."""
    y, z = np.meshgrid(np.linspace(-150, -105, 23), np.linspace(-16, 16, 41), indexing="ij")
    points = np.column_stack([np.full(y.size, x), y.reshape(-1), z.reshape(-1)])
    solid = (winding_number(mesh, points) > 0.5).reshape(y.shape).any(axis=0)
    assert not solid[0]
    assert not solid[-1]
    return int((np.diff(solid.astype(int)) == 1).sum())


def test_the_claw_is_split_and_the_striking_face_is_not() -> None:
    left, right = hammer().vertices[:, 0].min(), hammer().vertices[:, 0].max()
    assert solid_runs_along_z(hammer(), left + 12) == 2
    assert solid_runs_along_z(hammer(), left + 45) == 1
    assert solid_runs_along_z(hammer(), right - 8) == 1


def test_the_hammer_maps_onto_itself_in_no_rotation() -> None:
    points = surface_points(hammer())
    noise = chamfer(points, surface_points(hammer()) * [1, 1, -1])  # its one true symmetry
    assert noise < 1.5
    for mirror in ([-1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]):  # x, and a half turn about x, y, z
        assert chamfer(points, points * mirror) > 3 * noise, mirror


def test_the_hammers_colours_tell_head_from_handle() -> None:
    mesh = hammer()
    head = np.ptp(mesh.colors, axis=1) < 0.06  # grey
    assert (mesh.vertices[head, 1] < -105).all()
    assert (mesh.vertices[~head, 1] > -151).all()
    assert len(np.unique(mesh.colors[head], axis=0)) == 3  # striking face, head, claw
    assert len(np.unique(mesh.colors[~head], axis=0)) == 3  # wood, band, rubber
    end = mesh.vertices[:, 1] > mesh.vertices[:, 1].max() - 1
    np.testing.assert_allclose(mesh.colors[end], np.tile(shapes.RUBBER, (end.sum(), 1)), atol=1 / 255)


@pytest.mark.parametrize("name", EVERY)
def test_the_grip_lies_in_the_bounding_box(name: str) -> None:
    mesh = by_name(name)
    assert mesh.grip.shape == (2, 3)
    assert (mesh.grip >= mesh.vertices.min(axis=0)).all()
    assert (mesh.grip <= mesh.vertices.max(axis=0)).all()


def test_the_hammers_grip_runs_inside_the_lower_handle() -> None:
    mesh = hammer()
    along = mesh.grip[0] + np.linspace(0, 1, 20)[:, None] * (mesh.grip[1] - mesh.grip[0]).astype(np.float64)
    np.testing.assert_allclose(winding_number(mesh, along), 1.0, atol=1e-6)
    assert mesh.grip[1, 1] > mesh.grip[0, 1] > 0
    np.testing.assert_allclose(np.diff(mesh.grip[:, [0, 2]], axis=0), 0, atol=1e-6)  # along y
    # a fist of 85 mm stays on the handle, and the handle fits into the hand at every height of the grip
    assert mesh.grip[1, 1] + 42.5 < mesh.vertices[:, 1].max() + 2
    near = (mesh.vertices[:, 1] > mesh.grip[0, 1] - 42.5) & (mesh.vertices[:, 1] < mesh.grip[1, 1])
    assert np.linalg.norm((mesh.vertices - mesh.grip[0])[near][:, [0, 2]], axis=1).max() < 17.5


def bar_clearance(mesh: Mesh) -> float:
    """Least distance of any triangle to the bar's axis (the y axis), mm: exact, in the xz plane."""
    corners = mesh.vertices[mesh.faces][:, :, [0, 2]].astype(np.float64)
    least, sides = np.inf, []
    for i in range(3):
        p, q = corners[:, i], corners[:, (i + 1) % 3]
        edge = q - p
        length2 = np.maximum((edge**2).sum(axis=1), 1e-12)
        t = np.clip(-(p * edge).sum(axis=1) / length2, 0, 1)
        least = min(least, float(np.linalg.norm(p + t[:, None] * edge, axis=1).min()))
        sides.append(p[:, 0] * edge[:, 1] - p[:, 1] * edge[:, 0])
    signs = np.stack(sides)
    covers = ((signs > 0).all(axis=0) | (signs < 0).all(axis=0)).any()
    return 0.0 if covers else least


def test_clearance_of_known_shapes() -> None:
    ring = by_name("ring")  # its axis is z
    body = trimesh.Trimesh(ring.vertices[:, [0, 2, 1]], ring.faces[:, ::-1], process=False)
    turned = mesh_from_trimesh(body, "turned")
    assert bar_clearance(turned) == pytest.approx(26.0, abs=0.5)
    assert bar_clearance(by_name("box")) == 0.0


def test_the_hand_does_not_touch_a_bar_of_15_mm() -> None:
    assert 15.0 < bar_clearance(hand()) < 17.0
    axis = np.column_stack([np.zeros(30), np.linspace(-60, 60, 30), np.zeros(30)])
    np.testing.assert_allclose(winding_number(hand(), axis), 0.0, atol=1e-6)


@pytest.mark.parametrize("y", [-33.0, -28.0, -12.0, -8.0, 9.0, 12.0, 27.0, 30.0])
def test_every_finger_closes_round_the_bar(y: float) -> None:
    """Seen from the axis at a finger's height, the free gap is too narrow for the bar to leave through."""
    angle = np.radians(np.arange(0, 360, 6))
    radius = np.arange(17, 60, 3.0)
    a, r = np.meshgrid(angle, radius, indexing="ij")
    points = np.column_stack([(r * np.sin(a)).ravel(), np.full(a.size, y), (-r * np.cos(a)).ravel()])
    held = (winding_number(hand(), points) > 0.5).reshape(a.shape).any(axis=1)
    taken = np.flatnonzero(np.concatenate([held, held]))
    assert np.diff(taken).max() * 6 < 100  # degrees


def test_the_hand_is_a_right_hand_of_real_size() -> None:
    mesh = hand()
    assert len(mesh.faces) <= 2500
    palm = np.ptp(mesh.vertices[(np.abs(mesh.vertices[:, 0]) < 20) & (mesh.vertices[:, 2] < -20)][:, 1])
    assert 75 < palm < 95
    v = mesh.vertices
    thumb = v[:, 2] > 40  # it lies over the fingertips; a right hand has it at -y, a left hand at +y
    assert thumb.any()
    assert v[thumb, 1].max() < -10
    fingers = (v[:, 2] > 16) & (v[:, 0] > 10)
    assert v[fingers, 1].min() < -30
    assert v[fingers, 1].max() > 30
    arm = v[:, 0] < v[:, 0].min() + 20
    assert v[arm, 2].mean() < -40
    assert np.linalg.norm(v[arm][:, [0, 2]], axis=1).min() > 60  # away from the bar
    np.testing.assert_allclose(mesh.colors, np.tile(shapes.SKIN, (len(v), 1)), atol=1 / 255)


def test_distractors_are_white_and_100_mm() -> None:
    assert [m.name for m in distractors()] == EVERY[2:]
    for mesh in distractors():
        assert mesh.diameter == pytest.approx(100.0, abs=1e-3)
        np.testing.assert_allclose(mesh.center, 0, atol=1e-4)
        assert mesh.colors.min() > 0.9
        assert len(mesh.faces) <= 2500


def test_resolve_knows_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(shapes.BUILTIN) == {"hammer", "hand"}
    assert shapes.resolve("hammer").name == "hammer"
    path = tmp_path / "cube.ply"
    trimesh.creation.box(extents=(0.03, 0.04, 0.05)).export(str(path))
    np.testing.assert_allclose(shapes.resolve(path, unit="m").extents, (30, 40, 50), rtol=1e-5)
    with pytest.raises(MeshError, match="--unit m "):
        shapes.resolve(str(path))
    with pytest.raises(MeshError, match="'hamer' is neither a file nor built in; type a path or hammer"):
        shapes.resolve("hamer")
    with pytest.raises(MeshError, match=r"there is no file hammer\.stl"):
        shapes.resolve("hammer.stl")
    monkeypatch.chdir(tmp_path)
    path.rename(tmp_path / "hammer")
    assert shapes.resolve("hammer").name == "hammer"
    with pytest.raises(MeshError, match="a file without a suffix cannot be read"):
        shapes.resolve("./hammer")
