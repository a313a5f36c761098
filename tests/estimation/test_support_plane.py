"""The plane on which parts lie: found, worth what the formula says, and proposed poses on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from codepose.estimation.support_plane import Candidates, Plane, Rests, find_plane, highest_prior, laid, log_prior

Array = NDArray[np.float64]
TILT, NEAR, LYING = math.radians(8.0), 0.05, 0.8
UP = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
HEIGHT = -480.0


def plate(size: tuple[float, float, float] = (60.0, 40.0, 10.0)) -> Rests:
    """It lies on one of its two faces, or stands on an edge."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.array(size) / 2
    down = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    return Rests(corners, down, np.array([0.45, 0.45, 0.1]), float(np.linalg.norm(size)))


def lying(rests: Rests, x: float, y: float, turn: float, side: int = 0, tilt: float = 0.0) -> tuple[Array, Array]:
    """A part on the plane UP, HEIGHT, near the ray through (x, y, 1); tilted about a line across the plane."""
    down = Rotation.align_vectors([-UP], [rests.down[side]])[0]
    across = np.cross(UP, [1.0, 0.0, 0.0]) / np.linalg.norm(np.cross(UP, [1.0, 0.0, 0.0]))
    R = (Rotation.from_rotvec(tilt * across) * Rotation.from_rotvec(turn * UP) * down).as_matrix()
    ray = np.array([x, y, 1.0])
    return R, ray * (HEIGHT - (rests.hull @ R.T @ UP).min()) / (ray @ UP)


def one_of(rests: Rests, *poses: tuple[Array, Array], scores: tuple[float, ...] | None = None) -> Candidates:
    score = np.zeros(len(poses)) if scores is None else np.array(scores)
    return Candidates(np.stack([R for R, _ in poses]), np.stack([t for _, t in poses]), score, rests)


def twins(rests: Rests, x: float, y: float, turn: float, **pose: float) -> Candidates:
    """A part as it lies, and the same tilted by 25 degrees and 8 % farther away, which the photo likes better."""
    (R, t), (tilted, _) = lying(rests, x, y, turn, **pose), lying(rests, x, y, turn, tilt=math.radians(25.0))  # type: ignore[arg-type]
    return one_of(rests, (R, t), (tilted, 1.08 * t), scores=(5.0, 6.0))


def logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def angle_deg(a: Array, b: Array) -> float:
    return math.degrees(math.acos(np.clip(a @ b, -1.0, 1.0)))


def test_parts_that_lie_on_one_plane_show_it() -> None:
    rests = plate()
    found = [twins(rests, *where) for where in ((-0.2, 0.1, 0.3), (0.2, 0.15, 2.0), (0.0, -0.2, 4.0))]
    plane = find_plane(found)
    assert plane is not None
    assert angle_deg(plane.up, UP) < 1.0
    assert plane.height == pytest.approx(HEIGHT, abs=1.5)
    assert plane.probability > 0.99
    for one in found:
        odds = log_prior(plane, one)
        assert odds[0] - odds[1] > 3.0, "more than the photo prefers the other one by"


def test_two_parts_are_enough_and_one_says_nothing() -> None:
    rests = plate()
    found = [one_of(rests, lying(rests, *where)) for where in ((-0.2, 0.1, 0.3), (0.2, 0.15, 2.0))]
    plane = find_plane(found)
    assert plane is not None
    assert angle_deg(plane.up, UP) < 0.1
    # each speaks for it by the log of 0.8 times its odds there, and five speak against it
    at = [np.linalg.norm(one.t[0]) for one in found]
    odds = [math.log(2 / TILT**2) + math.log(0.45) + math.log(0.1 * a / (NEAR * rests.diameter)) for a in at]
    evidence = sum(math.log(LYING * math.exp(x) + 1 - LYING) for x in odds)
    assert logit(plane.probability) == pytest.approx(evidence - 5.0, abs=0.01)
    assert find_plane(found[:1]) is None
    assert find_plane([]) is None
    # what the photo thinks of a second pose, that lies on no plane, counts as much as it is likely
    R, t = lying(rests, 0.2, 0.15, 2.0, tilt=math.radians(70.0))
    doubted = [found[0], one_of(rests, lying(rests, 0.2, 0.15, 2.0), (R, 1.3 * t), scores=(6.0, 5.0))]
    plane = find_plane(doubted)
    assert plane is not None
    likely = 1 / (1 + math.exp(-1.0))
    first, second = (LYING * math.exp(x) + 1 - LYING for x in odds)
    evidence = math.log(first) + math.log(likely * second + (1 - likely) * (1 - LYING))
    assert logit(plane.probability) == pytest.approx(evidence - 5.0, abs=0.01)


