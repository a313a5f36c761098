"""Networks from settings, with the numbers in them and random weights."""

from __future__ import annotations

from collections.abc import Callable

from codepose.networks.autoencoder import ExtendedAutoencoder, LatentHead, OriginalAutoencoder
from codepose.networks.backbone import Backbone
from codepose.networks.detector import Detector
from codepose.networks.faster_rcnn import FasterRCNN
from codepose.networks.joint import JointNetwork
from codepose.networks.timm_backbone import TimmBackbone
from codepose.networks.vgg import Decoder, Encoder, decoder_channels
from codepose.settings.crop import GRID
from codepose.settings.errors import ConfigError
from codepose.settings.network import NetworkSettings
from codepose.settings.schema import Settings

BACKBONES: dict[str, Callable[[str, NetworkSettings], Backbone]] = {
    "vgg16": lambda _, network: Encoder(network.width, network.norm),
    "timm": lambda name, network: TimmBackbone(name, network.width),
}
"""What ``network.backbone`` may name. Of "timm/resnet18" the function gets "resnet18", and the settings."""


ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors."""
CANDIDATES = 4
"""Boxes that the detector gives for each that may get a pose: which do, their codes have a say in."""


def build_encoder(settings: Settings) -> Backbone:
    """Returns the backbone with random weights.

    Raises:
        ConfigError: There is none of this name, or the settings' sizes do not suit its stride.
    """
    name = settings.network.backbone
    kind, _, which = name.partition("/")
    if kind not in BACKBONES:
        raise ConfigError(
            f"network.backbone: no backbone is called {name!r}; there are "
            f"{', '.join(sorted(BACKBONES)).replace('timm', 'timm/NAME')}"
        )
    backbone = BACKBONES[kind](which, settings.network)
    if GRID % backbone.stride:
        raise ConfigError(f"network.backbone {name}: its stride must be 2, 4, 8 or 16, not {backbone.stride}")
    return backbone


def build_extended(settings: Settings) -> ExtendedAutoencoder:
    """Returns the paper's extended AAE."""
    network = settings.network
    encoder = build_encoder(settings)
    side, channels = network.crop // encoder.stride, decoder_channels(network.width, encoder.stride)
    head = LatentHead(encoder.out_channels, side, network.latent, channels)
    return ExtendedAutoencoder(encoder, head, Decoder(network.width, network.norm, encoder.stride))


def build_original(settings: Settings) -> OriginalAutoencoder:
    """Returns the original AAE, the paper's baseline."""
    network = settings.network
    return OriginalAutoencoder(network.crop, width=network.width)


def build_heads(settings: Settings, channels: int) -> FasterRCNN:
    """Returns RPN and box head for N objects + background."""
    network, detection = settings.network, settings.detection
    return FasterRCNN(
        channels,
        len(settings.objects) + 1,
        anchor_sizes=network.anchor_sizes,
        aspect_ratios=ASPECT_RATIOS,
        box_head=network.box_head,
        proposals=network.proposals,
        roi_samples=network.roi_samples,
        roi_sampling=network.roi_sampling,
        score=detection.score,
        nms=detection.nms,
        per_object=CANDIDATES * detection.per_object,
    )


def build_detector(settings: Settings) -> Detector:
    """Returns the independent Faster R-CNN."""
    encoder = build_encoder(settings)
    return Detector(encoder, build_heads(settings, encoder.out_channels))


def build_joint(settings: Settings) -> JointNetwork:
    """Returns the joint network; load Step 1's weights into its ``autoencoder`` afterwards."""
    autoencoder = build_extended(settings)
    codes = settings.losses.step2_lambda_cos > 0 or settings.losses.step2_lambda_match > 0
    return JointNetwork(
        autoencoder,
        build_heads(settings, autoencoder.encoder.out_channels),
        crop=settings.network.crop,
        bootstrap_ratio=settings.losses.bootstrap_ratio,
        view_canvas=settings.view_canvas if codes else 0,
    )
