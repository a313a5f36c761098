"""What is shown of what was found in a photo."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from codepose.cameras.camera import Camera
from codepose.cli.options import Bag, Predict, require_usable
from codepose.estimation.answers import MIN_JUDGED, Wishes, answer, least_score, look, sure_enough
from codepose.estimation.detection import Detection
from codepose.predict.prediction import wishes_of
from codepose.serve.models import Model, Question
from codepose.settings.errors import ConfigError


def detection(judged: float | None, confidence: float | None = None, *, object_index: int = 0) -> Detection:
    return Detection(
        label="part",
        object_index=object_index,
        score=0.1,
        similarity=0.9,
        box=np.zeros(4),
        R_cam_obj=np.eye(3),
        t_cam_obj=np.ones(3),
        judged=judged,
        confidence=confidence,
    )


@pytest.mark.parametrize(
    ("wishes", "kept"),
    [
        ({}, [0, 1, 3]),  # from 3 on, and what no judge has seen
        ({"min_judged": 3.5}, [0, 3]),
        ({"min_judged": -1.0}, [0, 1, 2, 3]),
        ({"min_confidence": 0.4}, [0, 3]),
        ({"min_confidence": 0.5}, [0, 3]),
        ({"max_detections": 1}, [0]),
    ],
)
def test_poses_that_judge_or_confidence_doubt_are_left_out(wishes: dict[str, float], kept: list[int]) -> None:
    found = [detection(4.0, 0.5), detection(3.0, 0.3), detection(2.99, 0.9), detection(None)]
    assert sure_enough(found, Wishes(**wishes)) == [found[k] for k in kept]


@pytest.mark.parametrize(("z", "stays"), [(319.0, False), (321.0, True), (874.0, True), (876.0, False)])
def test_what_is_found_where_no_part_can_be_is_left_out(z: float, stays: bool) -> None:
    """From 400 to 700 mm, a quarter beyond either end; the middle counts, 200 mm beside the file's origin, aslant."""
    middle = np.array([0.0, 0.0, 200.0])
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    toward = np.array([0.6, 0.0, 0.8])
    one = dataclasses.replace(detection(4.0), R_cam_obj=quarter, t_cam_obj=z * toward - middle)

    class Estimator:
        judges = True
        codebooks = (SimpleNamespace(offset=torch.from_numpy(middle)),)

        def __call__(self, *_: object, **__: object) -> list[Detection]:
            return [one]

    image, camera = np.zeros((4, 6, 3), np.uint8), Camera(np.diag([5.0, 5.0, 1.0]), 6, 4)
    found, _ = look(Estimator(), image, camera, Wishes(distance=(400.0, 700.0)))  # type: ignore[arg-type]
    assert (found == [one]) == stays
    assert look(Estimator(), image, camera, Wishes())[0] == [one]  # type: ignore[arg-type]


def test_the_judge_takes_the_place_of_the_score() -> None:
    assert least_score(Wishes(), judged=True) == 0.05
    assert least_score(Wishes(), judged=False) == 0.5
    for asked in (0.0, 0.3):
        assert (
            least_score(Wishes(min_score=asked), judged=True)
            == least_score(Wishes(min_score=asked), judged=False)
            == asked
        )


@pytest.mark.parametrize(("judges", "least"), [(True, 0.05), (False, 0.5)])
def test_the_estimator_is_asked_for_scores_that_suit_it(judges: bool, least: float) -> None:
    """One photo as predict and bags ask, and several as the service does."""
    asked: list[float] = []

    class Estimator:
        def __init__(self) -> None:
            self.judges = judges

        def __call__(self, *_: object, min_score: float, **__: object) -> list[Detection]:
            asked.append(min_score)
            return [detection(1.0), detection(5.0)]

        def many(self, images: list[object], *_: object, min_score: float, **__: object) -> Iterator[list[Detection]]:
            asked.append(min_score)
            yield from [[detection(1.0), detection(5.0)] for _ in images]

    image, camera = np.zeros((4, 6, 3), np.uint8), Camera(np.diag([5.0, 5.0, 1.0]), 6, 4)
    found, _ = look(Estimator(), image, camera, Wishes())  # type: ignore[arg-type]
    (answer,) = Model("part", Estimator()).answer([Question("a.png", image, camera, Wishes())])  # type: ignore[arg-type]
    assert [d.judged for d in found] == [d["judged"] for d in answer["detections"]] == [5.0]
    assert asked == [least, least]


