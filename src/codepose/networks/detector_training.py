"""Faster R-CNN's training in tensors of fixed shape: all images together, and a GPU is never waited for.

torchvision goes through a batch image by image and asks on the way how many boxes each has (nonzero, masks): the
program waits for the GPU dozens of times in a step. Here places that hold nothing are kept, and left out of sums.
Anchors, matches, samples and losses are torchvision's (tests/networks/test_detector_training.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, box_iou, clip_boxes_to_image, nms

from codepose import geometry

_BETA = 1 / 9
"""Where the boxes' losses turn from squares to straight lines."""
_CHAIN = 32
"""Boxes each of which decides about the next, at most: thirteen among 2,000 random boxes, ten in a trained RPN's."""


class Targets(NamedTuple):
    """Ground truth of B images, at most G objects each.

    Attributes:
        boxes: (B, G, 4) xyxy pixels.
        labels: (B, G) from 1; 0 = no object.
    """

    boxes: Tensor
    labels: Tensor

    def split(self) -> list[dict[str, Tensor]]:
        """Returns each image's boxes (n, 4) and labels (n,) in torchvision's form."""
        return [{"boxes": b[n > 0], "labels": n[n > 0]} for b, n in zip(*self, strict=True)]


class Proposals(NamedTuple):
    """The RPN's proposals and losses in training.

    Attributes:
        boxes: (B, P, 4) after NMS, highest objectness first; never a ground-truth box.
        valid: (B, P) bool, which of them exist: an image may have fewer than P.
        losses: 'rpn_objectness' and 'rpn_box'.
    """

    boxes: Tensor
    valid: Tensor
    losses: dict[str, Tensor]


def propose(rpn: RegionProposalNetwork, features: Tensor, images: Tensor, targets: Targets) -> Proposals:
    """Runs the RPN in training.

    Args:
        rpn: torchvision's, with its settings.
        features: (B, C, h, w) float32: anchors take their type, and bfloat16 would round them to 2 px beyond 256.
        images: (B, 3, H, W), for their size.
        targets: Ground truth.
    """
    size = (int(images.shape[2]), int(images.shape[3]))
    objectness, regression = rpn_outputs(rpn, features)
    anchors = rpn.anchor_generator(ImageList(images, [size] * len(images)), [features])[0]  # (A, 4), of every image
    boxes, valid = _best_boxes(rpn, objectness.detach(), regression.detach(), anchors, size)

    matched, kind = match(box_iou(targets.boxes, anchors), targets.labels > 0, rpn.proposal_matcher)
    chosen, used, positive = sample(kind, rpn.fg_bg_sampler)
    number = used.sum().clamp_min(1)
    guess, truth = objectness.gather(1, chosen), _pick(targets.boxes, matched.gather(1, chosen))
    wrong = F.binary_cross_entropy_with_logits(guess, positive.to(guess), reduction="none")
    off = _box_error(_pick(regression, chosen), truth, anchors[chosen], positive, rpn.box_coder)
    return Proposals(boxes, valid, {"rpn_objectness": (wrong * used).sum() / number, "rpn_box": off / number})


def rpn_outputs(rpn: RegionProposalNetwork, features: Tensor) -> tuple[Tensor, Tensor]:
    """Returns objectness (B, A) and regressions (B, A, 4) of features (B, C, h, w), in the order of the anchors."""
    (objectness,), (regression,) = rpn.head([features])  # (B, a, h, w), (B, 4 a, h, w)
    count, _, height, width = regression.shape
    regression = regression.view(count, -1, 4, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)
    return objectness.permute(0, 2, 3, 1).flatten(1), regression


