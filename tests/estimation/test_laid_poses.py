"""Which of its poses a detection gets when the photo's parts lie on a plane."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose import geometry
from codepose.estimation.box_poses import Looked, RefinedPoses
from codepose.estimation.laid_poses import LaidPoses, Place
from codepose.refinement.poses import Poses, Seen, Stages
from codepose.synthesis.world import World

UP = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
HEIGHT = -900.0
PLACES = ((-0.2, 0.1, 0.3), (0.2, 0.15, 2.0), (0.0, -0.2, 4.0))
Pose = tuple[NDArray[np.float64], NDArray[np.float64]]


class Asked(NamedTuple):
    rows: list[float]
    R: Tensor
    t: Tensor
    similarity: Tensor


class KnownJudge:
    """Holds every pose that is proposed for as likely right as it is told, and keeps what it is asked."""

    def __init__(self, says: float) -> None:
        self.says, self.asked = says, []  # type: float, list[Asked]

    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        raise AssertionError("nothing is ranked anew")

    def scores(self, seen: Seen, poses: Poses) -> Tensor:
        self.asked.append(Asked(seen.boxes[:, 0].tolist(), poses.R, poses.t, poses.similarity))
        return torch.full_like(poses.score, self.says)


def placed(seen: Seen, poses: Poses) -> Poses:
    """Ranks by the judge's word."""
    return replace(poses, score=poses.judged)


def lying(world: World, x: float, y: float, turn: float, tilt: float = 0.0) -> Pose:
    """A hammer on the plane, or tilted off it about a line across."""
    hull = world.objects[0].mesh.hull.astype(np.float64)
    down = Rotation.align_vectors([-UP], [world.objects[0].rests[0][0]])[0]
    across = np.cross(UP, [1.0, 0.0, 0.0])
    tilted = Rotation.from_rotvec(tilt * across / np.linalg.norm(across))
    R = (tilted * Rotation.from_rotvec(turn * UP) * down).as_matrix()
    ray = np.array([x, y, 1.0])
    return R, ray * (HEIGHT - (hull @ R.T @ UP).min()) / (ray @ UP)


def looked(world: World, poses: list[list[Pose]], scores: list[list[float]], first: int = 0) -> Looked:
    """Boxes that begin at ``first``, with k poses each; the judge holds each for as likely as it scores."""
    count = len(poses)
    R, t = (
        torch.from_numpy(np.stack([np.stack([pose[part] for pose in own]) for own in poses])).float() for part in (0, 1)
    )
    score = torch.tensor(scores)
    start = Poses.start(geometry.offaxis_rotation(t).mT @ R, t, torch.full_like(score, 0.7 + first / 100))
    boxes = torch.arange(float(first), float(first + count))[:, None].expand(count, 4)
    nothing = torch.zeros(count, dtype=torch.long)
    seen = Seen(torch.zeros(1, 3, 8, 8), nothing, boxes, nothing, world.K, torch.zeros(count, 3, 4, 4), torch.ones(2))
    return Looked(torch.arange(count), seen, replace(start, judged=score, score=score))


def places(*found: Looked) -> list[Place]:
    return [Place.of(one, row) for one in found for row in range(len(one.rows))]


def chooser(world: World, judge: KnownJudge) -> LaidPoses:
    return LaidPoses(world, RefinedPoses(world, None, Stages(judge, placed)))  # type: ignore[arg-type]


def tilted_twins(world: World) -> list[list[Pose]]:
    """Each hammer tilted by 25 degrees, and as it lies."""
    return [[lying(world, *where, tilt=math.radians(25.0)), lying(world, *where)] for where in PLACES]


def test_of_poses_that_look_the_same_those_on_the_plane_are_taken(world: World) -> None:
    poses = tilted_twins(world)
    found = places(looked(world, poses, [[6.0, 5.0]] * 3))
    chosen = chooser(world, KnownJudge(-9.0))(found)
    for own, one in zip(poses, chosen, strict=True):
        assert one is not None
        assert one.t.shape == (1, 1, 3)
        np.testing.assert_allclose(one.R[0, 0], own[1][0], atol=1e-5)
        np.testing.assert_allclose(one.t[0, 0], own[1][1], rtol=1e-5)
        assert float(one.judged) == 5.0


@pytest.mark.parametrize("name", ["R_view", "t", "score"])
def test_what_is_no_pose_is_never_taken(world: World, name: str) -> None:
    """As where nothing of a render is seen."""
    poses = tilted_twins(world)
    one = looked(world, [[own[1], own[1]] for own in poses], [[6.0, 5.0]] * 3)
    getattr(one.poses, name)[1, 0] = math.nan
    chosen = chooser(world, KnownJudge(-9.0))(places(one))
    for own, pose, judged in zip(poses, chosen, (6.0, 5.0, 6.0), strict=True):
        assert pose is not None
        np.testing.assert_allclose(pose.t[0, 0], own[1][1], rtol=1e-5)
        assert float(pose.judged) == judged


