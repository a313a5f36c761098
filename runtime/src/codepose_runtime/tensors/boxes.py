"""What codepose's own files ask of ``torchvision.ops``."""

from __future__ import annotations

import numpy as np

from codepose_runtime.tensors.tensor import Tensor


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of every box (..., n, 4) with every other one (..., m, 4): (..., n, m)."""
    x, y = a.array[..., :, None, :], b.array[..., None, :, :]
    sides = np.clip(np.minimum(x[..., 2:], y[..., 2:]) - np.maximum(x[..., :2], y[..., :2]), 0, None)
    both = sides[..., 0] * sides[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (x, y)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return Tensor(both / (areas[0] + areas[1] - both))


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """The numbers of the boxes that stay, best first: of two of one label that overlap by more, the better one."""
    overlap = box_iou(boxes, boxes).array
    rival = (overlap > iou) & (labels.array[:, None] == labels.array)
    left, kept = np.ones(len(scores), bool), []
    for i in np.argsort(-scores.array, kind="stable"):
        if left[i]:
            kept.append(i)
            left &= ~rival[i]
    return Tensor(np.array(kept, np.int64))
