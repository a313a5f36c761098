"""Convolutions of stride 2 that pad as TensorFlow does, without a padded copy of what they read.

TensorFlow's "same" padding of a side of even length puts a row more at its end than at its beginning. timm pads the
input for that, which costs a CPU as much as the convolution. A kernel with a row and a column of zeros before it reads
the same pixels with equal padding on all sides, which convolutions do by themselves.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class EvenSame(nn.Module):
    """Takes the place of a square convolution of stride 2 with "same" padding.

    Args:
        conv: timm's ``Conv2dSame``; its weights must not change afterwards.
    """

    wide: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("wide", F.pad(conv.weight.detach(), (1, 0, 1, 0)), persistent=False)
        self.padding = (conv.kernel_size[0] - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            padded: Tensor = self.conv(x)
            return padded
        return F.conv2d(x, self.wide, self.conv.bias, stride=2, padding=self.padding, groups=self.conv.groups)


def spare_padding(model: nn.Module) -> None:
    """Exchanges such convolutions of a network, in place; its weights must not change afterwards."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Conv2dSame" and _has_odd_kernel(module):
            model.set_submodule(name, EvenSame(module))


def _has_odd_kernel(conv: nn.Module) -> bool:
    """Whether an ``EvenSame`` can take a convolution's place: it has an odd kernel over neighbouring pixels."""
    assert isinstance(conv, nn.Conv2d)
    side = conv.kernel_size[0]
    square = conv.kernel_size == (side, side) and side % 2 == 1 and side > 1
    return square and conv.stride == (2, 2) and conv.dilation == (1, 1)
