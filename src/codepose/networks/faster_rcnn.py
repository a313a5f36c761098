"""Faster R-CNN on one feature map: training, inference and export run what is written here, once.

The layers and their initial weights are torchvision's. Its own ``FasterRCNN`` resizes every image to 800-1333 px, goes
through a batch image by image, and decides by branches on values, which no exported graph can.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codepose import geometry
from codepose.networks.boxes import Sample, Targets, Weights, decode, encode, match, pick, sample, suppress
from codepose.networks.detector import Boxes, DetectionHeads, Proposals
from codepose.networks.roi import roi_pool
from codepose.runtime.vision import (
    AnchorGenerator,
    FastRCNNPredictor,
    RPNHead,
    TwoMLPHead,
    box_iou,
    clip_boxes_to_image,
    nms,
)

RPN_IOU, HEAD_IOU = (0.3, 0.7), (0.5, 0.5)
"""Boxes that overlap every object by less are background; those that overlap one by more are positive."""
RPN_SAMPLES = 256
"""Anchors an image on which the RPN is trained."""
RPN_SHARE, HEAD_SHARE = 0.5, 0.25
"""At most so many of a sample are positive."""
RPN_NMS = 0.7
"""Of two proposals that overlap by a larger IoU, the likelier one is kept."""
_RPN_LEAST, _HEAD_LEAST = 1e-3, 1e-2
"""Narrower boxes, in pixels, are none."""
_RPN_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
_HEAD_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
_BETA = 1 / 9
"""Where the boxes' losses turn from squares to straight lines."""
_BINS = 7


class Anchored(NamedTuple):
    """What the RPN says of each anchor.

    Attributes:
        objectness: (B, A) logits.
        regression: (B, A, 4).
        anchors: (A, 4) xyxy pixels, of every image.
    """

    objectness: Tensor
    regression: Tensor
    anchors: Tensor


