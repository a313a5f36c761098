"""VGG16 as an encoder of stride 16, and its mirror image as a decoder (Section 3.1)."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from codepose.networks.backbone import Backbone
from codepose.runtime.vision import VGG16_Weights
from codepose.settings.errors import ConfigError

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def _conv(channels: int, out: int) -> list[nn.Module]:
    """Returns a 3x3 convolution and its ReLU."""
    return [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]


def group_norm(channels: int) -> nn.GroupNorm:
    most = max(1, min(32, channels // 4))
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if channels % groups == 0), channels)


def _widths(width: float) -> list[tuple[int, int]]:
    return [(max(4, round(channels * width)), depth) for channels, depth in _BLOCKS]


class Encoder(Backbone):
    """conv1_1 ... conv5_3 of VGG16, without pool5: (B, 3, H, W) -> (B, 512 width, H/16, W/16).

    Images come in [0, 1] and are normalised here by ImageNet's mean and deviation, so that Step 1's crops and
    Step 2's scenes are treated alike. With ``norm="none"`` and ``width=1`` the layers have torchvision's names and
    its weights fit.
    """

    stride = 16
    mean: Tensor
    std: Tensor

    def __init__(self, width: float = 1.0, norm: str = "none") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block, (out, depth) in enumerate(_widths(width)):
            if block > 0:
                layers.append(nn.MaxPool2d(2))
                layers += [group_norm(channels)] if norm == "block" else []
            for _ in range(depth):
                layers += _conv(channels, out)
                channels = out
        layers += [group_norm(channels)] if norm == "block" else []
        self.features = nn.Sequential(*layers)
        self.out_channels = channels
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        initialise(self)

    def blocks(self) -> list[list[nn.Parameter]]:
        blocks: list[list[nn.Parameter]] = [[]]
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                blocks.append([])
            blocks[-1] += layer.parameters()
        return blocks

    def load_pretrained(self, path: Path | None = None) -> None:
        load_imagenet(self, path)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.mean) / self.std  # (B, 3, H, W)
        out: Tensor = self.features(x)  # (B, C, H/16, W/16)
        return out


def decoder_channels(width: float, stride: int) -> int:
    """Returns the channels of the feature map that a decoder begins at."""
    return _widths(width)[stride.bit_length() - 1][0]


class Decoder(nn.Module):
    """The encoder's mirror image: (B, ``decoder_channels``, h, w) -> (B, 3, stride h, stride w) in [0, 1].

    At stride 16 thirteen convolutions and four nearest-neighbour upsamplings; at a smaller one, without the first.
    Unpooling indices would leak the input past the latent, so there are none. A transposed 3x3 convolution of stride 1
    is a convolution with its kernel turned round, so ordinary ones are used.
    """

    def __init__(self, width: float = 1.0, norm: str = "none", stride: int = Encoder.stride) -> None:
        super().__init__()
        blocks = _widths(width)[: stride.bit_length()][::-1]
        layers: list[nn.Module] = []
        for i, (channels, depth) in enumerate(blocks):
            if i > 0:
                layers += [group_norm(channels)] if norm == "block" else []
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            last = blocks[i + 1][0] if i + 1 < len(blocks) else 3
            for j in range(depth):
                out = channels if j < depth - 1 else last
                if out == 3:
                    layers += [group_norm(channels)] if norm == "block" else []
                    layers.append(nn.Conv2d(channels, out, 3, padding=1))
                else:
                    layers += _conv(channels, out)
        self.layers = nn.Sequential(*layers)
        initialise(self)
        start_dark(self.layers[-1])

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(features))


def initialise(module: nn.Module) -> None:
    """Sets Kaiming's initial weights, those for layers followed by a ReLU."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_dark(layer: nn.Module) -> None:
    """Makes the first outputs about as dark as the targets are on average: sigmoid(-2.5) = 0.08.

    From the usual grey start, the first iterations drive the output layer to black so hard that the sigmoid
    saturates, and all-black outputs stay for ever: the original AAE and VGG16 without norms did so in every small
    trial, on sixteen clean images already (docs/log/2026-11-22-learning.md).
    """
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=1e-2)
    nn.init.constant_(layer.bias, -2.5)


def load_imagenet(encoder: Encoder, path: str | Path | None = None) -> None:
    """Loads torchvision's VGG16 weights, trained on ImageNet, into an encoder of full width without norm.

    Args:
        encoder: What to fill.
        path: The file; None = where torchvision keeps it, ``$TORCH_HOME/hub/checkpoints``.

    Raises:
        FileNotFoundError: The file is not there; the text says where to put it.
        ConfigError: The encoder has another width or norm, or the file is damaged.
    """
    name = Path(VGG16_Weights.IMAGENET1K_V1.url).name
    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"the ImageNet weights of VGG16 are not at {path}. On a machine with internet access run "
            f"python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\" and copy "
            f"{name} there, or train without them: --network.weights none"
        )
    try:
        state: dict[str, Tensor] = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # a damaged pickle may raise anything
        raise ConfigError(f"{path} is damaged or holds no weights: delete it and download it again") from None
    wanted = encoder.state_dict()
    weights = OrderedDict((key, state[key]) for key in wanted if isinstance(state.get(key), Tensor))
    wrong = [key for key in wanted if key not in weights or weights[key].shape != wanted[key].shape]
    if wrong:
        raise ConfigError(
            f"VGG16's ImageNet weights need --network.width 1 --network.norm none; {wrong[0]} does not fit"
        )
    encoder.load_state_dict(weights)