def head_losses(
    heads: RoIHeads, features: Tensor, proposals: Proposals, size: tuple[int, int], targets: Targets
) -> dict[str, Tensor]:
    """Returns the box head's losses, 'head_class' and 'head_box', on sampled RoIs.

    RoIs are sampled from the proposals and, as usual in Faster R-CNN, the ground-truth boxes.

    Args:
        heads: torchvision's, with its settings.
        features: (B, C, h, w).
        proposals: Of the RPN; not changed.
        size: (H, W) of the images.
        targets: Ground truth.
    """
    there = targets.labels > 0
    boxes = torch.cat((proposals.boxes, targets.boxes), 1)  # (B, P + G, 4)
    matched, kind = match(box_iou(targets.boxes, boxes), there, heads.proposal_matcher)
    sampled = sample(kind.masked_fill(~torch.cat((proposals.valid, there), 1), -1), heads.fg_bg_sampler)
    most = min(heads.fg_bg_sampler.batch_size_per_image, sampled[0].shape[1])
    kept = sampled[1].float().topk(most).indices  # those that are used come first
    chosen, used, positive = (values.gather(1, kept) for values in sampled)  # (B, S)
    rois, matched = _pick(boxes, chosen), matched.gather(1, chosen)
    labels = (targets.labels.gather(1, matched) * positive).flatten()
    logits, regression = heads.box_predictor(heads.box_head(pool(features, rois, size, heads.box_roi_pool)))
    number = used.sum().clamp_min(1)
    wrong = F.cross_entropy(logits, labels, reduction="none") * used.flatten()
    guess = of_class(regression, labels).view_as(rois)
    off = _box_error(guess, _pick(targets.boxes, matched), rois, positive, heads.box_coder)
    return {"head_class": wrong.sum() / number, "head_box": off / number}


def of_class(regression: Tensor, labels: Tensor) -> Tensor:
    """Selects each box's regression for its class (N,) from the box head's (N, 4 classes): (N, 4)."""
    order = torch.arange(len(labels), device=labels.device)
    return regression.reshape(len(labels), -1, 4)[order, labels]


def pool(features: Tensor, boxes: Tensor, size: tuple[int, int], pooler: MultiScaleRoIAlign) -> Tensor:
    """RoIAlign of features (B, C, h, w) in boxes (B, n, 4) of images of (H, W): (B n, C, 7, 7), float32.

    The same values as ``torchvision.ops.roi_align`` for boxes inside the image, from one ``grid_sample`` over all of
    an image's boxes: on a CPU torchvision's backward pass runs on one core and takes most of a training step. On a GPU
    it is fast, and keeps nothing of the samples.
    """
    features = features.float()
    if features.device.type != "cpu" or not torch.is_grad_enabled():
        pooled: Tensor = pooler({"0": features}, list(boxes.unbind()), [size] * len(boxes))
        return pooled
    side, samples = int(pooler.output_size[0]), int(pooler.sampling_ratio)
    (count, channels), number = features.shape[:2], boxes.shape[1]
    grid = geometry.sampling_grid(boxes.flatten(0, 1), side * samples, (float(size[1]), float(size[0])))
    grid = grid.reshape(count, -1, side * samples, 2)  # an image's boxes, one below the other
    sampled = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
    bins = F.avg_pool2d(sampled, samples) if samples > 1 else sampled  # (B, C, n * side, side)
    return bins.reshape(count, channels, number, side, side).transpose(1, 2).flatten(0, 1)


