"""Training in fixed shapes is torchvision's: the same proposals, matches, samples and losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, nms, roi_align

from codepose.networks import detector_training
from codepose.networks.detector import AlignedRoIPool, DetectionHeads
from codepose.networks.detector_training import (
    Targets,
    decode,
    match,
    pool,
    sample,
    suppress,
    suppress_together,
)

SIZE = 128


def boxes(*shape: int, least: float = 4.0, most: float = 60.0) -> Tensor:
    """Random ones inside the image."""
    corner, size = torch.rand(*shape, 2) * (SIZE - most), least + torch.rand(*shape, 2) * (most - least)
    return torch.cat((corner, corner + size), -1)


def heads(seed: int = 0, everything: bool = True) -> DetectionHeads:
    """Random ones, in training, that take all there is instead of a sample."""
    torch.manual_seed(seed)
    numbers = {"box_head": 16, "proposals": 1000, "roi_samples": 128, "roi_sampling": 2, "per_object": 10}
    shapes = {"anchor_sizes": (16.0, 32.0, 64.0), "aspect_ratios": (0.5, 1.0, 2.0)}
    made = DetectionHeads(6, 3, **numbers, **shapes, score=0.05, nms=0.5).train()
    made.rpn._pre_nms_top_n["training"], made.rpn._post_nms_top_n["training"] = 300, 80
    with torch.no_grad():
        made.rpn.head.bbox_pred.weight.mul_(20.0)  # boxes that leave the image, too
    if everything:
        made.rpn.fg_bg_sampler = BalancedPositiveNegativeSampler(2000, 0.5)
        made.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(400, 0.5)
    return made


def targets() -> Targets:
    """Of three images, with two objects, one and none; whatever box stands where there is none does not count."""
    return Targets(boxes(3, 2, least=20.0), torch.tensor([[1, 2], [0, 2], [0, 0]]))


def scene() -> tuple[Tensor, Tensor, Targets]:
    torch.manual_seed(1)
    return torch.randn(3, 6, 8, 8, requires_grad=True), torch.rand(3, 3, SIZE, SIZE), targets()


@pytest.mark.parametrize("seed", range(4))
def test_proposals_and_losses_of_the_rpn_are_torchvisions(seed: int) -> None:
    made, (features, images, wanted) = heads(seed), scene()
    found = made.propose(features, images, wanted)
    theirs, losses = made.rpn(ImageList(images, [(SIZE, SIZE)] * 3), {"0": features}, wanted.split())
    for mine, valid, other in zip(found.boxes, found.valid, theirs, strict=True):
        assert len(other) == int(valid.sum())
        torch.testing.assert_close(mine[valid], other, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.losses["rpn_objectness"], losses["loss_objectness"])
    torch.testing.assert_close(found.losses["rpn_box"], losses["loss_rpn_box_reg"])
    assert found.losses["rpn_box"] > 0
    gradients = [
        torch.autograd.grad(sum(terms.values()), [features, *made.rpn.parameters()]) for terms in (found.losses, losses)
    ]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_losses_of_the_box_head_are_torchvisions(seed: int) -> None:
    made, (features, images, wanted) = heads(seed), scene()
    found = made.propose(features, images, wanted)
    mine = made.head_losses(features, found, (SIZE, SIZE), wanted)
    lists = [one[valid] for one, valid in zip(found.boxes, found.valid, strict=True)]
    _, theirs = made.roi_heads({"0": features}, lists, [(SIZE, SIZE)] * 3, wanted.split())
    torch.testing.assert_close(mine["head_class"], theirs["loss_classifier"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine["head_box"], theirs["loss_box_reg"], atol=1e-5, rtol=1e-5)
    assert mine["head_box"] > 0
    gradients = [
        torch.autograd.grad(sum(terms.values()), [features, *made.roi_heads.parameters()]) for terms in (mine, theirs)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_box_head_is_trained_on_as_many_boxes_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two of 128 are positive where there are so many, and none is drawn twice."""
    made, seen = heads(everything=False), []
    features, images, wanted = scene()
    found = made.propose(features, images, wanted)
    near = wanted.boxes[:, :1] + torch.rand(3, 60, 4)  # far more than may be taken
    many = torch.cat((near, boxes(3, 150)), 1)
    proposals = found._replace(boxes=many, valid=torch.ones(many.shape[:2], dtype=torch.bool))
    real = detector_training.pool
    monkeypatch.setattr(detector_training, "pool", lambda f, b, *rest: (seen.append(b), real(f, b, *rest))[1])
    made.head_losses(features, proposals, (SIZE, SIZE), wanted)
    assert seen[0].shape == (3, 128, 4)
    for one in seen[0]:
        assert len(one.unique(dim=0)) == 128
    truth = wanted.boxes[0]
    assert int((box_iou(seen[0][0], truth).amax(1) >= 0.5).sum()) == 32


@pytest.mark.parametrize("low_quality", [True, False])
def test_matches_are_torchvisions(low_quality: bool) -> None:
    torch.manual_seed(2)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=low_quality)
    truth, anchors = boxes(5, 3), boxes(400)
    iou = box_iou(truth, anchors)
    iou[0, 0, :7] = iou[0, 0].max()  # ties
    index, kind = match(iou, torch.ones(5, 3, dtype=torch.bool), matcher)
    for mine, what, quality in zip(index, kind, iou, strict=True):
        theirs = matcher(quality)
        assert torch.equal(torch.where(theirs >= 0, 1, theirs + 1), torch.where(what == 1, 1, what))
        assert torch.equal(mine[theirs >= 0], theirs[theirs >= 0])
    _, nobody = match(iou, torch.zeros(5, 3, dtype=torch.bool), matcher)
    assert (nobody == 0).all()


