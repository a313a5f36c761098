"""One photo as it was asked for: its parts found, and the answer as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.cameras.camera import Camera
from codepose.estimation.codebook import Codebook
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator

MIN_JUDGED = 3.0
"""Of a pose that is shown unless something else is asked for: the mean log-odds of the judge's four answers. On
photographs it tells parts from clutter where the detector's score does not (docs/log/2026-11-29-hopeless-boxes.md)."""
_MIN_SCORE, _MIN_SCORE_JUDGED = 0.5, 0.05
_BEYOND = 1.25
"""Distances are asked for in round numbers: poses nearer or farther by this factor still count."""


@dataclass(frozen=True)
class Wishes:
    """What is asked of a look at one photo.

    Attributes:
        min_score: Leave out detections below; None = ``least_score`` of the estimator.
        min_judged: Leave out poses that the judge holds for less likely right than these log-odds.
        min_confidence: Leave out poses that are right with a smaller probability.
        tiles: As ``PoseEstimator`` takes it.
        max_detections: At most so many of each object, best first; None = all.
        distance: Nearest and farthest distance of the parts from the camera in mm, roughly; None = any.
    """

    min_score: float | None = None
    min_judged: float = MIN_JUDGED
    min_confidence: float = 0.0
    tiles: int = 1
    max_detections: int | None = None
    distance: tuple[float, float] | None = None


def look(
    estimator: PoseEstimator,
    image: NDArray[np.uint8],
    camera: Camera,
    wishes: Wishes,
    measured: NDArray[np.float32] | None = None,
) -> tuple[list[Detection], NDArray[np.uint8]]:
    """Finds the parts in one image (H, W, 3) as asked for.

    Args:
        estimator: Loaded.
        image: As the lens shows it.
        camera: Of images of its size.
        wishes: What counts.
        measured: (H, W) mm, the depth image; None = there is none.

    Returns:
        What was found, best first, and the image without its lens distortion.
    """
    straight = camera.undistort(image)
    depth = None if measured is None else camera.undistort_depth(measured)
    least = least_score(wishes, judged=estimator.judges)
    detections = estimator(straight, camera.K, min_score=least, depth=depth, tiles=wishes.tiles)
    return wanted(estimator, detections, wishes), straight


def least_score(wishes: Wishes, *, judged: bool) -> float:
    """The score from which a detection counts: what is asked for, else 0.5, or 0.05 where a judge looks at poses."""
    if wishes.min_score is not None:
        return wishes.min_score
    return _MIN_SCORE_JUDGED if judged else _MIN_SCORE


def wanted(estimator: PoseEstimator, detections: list[Detection], wishes: Wishes) -> list[Detection]:
    """Those of what an estimator has found in one image, best first, that are asked for."""
    if wishes.distance is not None:
        detections = in_reach(detections, wishes.distance, estimator.codebooks)
    return sure_enough(detections, wishes)


def in_reach(
    detections: list[Detection], distance: tuple[float, float], codebooks: Sequence[Codebook]
) -> list[Detection]:
    """Those of an image's detections whose parts' middles lie about as far away as they can.

    What is found where no part can be is clutter. A quarter beyond either end counts, as ends are said in round
    numbers.

    Args:
        detections: Of one image.
        distance: Nearest and farthest, mm.
        codebooks: One an object: they know where its middle lies in its file.
    """
    offsets = [book.offset.cpu().numpy() for book in codebooks]
    away = [float(np.linalg.norm(d.to_camera(offsets[d.object_index]))) for d in detections]
    near, far = distance[0] / _BEYOND, distance[1] * _BEYOND
    return [d for d, mm in zip(detections, away, strict=True) if near <= mm <= far]


def sure_enough(detections: list[Detection], wishes: Wishes) -> list[Detection]:
    """Those of an image's detections, best first, that are sure enough, at most so many of each object."""
    sure = [
        d
        for d in detections
        if (d.confidence is None or d.confidence >= wishes.min_confidence)
        and (d.judged is None or d.judged >= wishes.min_judged)
    ]
    return best_of_each(sure, wishes.max_detections)


def best_of_each(found: list[Detection], most: int | None) -> list[Detection]:
    """At most so many detections of each object, which come best first."""
    counts: Counter[int] = Counter()
    kept = []
    for detection in found:
        counts[detection.object_index] += 1
        if most is None or counts[detection.object_index] <= most:
            kept.append(detection)
    return kept


def answer(
    file: str, camera: Camera, found: list[Detection], time_ms: float, frame: int | None = None
) -> dict[str, Any]:
    """What was found in one image, as plain values for a JSON file.

    Args:
        file: The image's name.
        camera: Of the image's size.
        found: Best first, in the image without its lens distortion.
        time_ms: From pixels in memory to poses.
        frame: Its number in a video, from 0; None = it is a photo.
    """
    values: dict[str, Any] = {"file": file}
    if frame is not None:
        values["frame"] = frame
    values |= {"width": camera.width, "height": camera.height, "K": camera.K.tolist()}
    if camera.distortion:
        values["distortion"] = list(camera.distortion)
    values["detections"] = [d.to_json() for d in found]
    return values | {"time_ms": round(time_ms, 2)}
