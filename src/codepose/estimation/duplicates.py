"""Two rigid parts cannot be in one place: of detections that say so, one is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from codepose.estimation.detection import Detection
from codepose.synthesis.objects import ObjectModel

_SHARE = 0.02
"""Poses coincide where no point of the part's hull is further apart than this share of the diameter: what is found
twice is nearer, and cups in a stack are further apart."""
SEEN_TWICE = 0.65
"""Boxes of parts in a heap overlap by less, by up to 0.62 among 27 keys: two poses whose boxes overlap by more take the
same pixels for theirs."""


def without_doubles(found: Sequence[Detection], parts: Sequence[ObjectModel]) -> list[Detection]:
    """Leaves out detections of an object in a pose in which a better one of the same object is already.

    Two boxes that overlap too little to suppress each other can both be drawn to one contour, or by ICP to one
    surface.

    Args:
        found: In one image, best first.
        parts: The objects, in the settings' order.

    Returns:
        Those that stay, in the same order. Poses that only look the same count as one.
    """
    kept: list[Detection] = []
    for detection in found:
        part = parts[detection.object_index]
        others = (other for other in kept if other.object_index == detection.object_index)
        if not any(_coincide(other, detection, part) for other in others):
            kept.append(detection)
    return kept


def seen_once(found: Sequence[Detection], boxes: Tensor, iou: float) -> list[Detection]:
    """Leaves out detections of an object whose poses take the same pixels for their own as a better one's.

    Such as the same part once this way and once the other way round, found in two boxes.

    Args:
        found: In one image, best first.
        boxes: (N, 4) xyxy of their poses.
        iou: Of boxes that overlap by more, the better one stays.

    Returns:
        Those that stay, in the same order.
    """
    if not found:
        return []
    order, objects = torch.arange(len(found)), torch.tensor([d.object_index for d in found])
    kept = batched_nms(boxes.cpu().float(), -order.float(), objects, iou)
    return [found[i] for i in kept.tolist()]


def _coincide(a: Detection, b: Detection, part: ObjectModel) -> bool:
    """Whether both poses are one, as far as they can be told apart."""
    hull = part.mesh.hull.astype(np.float64) + part.offset.double().numpy()
    b = b.nearest_to(a, part.cad_symmetries)
    apart = np.linalg.norm(hull @ (a.R_cam_obj - b.R_cam_obj).T + (a.t_cam_obj - b.t_cam_obj), axis=1).max()
    return bool(apart <= _SHARE * part.mesh.diameter)