def test_what_the_photo_says_clearly_stays(world: World) -> None:
    poses = tilted_twins(world)
    found = places(looked(world, poses, [[16.0, 5.0], [6.0, 5.0], [6.0, 5.0]]))
    chosen = chooser(world, KnownJudge(-9.0))(found)
    for own, one, wanted in zip(poses, chosen, (0, 1, 1), strict=True):
        assert one is not None
        np.testing.assert_allclose(one.t[0, 0], own[wanted][1], rtol=1e-5)


def test_poses_on_the_plane_are_proposed_and_taken_where_they_are_as_likely(world: World) -> None:
    """One hammer is known only as tilted; the others lie there already."""
    tilted = lying(world, 0.1, -0.1, 1.0, tilt=math.radians(25.0))
    first = looked(world, tilted_twins(world)[:2], [[5.0, 6.0]] * 2)
    second = looked(world, [[lying(world, 0.0, -0.2, 4.0)] * 2, [tilted] * 2], [[0.9, 0.9], [5.0, 4.0]], first=7)
    judge = KnownJudge(4.5)
    chosen = chooser(world, judge)(places(first, second))
    assert [one.rows for one in judge.asked] == [[8.0]], "not asked for: what lies there, and what is hardly a part"
    assert chosen[2] is None
    (last,) = judge.asked
    assert (last.R.shape, last.R.dtype) == ((1, 4, 3, 3), torch.float32)
    torch.testing.assert_close(last.similarity, torch.full((1, 4), 0.77))
    straight = lying(world, 0.1, -0.1, 1.0)
    np.testing.assert_allclose(last.R[0, 0], straight[0], atol=1e-4)
    np.testing.assert_allclose(last.t[0, 0] / last.t[0, 0].norm(), tilted[1] / np.linalg.norm(tilted[1]), atol=1e-5)
    one = chosen[3]
    assert one is not None
    np.testing.assert_allclose(one.R[0, 0], straight[0], atol=1e-4)
    assert float(one.judged) == 4.5


def test_boxes_that_were_looked_at_together_are_asked_for_together(world: World) -> None:
    tilted = [
        [lying(world, *where, tilt=math.radians(angle))] for where, angle in zip(PLACES, (0.0, 6.0, 6.0), strict=True)
    ]
    flat = [[lying(world, x, y, 1.0)] for x, y in ((-0.1, 0.0), (0.1, 0.1))]
    first, second = looked(world, tilted, [[5.0]] * 3), looked(world, flat, [[5.0]] * 2, first=7)
    judge = KnownJudge(5.0)
    chosen = chooser(world, judge)(places(first, second))
    assert [one.rows for one in judge.asked] == [[1.0, 2.0]]
    for one, where in zip(chosen[1:3], PLACES[1:], strict=True):
        assert one is not None
        np.testing.assert_allclose(one.R[0, 0], lying(world, *where)[0], atol=1e-4)


@pytest.mark.parametrize("score", [0.99, 1.0])
def test_two_parts_make_a_plane_one_does_not(world: World, score: float) -> None:
    twins = tilted_twins(world)[:2]
    chosen = chooser(world, KnownJudge(-9.0))(places(looked(world, twins, [[6.0, 5.0], [score, 0.5]])))
    assert [one is None for one in chosen] == [score < 1.0] * 2


def test_parts_that_lie_on_no_plane_keep_their_poses(world: World) -> None:
    rng = np.random.default_rng(2)
    poses = [
        [(R, np.array([x, 0.0, z]))]
        for R, x, z in zip(
            Rotation.random(3, rng=rng).as_matrix(), (-200.0, 0.0, 200.0), (700.0, 900.0, 1200.0), strict=True
        )
    ]
    judge = KnownJudge(9.0)
    assert chooser(world, judge)(places(looked(world, poses, [[5.0]] * 3))) == [None] * 3
    assert judge.asked == []


def test_a_fine_hull_lies_as_deep_as_its_outermost_corners(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ball of 2,562 corners: at most 642 of them are looked at, and it stays as thick to a hundredth."""
    ball = trimesh.creation.icosphere(5, 20.0).vertices
    mesh = SimpleNamespace(hull=ball, diameter=40.0)
    model = SimpleNamespace(mesh=mesh, rests=(np.array([[0.0, 0.0, 1.0]]), np.ones(1)))
    monkeypatch.setattr(world, "objects", [model])
    found = chooser(world, KnownJudge(0.0))._rests_of(0)
    assert 400 < len(found.hull) <= 642
    assert (found.hull @ Rotation.random(100, rng=np.random.default_rng(1)).as_matrix()[:, 0].T).max(0).min() > 19.6


def test_without_a_judge_nothing_is_chosen(world: World) -> None:
    found = places(looked(world, tilted_twins(world), [[6.0, 5.0]] * 3))
    for refiner in (placed, Stages(placed, placed)):
        assert LaidPoses(world, RefinedPoses(world, None, refiner))(found) == [None] * 3  # type: ignore[arg-type]
