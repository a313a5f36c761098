"""Identities over time, on poses whose truth is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from codepose.estimation.detection import Detection
from codepose.estimation.tracking import Tracker
from codepose.parts.symmetry_group import Symmetries

K = np.array([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]])
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])[None]


def seen(t: Sequence[float], turn_deg: Sequence[float] = (0, 0, 0), **changes: object) -> Detection:
    place = np.array(t, dtype=float)
    middle = (K @ place)[:2] / place[2]
    size = 30_000 / place[2]
    box = np.concatenate([middle - size, middle + size])
    R = Rotation.from_rotvec(turn_deg, degrees=True).as_matrix()
    return dataclasses.replace(Detection("bolt", 0, 0.9, 0.8, box, R, place), **changes)


def told(found: list[Detection]) -> list[tuple[int | None, bool]]:
    return [(d.track, d.lost) for d in found]


def test_parts_that_pass_each_other_keep_their_numbers_whatever_their_order() -> None:
    """At the middle they are 20 mm apart, less than each goes in an image."""
    tracker = Tracker([100.0])
    for k in range(21):
        right, left = seen((-300 + 30 * k, 10, 900)), seen((300 - 30 * k, -10, 900))
        frame = [left, right] if k % 3 else [right, left]
        found = tracker(frame, K)
        assert told(found) == ([(2, False), (1, False)] if k % 3 else [(1, False), (2, False)]), k
        assert [d.t_cam_obj[0] for d in found] == [d.t_cam_obj[0] for d in frame]


def test_a_lost_part_goes_on_at_its_velocity_and_is_found_again() -> None:
    tracker = Tracker([100.0], patience=10)
    for k in range(12):
        tracker([seen((10 * k, 0, 900 + 20 * k), (0, 0, 3 * k))], K)
    for k in range(12, 18):
        (lost,) = tracker([], K)
        assert told([lost]) == [(1, True)]
        np.testing.assert_allclose(lost.t_cam_obj, (10 * k, 0, 900 + 20 * k), atol=1e-6)
        turned = Rotation.from_matrix(lost.R_cam_obj).as_rotvec(degrees=True)
        np.testing.assert_allclose(turned, (0, 0, 3 * k), atol=1e-6)
        np.testing.assert_allclose(lost.box, seen(lost.t_cam_obj).box, atol=1e-6)
        assert (lost.score, lost.confidence, lost.judged, lost.sureness) == (0.0, None, None, "lost")
    (found,) = tracker([seen((180, 0, 1260), (0, 0, 54))], K)
    assert (found.track, found.lost, found.score) == (1, False, 0.9)
    (lost,) = tracker([], K)  # its velocity is still known, and how it turns
    np.testing.assert_allclose(lost.t_cam_obj, (190, 0, 1280), atol=1e-6)
    np.testing.assert_allclose(Rotation.from_matrix(lost.R_cam_obj).as_rotvec(degrees=True), (0, 0, 57), atol=1e-6)


def test_what_stays_away_is_forgotten_and_what_comes_is_new() -> None:
    tracker = Tracker([100.0], patience=3)
    for _ in range(2):
        tracker([seen((0, 0, 900))], K)
    assert [told(tracker([], K)) for _ in range(4)] == [[(1, True)]] * 3 + [[]]
    assert told(tracker([seen((0, 0, 900))], K)) == [(2, False)]


def test_what_was_found_once_is_not_told_as_lost() -> None:
    tracker = Tracker([100.0])
    tracker([seen((0, 0, 900))], K)
    assert tracker([], K) == []


def test_a_part_too_far_from_where_it_was_is_another_one() -> None:
    tracker = Tracker([100.0], gate=0.75)
    for _ in range(3):
        tracker([seen((0, 0, 900))], K)
    assert told(tracker([seen((74, 0, 900))], K)) == [(1, False)]
    tracker = Tracker([100.0], gate=0.75, widening=0.25)
    for _ in range(3):
        tracker([seen((0, 0, 900))], K)
    assert told(tracker([seen((90, 0, 900))], K)) == [(2, False), (1, True)]
    assert told(tracker([seen((-90, 0, 900))], K)) == [(1, False)]  # after one image it may be farther away
    assert told(tracker([seen((-90, 0, 1100))], K)) == [(1, False)], "depth is seen worse"


def test_the_gate_widens_with_each_image_up_to_twice_itself() -> None:
    """0.75 diameters, 0.05 more for each of four images: 95 mm; with 0.25 for each of ten no more than 150 mm."""
    for widening, missed, reach in ((None, 4, 95), (0.25, 10, 150)):
        for x, expected in ((reach - 1, 1), (reach + 1, 2)):
            tracker = Tracker([100.0]) if widening is None else Tracker([100.0], widening=widening)
            for _ in range(3):
                tracker([seen((0, 0, 900))], K)
            for _ in range(missed):
                tracker([], K)
            assert tracker([seen((x, 0, 900))], K)[0].track == expected, (reach, x)


@pytest.mark.parametrize("known", [True, False])
def test_half_a_turn_counts_as_a_quarter_of_a_diameter(known: bool) -> None:
    """Unless the part looks the same after it."""
    for x, expected in ((49, 1), (51, 1 if known else 2)):
        tracker = Tracker([100.0], [Symmetries(HALF_TURN, ()) if known else Symmetries.none()])
        for _ in range(2):
            tracker([seen((0, 0, 900))], K)
        assert tracker([seen((x, 0, 900), (0, 0, 180))], K)[0].track == expected


def test_of_two_in_one_place_each_goes_on_with_the_one_turned_like_it() -> None:
    tracker = Tracker([100.0])
    tracker([seen((0, 0, 900)), seen((10, 0, 900), (0, 0, 90))], K)
    assert told(tracker([seen((5, 0, 900), (0, 0, 90)), seen((5, 0, 900))], K)) == [(2, False), (1, False)]


def test_a_part_is_far_by_its_own_diameter() -> None:
    tracker, nut = Tracker([100.0, 1000.0]), {"label": "nut", "object_index": 1}
    tracker([seen((0, 0, 900), **nut)], K)
    assert told(tracker([seen((300, 0, 900), **nut)], K)) == [(1, False)]


def test_three_tenths_of_a_new_velocity_are_believed() -> None:
    """10 mm and 10 degrees, then 20 of both: the next step is of 13. The gate is wide enough."""
    tracker = Tracker([1000.0])
    for x in (0, 10, 30):
        tracker([seen((x, 0, 900), (0, 0, x))], K)
    (lost,) = tracker([], K)
    np.testing.assert_allclose(lost.t_cam_obj, (43, 0, 900), atol=1e-6)
    np.testing.assert_allclose(Rotation.from_matrix(lost.R_cam_obj).as_rotvec(degrees=True), (0, 0, 43), atol=1e-6)


def test_a_lost_part_goes_on_turning_about_its_middle() -> None:
    """The middle stands still, 50 mm beside the file's origin."""
    middle, center = np.array([20.0, 0.0, 900.0]), np.array([50.0, 0.0, 0.0])
    tracker = Tracker([100.0], (), [center])
    for k in range(3):
        R = Rotation.from_rotvec([0.0, 0.0, 10.0 * k], degrees=True).as_matrix()
        tracker([seen(middle - R @ center, (0, 0, 10 * k))], K)
    for k in (3, 4):
        (lost,) = tracker([], K)
        R = Rotation.from_rotvec([0.0, 0.0, 10.0 * k], degrees=True).as_matrix()
        np.testing.assert_allclose(lost.R_cam_obj, R, atol=1e-9)
        np.testing.assert_allclose(lost.t_cam_obj, middle - R @ center, atol=1e-9)


