"""Networks from settings, with the numbers in them and random weights."""

from __future__ import annotations

from codepose.config import Settings
from codepose.networks.autoencoder import ExtendedAutoencoder, LatentHead, OriginalAutoencoder
from codepose.networks.detector import DetectionHeads, Detector
from codepose.networks.joint import JointNetwork
from codepose.networks.vgg import STRIDE, Decoder, Encoder


def build_encoder(settings: Settings) -> Encoder:
    """Returns VGG16 with random weights."""
    return Encoder(settings.network.width, settings.network.norm)


def build_extended(settings: Settings) -> ExtendedAutoencoder:
    """Returns the paper's extended AAE."""
    network = settings.network
    encoder = build_encoder(settings)
    head = LatentHead(encoder.out_channels, network.crop // STRIDE, network.latent)
    return ExtendedAutoencoder(encoder, head, Decoder(network.width, network.norm))


def build_original(settings: Settings) -> OriginalAutoencoder:
    """Returns the original AAE, the paper's baseline."""
    network = settings.network
    return OriginalAutoencoder(network.crop, network.original_latent, network.width)


def build_heads(settings: Settings, channels: int) -> DetectionHeads:
    """Returns RPN and box head for N objects + background."""
    network, detection = settings.network, settings.detection
    return DetectionHeads(
        channels,
        len(settings.objects) + 1,
        anchor_sizes=network.anchor_sizes,
        aspect_ratios=network.aspect_ratios,
        box_head=network.box_head,
        proposals=network.proposals,
        roi_samples=network.roi_samples,
        roi_sampling=network.roi_sampling,
        score=detection.score,
        nms=detection.nms,
        per_object=detection.per_object,
    )


def build_detector(settings: Settings) -> Detector:
    """Returns the independent Faster R-CNN."""
    encoder = build_encoder(settings)
    return Detector(encoder, build_heads(settings, encoder.out_channels))


def box_jitter(settings: Settings) -> tuple[float, tuple[float, float]]:
    """Returns the largest shift, over the box's side, and the range of the scale of a random box.

    They are the numbers of Step 1's augmentation, whose shift is over the window's side and so ``data.pad`` times as
    large in pixels.
    """
    augmentation = settings.data.augmentation
    return augmentation.shift, augmentation.scale


def build_joint(settings: Settings) -> JointNetwork:
    """Returns the joint network; load Step 1's weights into its ``autoencoder`` afterwards."""
    autoencoder = build_extended(settings)
    codes = settings.losses.step2_lambda_cos > 0 or settings.losses.step2_lambda_match > 0
    return JointNetwork(
        autoencoder,
        build_heads(settings, autoencoder.encoder.out_channels),
        crop=settings.network.crop,
        pad=settings.data.pad,
        box_gradient=settings.network.box_gradient,
        feedback=settings.network.feedback,
        jitter=box_jitter(settings),
        min_iou=settings.losses.min_iou,
        bootstrap_ratio=settings.losses.bootstrap_ratio,
        view_canvas=settings.view_canvas if codes else 0,
    )
