"""Judge and edges together: who has which word."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codepose.refinement.edge_fit import EdgeFit
from codepose.refinement.judge import JudgeRefiner
from codepose.refinement.judged_contours import JudgedContours, refiner_of
from codepose.refinement.poses import InTurn, Poses, Seen, Stages
from codepose.refinement.render_and_compare import ContourRefiner
from codepose.settings.inference import RefinementSettings
from codepose.synthesis.world import World

EYE = torch.eye(3)


class KnownJudge:
    """Hands on the poses it is given, and says what it is told: before edges, after them, and after the fit."""

    def __init__(self, before: Tensor, after: Tensor, fitted: Tensor) -> None:
        self.before, self.said = before, [after, fitted]

    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        return replace(poses, judged=self.before, score=self.before)

    def scores(self, seen: Seen, poses: Poses) -> Tensor:
        return self.said.pop(0)


def _seen(count: int) -> Seen:
    row = torch.arange(count)
    return Seen(torch.rand(1, 3, 8, 8), row * 0, torch.rand(count, 4), row * 0, EYE, torch.zeros(count, 3, 4, 4), row)


def _edges(contour: Tensor):
    """Moves every pose 1 mm; detections come one pose at a time, with the boxes of those they belong to.

    A worse one comes back beside it, and first.
    """

    def refine(seen: Seen, poses: Poses) -> Poses:
        assert poses.t.shape == (contour.numel(), 1, 3)
        assert len(seen.boxes) == contour.numel()
        value = contour.view(-1, 1)
        better = replace(poses, t=poses.t + 1.0, contour=value, agreement=value / 2, score=value)
        return replace(better, t=poses.t - 1.0, contour=value - 9, score=value - 9).joined(better)

    return refine


def _fit(seen: Seen, poses: Poses) -> Poses:
    """Moves every pose 10 mm."""
    return replace(poses, t=poses.t + 10.0)


def test_a_pose_is_taken_as_edges_left_it_only_where_the_judge_agrees_and_all_are_fitted():
    before, after = torch.tensor([[4.0, 3.0], [1.0, 2.0]]), torch.tensor([[3.9, 3.5], [1.0, 1.5]])
    start = Poses.start(EYE.expand(2, 2, 3, 3), torch.arange(12.0).view(2, 2, 3), torch.zeros(2, 2))
    contour = torch.tensor([[0.1, 0.1], [0.3, 0.2]])
    for fitted, best, moved in (
        ([[6.0, 5.0], [1.0, 9.0]], [0, 1], [0.0, 0.0]),  # 4 beats 3.9, and 2 beats 1.5: as the judge left them
        ([[5.0, 6.0], [9.0, 1.0]], [1, 0], [1.0, 1.0]),  # 3.5 beats 3, and 1 is no worse than 1
    ):
        judge = KnownJudge(before, after, torch.tensor(fitted))
        refine = Stages(judge, JudgedContours(judge, _edges(contour), _fit))  # type: ignore[arg-type]
        found = refine(_seen(2), start)
        rows, places = torch.arange(2), torch.tensor(best)
        torch.testing.assert_close(found.judged[:, 0], torch.tensor(fitted)[rows, places])
        torch.testing.assert_close(found.contour[:, 0], contour[rows, places])
        assert found.t.shape == (2, 2, 3), "the other one stays"
        torch.testing.assert_close(found.agreement, found.contour / 2)
        torch.testing.assert_close(found.score, found.judged + 20.0 * found.contour)
        torch.testing.assert_close(found.t[:, 0], start.t[rows, places] + torch.tensor(moved)[:, None] + 10.0)


def test_the_judges_word_on_fitted_poses_weighs_what_twenty_contours_do():
    """Log-odds 3.5 and contour 0.2 beat 4 and 0.1 7.5 to 6, whatever was said before."""
    before, fitted = torch.tensor([[9.0, 0.0]]), torch.tensor([[4.0, 3.5]])
    judge = KnownJudge(before, before, fitted)
    refine = JudgedContours(judge, _edges(torch.tensor([[0.1, 0.2]])), _fit)  # type: ignore[arg-type]
    start = Poses.start(EYE.expand(1, 2, 3, 3), torch.arange(6.0).view(1, 2, 3), torch.zeros(1, 2))
    found = refine(_seen(1), replace(start, judged=before))
    assert found.score.tolist() == [pytest.approx([7.5, 6.0])]
    torch.testing.assert_close(found.t[0, 0], start.t[0, 1] + 11.0)


@pytest.mark.parametrize(("judged", "kind"), [(0, InTurn), (1, Stages), (5, Stages)])
def test_the_settings_say_whether_the_judge_is_asked(world: World, judged: int, kind: type):
    refiner = refiner_of(world, RefinementSettings(judged=judged))
    assert isinstance(refiner, InTurn)
    assert type(refiner) is kind
    if not isinstance(refiner, Stages):
        assert isinstance(refiner.first, ContourRefiner)
        assert isinstance(refiner.second, EdgeFit)
        return
    assert isinstance(refiner.first, JudgeRefiner)
    assert isinstance(refiner.second, JudgedContours)
    assert isinstance(refiner.second.contours, ContourRefiner)
    assert isinstance(refiner.second.fit, EdgeFit)
    assert refiner.second.judge is refiner.first


def test_each_pose_is_laid_over_its_own_box_judged_there_and_the_best_comes_first():
    before, start = torch.zeros(2, 2), torch.arange(12.0).view(2, 2, 3)
    contour = torch.tensor([0.1, 0.2, 0.4, 0.3])[:, None]
    seen = replace(_seen(2), boxes=torch.tensor([[1.0] * 4, [2.0] * 4]))

    class Judge(KnownJudge):
        def scores(self, seen: Seen, poses: Poses) -> Tensor:
            assert torch.equal(poses.t, start + (1.0 if len(self.said) == 2 else 11.0)), "where the edges left them"
            return super().scores(seen, poses)

    def refine(some: Seen, poses: Poses) -> Poses:
        assert some.boxes[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
        return replace(poses, t=poses.t + 1.0, contour=contour, score=contour)

    judged = JudgedContours(Judge(before, before, before), refine, _fit)  # type: ignore[arg-type]
    found = judged(seen, Poses.start(EYE.expand(2, 2, 3, 3), start, before))
    torch.testing.assert_close(found.score, torch.tensor([[4.0, 2.0], [8.0, 6.0]]))
