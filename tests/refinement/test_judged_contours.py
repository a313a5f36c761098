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
    """Hands on the poses it is given, and holds each for as good as a table says, by its distance."""

    def __init__(self, before: Tensor, after: Tensor) -> None:
        self.before, self.after = before, after

    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        return replace(poses, judged=self.before, score=self.before)

    def scores(self, seen: Seen, poses: Poses) -> Tensor:
        return self.after


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


def test_a_pose_is_taken_as_edges_left_it_only_where_the_judge_agrees():
    before, after = torch.tensor([[4.0, 3.0], [1.0, 2.0]]), torch.tensor([[3.9, 3.5], [1.0, 1.5]])
    start = Poses.start(EYE.expand(2, 2, 3, 3), torch.arange(12.0).view(2, 2, 3), torch.zeros(2, 2))
    judge = KnownJudge(before, after)
    refine = Stages(judge, JudgedContours(judge, _edges(torch.tensor([[0.1, 0.1], [0.3, 0.2]]))))  # type: ignore[arg-type]
    found = refine(_seen(2), start)
    # first: log-odds 4 (not 3.9) and 3.5 (not 3), contours alike; second: 1 and 2, contours 0.3 and 0.2
    assert found.judged.tolist() == [[4.0], [1.0]]
    torch.testing.assert_close(found.contour, torch.tensor([[0.1], [0.3]]))
    torch.testing.assert_close(found.agreement, found.contour / 2)
    torch.testing.assert_close(found.score, found.judged + 20.0 * found.contour)
    torch.testing.assert_close(found.t[:, 0], torch.stack((start.t[0, 0], start.t[1, 0] + 1.0)))


def test_the_judges_word_weighs_what_twenty_contours_do():
    """Log-odds 3.5 and contour 0.2 beat 4 and 0.1 7.5 to 6."""
    log_odds = torch.tensor([[4.0, 3.5]])
    judge = KnownJudge(log_odds, log_odds)
    refine = JudgedContours(judge, _edges(torch.tensor([[0.1, 0.2]])))  # type: ignore[arg-type]
    start = Poses.start(EYE.expand(1, 2, 3, 3), torch.arange(6.0).view(1, 2, 3), torch.zeros(1, 2))
    found = refine(_seen(1), replace(start, judged=log_odds))
    assert found.score.tolist() == [[pytest.approx(7.5)]]
    torch.testing.assert_close(found.t[0, 0], start.t[0, 1] + 1.0)


@pytest.mark.parametrize(("judged", "kind"), [(0, InTurn), (5, Stages)])
def test_the_settings_say_whether_the_judge_is_asked(world: World, judged: int, kind: type):
    refiner = refiner_of(world, RefinementSettings(judged=judged))
    assert type(refiner) is kind
    placing = refiner.second if isinstance(refiner, Stages) else refiner
    assert isinstance(placing, InTurn)
    assert isinstance(placing.second, EdgeFit)
    assert isinstance(placing.first, JudgedContours if judged else ContourRefiner)
    if isinstance(refiner, Stages):
        assert isinstance(refiner.first, JudgeRefiner)
        assert isinstance(placing.first, JudgedContours)
        assert placing.first.judge is refiner.first


def test_each_pose_is_laid_over_its_own_box_judged_there_and_the_best_comes_first():
    before, start = torch.zeros(2, 2), torch.arange(12.0).view(2, 2, 3)
    contour = torch.tensor([0.1, 0.2, 0.4, 0.3])[:, None]
    seen = replace(_seen(2), boxes=torch.tensor([[1.0] * 4, [2.0] * 4]))

    class Judge(KnownJudge):
        def scores(self, seen: Seen, poses: Poses) -> Tensor:
            assert torch.equal(poses.t, start + 1.0), "where the edges left them"
            return self.after

    def refine(some: Seen, poses: Poses) -> Poses:
        assert some.boxes[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
        return replace(poses, t=poses.t + 1.0, contour=contour, score=contour)

    judged = JudgedContours(Judge(before, before), refine)  # type: ignore[arg-type]
    found = judged(seen, Poses.start(EYE.expand(2, 2, 3, 3), start, before))
    torch.testing.assert_close(found.score, torch.tensor([[4.0], [8.0]]))