def test_the_estimator_gets_the_photo_and_the_depth_without_the_lens() -> None:
    """With the camera's own K and as many tiles as asked for; what it looked at comes back."""
    given: dict[str, object] = {}

    class Estimator:
        judges = True

        def __call__(self, image: np.ndarray, K: np.ndarray, **more: object) -> list[Detection]:
            given.update(image=image, K=K, **more)
            return []

    random = np.random.default_rng(0)
    image = random.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    depth = random.uniform(500.0, 900.0, (40, 60)).astype(np.float32)
    camera = Camera(np.array([[50.0, 0, 31], [0, 52, 19], [0, 0, 1]]), 60, 40, (-0.3, 0.1, 0.0, 0.0))
    _, straight = look(Estimator(), image, camera, Wishes(tiles=3), depth)  # type: ignore[arg-type]
    np.testing.assert_array_equal(straight, camera.undistort(image))
    np.testing.assert_array_equal(given["image"], straight)
    np.testing.assert_array_equal(given["depth"], camera.undistort_depth(depth))
    np.testing.assert_array_equal(given["K"], camera.K)
    assert given["tiles"] == 3
    assert not np.array_equal(straight, image)


def test_an_answer_is_plain_values() -> None:
    camera = Camera(np.array([[50.0, 0, 31], [0, 52, 19], [0, 0, 1]]), 60, 40)
    one = detection(4.0)
    K = [[50.0, 0.0, 31.0], [0.0, 52.0, 19.0], [0.0, 0.0, 1.0]]
    common = {"file": "a.png", "width": 60, "height": 40, "K": K, "detections": [one.to_json()], "time_ms": 12.35}
    assert answer("a.png", camera, [one], 12.3456) == common
    lens = dataclasses.replace(camera, distortion=(0.1, 0.0, 0.0, 0.2))
    expected = common | {"frame": 0, "distortion": [0.1, 0.0, 0.0, 0.2]}
    assert answer("a.png", lens, [one], 12.3456, frame=0) == expected, "the first frame's number is 0"


def test_all_ways_in_leave_out_the_same() -> None:
    for options in (Predict, Bag):
        defaults = {f.name: f.default for f in dataclasses.fields(options)}
        assert {f.name: defaults[f.name] for f in dataclasses.fields(Wishes)} == dataclasses.asdict(Wishes())
    assert (Wishes().min_score, Wishes().min_judged) == (None, MIN_JUDGED)


def test_options_become_wishes() -> None:
    options = Predict(
        Path("run"), min_score=0.2, min_judged=1.0, min_confidence=0.3, tiles=2, max_detections=4, distance=(5.0, 6.0)
    )
    assert wishes_of(options) == Wishes(0.2, 1.0, 0.3, 2, 4, (5.0, 6.0))


@pytest.mark.parametrize("distance", [(0.0, 700.0), (700.0, 400.0), (400.0, math.inf), (math.nan, 700.0)])
def test_a_distance_goes_from_near_to_far(distance: tuple[float, float]) -> None:
    for options in (Predict(Path("run"), distance=distance), Predict(Path("run"), distance=(400.0, 400.0))):
        if options.distance == distance:
            with pytest.raises(ConfigError, match="--distance is the nearest and the farthest in mm"):
                require_usable(options)
        else:
            require_usable(options)


def test_a_person_is_told_the_number_that_counts() -> None:
    told = [detection(*values).sureness for values in ((None,), (2.04,), (2.04, 0.934), (None, 0.002))]
    assert told == ["score 0.10", "judged 2.0", "93 % sure", "0 % sure"]


def test_all_that_speaks_for_a_judged_pose_ranks_it() -> None:
    """The judge's log-odds, 10 for a contour that matches wholly, half of the score's; else the score alone."""
    one = dataclasses.replace(detection(judged=2.0), score=0.9, contour=0.3)
    assert one.rank == pytest.approx(2.0 + 3.0 + 0.5 * math.log(9.0))
    assert dataclasses.replace(one, contour=None).rank == pytest.approx(2.0 + 0.5 * math.log(9.0))
    assert dataclasses.replace(one, score=1.0).rank == pytest.approx(5.0 + 0.5 * math.log(1000.0), abs=1e-3)
    assert dataclasses.replace(one, score=0.0).rank == pytest.approx(5.0 - 0.5 * math.log(1000.0), abs=1e-3)
    assert dataclasses.replace(one, judged=None).rank == 0.9
