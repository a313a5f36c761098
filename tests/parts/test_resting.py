"""How parts come to rest, on parts of which one knows."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from codepose.parts.mesh import Mesh, mesh_from_trimesh
from codepose.parts.resting import rests
from codepose.parts.shapes import hammer


def share_of(part: Mesh, down: tuple[float, float, float]) -> float:
    """How often it comes to rest with this direction down."""
    sides, shares = rests(part)
    way = np.array(down) / np.linalg.norm(down)
    return float(shares[sides @ way > np.cos(np.radians(4.0))].sum())


def test_a_cube_rests_on_each_side_as_often() -> None:
    sides, shares = rests(mesh_from_trimesh(trimesh.creation.box((20.0, 20.0, 20.0)), "cube"))
    np.testing.assert_allclose(shares, np.full(6, 1 / 6), atol=2e-3)
    ways = {tuple(side.round().astype(int).tolist()) for side in sides}
    assert ways == {(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)}
    np.testing.assert_allclose(np.abs(sides).max(1), 1.0, atol=1e-3)


def test_a_plate_lies_flat_as_often_as_its_middle_sees_its_faces() -> None:
    """A face (2a x 2b) at the distance d fills 4 asin(a b / sqrt((a^2 + d^2) (b^2 + d^2))) of the sphere."""
    plate = mesh_from_trimesh(trimesh.creation.box((60.0, 40.0, 10.0)), "plate")
    a, b, d = 30.0, 20.0, 5.0
    large = 4.0 * np.arcsin(a * b / np.sqrt((a**2 + d**2) * (b**2 + d**2))) / (4.0 * np.pi)
    narrow = 4.0 * np.arcsin(b * d / np.sqrt((b**2 + a**2) * (d**2 + a**2))) / (4.0 * np.pi)
    for down in ((0, 0, 1), (0, 0, -1)):
        assert share_of(plate, down) == pytest.approx(large, rel=0.02)
    assert share_of(plate, (1, 0, 0)) == pytest.approx(narrow, rel=0.05)
    sides, shares = rests(plate)
    assert shares[0] == shares.max()
    assert abs(sides[0, 2]) > 0.999, "the commonest comes first"
    assert shares.sum() == pytest.approx(1.0)


def test_what_has_its_weight_elsewhere_does_not_stand_there() -> None:
    """A closed block on a short leg: the block's middle lies outside the leg, so it topples off; its hull does not."""
    leg = trimesh.creation.box((4.0, 4.0, 30.0)).apply_translation((20.0, 0.0, -20.0))
    block = trimesh.creation.box((44.0, 44.0, 10.0))
    both = trimesh.util.concatenate([block, leg])
    assert isinstance(both, trimesh.Trimesh)
    part = mesh_from_trimesh(both, "table on one leg")
    assert part.closed
    assert share_of(part, (0, 0, 1)) > 0.3
    assert share_of(part, (0, 0, -1)) == 0.0
    tall = trimesh.creation.cone(10.0, 120.0)  # stands on its base: its mass lies a quarter up, its hull's, too
    assert share_of(mesh_from_trimesh(tall, "cone"), (0, 0, -1)) > 0.01


def test_an_open_surface_weighs_what_its_hull_does() -> None:
    """Five sides of a box: the missing one counts."""
    box = trimesh.creation.box((20.0, 20.0, 60.0))
    open_box = trimesh.Trimesh(box.vertices, box.faces[box.face_normals[:, 2] < 0.5])
    part = mesh_from_trimesh(open_box, "open box")
    assert not part.closed
    assert share_of(part, (0, 0, 1)) == pytest.approx(share_of(part, (0, 0, -1)), rel=0.05)
    assert share_of(part, (1, 0, 0)) > 0.2


def test_a_round_part_has_few_rests_and_no_rare_ones() -> None:
    """512 facets of a cylinder lie within 12 degrees of 30 or so."""
    sides, shares = rests(mesh_from_trimesh(trimesh.creation.cylinder(5.0, 100.0, sections=512), "rod"))
    assert 15 <= len(sides) <= 40
    assert np.abs(sides[:, 2]).max() < 0.1, "it stands on its ends in less than 2 % of all cases"
    assert shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.linalg.norm(sides, axis=1), 1.0, atol=1e-6)


def test_commoner_rests_come_first_also_where_facets_are_counted_together() -> None:
    """Each end of this rod is hit more often than one of its 64 facets, but not than those within 12 degrees."""
    sides, shares = rests(mesh_from_trimesh(trimesh.creation.cylinder(12.0, 60.0, sections=64), "rod"))
    assert (np.diff(shares) <= 0).all()
    assert abs(sides[0, 2]) < 0.1
    assert np.abs(sides[:, 2]).max() > 0.9


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_no_facet_is_lost_where_corners_lie_on_one_line(seed: int) -> None:
    """A plate with many corners on its edges, turned, so that they lie there to single precision only."""
    box = trimesh.creation.box((60.0, 40.0, 10.0)).subdivide().subdivide()
    turn = trimesh.transformations.random_rotation_matrix(np.random.default_rng(seed).random(3))
    plate = mesh_from_trimesh(box.apply_transform(turn), "plate")
    assert share_of(plate, tuple(turn[:3, 2])) == pytest.approx(0.406, abs=0.005)
    assert share_of(plate, tuple(-turn[:3, 2])) == pytest.approx(0.406, abs=0.005)


@pytest.mark.parametrize(
    "corners", [[[0, 0, 0], [50, 0, 0], [0, 40, 0]], [[0, 0, 0], [50, 0, 0], [50, 50, 0], [0, 50, 0]]]
)
def test_what_is_flat_lies_on_both_its_sides(corners: list[list[float]]) -> None:
    faces = [[0, 1, 2], [0, 2, 3]][: len(corners) - 2]
    part = mesh_from_trimesh(trimesh.Trimesh(corners, faces, process=False), "sheet")
    assert share_of(part, (0, 0, 1)) == pytest.approx(0.5, abs=0.02)
    assert share_of(part, (0, 0, -1)) == pytest.approx(0.5, abs=0.02)


def test_a_fine_hull_is_looked_at_through_its_outermost_corners() -> None:
    """A capsule of 2,562 corners and more lies on its side all around."""
    capsule = trimesh.creation.capsule(height=60.0, radius=10.0, count=[96, 96])
    part = mesh_from_trimesh(capsule, "capsule")
    assert len(part.hull) > 2000
    sides, shares = rests(part)
    assert 15 <= len(sides) <= 40
    assert np.abs(sides[:, 2]).max() < 0.2
    assert shares.sum() == pytest.approx(1.0)


def test_a_hammer_lies_on_its_sides() -> None:
    """Its thin axis is z."""
    assert share_of(hammer(), (0, 0, 1)) + share_of(hammer(), (0, 0, -1)) > 0.8


def test_the_same_part_always_rests_the_same() -> None:
    first, second = (rests(hammer()) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
