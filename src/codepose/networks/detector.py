"""torchvision's Faster R-CNN parts on a given encoder (13), behind a small interface (14).

torchvision's own ``FasterRCNN`` resizes every image to 800-1333 px; ours keeps them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align

from codepose import geometry
from codepose.networks.vgg import Encoder

Boxes = dict[str, Tensor]
"""One image's boxes: 'boxes' (n, 4) xyxy pixels, 'labels' (n,) from 1, and 'scores' (n,) for detections."""


class AlignedRoIPool(MultiScaleRoIAlign):
    """7x7 RoIAlign of the one feature map with half-pixel-correct sampling (torchvision's ``aligned=True``).

    The same values as ``torchvision.ops.roi_align`` for boxes inside the image, from one ``grid_sample`` over all of
    an image's boxes: on a CPU torchvision's backward pass runs on one core and takes most of a training step. On a GPU
    it is fast, and keeps nothing of the samples.
    """

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        features = x["0"].float()  # (B, C, h, w)
        side, samples = int(self.output_size[0]), int(self.sampling_ratio)
        counts = [len(b) for b in boxes]
        if sum(counts) == 0:
            return features.new_zeros(0, features.shape[1], side, side)
        # without a backward pass torchvision's own is twice as fast on a CPU, too
        if x["0"].device.type != "cpu" or not torch.is_grad_enabled():
            scale = features.shape[-1] / image_shapes[0][1]
            pooled: Tensor = roi_align(features, boxes, side, scale, sampling_ratio=samples, aligned=True)
            return pooled
        padded = nn.utils.rnn.pad_sequence(boxes, batch_first=True)  # (B, n, 4)
        size = (float(image_shapes[0][1]), float(image_shapes[0][0]))
        grid = geometry.sampling_grid(padded.flatten(0, 1), side * samples, size)
        grid = grid.reshape(len(features), -1, side * samples, 2)  # an image's boxes, one below the other
        with torch.autocast(features.device.type, enabled=False):
            sampled = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
        bins = F.avg_pool2d(sampled, samples) if samples > 1 else sampled  # (B, C, n * side, side)
        bins = bins.reshape(len(features), features.shape[1], -1, side, side).transpose(1, 2)
        return torch.cat([one[:count] for one, count in zip(bins, counts, strict=True)])  # (N, C, side, side)


class _Float32RPNHead(RPNHead):
    """Its outputs leave autocast: torchvision decodes boxes in their type, and bf16 is a pixel off at 256."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, regression = super().forward(x)
        return [v.float() for v in logits], [v.float() for v in regression]


class _Float32Predictor(FastRCNNPredictor):
    """Its outputs leave autocast, as the RPN head's do."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, regression = super().forward(x)
        return scores.float(), regression.float()


@dataclass(frozen=True)
class Proposals:
    """What the RPN hands on.

    Attributes:
        boxes: One (n, 4) tensor an image, best first, after NMS; never a ground-truth box.
        losses: 'rpn_objectness' and 'rpn_box' in training, else empty.
    """

    boxes: list[Tensor]
    losses: dict[str, Tensor]