class ProposalNetwork(nn.Module):
    """The RPN.

    Args:
        channels: Of the feature map.
        sizes: Sides of the anchors in pixels.
        ratios: Height over width of the anchors.
    """

    def __init__(self, channels: int, sizes: tuple[float, ...], ratios: tuple[float, ...]) -> None:
        super().__init__()
        self.anchors = AnchorGenerator((sizes,), (ratios,))
        self.head = RPNHead(channels, self.anchors.num_anchors_per_location()[0])

    def forward(self, features: Tensor, size: tuple[int, int]) -> Anchored:
        """Features (B, C, h, w) of images of (H, W) -> what the head says, in float32.

        Boxes decoded in bfloat16 are a pixel off beyond 256; anchors are made in float32, too.
        """
        count, _, height, width = features.shape
        (objectness,), (regression,) = self.head([features.float()])  # (B, a, h, w), (B, 4 a, h, w)
        regression = regression.float().view(count, -1, 4, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)
        self.anchors.set_cell_anchors(torch.float32, features.device)
        (anchors,) = self.anchors.grid_anchors([[height, width]], [[size[0] // height, size[1] // width]])
        return Anchored(objectness.float().permute(0, 2, 3, 1).flatten(1), regression, anchors)

    def best(self, anchored: Anchored, size: tuple[int, int], before: int, after: int) -> Proposals:
        """Decodes the ``before`` most likely anchors, and keeps at most ``after`` that overlap little."""
        best = anchored.objectness.detach().topk(min(before, len(anchored.anchors)))
        regression = pick(anchored.regression.detach(), best.indices)
        boxes = clip_boxes_to_image(decode(regression, anchored.anchors[best.indices], _RPN_WEIGHTS), size)
        wide = (geometry.box_size(boxes) >= _RPN_LEAST).all(-1)
        kept = suppress(boxes, best.values, wide, RPN_NMS)
        left = torch.where(kept, best.values, -torch.inf).topk(min(after, boxes.shape[1])).indices
        return Proposals(pick(boxes, left), kept.gather(1, left))

    def losses(self, anchored: Anchored, targets: Targets) -> dict[str, Tensor]:
        """Returns 'rpn_objectness' and 'rpn_box' on a sample of the anchors."""
        iou = box_iou(targets.boxes, anchored.anchors)
        matched, kind = match(iou, targets.labels > 0, *RPN_IOU, best=True)
        drawn = sample(kind, RPN_SAMPLES, RPN_SHARE)
        guess = anchored.objectness.gather(1, drawn.chosen)
        wrong = F.binary_cross_entropy_with_logits(guess, drawn.positive.to(guess), reduction="none")
        truth = pick(targets.boxes, matched.gather(1, drawn.chosen))
        regression = pick(anchored.regression, drawn.chosen)
        off = _box_error(regression, truth, anchored.anchors[drawn.chosen], drawn.positive, _RPN_WEIGHTS)
        number = drawn.used.sum().clamp_min(1)
        return {"rpn_objectness": (wrong * drawn.used).sum() / number, "rpn_box": off / number}


class BoxHead(nn.Module):
    """Says of boxes which object each holds, and where that ends.

    Args:
        channels: Of the feature map.
        classes: Objects + 1 for the background.
        width: Of its two FC layers.
        samples: Bilinear samples along each axis of a RoI's bin.
    """

    def __init__(self, channels: int, classes: int, width: int, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.box_head = TwoMLPHead(channels * _BINS**2, width)
        self.box_predictor = FastRCNNPredictor(width, classes)

    def forward(self, features: Tensor, boxes: Tensor, images: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes (R, n, 4) in images (R,) -> logits (R n, classes) and regressions (R n, classes, 4) in float32."""
        stride = size[1] / features.shape[3]
        pooled = roi_pool(features, boxes, images, _BINS, stride, self.samples)  # (R n, C, 7, 7)
        logits, regression = self.box_predictor(self.box_head(pooled))
        return logits.float(), regression.float().unflatten(1, (-1, 4))


class FasterRCNN(DetectionHeads):
    """RPN and box head of Faster R-CNN on one feature map.

    Args:
        channels: Of the feature map.
        classes: Objects + 1 for the background.
        anchor_sizes: Sides of the anchors in pixels.
        aspect_ratios: Height over width of the anchors.
        box_head: Width of the box head's two FC layers.
        proposals: RPN boxes kept after NMS in training, of twice as many before; half of both at inference.
        roi_samples: RoIs an image on which the box head is trained.
        roi_sampling: Bilinear samples along each axis of a RoI's bin.
        score: Detections are surer.
        nms: Of two detections of one object that overlap by a larger IoU, the surer one is kept.
        per_object: At most so many detections of each object in an image.
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
        self.rpn = ProposalNetwork(channels, anchor_sizes, aspect_ratios)
        self.roi_heads = BoxHead(channels, classes, box_head, roi_sampling)
        self.proposals = proposals
        self.roi_samples = roi_samples
        self.score, self.nms, self.per_object = score, nms, per_object

    def losses(self, features: Tensor, size: tuple[int, int], targets: Targets) -> tuple[dict[str, Tensor], Proposals]:
        """Returns the four terms of L_faster (Ren et al., "Faster R-CNN", NeurIPS 2015), and the RPN's proposals.

        Args:
            features: (B, C, h, w) of the images.
            size: (height, width) of the images in pixels.
            targets: What is in them.
        """
        anchored = self.rpn(features, size)
        proposals = self.rpn.best(anchored, size, 2 * self.proposals, self.proposals)
        return self.rpn.losses(anchored, targets) | self.head_losses(features, proposals, size, targets), proposals

    def head_losses(
        self, features: Tensor, proposals: Proposals, size: tuple[int, int], targets: Targets
    ) -> dict[str, Tensor]:
        """Returns 'head_class' and 'head_box' on RoIs sampled from the proposals and the ground-truth boxes."""
        boxes, drawn, matched = self._sampled(proposals, targets)
        labels = (targets.labels.gather(1, matched) * drawn.positive).flatten()
        logits, regression = self.roi_heads(features, boxes, torch.arange(len(boxes), device=boxes.device), size)
        wrong = F.cross_entropy(logits, labels, reduction="none") * drawn.used.flatten()
        guess = _of_class(regression, labels).view_as(boxes)
        off = _box_error(guess, pick(targets.boxes, matched), boxes, drawn.positive, _HEAD_WEIGHTS)
        number = drawn.used.sum().clamp_min(1)
        return {"head_class": wrong.sum() / number, "head_box": off / number}

    def _sampled(self, proposals: Proposals, targets: Targets) -> tuple[Tensor, Sample, Tensor]:
        """Returns RoIs (B, S, 4), which of them are used and positive, and (B, S) the objects they belong to."""
        there = targets.labels > 0
        boxes = torch.cat((proposals.boxes, targets.boxes), 1)  # (B, P + G, 4)
        matched, kind = match(box_iou(targets.boxes, boxes), there, *HEAD_IOU, best=False)
        kind = kind.masked_fill(~torch.cat((proposals.valid, there), 1), -1)
        drawn = sample(kind, self.roi_samples, HEAD_SHARE)
        first = drawn.used.float().topk(min(self.roi_samples, drawn.used.shape[1])).indices  # those that are used
        drawn = Sample(*(values.gather(1, first) for values in drawn))
        return pick(boxes, drawn.chosen), drawn, matched.gather(1, drawn.chosen)

    def refine(self, features: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns the boxes (B, n, 4) that the box head makes of proposals, clipped to the image.

        Args:
            features: (B, C, h, w) of the images.
            boxes: (B, n, 4) proposals, xyxy in pixels.
            labels: (B, n) the class whose regression counts, from 1.
            size: (height, width) of the images in pixels.
        """
        _, regression = self.roi_heads(features, boxes, torch.arange(len(boxes), device=boxes.device), size)
        own = _of_class(regression, labels.flatten()).view_as(boxes)
        clipped: Tensor = clip_boxes_to_image(decode(own, boxes, _HEAD_WEIGHTS), size)
        return clipped

    def propose(self, features: Tensor, size: tuple[int, int]) -> Proposals:
        """Returns inference's proposals."""
        return self.rpn.best(self.rpn(features, size), size, self.proposals, max(1, self.proposals // 2))

    def detect(self, features: Tensor, size: tuple[int, int], iou: float | None = None) -> list[Boxes]:
        """As ``DetectionHeads`` has it."""
        proposals = self.propose(features, size)
        images, places = proposals.valid.nonzero().unbind(1)  # (N,)
        rois = proposals.boxes[images, places][:, None]  # (N, 1, 4)
        logits, regression = self.roi_heads(features, rois, images, size)
        decoded = clip_boxes_to_image(decode(regression, rois, _HEAD_WEIGHTS), size)  # (N, classes, 4)
        wide = (geometry.box_size(decoded) >= _HEAD_LEAST).all(-1)
        scores = torch.where(wide, logits.softmax(1), -1.0)
        overlap = self.nms if iou is None else iou
        return [self._best(decoded[images == i], scores[images == i], overlap) for i in range(len(features))]

    def _best(self, decoded: Tensor, scores: Tensor, overlap: float) -> Boxes:
        """One image's detections of decoded boxes (n, classes, 4) and scores (n, classes)."""
        boxes, labels, kept_scores = [], [], []
        for label in range(1, scores.shape[1]):
            likely = (scores[:, label] > self.score).nonzero()[:, 0]
            candidates, score = decoded[likely, label], scores[likely, label]
            kept = nms(candidates, score, overlap)[: self.per_object]
            boxes.append(candidates[kept])
            kept_scores.append(score[kept])
            labels.append(torch.full_like(kept, label))
        ranked = torch.cat(kept_scores).sort(descending=True)
        order = ranked.indices
        return {"boxes": torch.cat(boxes)[order], "labels": torch.cat(labels)[order], "scores": ranked.values}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"rpn": list(self.rpn.parameters()), "box_head": list(self.roi_heads.parameters())}


def _of_class(regression: Tensor, labels: Tensor) -> Tensor:
    """Selects each box's regression (N, 4) for its class (N,) from all classes' (N, classes, 4)."""
    return regression[torch.arange(len(labels), device=labels.device), labels]


def _box_error(guess: Tensor, truth: Tensor, boxes: Tensor, positive: Tensor, weights: Weights) -> Tensor:
    """Sums the smooth L1 distances of regressions (..., 4) from those that lead from positive boxes to the truth."""
    wanted = torch.where(positive[..., None], encode(truth, boxes, weights), guess.detach())  # else maybe not finite
    return F.smooth_l1_loss(guess, wanted, beta=_BETA, reduction="sum")