def test_different_parts_share_a_plane_each_on_one_of_its_own_sides() -> None:
    thick, thin = plate((50.0, 50.0, 40.0)), plate((90.0, 20.0, 4.0))
    found = [
        one_of(thick, lying(thick, -0.2, 0.1, 0.3, side=2)),
        one_of(thin, lying(thin, 0.2, 0.15, 2.0, side=1)),
        one_of(thin, lying(thin, 0.1, -0.1, 1.0, side=0)),
    ]
    plane = find_plane(found)
    assert plane is not None
    assert angle_deg(plane.up, UP) < 0.5
    assert plane.height == pytest.approx(HEIGHT, abs=0.5)


def test_what_does_not_lie_there_does_not_move_the_plane() -> None:
    rests = plate()
    found = [one_of(rests, lying(rests, *where)) for where in ((-0.2, 0.1, 0.3), (0.2, 0.15, 2.0), (0.0, -0.2, 4.0))]
    R, t = lying(rests, 0.1, 0.1, 1.0, tilt=math.radians(60.0))
    plane = find_plane([*found, one_of(rests, (R, 0.8 * t))])
    assert plane is not None
    assert angle_deg(plane.up, UP) < 0.05
    assert plane.height == pytest.approx(HEIGHT, abs=0.1)


def test_many_parts_are_compared_in_pieces() -> None:
    """Of 220 parts, each with two poses and three rests, the last ones alone lie on a plane."""
    rests, rng = plate(), np.random.default_rng(1)
    hanging = Rotation.random(400, rng=rng).as_matrix()
    places = rng.uniform((-100.0, -100.0, 400.0), (100.0, 100.0, 600.0), (400, 3))
    found = [one_of(rests, *zip(hanging[k::200], places[k::200], strict=True)) for k in range(200)]
    found += [twins(rests, x, y, 0.3 * k) for k, (x, y) in enumerate(rng.uniform(-0.2, 0.2, (20, 2)))]
    plane = find_plane(found)
    assert plane is not None
    assert angle_deg(plane.up, UP) < 2.0
    assert plane.height == pytest.approx(HEIGHT, abs=3.0)


def test_parts_that_hang_anyhow_make_no_plane_probable() -> None:
    rests, rng = plate(), np.random.default_rng(0)
    for _ in range(10):
        places = rng.uniform((-0.3, -0.3, 400.0), (0.3, 0.3, 600.0), (3, 3))
        turns = Rotation.random(3, rng=rng).as_matrix()
        poses = [(R, np.array([x * z, y * z, z])) for R, (x, y, z) in zip(turns, places, strict=True)]
        plane = find_plane([one_of(rests, pose) for pose in poses])
        assert plane is None or plane.probability < 0.6


def test_a_plane_seen_from_below_or_from_its_edge_is_none() -> None:
    """Upright plates whose only rests would be on a wall beside the camera, or on a ceiling."""
    side_on = replace(plate(), down=np.array([[0.0, 0.0, 1.0]]), share=np.ones(1))
    for down in ([1.0, 0.0, 0.0], [0.0, 0.0, -1.0]):
        R = Rotation.align_vectors([down], [[0.0, 0.0, 1.0]])[0].as_matrix()
        assert find_plane([one_of(side_on, (R, np.array([x, 0.0, 500.0]))) for x in (-5.0, 5.0)]) is None


