"""Which poses are right, and how far what is said lies from what is so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from codepose.estimation.confidence import Confidence
from codepose.estimation.detection import Detection
from codepose.evaluation.reliability import calibrate, expected_calibration_error, is_right, reliability
from codepose.reports.plots import reliability_plot
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


@pytest.fixture(scope="module")
def scenes(world: World) -> SceneBatch:
    return SceneSource(world, "val").scenes(torch.arange(8))


def true_pose(world: World, scenes: SceneBatch, i: int) -> Detection:
    """The truth in the CAD file's own frame."""
    R, t = scenes.R_cam_obj[i].double().numpy(), scenes.t_cam_obj[i].double().numpy()
    R = Rotation.from_matrix(R).as_matrix()  # float32 is no rotation to twelve digits
    offset = world.objects[0].offset.double().numpy()
    return Detection("hammer", 0, 0.9, 0.8, np.array([1.0, 1, 9, 9]), R, t - R @ offset)


def test_a_fifth_of_the_diameter_is_the_border(world: World, scenes: SceneBatch) -> None:
    good, diameter = true_pose(world, scenes, 2), world.objects[0].mesh.diameter
    assert is_right(world, scenes, 2, good)
    assert not is_right(world, scenes, 3, good), "another scene's pose"
    for share, expected in ((0.199, True), (0.201, False)):
        step = np.array([0.0, 0.0, share * diameter])
        assert is_right(world, scenes, 2, replace(good, t_cam_obj=good.t_cam_obj + step)) is expected


def test_the_pose_of_any_instance_of_its_object_is_right(world: World, scenes: SceneBatch) -> None:
    """Beside the object stand another one of it, one of another kind, and none."""
    kinds = torch.tensor([0, 1, -1]).expand(8, 3)
    R, t = (values[[5, 6, 7]][None].expand(8, *[-1] * values.ndim) for values in (scenes.R_cam_obj, scenes.t_cam_obj))
    crowd = replace(scenes, other_objects=kinds, other_R=R, other_t=t)
    right = [is_right(world, crowd, 2, true_pose(world, scenes, i)) for i in (2, 5, 6, 7)]
    assert right == [True, True, False, False]
    assert not is_right(world, scenes, 2, true_pose(world, scenes, 5))


def test_each_object_has_its_own_middle(world: World, scenes: SceneBatch) -> None:
    """The second one's lies a metre beside its CAD file's origin."""
    offset = torch.tensor([0.0, 600.0, 800.0])
    two: Any = SimpleNamespace(objects=[world.objects[0], replace(world.objects[0], offset=offset)])
    second, found = replace(scenes, objects=scenes.objects + 1), true_pose(world, scenes, 2)
    moved = replace(found, object_index=1, t_cam_obj=found.t_cam_obj - found.R_cam_obj @ offset.double().numpy())
    assert is_right(two, second, 2, moved)
    assert not is_right(two, second, 2, replace(found, object_index=1))


def test_an_object_that_is_not_there_is_wrong(world: World, scenes: SceneBatch) -> None:
    other = replace(scenes, objects=scenes.objects + 1)
    assert not is_right(world, other, 2, true_pose(world, scenes, 2))


class Knowing:
    """Finds the true pose in every second scene, and says so by its similarity."""

    def __init__(self, world: World) -> None:
        self.source, self.world, self.at = SceneSource(world, "val"), world, 0

    def many(
        self, images: list[np.ndarray], cameras: list[np.ndarray], *, min_score: float
    ) -> Iterator[list[Detection]]:
        assert min_score == 0.3
        scenes = self.source.scenes(torch.arange(self.at, self.at + len(images)), photos=True)
        given, K, _ = scenes.photographs()
        np.testing.assert_array_equal(images, given)
        np.testing.assert_array_equal(cameras, [K] * len(images))
        self.at += len(images)
        found = [true_pose(self.world, scenes, i) for i in range(len(images))]
        far = np.array([0.0, 0.0, 1000.0])
        for i, d in enumerate(found):
            yield [
                replace(d, similarity=0.9) if i % 2 == 0 else replace(d, similarity=0.3, t_cam_obj=d.t_cam_obj + far)
            ]