def test_matches_at_the_thresholds() -> None:
    """0.75 is enough to belong to an object, and 0.25 is too much for the background."""
    iou = torch.tensor([[[0.75, 0.74, 0.25, 0.24, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    for low_quality in (True, False):  # the second object overlaps nothing: no box is its best one
        index, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), Matcher(0.75, 0.25, low_quality))
        assert kind.tolist() == [[1, -1, -1, 0, 0]]
        assert index[0, 0] == 0


def test_boxes_that_overlap_by_just_the_threshold_are_kept() -> None:
    pair = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]]])
    there, scores = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.9, 0.8]])
    for iou, both in ((0.5, True), (0.49, False)):
        assert suppress_together(pair, there, iou).tolist() == [[True, both]]
        assert suppress(pair, scores, there, iou).tolist() == [[True, both]]


@pytest.mark.parametrize("gradient", [True, False])
def test_torchvisions_pooling_is_taken_where_it_is_faster(gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backward pass runs on one core of a CPU; without gradient it is the faster one."""
    pooler, calls = AlignedRoIPool(["0"], 7, 2), []
    forward = pooler.forward
    monkeypatch.setattr(pooler, "forward", lambda *args: (calls.append(1), forward(*args))[1])
    with torch.set_grad_enabled(gradient):
        pool(torch.rand(1, 3, 8, 8), boxes(1, 2), (SIZE, SIZE), pooler)
    assert len(calls) == (not gradient)


def test_pooling_stays_float32_under_autocast() -> None:
    torch.manual_seed(0)
    features, rois, pooler = torch.randn(1, 3, 8, 8), boxes(1, 2), AlignedRoIPool(["0"], 7, 2)
    exact = pool(features, rois, (SIZE, SIZE), pooler)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool(features, rois, (SIZE, SIZE), pooler), exact)


def test_samples_are_balanced_and_even() -> None:
    torch.manual_seed(3)
    kind = torch.full((2, 300), -1)
    kind[0, :100], kind[0, 100:250] = 1, 0
    kind[1, :5], kind[1, 5:20] = 1, 0
    drawn = torch.zeros(2, 300)
    for _ in range(400):
        chosen, used, positive = sample(kind, BalancedPositiveNegativeSampler(64, 0.25))
        assert used.sum(1).tolist() == [64, 20]
        assert positive.sum(1).tolist() == [16, 5]
        for row in range(2):
            mine = chosen[row][used[row]]
            assert len(mine.unique()) == len(mine)
            assert (kind[row][mine] == positive[row][used[row]].long()).all()
            drawn[row, mine] += 1
    assert (drawn[0, :100] / 400 - 0.16).abs().max() < 0.08
    assert (drawn[0, 100:250] / 400 - 48 / 150).abs().max() < 0.12
    assert (drawn[1, :20] == 400).all()
    assert drawn[0, 250:].sum() == 0


@pytest.mark.parametrize(("iou", "count"), [(0.3, 400), (0.5, 1000), (0.7, 400)])
def test_suppression_is_torchvisions(iou: float, count: int) -> None:
    """Also in heaps where everything overlaps something, and with boxes of no size."""
    torch.manual_seed(4)
    for most in (20.0, 60.0, 120.0):
        ranked, scores = boxes(3, count, most=most), torch.rand(3, count).sort(descending=True).values
        ranked[1, 5, 2:] = ranked[1, 5, :2]
        valid = torch.rand(3, count) > 0.1
        valid[1, 5] = False
        for kept in (suppress(ranked, scores, valid, iou), suppress_together(ranked, valid, iou)):
            for one, score, there, mine in zip(ranked, scores, valid, kept, strict=True):
                theirs = there.nonzero()[:, 0][nms(one[there], score[there], iou)]
                assert torch.equal(mine.nonzero()[:, 0], theirs.sort().values)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_boxes_are_decoded_as_torchvision_does(weights: tuple[float, float, float, float]) -> None:
    torch.manual_seed(5)
    coder, reference, regression = BoxCoder(weights), boxes(50), torch.randn(50, 4) * 8.0
    torch.testing.assert_close(decode(regression, reference, coder), coder.decode_single(regression, reference))


def test_pooling_equals_torchvisions_values_and_gradients() -> None:
    torch.manual_seed(0)
    a = torch.randn(3, 5, 8, 12, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    corners = torch.rand(3, 4, 2, 2) * torch.tensor([192.0, 128.0])
    rois = torch.cat((corners.amin(2), corners.amax(2)), -1)
    rois[0, 0] = torch.tensor([0.0, 0.0, 192.0, 128.0])
    rois[0, 1] = torch.tensor([150.0, 100.0, 192.0, 128.0])
    pooler = AlignedRoIPool(["0"], 7, 2)
    ours = pool(a, rois, (128, 192), pooler)
    theirs = roi_align(b, list(rois), 7, 1 / 16, sampling_ratio=2, aligned=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooler({"0": b}, list(rois), [(128, 192)] * 3), theirs)
    with torch.no_grad():
        torch.testing.assert_close(pool(a, rois, (128, 192), pooler), theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