def test_of_a_round_part_the_sides_that_are_seen_show_where_the_plane_may_be() -> None:
    """A rod with a rest every two degrees around: 24 of them, around that which faces the camera, are asked."""
    angles = np.radians(np.arange(0.0, 360.0, 2.0))
    down = np.stack((np.cos(angles), np.sin(angles), np.zeros_like(angles)), 1)
    rod = Rests(np.concatenate((5.0 * down, 5.0 * down + [0.0, 0.0, 80.0])), down, np.full(180, 1 / 180), 80.6)
    for degrees, there in ((0.0, True), (20.0, True), (28.0, False)):
        up = np.array([0.0, math.sin(math.radians(degrees)), -math.cos(math.radians(degrees))])
        R = Rotation.align_vectors([[1.0, 0.0, 0.0], -up], [[0.0, 0.0, 1.0], down[0]])[0].as_matrix()
        poses = [(R, np.array([0.0, y, 500.0 + y * up[1] / -up[2]])) for y in (-30.0, 30.0)]
        plane = find_plane([one_of(rod, pose) for pose in poses])
        assert plane is not None
        assert (angle_deg(plane.up, up) < 0.1) == there


def test_a_slanting_plane_is_one_and_a_steeper_one_is_not() -> None:
    """Seen at 73 degrees beside its normal, and at 77: the way up is then 0.29 and 0.22 of the way to the camera."""
    rests = replace(plate(), down=np.array([[0.0, 0.0, 1.0]]), share=np.ones(1))
    for degrees, there in ((73.0, True), (77.0, False)):
        up = np.array([math.sin(math.radians(degrees)), 0.0, -math.cos(math.radians(degrees))])
        R = Rotation.align_vectors([-up], [[0.0, 0.0, 1.0]])[0].as_matrix()
        poses = [(R, np.array([0.0, y, 500.0])) for y in (-4.0, 4.0)]
        plane = find_plane([one_of(rests, pose, pose) for pose in poses])
        assert (plane is not None) == there
        height = float(poses[0][1] @ up + (rests.hull @ R.T @ up).min())
        assert (laid(Plane(up, height, 1.0), one_of(rests, poses[0]), 1) is not None) == there


@pytest.mark.parametrize("probability", [1.0, 0.3])
def test_what_a_plane_says_of_a_pose(probability: float) -> None:
    """Worked out: a pose on it, one tilted by 12 degrees, one 4 mm above it, one upside down."""
    rests = replace(plate(), down=np.array([[0.0, 0.0, 1.0]]), share=np.ones(1))
    R, t = lying(rests, 0.1, 0.1, 0.5)
    tilted, at = lying(rests, 0.1, 0.1, 0.5, tilt=math.radians(12.0))
    over = R @ np.diag([1.0, -1.0, -1.0])
    one = one_of(rests, (R, t), (tilted, at), (R, t + 4.0 * UP), (over, t))
    near = NEAR * rests.diameter
    wanted = []
    for pose, (angle, off) in zip(one.t, ((0.0, 0.0), (12.0, 0.0), (0.0, 4.0), (180.0, 0.0)), strict=True):
        tilt = 2 / TILT**2 * math.exp(-0.5 * (math.radians(angle) / TILT) ** 2)
        place = 0.1 * np.linalg.norm(pose) / near * math.exp(-0.5 * (off / near) ** 2)
        on = LYING * tilt * place + 1 - LYING
        wanted.append(math.log(probability * on + 1 - probability))
    plane = Plane(UP, HEIGHT, probability)
    np.testing.assert_allclose(log_prior(plane, one), wanted, atol=1e-6)
    np.testing.assert_allclose(highest_prior(plane, one)[[0, 2, 3]], [wanted[0]] * 3, atol=0.02)
    assert highest_prior(plane, one)[0] == pytest.approx(wanted[0], abs=1e-9)
    rarer = replace(one, rests=replace(rests, down=plate().down, share=np.array([0.6, 0.3, 0.1])))
    on = LYING * 0.6 * 2 / TILT**2 * 0.1 * np.linalg.norm(t) / near + 1 - LYING
    assert highest_prior(plane, rarer)[0] == pytest.approx(math.log(probability * on + 1 - probability), abs=1e-6)


