"""Smoothing of poses over time, on poses whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from codepose.estimation.detection import Detection
from codepose.estimation.smoothing import PoseSmoother
from codepose.parts.symmetry_group import Symmetries

BOX = np.array([100.0, 100.0, 160.0, 180.0])


def seen(turn_deg: tuple[float, float, float], t: tuple[float, float, float], **changes: object) -> Detection:
    R = Rotation.from_rotvec(turn_deg, degrees=True).as_matrix()
    return dataclasses.replace(Detection("part", 0, 0.9, 0.8, BOX, R, np.array(t)), **changes)


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(Rotation.from_matrix(a.T @ b).magnitude()))


def test_one_step_goes_the_weights_share_of_the_way() -> None:
    smoother = PoseSmoother(weight=0.25)
    first = seen((0, 0, 0), (0, 0, 900))
    assert smoother([first]) == [first]
    (now,) = smoother([seen((0, 20, 0), (40, -8, 1000), score=0.7)])
    np.testing.assert_allclose(now.t_cam_obj, (10, -2, 925))
    np.testing.assert_allclose(Rotation.from_matrix(now.R_cam_obj).as_rotvec(degrees=True), (0, 5, 0), atol=1e-9)
    assert (now.score, now.similarity) == (0.7, 0.8)
    np.testing.assert_array_equal(now.box, BOX)


def test_noise_shrinks_as_theory_says_and_rotations_stay_rotations() -> None:
    """Of white noise, exponential smoothing leaves the fraction sqrt(w / (2 - w))."""
    rng, weight = np.random.default_rng(0), 0.3
    smoother, truth = PoseSmoother(weight=weight), Rotation.from_rotvec([0.5, -1.0, 2.0])
    raw_t, raw_turn, t, turn = [], [], [], []
    for _ in range(300):
        noise = rng.normal(size=3) * np.radians(2)
        R = (truth * Rotation.from_rotvec(noise)).as_matrix()
        place = np.array([10.0, 20.0, 900.0]) + rng.normal(size=3) * 5
        (now,) = smoother([Detection("part", 0, 0.9, 0.8, BOX, R, place)])
        np.testing.assert_allclose(now.R_cam_obj @ now.R_cam_obj.T, np.eye(3), atol=1e-9)
        raw_t.append(place)
        raw_turn.append(noise)
        t.append(now.t_cam_obj)
        turn.append((truth.inv() * Rotation.from_matrix(now.R_cam_obj)).as_rotvec())
    left = np.sqrt(weight / (2 - weight))
    assert np.std(t[50:], 0).mean() / np.std(raw_t[50:], 0).mean() == pytest.approx(left, rel=0.12)
    assert np.std(turn[50:], 0).mean() / np.std(raw_turn[50:], 0).mean() == pytest.approx(left, rel=0.12)


def test_a_jump_or_a_loss_starts_anew() -> None:
    first, later = seen((0, 0, 0), (0, 0, 900)), seen((0, 10, 0), (50, 0, 900))
    for between in ([], [dataclasses.replace(first, object_index=1)]):
        smoother = PoseSmoother()
        smoother([first])
        smoother(between)
        assert smoother([later]) == [later], "lost for a frame"
    for jump in (dataclasses.replace(later, box=BOX + 50), seen((0, 40, 0), (50, 0, 900))):
        smoother = PoseSmoother()
        smoother([first])
        assert smoother([jump]) == [jump]


def test_every_instance_is_followed_for_itself() -> None:
    """Two of the same part, in changing order, and another part behind one of them."""
    left, right = seen((0, 0, 0), (-100, 0, 900)), seen((0, 0, 0), (100, 0, 900), box=BOX + 300)
    other = seen((0, 0, 0), (-100, 0, 1500), object_index=1, label="other")
    smoother = PoseSmoother(weight=0.5)
    smoother([left, right, other])
    moved = [dataclasses.replace(d, t_cam_obj=d.t_cam_obj + np.array([4, 0, 0])) for d in (right, other, left)]
    found = smoother(moved)
    assert [d.object_index for d in found] == [0, 1, 0]
    np.testing.assert_allclose([d.t_cam_obj for d in found], [(102, 0, 900), (-98, 0, 1500), (-98, 0, 900)])


def test_parts_on_a_belt_keep_their_own_tracks() -> None:
    """Boxes 40 px apart that all move 25 px: each new box overlaps the neighbour's last one more than its own."""
    frames = [
        [seen((0, 0, 0), (x, 0.0, 900.0), box=np.array([x, 0.0, x + 100.0, 100.0])) for x in (start, start + 40.0)]
        for start in (0.0, 25.0)
    ]
    smoother = PoseSmoother(weight=0.4)
    smoother(frames[0])
    found = smoother(frames[1])
    np.testing.assert_allclose([d.t_cam_obj[0] for d in found], [10.0, 50.0])


def test_the_weight_is_checked() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        PoseSmoother(weight=0.0)
    later = seen((0, 10, 0), (50, 0, 900))
    smoother = PoseSmoother(weight=1.0)
    smoother([seen((0, 0, 0), (0, 0, 900))])
    (now,) = smoother([later])
    np.testing.assert_allclose(now.t_cam_obj, later.t_cam_obj)
    assert angle_deg(now.R_cam_obj, later.R_cam_obj) < 1e-6


def test_of_poses_that_look_alike_the_nearest_is_gone_on_with() -> None:
    """A prism that looks the same after 120 degrees about z, its axis 10 mm beside the origin, reported at random."""
    turns = np.stack([np.eye(4)] * 2)
    for turn, degrees in zip(turns, (120, 240), strict=True):
        turn[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    symmetries = Symmetries(turns).moved([10.0, 0.0, 0.0])
    rng, motions = np.random.default_rng(0), [np.eye(4), *symmetries.discrete]
    smoother, alone = PoseSmoother([symmetries], weight=0.5), PoseSmoother(weight=0.5)
    jumps = 0
    for frame in range(20):
        true = seen((0, frame, 40), (5 * frame, 0, 900))
        motion = motions[rng.integers(3)] if frame else motions[0]
        R, t = true.R_cam_obj @ motion[:3, :3], true.t_cam_obj + true.R_cam_obj @ motion[:3, 3]
        reported = dataclasses.replace(true, R_cam_obj=R, t_cam_obj=t)
        (smoothed,), (plain,) = smoother([reported]), alone([reported])
        assert angle_deg(smoothed.R_cam_obj, true.R_cam_obj) < 2.5
        assert np.linalg.norm(smoothed.t_cam_obj - true.t_cam_obj) < 12
        jumps += angle_deg(plain.R_cam_obj, true.R_cam_obj) > 60
    assert jumps > 5, "without its symmetries it follows every jump"


def test_a_part_far_from_its_origin_stays_where_it_is() -> None:
    """It turns about its own middle: the origin swings, the middle does not jump."""
    middle = np.array([3000.0, 0.0, 0.0])
    smoother = PoseSmoother(centers=[middle], weight=0.4)
    for degrees in (0.0, 10.0, 0.0, 10.0):
        R = Rotation.from_rotvec([0.0, degrees, 0.0], degrees=True).as_matrix()
        (found,) = smoother([seen((0, degrees, 0), tuple(np.array([0.0, 0.0, 700.0]) - R @ middle))])
        np.testing.assert_allclose(found.R_cam_obj @ middle + found.t_cam_obj, [0.0, 0.0, 700.0], atol=1e-6)
    assert 0.5 < angle_deg(np.eye(3), found.R_cam_obj) < 9.5
