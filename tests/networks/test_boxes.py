"""Boxes in tensors of fixed shape: torchvision's matches, samples, regressions and suppression."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, nms

from codepose.networks.boxes import Weights, best_proposals, decode, encode, match, sample, suppress, suppress_together

SIZE = 128


def random_boxes(*shape: int, least: float = 4.0, most: float = 60.0) -> Tensor:
    """Random ones inside the image."""
    corner, size = torch.rand(*shape, 2) * (SIZE - most), least + torch.rand(*shape, 2) * (most - least)
    return torch.cat((corner, corner + size), -1)


@pytest.mark.parametrize("best", [True, False])
def test_matches_are_torchvisions(best: bool) -> None:
    torch.manual_seed(2)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=best)
    truth, anchors = random_boxes(5, 3), random_boxes(400)
    iou = box_iou(truth, anchors)
    iou[0, 0, :7] = iou[0, 0].max()  # ties
    index, kind = match(iou, torch.ones(5, 3, dtype=torch.bool), 0.3, 0.7, best=best)
    for own, what, quality in zip(index, kind, iou, strict=True):
        theirs = matcher(quality)
        assert torch.equal(torch.where(theirs >= 0, 1, theirs + 1), torch.where(what == 1, 1, what))
        assert torch.equal(own[theirs >= 0], theirs[theirs >= 0])
    _, nobody = match(iou, torch.zeros(5, 3, dtype=torch.bool), 0.3, 0.7, best=best)
    assert (nobody == 0).all()


@pytest.mark.parametrize("best", [True, False])
def test_matches_at_the_thresholds(best: bool) -> None:
    """0.75 is enough to belong to an object, and 0.25 is too much for the background."""
    iou = torch.tensor([[[0.75, 0.74, 0.25, 0.24, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    there = torch.ones(1, 2, dtype=torch.bool)  # the second object overlaps nothing: no box is its best one
    index, kind = match(iou, there, 0.25, 0.75, best=best)
    assert kind.tolist() == [[1, -1, -1, 0, 0]]
    assert index[0, 0] == 0


def test_samples_are_balanced_and_even() -> None:
    torch.manual_seed(3)
    kind = torch.full((2, 300), -1)
    kind[0, :100], kind[0, 100:250] = 1, 0
    kind[1, :5], kind[1, 5:20] = 1, 0
    times = torch.zeros(2, 300)
    for _ in range(400):
        drawn = sample(kind, 64, 0.25)
        assert drawn.used.sum(1).tolist() == [64, 20]
        assert drawn.positive.sum(1).tolist() == [16, 5]
        for row in range(2):
            own = drawn.chosen[row][drawn.used[row]]
            assert len(own.unique()) == len(own)
            assert (kind[row][own] == drawn.positive[row][drawn.used[row]].long()).all()
            times[row, own] += 1
    assert (times[0, :100] / 400 - 0.16).abs().max() < 0.08
    assert (times[0, 100:250] / 400 - 48 / 150).abs().max() < 0.12
    assert (times[1, :20] == 400).all()
    assert times[0, 250:].sum() == 0


def test_each_object_of_an_image_gets_the_proposal_that_covers_it_best() -> None:
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    proposals = torch.tensor([[52.0, 50.0, 60.0, 60.0], [100.0, 100.0, 120.0, 120.0], [0.0, 0.0, 12.0, 10.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    chosen, found = best_proposals(proposals.expand(2, 3, 4), valid, truth.expand(2, 2, 4))
    assert torch.equal(chosen[0], proposals[[2, 0]])
    assert torch.equal(chosen[1, 1], proposals[0])
    assert not torch.equal(chosen[1, 0], proposals[2]), "that one does not count"
    assert found.all()
    assert not best_proposals(proposals[None], torch.zeros(1, 3, dtype=torch.bool), truth[None])[1].any()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_regressions_are_torchvisions_both_ways(weights: Weights) -> None:
    torch.manual_seed(5)
    coder, reference, regression = BoxCoder(weights), random_boxes(50), torch.randn(50, 4) * 8.0
    torch.testing.assert_close(decode(regression, reference, weights), coder.decode_single(regression, reference))
    truth = random_boxes(50)
    torch.testing.assert_close(encode(truth, reference, weights), coder.encode_single(truth, reference))


def test_boxes_that_overlap_by_just_the_threshold_are_kept() -> None:
    pair = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]]])
    there, scores = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.9, 0.8]])
    for iou, both in ((0.5, True), (0.49, False)):
        assert suppress_together(pair, there, iou).tolist() == [[True, both]]
        assert suppress(pair, scores, there, iou).tolist() == [[True, both]]


@pytest.mark.parametrize(("iou", "count"), [(0.3, 400), (0.5, 1000), (0.7, 400)])
def test_suppression_is_torchvisions(iou: float, count: int) -> None:
    """Also in heaps where everything overlaps something, and with boxes of no size."""
    torch.manual_seed(4)
    for most in (20.0, 60.0, 120.0):
        ranked, scores = random_boxes(3, count, most=most), torch.rand(3, count).sort(descending=True).values
        ranked[1, 5, 2:] = ranked[1, 5, :2]
        valid = torch.rand(3, count) > 0.1
        valid[1, 5] = False
        for kept in (suppress(ranked, scores, valid, iou), suppress_together(ranked, valid, iou)):
            for boxes, score, there, own in zip(ranked, scores, valid, kept, strict=True):
                theirs = there.nonzero()[:, 0][nms(boxes[there], score[there], iou)]
                assert torch.equal(own.nonzero()[:, 0], theirs.sort().values)
