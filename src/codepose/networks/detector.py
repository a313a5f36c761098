"""Faster R-CNN on a given encoder, built of torchvision's parts, behind a small interface.

torchvision's own ``FasterRCNN`` resizes every image to 800-1333 px; ours keeps them as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align

from codepose.networks.backbone import Backbone
from codepose.networks.detector_training import Proposals, Targets, decode, head_losses, of_class, pool, propose

Boxes = dict[str, Tensor]
"""One image's detections: 'boxes' (n, 4) xyxy pixels, 'labels' (n,) from 1, and 'scores' (n,)."""


class AlignedRoIPool(MultiScaleRoIAlign):
    """7x7 RoIAlign of the one feature map with half-pixel-correct sampling (torchvision's ``aligned=True``)."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        side, scale = int(self.output_size[0]), x["0"].shape[-1] / image_shapes[0][1]
        pooled: Tensor = roi_align(
            x["0"].float(), boxes, side, scale, sampling_ratio=int(self.sampling_ratio), aligned=True
        )
        return pooled


class _Float32RPNHead(RPNHead):
    """An RPN head with float32 outputs: torchvision decodes boxes in their type, and bf16 is a pixel off at 256."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, regression = super().forward(x)
        return [v.float() for v in logits], [v.float() for v in regression]


class _Float32Predictor(FastRCNNPredictor):
    """A box head's last layer with float32 outputs, for the same reason."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, regression = super().forward(x)
        return scores.float(), regression.float()


class DetectionHeads(nn.Module):
    """RPN and box head of Faster R-CNN on one feature map.

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
        proposals: int,
        roi_samples: int,
        roi_sampling: int,
        score: float,
        nms: float,
        per_object: int,
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

    def propose(self, features: Tensor, images: Tensor, targets: Targets) -> Proposals:
        """Runs the RPN in training on features (B, C, h, w) of images (B, 3, H, W)."""
        return propose(self.rpn, features.float(), images, targets)

    def head_losses(
        self, features: Tensor, proposals: Proposals, size: tuple[int, int], targets: Targets
    ) -> dict[str, Tensor]:
        """Returns the box head's losses, 'head_class' and 'head_box', on Faster R-CNN's usual sample of RoIs."""
        return head_losses(self.roi_heads, features, proposals, size, targets)

    def refine(self, features: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """Runs the box head on proposals and decodes their boxes: the feedback of Section 3.2.

        Args:
            features: (B, C, h, w).
            boxes: (B, n, 4) proposals.
            labels: (B, n) the class whose box regression is decoded; 0 = background.
            size: (H, W) of the images.

        Returns:
            (B, n, 4) decoded boxes, clipped to the image, with gradient to the box head.
        """
        heads = self.roi_heads
        pooled = pool(features, boxes, size, heads.box_roi_pool)  # (B n, C, 7, 7)
        _, regression = heads.box_predictor(heads.box_head(pooled))
        mine = of_class(regression, labels.flatten()).view_as(boxes)
        clipped: Tensor = clip_boxes_to_image(decode(mine, boxes, heads.box_coder), size)
        return clipped

    def proposals(self, features: Tensor, images: Tensor) -> list[Tensor]:
        """Returns each image's proposals (n, 4), best first; the module must be in eval mode."""
        sizes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
        boxes, _ = self.rpn(ImageList(images, sizes), {"0": features.float()})
        return list(boxes)

    def detect(self, features: Tensor, images: Tensor) -> list[Boxes]:
        """Returns each image's detections, best first; the module must be in eval mode."""
        size = (int(images.shape[2]), int(images.shape[3]))
        found, _ = self.roi_heads({"0": features}, self.proposals(features, images), [size] * len(images))
        return [self._best_of_each(one) for one in found]

    def _best_of_each(self, found: Boxes) -> Boxes:
        """Keeps the best ``per_object`` detections of each class; the detections of the image come best first."""
        labels = found["labels"]
        place = (labels[:, None] == labels).tril(-1).sum(1)  # how many better ones there are of the same
        return {name: values[place < self.per_object] for name, values in found.items()}


class Detector(nn.Module):
    """The independent Faster R-CNN of the two-network pipelines."""

    def __init__(self, encoder: Backbone, heads: DetectionHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Returns the four terms of L_faster (Eq. 5) for images (B, 3, H, W) in [0, 1]."""
        features = self.encoder(images)
        return faster_losses(self.heads, features, images, targets)[0]

    def detect(self, images: Tensor) -> list[Boxes]:
        """Returns each image's detections, best first."""
        return self.heads.detect(self.encoder(images), images)

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        return self.losses(images, targets)


def faster_losses(
    heads: DetectionHeads, features: Tensor, images: Tensor, targets: Targets
) -> tuple[dict[str, Tensor], Proposals]:
    """Returns the four terms of L_faster and the RPN's proposals."""
    proposals = heads.propose(features, images, targets)
    size = (int(images.shape[2]), int(images.shape[3]))
    return proposals.losses | heads.head_losses(features, proposals, size, targets), proposals
