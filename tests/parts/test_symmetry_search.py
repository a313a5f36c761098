"""Rotational symmetries found by comparing renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from codepose.evaluation.pose_errors import symmetry_transforms
from codepose.parts import symmetry_search as symmetry
from codepose.parts.mesh import Mesh, load_mesh, mesh_from_trimesh
from codepose.parts.shapes import hammer
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries
from codepose.parts.symmetry_search import find_symmetries

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
TILTED = trimesh.transformations.compose_matrix(angles=(0.5, -0.3, 1.1), translate=(200.0, -30.0, 7.0))

THREE_FLIPS = [180.0] * 3
OF_A_CUBE = [90.0] * 6 + [120.0] * 8 + [180.0] * 9


def part(solid: trimesh.Trimesh) -> Mesh:
    return mesh_from_trimesh(solid, "part")


def prism(sides: int) -> trimesh.Trimesh:
    return trimesh.creation.cylinder(radius=40.0, height=30.0, sections=sides)


def sheet() -> trimesh.Trimesh:
    """A square of two triangles, seen from both sides."""
    corners = np.array([[0, 0, 0], [50, 0, 0], [50, 50, 0], [0, 50, 0]], float)
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


def painted_cube(*sides: int) -> trimesh.Trimesh:
    """A white cube whose sides with these numbers (-x, +x, -y, ...) have colours of their own."""
    cube = trimesh.creation.box(extents=(50.0, 50.0, 50.0))
    axis = np.abs(cube.face_normals).argmax(axis=1)
    side = 2 * axis + (cube.face_normals[np.arange(12), axis] > 0)
    paint = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])
    colors = np.full((12, 4), 255, np.uint8)
    for number in sides:
        colors[side == number, :3] = paint[number]
    cube.visual.face_colors = colors
    return cube


def check_that_it_maps_onto_itself(mesh: Mesh, found: Symmetries) -> None:
    """Every transform is a turn that takes the hull's corners to the part's, and together they are a group."""
    hull = np.column_stack([mesh.hull, np.ones(len(mesh.hull))]).astype(np.float64)
    for transform in found.discrete:
        np.testing.assert_allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(transform[:3, :3]) == pytest.approx(1.0)
        moved = hull @ transform.T
        assert np.linalg.norm(moved[:, None, :3] - mesh.vertices[None], axis=2).min(axis=1).max() < 0.01 * mesh.diameter
    group = [np.eye(4), *found.discrete]
    for a in group:
        for b in group:
            assert min(np.abs(a @ b - c).max() for c in group) < 0.02 * mesh.diameter


@pytest.mark.parametrize("placed", [np.eye(4), TILTED], ids=["upright", "tilted"])
def test_a_cylinder_turns_about_its_axis_and_flips(placed: np.ndarray[Any, Any]) -> None:
    mesh = part(trimesh.creation.cylinder(radius=20.0, height=70.0, sections=32).apply_transform(placed))
    found = find_symmetries(mesh)
    (turn,) = found.continuous
    assert abs(turn.axis @ placed[:3, 2]) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(turn.offset, placed[:3, 3], atol=0.5)
    assert len(found.discrete) == 1
    np.testing.assert_allclose(found.discrete[0, :3, :3] @ placed[:3, 2], -placed[:3, 2], atol=0.02)
    np.testing.assert_allclose(found.discrete[0, :3] @ [*placed[:3, 3], 1.0], placed[:3, 3], atol=0.5)


def test_a_cone_turns_but_does_not_flip() -> None:
    found = find_symmetries(part(trimesh.creation.cone(radius=30.0, height=60.0, sections=48)))
    assert len(found.continuous) == 1
    assert len(found.discrete) == 0


def test_a_ball_turns_about_any_axis() -> None:
    found = find_symmetries(part(trimesh.creation.icosphere(subdivisions=3, radius=50.0)))
    assert len(found.continuous) == 3
    assert len(found.discrete) == 0


@pytest.mark.parametrize(
    ("solid", "expected"),
    [
        (trimesh.creation.box(extents=(30.0, 60.0, 90.0)), THREE_FLIPS),
        (trimesh.creation.box(extents=(30.0, 60.0, 90.0)).apply_transform(TILTED), THREE_FLIPS),
        (trimesh.creation.box(extents=(60.0, 60.0, 90.0)), [90.0] * 2 + [180.0] * 5),
        (trimesh.creation.box(extents=(50.0, 50.0, 50.0)), OF_A_CUBE),
        (trimesh.creation.box(extents=(50.0, 50.0, 50.0)).apply_transform(TILTED), OF_A_CUBE),
        (prism(3), [120.0] * 2 + [180.0] * 3),
        (prism(6), [60.0] * 2 + [120.0] * 2 + [180.0] * 7),
        (sheet(), [90.0] * 2 + [180.0] * 5),
        (painted_cube(0), [90.0, 90.0, 180.0]),
        (painted_cube(0, 1), [90.0, 90.0, 180.0]),
        (painted_cube(0, 1, 2, 3, 4, 5), []),
    ],
    ids=[
        "box",
        "tilted box",
        "square bar",
        "cube",
        "tilted cube",
        "3 sides",
        "6 sides",
        "sheet",
        "1 red",
        "red+green",
        "all",
    ],
)
def test_solids(solid: trimesh.Trimesh, expected: list[float]) -> None:
    mesh = part(solid)
    found = find_symmetries(mesh)
    assert not found.continuous
    assert len(found.discrete) == len(expected)
    assert found.any == bool(expected)
    check_that_it_maps_onto_itself(mesh, found)
    angles = np.sort([np.degrees(Rotation.from_matrix(t[:3, :3]).magnitude()) for t in found.discrete])
    np.testing.assert_allclose(angles, expected, atol=0.01)


def fan() -> trimesh.Trimesh:
    """A hub with five flat blades."""
    blades = [trimesh.creation.box(extents=(40.0, 3.0, 12.0)).apply_translation((30.0, 0.0, 0.0)) for _ in range(5)]
    for k, blade in enumerate(blades):
        blade.apply_transform(trimesh.transformations.rotation_matrix(np.radians(72.0 * k), (0, 0, 1)))
    return trimesh.util.concatenate([trimesh.creation.cylinder(radius=14.0, height=20.0, sections=60), *blades])


def flange() -> trimesh.Trimesh:
    """A rim around a disc with six pegs through it: the convex hull is that of a cylinder."""
    rim = trimesh.creation.annulus(r_min=52.0, r_max=60.0, height=30.0, sections=90)
    pegs = [
        trimesh.creation.cylinder(radius=7.0, height=24.0, sections=24).apply_translation(
            (35 * np.cos(a), 35 * np.sin(a), 0)
        )
        for a in np.arange(6) * np.pi / 3
    ]
    return trimesh.util.concatenate([rim, trimesh.creation.cylinder(radius=53.0, height=6.0, sections=90), *pegs])


def octahedron() -> trimesh.Trimesh:
    return trimesh.convex.convex_hull(np.concatenate([np.eye(3), -np.eye(3)]) * 40.0)


def antiprism() -> trimesh.Trimesh:
    """Two squares of 60 mm, 40 mm apart, one turned by 45 degrees: half turns lie between its sides."""
    angles = np.arange(8) * np.pi / 4
    return trimesh.convex.convex_hull(
        np.stack([42 * np.cos(angles), 42 * np.sin(angles), 20.0 * (-1) ** np.arange(8)], 1)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("solid", "count"),
    [
        (fan(), 9),
        (flange(), 11),
        (octahedron(), 23),
        (antiprism(), 7),
        (trimesh.convex.convex_hull([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]).apply_scale(30.0), 11),
        (trimesh.creation.icosahedron().apply_scale(40.0), 59),
        (prism(7), 13),
        (painted_cube(0, 1), 3),
    ],
    ids=["fan", "flange", "octahedron", "antiprism", "tetrahedron", "icosahedron", "7 sides", "red+green"],
)
def test_how_a_part_lies_in_its_file_does_not_matter(solid: trimesh.Trimesh, count: int, seed: int) -> None:
    """The third lies nearly along the axes, by 10 degrees off."""
    turn = trimesh.transformations.random_rotation_matrix(np.random.default_rng(seed).random(3))
    if seed == 2:
        turn = trimesh.transformations.rotation_matrix(np.radians(10.0), (0.1, 0.0, 1.0))
    mesh = part(solid.copy().apply_transform(turn))
    found = find_symmetries(mesh)
    assert len(found.discrete) == count
    check_that_it_maps_onto_itself(mesh, found)


@pytest.mark.parametrize("mesh", [hammer(), load_mesh(BRACKET)], ids=["hammer", "bracket"])
def test_parts_that_can_be_told_apart_from_every_side(mesh: Mesh) -> None:
    assert not find_symmetries(mesh).any


def test_the_entries_for_bop() -> None:
    flip = np.diag([1.0, -1.0, -1.0, 1.0])[None]
    found = Symmetries(flip, (ContinuousSymmetry(np.array([0.0, 0.0, 1.0]), np.zeros(3)),))
    transforms = symmetry_transforms(found.to_bop())
    ring = np.array([20.0, 0.0, 35.0, 1.0])
    moved = transforms.numpy() @ ring
    np.testing.assert_allclose(np.linalg.norm(moved[:, :2], axis=1), 20.0, atol=1e-6)
    np.testing.assert_allclose(np.abs(moved[:, 2]), 35.0, atol=1e-6)
    assert set(np.sign(moved[:, 2])) == {-1.0, 1.0}
    assert find_symmetries(hammer()).to_bop() == {}


def test_scaled_symmetries_are_those_of_the_scaled_part() -> None:
    solid = trimesh.creation.box(extents=(30.0, 60.0, 90.0)).apply_translation((10.0, 20.0, 30.0))
    double = part(solid.copy().apply_scale(2.0))
    np.testing.assert_allclose(
        find_symmetries(part(solid)).scaled(2.0).discrete, find_symmetries(double).discrete, atol=1e-3
    )
    turn = ContinuousSymmetry(np.array([0.0, 0.0, 1.0]), np.array([10.0, 20.0, 0.0]))
    (scaled,) = Symmetries(np.zeros((0, 4, 4)), (turn,)).scaled(2.0).continuous
    np.testing.assert_array_equal(scaled.offset, [20.0, 40.0, 0.0])
    np.testing.assert_array_equal(scaled.axis, turn.axis)


def test_a_ball_with_a_hole_takes_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every corner of a ball of few faces could be an axis: of one of 285 faces 3,660 turns were looked at."""
    looks, same = [], symmetry._Looks.same
    monkeypatch.setattr(symmetry._Looks, "same", lambda self, turn: looks.append(turn) or same(self, turn))
    ball = trimesh.creation.icosphere(subdivisions=2, radius=50.0)
    ball.update_faces(np.arange(len(ball.faces)) >= 3)
    find_symmetries(part(ball))
    assert len(looks) <= 6 * (16 + 3 + 3), "one of any angle and five of a prime order, about 16 sides and six axes"