def match(iou: Tensor, there: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Assigns to each box the object with the highest IoU, as ``Matcher`` does.

    Args:
        iou: (B, G, N) of objects and boxes.
        there: (B, G) bool, which objects exist.
        matcher: Its thresholds, and whether the boxes with an object's highest IoU are positive whatever that is.

    Returns:
        (B, N) the object with the highest IoU, and (B, N) what the box is: 1 = positive, 0 = background, -1 = ignored.
    """
    iou = iou.masked_fill(~there[..., None], -1.0)
    best, index = iou.max(1)
    positive = best >= matcher.high_threshold
    if matcher.allow_low_quality_matches:
        most = iou.amax(2, keepdim=True)
        positive = positive | ((iou == most) & (most > 0.0)).any(1)
    return index, torch.where(positive, 1, torch.where(best < matcher.low_threshold, 0, -1))


def sample(kind: Tensor, sampler: BalancedPositiveNegativeSampler) -> tuple[Tensor, Tensor, Tensor]:
    """Samples positive and background boxes at random, as ``BalancedPositiveNegativeSampler`` does.

    Args:
        kind: (B, N) from ``match``: 1 = positive, 0 = background, -1 = ignored.
        sampler: How many boxes an image, and the largest share of positive ones.

    Returns:
        (B, S) indices, and twice (B, S) bool: which of them are used, and which are positive.
    """
    count = sampler.batch_size_per_image
    draws = torch.rand(kind.shape, device=kind.device)
    most = min(int(count * sampler.positive_fraction), kind.shape[1])
    good = torch.where(kind == 1, draws, -1.0).topk(most)
    bad = torch.where(kind == 0, draws, -1.0).topk(min(count, kind.shape[1]))
    positive = good.values >= 0.0
    room = count - positive.sum(1, keepdim=True)
    place = torch.arange(bad.values.shape[1], device=kind.device)
    negative = (bad.values >= 0.0) & (place < room)
    chosen, used = torch.cat((good.indices, bad.indices), 1), torch.cat((positive, negative), 1)
    return chosen, used, torch.cat((positive, torch.zeros_like(negative)), 1)


def best_proposals(boxes: Tensor, valid: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """For each ground-truth box, returns the proposal with the highest IoU, and whether a valid proposal exists.

    This is the choice of Section 3.2. Proposals never hold the ground truth itself: ``head_losses`` adds it later, to
    a copy.

    Args:
        boxes: (B, P, 4) proposals.
        valid: (B, P) bool, which of them exist.
        truth: (B, n, 4) ground-truth boxes.

    Returns:
        (B, n, 4) proposals and (B, n) bool.
    """
    iou = box_iou(boxes, truth).masked_fill(~valid[..., None], -1.0)  # (B, P, n)
    most, index = iou.max(1)
    return _pick(boxes, index), most >= 0.0


def decode(regression: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
    """Applies regressions (..., 4) to boxes (..., 4), as ``BoxCoder.decode`` does, which copies numbers to the GPU."""
    wx, wy, ww, wh = coder.weights
    dx, dy, dw, dh = regression.unbind(-1)
    shift, size = torch.stack((dx / wx, dy / wy), -1), geometry.box_size(boxes)
    center = geometry.box_center(boxes) + shift * size
    half = torch.stack((dw / ww, dh / wh), -1).clamp(max=coder.bbox_xform_clip).exp() * size / 2
    return torch.cat((center - half, center + half), -1)


def suppress(boxes: Tensor, scores: Tensor, valid: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression of boxes (B, K, 4), best first: (B, K) bool, which are kept of those that are valid."""
    if boxes.device.type != "cpu":
        return suppress_together(boxes, valid, iou)
    kept = torch.zeros_like(valid)
    for i, one in enumerate(boxes):
        kept[i, nms(one, scores[i].masked_fill(~valid[i], -torch.inf), iou)] = True
    return kept & valid


def suppress_together(boxes: Tensor, valid: Tensor, iou: float) -> Tensor:
    """The same without asking how many are left, which ``torchvision.ops.nms`` does on a GPU.

    A box is kept if no better one that is kept overlaps it. Asked again and again, from all boxes kept, the answer is
    final for the first box at once, and for each other one a turn after those that decide about it.
    """
    earlier = torch.ones(boxes.shape[1], boxes.shape[1], dtype=torch.bool, device=boxes.device).tril(-1)
    hides = (box_iou(boxes, boxes) > iou) & earlier  # (B, K, K): the second hides the first
    kept = valid
    for _ in range(_CHAIN):
        kept = valid & ~(hides & kept[:, None]).any(2)
    return kept


def _best_boxes(
    rpn: RegionProposalNetwork, objectness: Tensor, regression: Tensor, anchors: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Returns the RPN's boxes (B, P, 4) after NMS, highest objectness first, and (B, P) which of them exist."""
    best = objectness.topk(min(rpn.pre_nms_top_n(), len(anchors)))
    boxes = clip_boxes_to_image(decode(_pick(regression, best.indices), anchors[best.indices], rpn.box_coder), size)
    wide = (geometry.box_size(boxes) >= rpn.min_size).all(-1)
    kept = suppress(boxes, best.values, wide, rpn.nms_thresh)
    left = torch.where(kept, best.values, -torch.inf).topk(min(rpn.post_nms_top_n(), boxes.shape[1])).indices
    return _pick(boxes, left), kept.gather(1, left)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Entries (B, S, 4) of values (B, N, 4) at index (B, S)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def _box_error(guess: Tensor, truth: Tensor, boxes: Tensor, positive: Tensor, coder: BoxCoder) -> Tensor:
    """Sums the smooth L1 distances of regressions (..., 4) from those that lead from positive boxes to the truth."""
    wx, wy, ww, wh = coder.weights
    size = geometry.box_size(boxes)
    dx, dy = ((geometry.box_center(truth) - geometry.box_center(boxes)) / size).unbind(-1)
    dw, dh = (geometry.box_size(truth) / size).log().unbind(-1)
    wanted = torch.stack((dx * wx, dy * wy, dw * ww, dh * wh), -1)
    wanted = torch.where(positive[..., None], wanted, guess.detach())  # elsewhere it may not be finite
    return F.smooth_l1_loss(guess, wanted, beta=_BETA, reduction="sum")