def test_poses_are_laid_onto_the_plane_by_the_smallest_turn() -> None:
    rests = plate()
    R, t = lying(rests, 0.1, 0.1, 0.5, tilt=math.radians(20.0))
    found = laid(Plane(UP, HEIGHT, 1.0), one_of(rests, (R, 1.1 * t)), 3)
    assert found is not None
    turns, places = found
    assert turns.shape == (3, 3, 3)
    flat = Rotation.from_matrix(turns[0])
    assert math.degrees((flat * Rotation.from_matrix(R).inv()).magnitude()) == pytest.approx(20.0, abs=1e-6)
    np.testing.assert_allclose(flat.as_matrix() @ [0.0, 0.0, 1.0], -UP, atol=1e-9)
    np.testing.assert_allclose(places[0] / np.linalg.norm(places[0]), t / np.linalg.norm(t), atol=1e-9)
    assert (rests.hull @ turns[0].T @ UP + places[0] @ UP).min() == pytest.approx(HEIGHT)
    np.testing.assert_array_equal(turns[1], turns[0], "its other sides are too far off: the last one again")


def test_the_least_turned_poses_come_first_and_each_once() -> None:
    rests = plate()
    tilts = (30.0, 10.0, 20.0, 12.0)
    wheres = ((0.1, 0), (0.1, 1), (0.1, 2), (0.103, 1))
    poses = [lying(rests, x, 0.1, turn, tilt=math.radians(a)) for a, (x, turn) in zip(tilts, wheres, strict=True)]
    one = one_of(rests, *poses, scores=(1.0, 2.0, 3.0, 4.0))
    found = laid(Plane(UP, HEIGHT, 1.0), one, 3)
    assert found is not None
    turned = [
        min(math.degrees((Rotation.from_matrix(R) * Rotation.from_matrix(old).inv()).magnitude()) for old in one.R)
        for R in found[0]
    ]
    np.testing.assert_allclose(turned, [10.0, 20.0, 30.0], atol=1e-3)
    assert found[1][0][0] / found[1][0][2] == pytest.approx(0.103), "of two that become one, the likelier"


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, -2.0, 0.5)])
def test_the_turn_onto_the_plane_is_the_smallest_about_any_axis(axis: tuple[float, float, float]) -> None:
    rests = plate()
    R, t = lying(rests, 0.1, 0.1, 0.5)
    across = np.array(axis) - UP * (UP @ np.array(axis))
    tilted = Rotation.from_rotvec(math.radians(20.0) * across / np.linalg.norm(across)).as_matrix() @ R
    found = laid(Plane(UP, HEIGHT, 1.0), one_of(rests, (tilted, t)), 1)
    assert found is not None
    np.testing.assert_allclose(found[0][0], R, atol=1e-9)
    np.testing.assert_allclose(found[1][0], t, rtol=1e-9)


@pytest.mark.parametrize(("beside", "count"), [(0.07, 1), (0.09, 2)])
def test_poses_beside_each_other_are_one_or_two(beside: float, count: int) -> None:
    """So many diameters apart, turned alike."""
    rests = replace(plate(), down=np.array([[0.0, 0.0, 1.0]]), share=np.ones(1))
    first, other = lying(rests, 0.0, 0.0, 0.5), lying(rests, beside * rests.diameter / -HEIGHT * -UP[2], 0.0, 0.5)
    apart = float(np.linalg.norm(other[1] - first[1])) / rests.diameter
    assert (apart < 0.08) == (count == 1)
    found = laid(Plane(UP, HEIGHT, 1.0), one_of(rests, first, other), 2)
    assert found is not None
    assert len(np.unique(found[1].round(6), axis=0)) == count


@pytest.mark.parametrize(("tilt", "nearer"), [(51.0, 1.0), (10.0, 1.45), (10.0, 0.69)])
def test_what_is_far_from_the_plane_is_not_laid_onto_it(tilt: float, nearer: float) -> None:
    """49 degrees and a distance that is off by a log of 0.34 still are."""
    rests = replace(plate(), down=np.array([[0.0, 0.0, 1.0]]), share=np.ones(1))
    R, t = lying(rests, 0.0, 0.0, 0.5, tilt=math.radians(tilt))
    assert laid(Plane(UP, HEIGHT, 1.0), one_of(rests, (R, nearer * t)), 2) is None
    R, t = lying(rests, 0.0, 0.0, 0.5, tilt=math.radians(tilt - 2.0))
    assert laid(Plane(UP, HEIGHT, 1.0), one_of(rests, (R, nearer**0.8 * t)), 2) is not None
