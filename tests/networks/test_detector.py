"""The box head's RoIAlign against torchvision's."""

from __future__ import annotations

import torch
from torchvision.ops import roi_align

from codepose.networks.detector import AlignedRoIPool


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
