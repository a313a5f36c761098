"""What is detected: RoIAlign, and each object's limit."""

from __future__ import annotations

import torch
from torchvision.ops import roi_align

from codepose.networks.detector import AlignedRoIPool, DetectionHeads


def test_roi_pool_takes_images_without_boxes() -> None:
    features = torch.randn(2, 3, 4, 4)
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 64.0, 64.0]])]
    pooled = AlignedRoIPool(["0"], 7, 2)({"0": features}, boxes, [(64, 64)] * 2)
    torch.testing.assert_close(pooled, roi_align(features, boxes, 7, 1 / 16, sampling_ratio=2, aligned=True))
    assert AlignedRoIPool(["0"], 7, 2)({"0": features}, [boxes[0]] * 2, [(64, 64)] * 2).shape == (0, 3, 7, 7)


def test_each_object_has_its_own_limit() -> None:
    """Twenty sure detections of one object leave the others theirs."""
    heads = DetectionHeads(4, 4, anchor_sizes=(32.0,), aspect_ratios=(1.0,), box_head=8, per_object=3)
    labels = torch.tensor([2] * 20 + [1, 3, 1, 1, 1, 3])
    order = torch.arange(len(labels))
    found = heads._best_of_each({"labels": labels, "scores": 1.0 - order / 100, "boxes": order[:, None].expand(-1, 4)})
    assert found["boxes"][:, 0].tolist() == [0, 1, 2, 20, 21, 22, 23, 25]
    assert found["labels"].tolist() == [2, 2, 2, 1, 3, 1, 1, 3]
    assert len(found["scores"]) == 8


def test_random_heads_find_no_more_of_each_object_than_asked_for() -> None:
    torch.manual_seed(0)
    options = {"anchor_sizes": (16.0, 32.0), "aspect_ratios": (1.0,), "box_head": 8, "score": 0.0, "nms": 0.9}
    few, many = (DetectionHeads(4, 3, per_object=k, **options).eval() for k in (2, 1000))
    many.load_state_dict(few.state_dict())
    features, images = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        for short, long in zip(few.detect(features, images), many.detect(features, images), strict=True):
            for label in (1, 2):
                best = long["boxes"][long["labels"] == label]
                assert len(best) > 2
                torch.testing.assert_close(short["boxes"][short["labels"] == label], best[:2])
