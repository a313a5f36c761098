"""Boxes of all images of a batch together, in tensors of fixed shape: matches, samples, regressions, suppression.

torchvision goes through a batch image by image and asks on the way how many boxes each has: the program waits for the
GPU dozens of times in a step. Here places that hold nothing are kept, and left out of sums. The results are
torchvision's (tests/networks/test_boxes.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from codepose import geometry
from codepose.runtime.vision import box_iou, nms

_CHAIN = 32
"""Boxes each of which decides about the next, at most: thirteen among 2,000 random boxes, ten in a trained RPN's."""
_LARGEST = math.log(1000.0 / 16.0)
"""No regression makes a box wider by more."""

Weights = tuple[float, float, float, float]
"""By what Faster R-CNN multiplies a regression's parts: shifts across and down, widths and heights."""


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


class Sample(NamedTuple):
    """Boxes on which a head is trained.

    Attributes:
        chosen: (B, S) which boxes.
        used: (B, S) bool, whether there is one in this place.
        positive: (B, S) bool, whether it belongs to an object.
    """

    chosen: Tensor
    used: Tensor
    positive: Tensor


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Returns entries (B, S, 4) of values (B, N, 4) at index (B, S)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def match(iou: Tensor, there: Tensor, low: float, high: float, *, best: bool) -> tuple[Tensor, Tensor]:
    """Assigns to each box the object with the highest IoU.

    Args:
        iou: (B, G, N) of objects and boxes.
        there: (B, G) bool, which objects exist.
        low: Boxes that overlap every object by less are background.
        high: Boxes that overlap one by so much, or more, are positive.
        best: Whether the boxes with an object's highest IoU are positive whatever that is.

    Returns:
        (B, N) the object with the highest IoU, and (B, N) what the box is: 1 = positive, 0 = background, -1 = ignored.
    """
    iou = iou.masked_fill(~there[..., None], -1.0)
    overlap, index = iou.max(1)
    positive = overlap >= high
    if best:
        most = iou.amax(2, keepdim=True)
        positive = positive | ((iou == most) & (most > 0.0)).any(1)
    return index, torch.where(positive, 1, torch.where(overlap < low, 0, -1))


def sample(kind: Tensor, count: int, share: float) -> Sample:
    """Samples positive and background boxes at random.

    Args:
        kind: (B, N) from ``match``: 1 = positive, 0 = background, -1 = ignored.
        count: How many of an image.
        share: At most so many of them are positive.
    """
    draws = torch.rand(kind.shape, device=kind.device)
    most = min(int(count * share), kind.shape[1])
    good = torch.where(kind == 1, draws, -1.0).topk(most)
    bad = torch.where(kind == 0, draws, -1.0).topk(min(count, kind.shape[1]))
    positive = good.values >= 0.0
    room = count - positive.sum(1, keepdim=True)
    place = torch.arange(bad.values.shape[1], device=kind.device)
    negative = (bad.values >= 0.0) & (place < room)
    index, used = torch.cat((good.indices, bad.indices), 1), torch.cat((positive, negative), 1)
    return Sample(index, used, torch.cat((positive, torch.zeros_like(negative)), 1))


def best_proposals(boxes: Tensor, valid: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """For each ground-truth box, returns the proposal with the highest IoU, and whether a valid proposal exists.

    This is the choice of Section 3.2.

    Args:
        boxes: (B, P, 4) proposals; never the ground truth itself.
        valid: (B, P) bool, which of them exist.
        truth: (B, n, 4) ground-truth boxes.

    Returns:
        (B, n, 4) proposals and (B, n) bool.
    """
    iou = box_iou(boxes, truth).masked_fill(~valid[..., None], -1.0)  # (B, P, n)
    most, index = iou.max(1)
    return pick(boxes, index), most >= 0.0


def decode(regression: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
    """Applies regressions to boxes; the inverse of ``encode``.

    Args:
        regression: (..., 4): shifts over the box's sides, and logs of factors on these, times ``weights``.
        boxes: (..., 4) xyxy in pixels.
        weights: Of the four.

    Returns:
        (..., 4) xyxy in pixels.
    """
    wx, wy, ww, wh = weights
    dx, dy, dw, dh = regression.unbind(-1)
    shift, size = torch.stack((dx / wx, dy / wy), -1), geometry.box_size(boxes)
    center = geometry.box_center(boxes) + shift * size
    return geometry.boxes_around(center, torch.stack((dw / ww, dh / wh), -1).clamp(max=_LARGEST).exp() * size)


def encode(truth: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
    """Returns the regressions (..., 4) that lead from boxes to the truth (Ren et al., "Faster R-CNN", Eq. 2).

    Args:
        truth: (..., 4) xyxy in pixels.
        boxes: (..., 4) xyxy in pixels.
        weights: Factors on the four.
    """
    wx, wy, ww, wh = weights
    size = geometry.box_size(boxes)
    dx, dy = ((geometry.box_center(truth) - geometry.box_center(boxes)) / size).unbind(-1)
    dw, dh = (geometry.box_size(truth) / size).log().unbind(-1)
    return torch.stack((dx * wx, dy * wy, dw * ww, dh * wh), -1)


def suppress(boxes: Tensor, scores: Tensor, valid: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression: says which boxes are kept of those that are valid, (B, K) bool.

    Args:
        boxes: (B, K, 4) xyxy, best first.
        scores: (B, K) by which they are ranked.
        valid: (B, K) bool; others hide none.
        iou: Of two boxes that overlap by more the better one is kept.
    """
    if boxes.device.type != "cpu":
        return suppress_together(boxes, valid, iou)
    ranked = scores.masked_fill(~valid, -torch.inf)
    kept = torch.zeros_like(valid)
    for i in range(len(boxes)):
        kept[i, nms(boxes[i], ranked[i], iou)] = True
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
