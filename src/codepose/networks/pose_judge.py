"""One network for all parts that compares a photo with a render: how good a pose is, and how to move it.

It sees the photo's crop beside the render of a pose and was trained on many parts, none of them the user's own, as the
refiners of Li et al., "DeepIM", ECCV 2018, Labbe et al., "CosyPose", ECCV 2020, and "MegaPose", CoRL 2022. It says how
likely the pose's largest surface error is below each of some shares of the part's diameter, and which small motion
would bring the render onto the photo.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 128
"""Pixels along the crops it compares."""
THRESHOLDS = (0.05, 0.1, 0.2, 0.35)
"""Shares of the diameter: the first outputs say how likely MSSD is below each of them."""
RENDERED = 8
"""Channels of a render: normal (3), depth, mask, colour (3)."""
_WIDTHS = (48, 96, 192, 256)
_MOTION_SCALE = 0.1
"""The motion head's outputs are that small at first, so that an untrained network leaves poses as they are."""


class Verdict(NamedTuple):
    """What the network says of M poses.

    Attributes:
        logits: (M, 4), one for each of ``THRESHOLDS``.
        shift: (M, 2) how far the part's centre moves across and down, in sides of the crop.
        log_depth: (M,) logarithm of the new distance over the old one.
        turn: (M, 3) rotation vector in the crop camera's frame, radians.
    """

    logits: Tensor
    shift: Tensor
    log_depth: Tensor
    turn: Tensor

    @property
    def score(self) -> Tensor:
        """(M,): the mean of the four log-odds, which ranks where probabilities are all near 1."""
        return self.logits.float().mean(1)


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a short cut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, stride), nn.ReLU(inplace=True), *_convolution(outputs, outputs, 1)
        )
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, stride, 1))

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.body(features) + self.shortcut(features))


class PoseJudge(nn.Module):
    """A residual network on photo and render, stacked."""

    def __init__(self) -> None:
        super().__init__()
        first = _WIDTHS[0]
        stem = [
            *_convolution(3 + RENDERED, 24, 2),
            nn.ReLU(inplace=True),
            *_convolution(24, first, 2),
            nn.ReLU(inplace=True),
        ]
        blocks, inputs = [], first
        for index, width in enumerate(_WIDTHS):
            blocks += [_Block(inputs, width, 1 if index == 0 else 2), _Block(width, width, 1)]
            inputs = width
        self.trunk = nn.Sequential(*stem, *blocks)
        side = SIDE // 32
        self.reduce = nn.Sequential(*_convolution(inputs, 64, 1, 1), nn.ReLU(inplace=True))
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(64 * side * side, 256), nn.ReLU(inplace=True))
        self.outputs = nn.Linear(256, len(THRESHOLDS) + 6)

    def forward(self, photos: Tensor, renders: Tensor) -> Verdict:
        """Compares crops with renders.

        Args:
            photos: (M, 3, 128, 128) in [0, 1].
            renders: (M, 8, 128, 128) of ``render_channels``.
        """
        stacked = torch.cat(((photos - 0.5) * 4.0, renders), 1).contiguous(memory_format=torch.channels_last)
        features = self.reduce(self.trunk(stacked))
        with torch.autocast(features.device.type, enabled=False):  # bf16 would round log-odds to steps of 0.03
            out = self.outputs(self.hidden(features.float()))
        motion = out[:, len(THRESHOLDS) :] * _MOTION_SCALE
        return Verdict(out[:, : len(THRESHOLDS)], motion[:, :2], motion[:, 2], motion[:, 3:])


def render_channels(depth: Tensor, normal: Tensor, color: Tensor, z: Tensor, diameter: Tensor) -> Tensor:
    """Returns what the network sees of renders, (M, 8, H, W).

    Args:
        depth: (M, H, W) mm, 0 where nothing was hit.
        normal: (M, H, W, 3) unit vectors in the crop camera's frame.
        color: (M, H, W, 3) RGB in [0, 1], unlit.
        z: (M,) depth of the part's centre in mm.
        diameter: (M,) mm.
    """
    mask = (depth > 0).to(normal)
    relative = (depth - z[:, None, None]) / diameter[:, None, None] * 2.0
    channels = (normal, relative[..., None], torch.ones_like(mask)[..., None], (color - 0.5) * 4.0)
    return (torch.cat(channels, -1) * mask[..., None]).permute(0, 3, 1, 2)


def crop_cameras(focal: Tensor, side: int) -> Tensor:
    """Returns K (M, 3, 3) of square crops of ``side`` pixels, of focal lengths (M,) over the side."""
    K = torch.zeros(len(focal), 3, 3, device=focal.device)
    K[:, 0, 0] = K[:, 1, 1] = focal * side
    K[:, :2, 2], K[:, 2, 2] = side / 2, 1.0
    return K


def apply_motions(verdict: Verdict, R: Tensor, t: Tensor, focal: Tensor) -> tuple[Tensor, Tensor]:
    """Applies the motions to poses in crop cameras.

    Args:
        verdict: Of M poses.
        R: (M, 3, 3) in the frame of the crop camera, whose principal point is the crop's middle.
        t: (M, 3) mm.
        focal: (M,) focal lengths over the crop's side.

    Returns:
        R (M, 3, 3) and t (M, 3) mm.
    """
    z = t[:, 2] * verdict.log_depth.clamp(-0.5, 0.5).exp()
    place = t[:, :2] / t[:, 2:] + verdict.shift / focal[:, None]
    turn = axis_angle_to_rotation_matrix(verdict.turn)
    return turn @ R, torch.cat((place * z[:, None], z[:, None]), 1)


def _convolution(inputs: int, outputs: int, stride: int, side: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs)]
