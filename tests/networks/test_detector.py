"""What is detected: RoIAlign, Faster R-CNN's numbers, images that are not square, and each object's limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.ops import roi_align

from codepose.networks.detector import AlignedRoIPool, DetectionHeads, Detector
from codepose.networks.detector_training import Targets
from codepose.networks.vgg import Encoder


def random_heads(channels: int, classes: int, **changes: Any) -> DetectionHeads:
    numbers = {"box_head": 8, "proposals": 1000, "roi_samples": 128, "roi_sampling": 2, "score": 0.0, "nms": 0.5}
    torch.manual_seed(0)
    shapes = {"anchor_sizes": (16.0, 32.0), "aspect_ratios": (0.5, 1.0), "per_object": 10}
    return DetectionHeads(channels, classes, **numbers | shapes | changes)


def test_roi_pool_takes_images_without_boxes() -> None:
    features = torch.randn(2, 3, 4, 4)
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 64.0, 64.0]])]
    pooled = AlignedRoIPool(["0"], 7, 2)({"0": features}, boxes, [(64, 64)] * 2)
    torch.testing.assert_close(pooled, roi_align(features, boxes, 7, 1 / 16, sampling_ratio=2, aligned=True))
    assert AlignedRoIPool(["0"], 7, 2)({"0": features}, [boxes[0]] * 2, [(64, 64)] * 2).shape == (0, 3, 7, 7)


def test_roi_pool_takes_a_single_image() -> None:
    features, boxes = torch.randn(1, 3, 4, 6), [torch.tensor([[3.0, 5.0, 70.0, 50.0]])]
    pooled = AlignedRoIPool(["0"], 7, 2)({"0": features}, boxes, [(64, 96)])
    torch.testing.assert_close(pooled, roi_align(features, boxes, 7, 1 / 16, sampling_ratio=2, aligned=True))


def test_the_numbers_are_faster_rcnns() -> None:
    """Those of the paper's detector, and those that the settings name."""
    heads = random_heads(6, 4, proposals=600, roi_samples=96, roi_sampling=3, score=0.07, nms=0.4, per_object=11)
    rpn, roi = heads.rpn, heads.roi_heads
    assert (rpn.anchor_generator.sizes, rpn.anchor_generator.aspect_ratios) == (((16.0, 32.0),), ((0.5, 1.0),))
    assert rpn.head.cls_logits.out_channels == 4
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    assert rpn._pre_nms_top_n == {"training": 1200, "testing": 600}
    assert rpn._post_nms_top_n == {"training": 600, "testing": 300}
    assert rpn.nms_thresh == 0.7
    assert (roi.proposal_matcher.high_threshold, roi.proposal_matcher.low_threshold) == (0.5, 0.5)
    assert (roi.fg_bg_sampler.batch_size_per_image, roi.fg_bg_sampler.positive_fraction) == (96, 0.25)
    assert roi.box_coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert (roi.box_roi_pool.featmap_names, tuple(roi.box_roi_pool.output_size)) == (["0"], (7, 7))
    assert roi.box_roi_pool.sampling_ratio == 3
    assert (roi.box_head.fc6.in_features, roi.box_head.fc6.out_features) == (6 * 49, 8)
    assert (roi.box_predictor.cls_score.out_features, roi.box_predictor.bbox_pred.out_features) == (4, 16)
    assert (roi.score_thresh, roi.nms_thresh, heads.per_object) == (0.07, 0.4, 11)
    assert roi.detections_per_img == 3 * 300, "no object's detections push out another's"
    least = random_heads(6, 4, proposals=1)
    assert least.rpn._post_nms_top_n == {"training": 1, "testing": 1}
    assert least.roi_heads.detections_per_img == 3


def test_images_need_not_be_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals and detections reach all four sides, and go no further."""
    heads = random_heads(8, 3, per_object=1000)
    with torch.no_grad():
        heads.rpn.head.bbox_pred.weight.mul_(20.0)
        heads.roi_heads.box_predictor.bbox_pred.weight.mul_(40.0)
    detector = Detector(Encoder(8 / 512), heads).eval()
    images = torch.rand(2, 3, 64, 160)
    with torch.no_grad():
        features = detector.encoder(images)
        proposals = torch.cat(heads.proposals(features, images))
        assert proposals.amin(0).tolist()[:2] == [0.0, 0.0]
        assert proposals.amax(0).tolist()[2:] == [160.0, 64.0]
        found, direct = detector.detect(images), heads.detect(features, images)
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(heads, "head_losses", lambda _, __, size, ___: (sizes.append(size), {})[1])
    detector.train().losses(images, Targets(torch.rand(2, 1, 4), torch.ones(2, 1, dtype=torch.long)))
    assert sizes == [(64, 160)]
    for one, same in zip(found, direct, strict=True):
        assert all(torch.equal(one[name], same[name]) for name in ("boxes", "labels", "scores"))
    boxes = torch.cat([one["boxes"] for one in found])
    assert boxes.amin(0).tolist()[:2] == [0.0, 0.0]
    assert boxes.amax(0).tolist()[2:] == [160.0, 64.0]


def test_each_object_has_its_own_limit() -> None:
    """Twenty sure detections of one object leave the others theirs."""
    heads = random_heads(4, 4, per_object=3)
    labels = torch.tensor([2] * 20 + [1, 3, 1, 1, 1, 3])
    order = torch.arange(len(labels))
    found = heads._best_of_each({"labels": labels, "scores": 1.0 - order / 100, "boxes": order[:, None].expand(-1, 4)})
    assert found["boxes"][:, 0].tolist() == [0, 1, 2, 20, 21, 22, 23, 25]
    assert found["labels"].tolist() == [2, 2, 2, 1, 3, 1, 1, 3]
    assert len(found["scores"]) == 8


def test_random_heads_find_no_more_of_each_object_than_asked_for() -> None:
    few, many = (random_heads(4, 3, per_object=k, nms=0.9).eval() for k in (2, 1000))
    many.load_state_dict(few.state_dict())
    features, images = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        for short, long in zip(few.detect(features, images), many.detect(features, images), strict=True):
            for label in (1, 2):
                best = long["boxes"][long["labels"] == label]
                assert len(best) > 2
                torch.testing.assert_close(short["boxes"][short["labels"] == label], best[:2])
