"""The joint network of Section 3.2: Faster R-CNN and the extended AAE on one encoder.

The detector's own box, never the ground truth, is fed back to the feature map; its square RoI becomes the latent,
and the latent the reconstruction. docs/method.md, under Step 2, says where the paper is silent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codepose.geometry import padded_square
from codepose.networks.autoencoder import ExtendedAutoencoder
from codepose.networks.boxes import Targets, best_proposals
from codepose.networks.detector import Boxes, DetectionHeads, image_size
from codepose.networks.losses import mse
from codepose.networks.roi import roi_pool
from codepose.runtime.vision import box_iou
from codepose.settings.crop import ROI_PAD
from codepose.synthesis.batches import ScenePoses

MIN_IOU = 0.3
"""Boxes that overlap the truth less are left out of L_mse."""


class JointOutput(NamedTuple):
    """What a training step of the joint network yields, for M objects.

    Attributes:
        losses: The terms of Eq. 5: the four of L_faster, and 'mse' before its weight.
        boxes: (M, 4) the boxes fed back.
        iou: (M,) their overlap with the ground truth.
        used: (M,) bool, whether L_mse counted the object: its box overlaps the truth by ``MIN_IOU``.
        reconstructions: (M, 3, c, c) in [0, 1].
        latents: (M, D).
        view_latents: (M, D) of the clean views, encoded as the codebook's are; None unless asked for.
    """

    losses: dict[str, Tensor]
    boxes: Tensor
    iou: Tensor
    used: Tensor
    reconstructions: Tensor
    latents: Tensor
    view_latents: Tensor | None


class JointNetwork(nn.Module):
    """Detector and pose estimator that share their encoder.

    Args:
        autoencoder: Pre-trained in Step 1; its encoder becomes the detector's.
        heads: RPN and box head.
        crop: Side of Step 1's images; the RoI has crop/stride bins a side.
        bootstrap_ratio: Of L_mse, see ``losses.mse``.
        view_canvas: Side of the black canvas on which clean views are encoded beside the scenes; 0 = they are not.
    """

    def __init__(
        self,
        autoencoder: ExtendedAutoencoder,
        heads: DetectionHeads,
        *,
        crop: int,
        bootstrap_ratio: int,
        view_canvas: int,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.heads = heads
        self.stride = autoencoder.encoder.stride
        self.side = crop // self.stride
        self.min_iou = MIN_IOU
        self.bootstrap_ratio = bootstrap_ratio
        self.view_canvas = view_canvas

    def encoder(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> features (B, C, H/stride, W/stride)."""
        features: Tensor = self.autoencoder.encoder(images)
        return features

    def latents(self, features: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        """Latents (N, D) of boxes (N, 4) in images (N,) of the batch; the boxes are squared and padded here.

        The second RoIAlign of Section 3.2: with one sample a bin, Step 1's FC weights see what they were trained on.
        """
        pooled = roi_pool(features, padded_square(boxes, ROI_PAD), images, self.side, self.stride)  # (N, C, s, s)
        return self.autoencoder.head.encode(pooled)

    def view_latents(self, clean: Tensor, canvas: int) -> Tensor:
        """Latents (B, D) of clean views (B, 3, c, c) in the middle of a black canvas, as the codebook's are made."""
        first = (canvas - clean.shape[-1]) // 2
        rest = canvas - clean.shape[-1] - first
        features = self.encoder(F.pad(clean, (first, rest, first, rest)))
        square = features.new_full((4,), first, dtype=torch.float32)
        square[2:] = canvas - rest
        order = torch.arange(len(clean), device=clean.device)
        squares = square.expand(len(clean), 4)
        return self.autoencoder.head.encode(roi_pool(features, squares, order, self.side, self.stride))

    def forward(self, images: Tensor, targets: Targets, poses: ScenePoses) -> JointOutput:
        """Computes the losses of Step 2.

        Args:
            images: (B, 3, S, S) in [0, 1].
            targets: Each image's objects.
            poses: Those of them whose poses are learned, M in all.
        """
        features, size = self.encoder(images), image_size(images)  # (B, C, S/stride, S/stride)
        losses, proposals = self.heads.losses(features, size, targets)
        truth = poses.boxes
        best, any_proposed = best_proposals(proposals.boxes, proposals.valid, poses.spread(truth, len(images)))
        decoded = self.heads.refine(features, best, poses.spread(poses.objects + 1, len(images)), size)
        boxes, proposed = (values[poses.image, poses.slot] for values in (decoded, any_proposed))
        iou = box_iou(boxes.detach(), truth).diagonal()
        used = proposed & (iou >= self.min_iou)
        latents = self.latents(features, boxes, poses.image)
        reconstructions = self.autoencoder.decode(latents)  # (M, 3, c, c)
        errors = mse(reconstructions.float(), poses.targets, self.bootstrap_ratio)
        losses["mse"] = torch.where(used, errors, 0.0).sum() / used.sum().clamp_min(1)
        views = self.view_latents(poses.targets, self.view_canvas) if self.view_canvas else None
        return JointOutput(losses, boxes, iou, used, reconstructions, latents, views)

    def detect(self, images: Tensor) -> tuple[Tensor, list[Boxes]]:
        """Returns the features, for ``latents``, and each image's detections: one encoder pass for both."""
        features = self.encoder(images)
        return features, self.heads.detect(features, image_size(images))
