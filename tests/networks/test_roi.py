"""The one RoI pooling: torchvision's values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from codepose.networks import roi
from codepose.networks.roi import roi_pool


def boxes_anywhere(count: int) -> Tensor:
    """Inside images of 144 x 128 pixels, at their rim, and outside."""
    corners = torch.rand(count, 2) * 180 - 50
    anywhere = torch.cat((corners, corners + 20 + 80 * torch.rand(count, 1)), 1)
    return torch.cat((anywhere, torch.tensor([[-9.0, 24.0, 46.0, 79.0], [93.0, 70.0, 150.0, 127.0]])))


@pytest.mark.parametrize(("side", "samples"), [(7, 2), (7, 1), (4, 1), (3, 3)])
def test_values_and_gradients_are_torchvisions(side: int, samples: int) -> None:
    """Of boxes in any order of images; and without a gradient, where torchvision's own is taken."""
    torch.manual_seed(0)
    features, boxes, images = torch.randn(2, 5, 8, 9), boxes_anywhere(50), torch.randint(2, (52,))
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    rois = torch.cat((images[:, None].float(), boxes), 1)
    wanted = roi_align(theirs, rois, side, 1 / 16, sampling_ratio=samples, aligned=True)
    pooled = roi_pool(ours, boxes, images, side, 16, samples)
    torch.testing.assert_close(pooled, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(roi_pool(features, boxes, images, side, 16, samples), wanted, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(wanted)
    (pooled * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_many_boxes_of_one_image_are_read_as_one_by_one() -> None:
    torch.manual_seed(1)
    features, images = torch.randn(3, 5, 8, 9, requires_grad=True), torch.tensor([2, 0])
    many = boxes_anywhere(4).reshape(2, 3, 4)
    single = roi_pool(features, many.flatten(0, 1), images.repeat_interleave(3), 7, 16, 2)
    assert single.shape == (6, 5, 7, 7)
    torch.testing.assert_close(roi_pool(features, many, images, 7, 16, 2), single)
    with torch.no_grad():
        torch.testing.assert_close(roi_pool(features, many, images, 7, 16, 2), single, rtol=1e-4, atol=1e-4)


def test_no_boxes() -> None:
    features, none = torch.randn(2, 3, 4, 4), torch.zeros(0, dtype=torch.long)
    assert roi_pool(features, torch.zeros(0, 4), none, 7, 16).shape == (0, 3, 7, 7)
    assert roi_pool(features, torch.zeros(0, 1, 4), none, 7, 16).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_torchvisions_is_taken_where_it_is_faster(
    learns: bool, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backward pass runs on one core of a CPU; where nothing learns it is the faster one."""
    calls: list[Any] = []
    monkeypatch.setattr(roi, "roi_align", lambda *args, **how: (calls.append(1), roi_align(*args, **how))[1])
    features = torch.rand(1, 3, 8, 8, requires_grad=learns)
    with torch.set_grad_enabled(gradient):
        roi_pool(features, torch.tensor([[8.0, 8.0, 60.0, 90.0]]), torch.zeros(1, dtype=torch.long), 7, 16)
    assert len(calls) == (not (learns and gradient))


def test_no_gradient_reaches_the_boxes() -> None:
    ramp = (torch.arange(8) * 32.0).expand(1, 1, 8, 8).clone().requires_grad_()
    boxes = torch.tensor([[30.0, 30.0, 62.0, 62.0]], requires_grad=True)
    roi_pool(ramp, boxes, torch.zeros(1, dtype=torch.long), 2, 16).mean().backward()
    assert ramp.grad is not None
    assert boxes.grad is None


@pytest.mark.parametrize("learns", [True, False])
def test_boxes_are_not_rounded_to_bf16(learns: bool) -> None:
    """Beyond 128 pixels bf16 knows whole pixels only. On a ramp of one unit a pixel each bin reads its own place."""
    ramp = (torch.arange(32) * 16.0 + 8.0).expand(1, 1, 32, 32).clone().requires_grad_(learns)
    square = torch.tensor([[263.3, 300.0, 331.1, 367.8]])
    with torch.autocast("cpu", torch.bfloat16):
        bins = roi_pool(ramp.bfloat16(), square, torch.zeros(1, dtype=torch.long), 4, 16)
    expected = 263.3 + (torch.arange(4) + 0.5) * (331.1 - 263.3) / 4
    assert bins.dtype == torch.float32
    torch.testing.assert_close(bins[0, 0].detach(), expected.expand(4, 4), atol=0.01, rtol=0.0)


@pytest.mark.parametrize("learns", [True, False])
def test_the_outermost_bins_that_are_read_lie_half_a_stride_outside(learns: bool) -> None:
    """Bins at exactly -8 and at exactly 136 of 128 pixels read the rim; a pixel further there are zeros."""
    features = (torch.rand(1, 3, 8, 8) + 1.0).requires_grad_(learns)
    corner = torch.tensor([[-16.0, -16.0, 48.0, 48.0], [80.0, 80.0, 144.0, 144.0]])
    image = torch.zeros(2, dtype=torch.long)
    assert (roi_pool(features, corner, image, 4, 16) > 0).all()
    further = roi_pool(features, corner + torch.tensor([[-1.0], [1.0]]), image, 4, 16)
    assert (further[0, :, 0] == 0).all()
    assert (further[0, :, :, 0] == 0).all()
    assert (further[1, :, -1] == 0).all()
    assert (further[1, :, :, -1] == 0).all()
    assert (further[0, :, 1:, 1:] > 0).all()


def test_cropping_a_square_is_slicing_where_it_falls_on_pixels() -> None:
    photos = torch.rand(2, 3, 40, 40)
    squares = torch.tensor([[3.0, 5.0, 19.0, 21.0], [30.0, -6.0, 46.0, 10.0]])
    crops = roi_pool(photos, squares, torch.tensor([0, 1]), 16, stride=1)
    torch.testing.assert_close(crops[0], photos[0, :, 5:21, 3:19])
    assert float(crops[1, :, :5].abs().max()) == 0.0  # black above the image (20)
    torch.testing.assert_close(crops[1, :, 6:, :9], photos[1, :, 0:10, 30:39])
