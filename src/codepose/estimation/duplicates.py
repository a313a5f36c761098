"""Two rigid parts cannot be in one place: of detections that say so, one is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from codepose.estimation.detection import Detection
from codepose.synthesis.objects import ObjectModel

_SHARE = 0.02
"""Poses coincide where no point of the part's hull is further apart than this share of the diameter: what is found
twice is nearer, and cups in a stack are further apart."""
SEEN_TWICE = 0.5
"""Two poses that share more of the pixels of the smaller one cannot both be seen there."""


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
    return _best_of_each(found, lambda a, b: _coincide(found[a], found[b], parts[found[a].object_index]))


def seen_once(found: Sequence[Detection], masks: NDArray[np.bool_], share: float) -> list[Detection]:
    """Leaves out detections of an object whose poses take the same pixels for their own as a better one's.

    Such as the same part once this way and once the other way round, found in two boxes.

    Args:
        found: In one image, best first.
        masks: (N, H, W) where a part in each one's pose would be seen if nothing hid it.
        share: Of two that have more than this share of the smaller one's pixels in common, the better one stays.

    Returns:
        Those that stay, in the same order.
    """
    pixels = masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32)
    areas, common = pixels.sum(1), pixels @ pixels.T
    taken = common > share * np.minimum(areas[:, None], areas)
    return _best_of_each(found, lambda a, b: bool(taken[a, b]))


def _best_of_each(found: Sequence[Detection], one: Callable[[int, int], bool]) -> list[Detection]:
    """Those detections, best first, that are not one with a better one of their object that stays; by their places."""
    kept: list[int] = []
    for place, detection in enumerate(found):
        better = (other for other in kept if found[other].object_index == detection.object_index)
        if not any(one(other, place) for other in better):
            kept.append(place)
    return [found[place] for place in kept]


def _coincide(a: Detection, b: Detection, part: ObjectModel) -> bool:
    """Whether both poses are one, as far as they can be told apart."""
    hull = part.mesh.hull.astype(np.float64) + part.offset.double().numpy()
    b = b.nearest_to(a, part.cad_symmetries)
    apart = np.linalg.norm(hull @ (a.R_cam_obj - b.R_cam_obj).T + (a.t_cam_obj - b.t_cam_obj), axis=1).max()
    return bool(apart <= _SHARE * part.mesh.diameter)
