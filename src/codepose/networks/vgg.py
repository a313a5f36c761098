"""VGG16 as an encoder of stride 16, and its mirror image as a decoder (8-11)."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights

STRIDE = 16
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are kept at zero mean and unit gain (scaled weight standardisation).

    It does for training from scratch what a normalisation layer does (Brock et al., ICLR 2021), but acts on the
    weights: a pixel's features depend neither on the batch nor on the rest of the image, so that a crop and a RoI of
    a scene give the same code, and it costs almost nothing where normalising activations takes half the time.
    """

    def __init__(self, channels: int, out: int, size: int, padding: int = 0) -> None:
        super().__init__(channels, out, size, padding=padding)
        self.gain = nn.Parameter(torch.ones(out))

    def forward(self, x: Tensor) -> Tensor:
        # each filter standardised over its fan-in: batch norm's kernel does it in one pass
        fan_in = self.weight[0].numel()
        # a ReLU of a unit normal has variance (1 - 1/pi) / 2
        scale = self.gain * math.sqrt(2.0 / (1.0 - 1.0 / math.pi) / fan_in)
        flat = F.batch_norm(self.weight.reshape(1, len(self.weight), fan_in), None, None, scale, training=True)
        return self._conv_forward(x, flat.reshape(self.weight.shape), self.bias)


def _conv(kind: str, channels: int, out: int) -> list[nn.Module]:
    """A 3x3 convolution with its normalisation and ReLU (10)."""
    if kind == "weight":
        return [StandardizedConv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
    conv = nn.Conv2d(channels, out, 3, padding=1)
    if kind == "none":
        return [conv, nn.ReLU(inplace=True)]
    if kind == "group":
        return [conv, nn.GroupNorm(max(1, min(32, out // 4)), out), nn.ReLU(inplace=True)]
    raise ValueError(f"norm must be 'none', 'group' or 'weight', not {kind!r}")


def _widths(width: float) -> list[tuple[int, int]]:
    return [(max(4, round(channels * width)), depth) for channels, depth in _BLOCKS]


class Encoder(nn.Module):
    """conv1_1 ... conv5_3 of VGG16, without pool5: (B, 3, H, W) -> (B, 512 width, H/16, W/16).

    Images come in [0, 1] and are normalised here by ImageNet's mean and deviation, so that Step 1's crops and
    Step 2's scenes are treated alike (13). With ``norm="none"`` and ``width=1`` the layers have torchvision's names
    and its weights fit.
    """

    def __init__(self, width: float = 1.0, norm: str = "none") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block, (out, depth) in enumerate(_widths(width)):
            if block > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += _conv(norm, channels, out)
                channels = out
        self.features = nn.Sequential(*layers)
        self.out_channels = channels
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.mean) / self.std  # (B, 3, H, W)
        return self.features(x)  # (B, C, H/16, W/16)


class Decoder(nn.Module):
    """The encoder's mirror image: (B, 512 width, h, w) -> (B, 3, 16 h, 16 w) in [0, 1].

    Thirteen convolutions and four nearest-neighbour upsamplings, no unpooling indices (9). A transposed 3x3
    convolution of stride 1 is a convolution with its kernel turned round, so ordinary ones are used.
    """

    def __init__(self, width: float = 1.0, norm: str = "none") -> None:
        super().__init__()
        blocks = _widths(width)[::-1]
        layers: list[nn.Module] = []
        for i, (channels, depth) in enumerate(blocks):
            if i > 0:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            last = blocks[i + 1][0] if i + 1 < len(blocks) else 3
            for j in range(depth):
                out = channels if j < depth - 1 else last
                if out == 3:
                    layers.append(nn.Conv2d(channels, out, 3, padding=1))
                else:
                    layers += _conv(norm, channels, out)
        self.layers = nn.Sequential(*layers)
        _initialise(self)
        _start_dark(self.layers[-1])

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(features))


def _initialise(module: nn.Module) -> None:
    """Kaiming's initial weights for layers followed by a ReLU."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _start_dark(layer: nn.Module) -> None:
    """Keeps the sigmoid of the first output unsaturated, whatever the depth before it."""
    assert isinstance(layer, nn.Conv2d)
    nn.init.normal_(layer.weight, std=1e-2)


def load_imagenet(encoder: Encoder, path: str | Path | None = None) -> None:
    """Loads torchvision's VGG16 weights, trained on ImageNet, into an encoder of full width without norm.

    Args:
        encoder: What to fill.
        path: The file; None = where torchvision keeps it, ``$TORCH_HOME/hub/checkpoints``.

    Raises:
        FileNotFoundError: The file is not there; the text says where to put it.
        ValueError: The encoder has another width or norm.
    """
    name = Path(VGG16_Weights.IMAGENET1K_V1.url).name
    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"the ImageNet weights of VGG16 are not at {path}. On a machine with internet access run "
            f'python -c "import torchvision; torchvision.models.vgg16(weights=\'IMAGENET1K_V1\')" and copy '
            f"{name} there, or train without them: --network.weights none"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    wanted = encoder.state_dict()
    found = OrderedDict((key, state[key]) for key in wanted if key in state)
    wrong = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if wrong:
        raise ValueError(
            f"VGG16's ImageNet weights need --network.width 1 --network.norm none; {wrong[0]} does not fit"
        )
    encoder.load_state_dict(found)