def test_calibration_learns_what_tells_right_from_wrong(world: World) -> None:
    shares: list[float] = []
    found = calibrate(world, Knowing(world), images=20, progress=shares.append, fingerprint="m")
    assert (found.detections, found.correct, found.fingerprint) == (20, 10, "m")
    assert shares == [0.4, 0.8, 1.0]
    low, high = found(torch.tensor([[2.2, 0.3, 0.0, 0.0], [2.2, 0.9, 0.0, 0.0]])).tolist()
    assert low < 0.2
    assert high > 0.8


@pytest.mark.parametrize("judged", [None, 2.5, 0.0])
def test_evidence_is_what_the_detections_say(
    world: World, monkeypatch: pytest.MonkeyPatch, judged: float | None
) -> None:
    """The judge's word where there is one; no contour counts as chance."""
    finds, given = Knowing(world), []
    plain = finds.many

    def many(*args: object, **more: object) -> Iterator[list[Detection]]:
        for k, found in enumerate(plain(*args, **more)):  # type: ignore[arg-type]
            yield [replace(d, score=0.75, agreement=0.5, contour=None if k else 0.25, judged=judged) for d in found]

    monkeypatch.setattr(finds, "many", many)
    monkeypatch.setattr(Confidence, "fit", lambda rows, right, mark: given.append((rows, right, mark)))
    calibrate(world, finds, images=2, fingerprint="m")  # type: ignore[arg-type]
    ((rows, right, mark),) = given
    word = [] if judged is None else [judged]
    expected = torch.tensor([[math.log(3.0), 0.9, 0.5, 0.25, *word], [math.log(3.0), 0.3, 0.5, 0.0, *word]])
    torch.testing.assert_close(rows.float(), expected)
    assert (right.tolist(), mark) == ([True, False], "m")


def test_scenes_and_least_score_are_those_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    made: Any = lambda world, split: asked.append(split) or SceneSource(world, "val")  # noqa: E731
    monkeypatch.setattr("codepose.evaluation.reliability.SceneSource", made)
    finds: Any = SimpleNamespace(many=lambda images, *_, min_score: asked.append(min_score) or [[] for _ in images])
    with pytest.raises(ValueError, match="nothing was detected"):
        calibrate(world, finds, images=1, min_score=0.7, split="test")
    assert asked == ["test", 0.7]


def test_a_network_that_finds_nothing_cannot_be_calibrated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    finds = Knowing(world)
    monkeypatch.setattr(finds, "many", lambda images, *_, **__: [[] for _ in images])
    with pytest.raises(ValueError, match="cannot be calibrated: nothing was detected"):
        calibrate(world, finds, images=4, fingerprint="m")  # type: ignore[arg-type]


def test_reliability_by_hand() -> None:
    said = np.array([0.05, 0.15, 0.12, 1.0, 0.95])
    right = np.array([False, True, False, True, False])
    rows = reliability(said, right)
    assert np.array(rows) == pytest.approx(np.array([[0.05, 0.0, 1], [0.135, 0.5, 2], [0.975, 0.5, 2]]))
    assert expected_calibration_error(said, right) == pytest.approx((0.05 + 2 * 0.365 + 2 * 0.475) / 5)
    assert expected_calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0.0


def test_the_plot_shows_every_bin_of_every_method() -> None:
    g = np.random.default_rng(0)
    said = g.random(200)
    right = g.random(200) < said
    figure = reliability_plot({"joint": said, "extended": said}, {"joint": right, "extended": ~right})
    (axes,) = figure.axes
    assert len(axes.collections) == 2
    assert len(axes.collections[0].get_offsets()) == 10
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels[0] == f"joint: off by {expected_calibration_error(said, right):.2f} in the mean"