def test_what_was_found_once_is_forgotten_after_two_images() -> None:
    for missed, number in ((1, 1), (2, 2)):
        tracker = Tracker([100.0])
        tracker([seen((0, 0, 900))], K)
        for _ in range(missed):
            assert tracker([], K) == []
        assert told(tracker([seen((0, 0, 900))], K)) == [(number, False)]


def test_a_lost_part_is_told_for_thirty_images() -> None:
    tracker = Tracker([100.0])
    for _ in range(2):
        tracker([seen((0, 0, 900))], K)
    assert [len(tracker([], K)) for _ in range(31)] == [1] * 30 + [0]


@pytest.mark.parametrize("step", [400, 450])
def test_what_would_be_behind_the_camera_is_not_told(step: int) -> None:
    """From 900 mm it comes nearer by 400 or 450: to 100, or to the camera itself, and then behind it."""
    tracker = Tracker([1000.0])
    for k in range(2):
        tracker([seen((0, 0, 900 - step * k))], K)
    assert [[d.t_cam_obj[2] for d in tracker([], K)] for _ in range(2)] == [[100.0] if step == 400 else [], []]


def test_objects_are_numbered_and_paired_for_themselves() -> None:
    tracker = Tracker([100.0, 100.0])
    nut = {"label": "nut", "object_index": 1}
    assert told(tracker([seen((0, 0, 900)), seen((5, 0, 900), **nut), seen((200, 0, 900))], K)) == [
        (1, False),
        (1, False),
        (2, False),
    ]
    found = tracker([seen((5, 0, 900)), seen((0, 0, 900), **nut)], K)
    assert [(d.label, d.track) for d in found] == [("bolt", 1), ("nut", 1)]
    assert found[0].name == "bolt #1"


@pytest.mark.parametrize("known", [True, False])
def test_of_poses_that_look_the_same_it_goes_on_with_the_nearest(known: bool) -> None:
    """Half a turn about z at every other image, and a middle that is not the origin."""
    half = Symmetries(HALF_TURN, ()) if known else Symmetries.none()
    tracker = Tracker([100.0], [half], [np.array([0.0, 0.0, 7.0])])
    for k in range(8):
        (found,) = tracker([seen((0, 0, 900), (0, 0, 180 * (k % 2)))], K)
        assert found.track == 1
        turned = Rotation.from_matrix(found.R_cam_obj).magnitude()
        assert turned == pytest.approx(0 if known or k % 2 == 0 else np.pi, abs=1e-6)


def test_a_track_is_told_in_json_and_other_detections_say_nothing_of_it() -> None:
    tracker = Tracker([100.0])
    plain = seen((0, 0, 900))
    assert {"track", "state"} & set(plain.to_json()) == set()
    states = [tracker(frame, K)[0].to_json() for frame in ([plain], [plain], [])]
    assert [(s["track"], s["state"]) for s in states] == [(1, "found"), (1, "found"), (1, "lost")]