class DetectionHeads(nn.Module):
    """RPN and box head of Faster R-CNN on feature maps of stride 16.

    Args:
        channels: Of the feature map.
        classes: Objects + 1 for the background.
        anchor_sizes: Sides of the anchors in pixels.
        aspect_ratios: Height over width of the anchors.
        box_head: Width of the box head's two FC layers.
        proposals: RPN boxes kept after NMS in training; half as many at inference.
        roi_samples: RoIs an image on which the box head is trained.
        roi_sampling: Bilinear samples along each axis of a RoI's bin.
        score, nms, per_object: What is kept at inference.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        anchor_sizes: tuple[float, ...],
        aspect_ratios: tuple[float, ...],
        box_head: int,
        proposals: int = 1000,
        roi_samples: int = 128,
        roi_sampling: int = 2,
        score: float = 0.05,
        nms: float = 0.5,
        per_object: int = 10,
    ) -> None:
        super().__init__()
        anchors = AnchorGenerator((anchor_sizes,), (aspect_ratios,))
        self.rpn = RegionProposalNetwork(
            anchors,
            _Float32RPNHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
            post_nms_top_n={"training": proposals, "testing": max(1, proposals // 2)},
            nms_thresh=0.7,
        )
        self.roi_heads = RoIHeads(
            AlignedRoIPool(["0"], 7, roi_sampling),
            TwoMLPHead(channels * 49, box_head),
            _Float32Predictor(box_head, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=roi_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score,
            nms_thresh=nms,
            detections_per_img=(classes - 1) * max(1, proposals // 2),  # all: each class has its own limit
        )
        self.per_object = per_object

    def propose(self, features: Tensor, images: Tensor, targets: list[Boxes] | None = None) -> Proposals:
        """Runs the RPN on features (B, C, h, w) of images (B, 3, H, W); with targets, its losses too."""
        sizes = [(int(images.shape[-2]), int(images.shape[-1]))] * len(images)
        # anchors take the features' type: bfloat16 would round them to 2 px beyond 256
        boxes, losses = self.rpn(ImageList(images, sizes), {"0": features.float()}, targets)
        return Proposals(boxes, {_NAMES[k]: v for k, v in losses.items()})

    def head_losses(
        self, features: Tensor, proposals: list[Tensor], size: tuple[int, int], targets: list[Boxes]
    ) -> dict[str, Tensor]:
        """Returns 'head_class' and 'head_box' with Faster R-CNN's usual sampling (16)."""
        _, losses = self.roi_heads({"0": features}, proposals, [size] * len(proposals), targets)
        return {_NAMES[k]: v for k, v in losses.items()}

    def refine(self, features: Tensor, boxes: list[Tensor], labels: Tensor, size: tuple[int, int]) -> Tensor:
        """Puts chosen proposals through the box head.

        Args:
            features: (B, C, h, w).
            boxes: Each image's (m, 4) proposals, M in all.
            labels: (M,) the class whose regression is decoded.
            size: (H, W) of the images.

        Returns:
            (M, 4) decoded boxes, clipped to the image, with gradient to the box head.
        """
        heads = self.roi_heads
        pooled = heads.box_roi_pool({"0": features}, boxes, [size] * len(boxes))  # (M, C, 7, 7)
        _, regression = heads.box_predictor(heads.box_head(pooled))
        decoded = heads.box_coder.decode(regression, boxes)  # (M, classes, 4)
        mine = decoded[torch.arange(len(labels), device=labels.device), labels]
        clipped: Tensor = clip_boxes_to_image(mine, size)
        return clipped

    def detect(self, features: Tensor, images: Tensor) -> list[Boxes]:
        """Returns each image's detections, best first; the module must be in eval mode."""
        proposals = self.propose(features, images)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        found, _ = self.roi_heads({"0": features}, proposals.boxes, [size] * len(images))
        return [self._best_of_each(one) for one in found]

    def _best_of_each(self, found: Boxes) -> Boxes:
        """Those of one image's detections, best first, that are among the first ``per_object`` of their class."""
        labels = found["labels"]
        place = (labels[:, None] == labels).tril(-1).sum(1)  # how many better ones there are of the same
        return {name: values[place < self.per_object] for name, values in found.items()}


_NAMES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "head_class",
    "loss_box_reg": "head_box",
}


class Detector(nn.Module):
    """The independent Faster R-CNN of the two-network pipelines."""

    def __init__(self, encoder: Encoder, heads: DetectionHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    def losses(self, images: Tensor, targets: list[Boxes]) -> dict[str, Tensor]:
        """Returns the four terms of L_faster (7) for images (B, 3, H, W) in [0, 1]."""
        features = self.encoder(images)
        return faster_losses(self.heads, features, images, targets)[0]

    def detect(self, images: Tensor) -> list[Boxes]:
        """Returns each image's detections, best first."""
        return self.heads.detect(self.encoder(images), images)

    def forward(self, images: Tensor, targets: list[Boxes]) -> dict[str, Tensor]:
        return self.losses(images, targets)


def faster_losses(
    heads: DetectionHeads, features: Tensor, images: Tensor, targets: list[Boxes]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Returns the four terms of L_faster and the RPN's proposals."""
    proposals = heads.propose(features, images, targets)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    return proposals.losses | heads.head_losses(features, proposals.boxes, size, targets), proposals.boxes
