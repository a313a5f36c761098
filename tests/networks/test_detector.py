"""The box head's RoIAlign against torchvision's."""

from __future__ import annotations

import torch
from torchvision.ops import roi_align

from codepose.networks.detector import AlignedRoIPool, DetectionHeads


def test_roi_pool_equals_torchvisions_values_and_gradients() -> None:
    torch.manual_seed(0)
    a = torch.randn(3, 5, 8, 12, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    corners = torch.rand(11, 2, 2) * torch.tensor([192.0, 128.0])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    boxes[0] = torch.tensor([0.0, 0.0, 192.0, 128.0])
    boxes[1] = torch.tensor([150.0, 100.0, 192.0, 128.0])
    split = list(boxes.split([5, 2, 4]))
    ours = AlignedRoIPool(["0"], 7, 2)({"0": a}, split, [(128, 192)] * 3)
    theirs = roi_align(b, split, 7, 1 / 16, sampling_ratio=2, aligned=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(AlignedRoIPool(["0"], 7, 2)({"0": a}, split, [(128, 192)] * 3), theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


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
