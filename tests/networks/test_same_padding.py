"""Padding that costs nothing: the same pixels are read, at every side."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from codepose.networks.folded_norms import folded
from codepose.networks.same_padding import EvenSame, spare_padding
from codepose.networks.timm_backbone import TimmBackbone


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (16, 13), (13, 18), (2, 4)])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 6), (5, 6), (7, 2)])
def test_the_same_pixels_are_read(kernel: int, groups: int, size: tuple[int, int]) -> None:
    torch.manual_seed(kernel)
    conv = Conv2dSame(6, 6, kernel, stride=2, groups=groups)
    images = torch.rand(2, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(EvenSame(conv)(images), conv(images))


def test_even_sides_are_not_padded_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Conv2dSame(3, 3, 3, stride=2)
    layer = EvenSame(conv)
    monkeypatch.setattr(Conv2dSame, "forward", lambda self, x: pytest.fail("pads"))
    assert layer(torch.rand(1, 3, 8, 12)).shape == (1, 3, 4, 6)
    with pytest.raises(pytest.fail.Exception):
        layer(torch.rand(1, 3, 8, 11))


def test_weights_are_saved_once() -> None:
    conv = Conv2dSame(3, 3, 3, stride=2)
    assert set(EvenSame(conv).state_dict()) == {"conv.weight", "conv.bias"}


def test_other_convolutions_stay() -> None:
    others = [
        Conv2dSame(3, 3, 3, stride=1),
        Conv2dSame(3, 3, 1, stride=2),
        Conv2dSame(3, 3, 2, stride=2),
        Conv2dSame(3, 3, (3, 5), stride=2),
        Conv2dSame(3, 3, 3, stride=(2, 1)),
        Conv2dSame(3, 3, 3, stride=2, dilation=2),
        nn.Conv2d(3, 3, 3, stride=2, padding=1),
    ]
    model = nn.Sequential(*others, Conv2dSame(3, 3, 3, stride=2))
    spare_padding(model)
    assert list(model)[:-1] == others
    assert isinstance(model[-1], EvenSame)


def test_a_frozen_lite0_pads_nowhere() -> None:
    network = TimmBackbone("tf_efficientnet_lite0", 0.125).eval().requires_grad_(False)
    network.load_pretrained()
    images = torch.rand(1, 3, 64, 64)
    copied = folded(network.model, lambda model: network._features(model, images))
    assert sum(isinstance(layer, EvenSame) for layer in copied.modules()) == 4
    assert not any(isinstance(layer, EvenSame) for layer in network.model.modules())
