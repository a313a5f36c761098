"""Which detections of labelled scenes are right, and whether a confidence may be believed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from codepose.estimation.confidence import CORRECT, Confidence
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.evidence import evidence
from codepose.evaluation.equivalent_poses import pose_errors
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource, Split
from codepose.synthesis.world import World

MIN_SCORE = 0.3
"""Boxes scored below are hardly ever asked for; to judge their poses would take longer than all others'."""


def calibrate(
    world: World,
    estimator: PoseEstimator,
    *,
    images: int,
    fingerprint: str = "",
    min_score: float = MIN_SCORE,
    split: Split = "val",
    batch: int = 8,
    progress: Callable[[float], None] | None = None,
) -> Confidence:
    """Fits the confidence of an estimator's poses on scenes that were not trained on.

    Args:
        world: The run's objects.
        estimator: Whose detections are judged: not only the best of each scene.
        images: How many scenes.
        fingerprint: Kept with the result.
        min_score: Of the detections that are judged.
        split: Which scenes.
        batch: Scenes at a time.
        progress: Told the share done.

    Raises:
        ValueError: Nothing was detected in any scene.
    """
    source = SceneSource(world, split)
    rows: list[tuple[float, ...]] = []
    right: list[bool] = []
    for start in range(0, images, batch):
        scenes = source.scenes(torch.arange(start, min(start + batch, images)), photos=True)
        photographs, K, _ = scenes.photographs()
        detections = estimator.many(photographs, [K] * len(photographs), min_score=min_score)
        for i, found in enumerate(detections):
            for d in found:
                known = (d.score, d.similarity, d.agreement, d.contour or 0.0)
                rows.append(known if d.judged is None else (*known, d.judged))
                right.append(is_right(world, scenes, i, d))
        if progress is not None:
            progress(min(1.0, (start + batch) / images))
    if not rows:
        raise ValueError("the confidence cannot be calibrated: nothing was detected")
    together = torch.tensor(rows)
    return Confidence.fit(evidence(*together.unbind(1)), torch.tensor(right, dtype=torch.bool), fingerprint)


def is_right(world: World, scenes: SceneBatch, image: int, found: Detection) -> bool:
    """Whether a detection's pose is that of some instance of its object in its scene, up to ``CORRECT`` diameters."""
    model = world.objects[found.object_index]
    objects, R, t = scenes.objects[image, None], scenes.R_cam_obj[image, None], scenes.t_cam_obj[image, None]
    if scenes.other_objects is not None and scenes.other_R is not None and scenes.other_t is not None:
        objects = torch.cat((objects, scenes.other_objects[image]))
        R, t = torch.cat((R, scenes.other_R[image])), torch.cat((t, scenes.other_t[image]))
    same = objects == found.object_index
    if not bool(same.any()):
        return False
    middle = found.to_camera(model.offset.double().cpu().numpy())
    R_found, t_found = (
        torch.from_numpy(x).to(R.device).expand(int(same.sum()), *x.shape) for x in (found.R_cam_obj, middle)
    )
    true = R[same].double(), t[same].double()
    errors = pose_errors(world.objects, objects[same], R_found, t_found, *true, scenes.K.double())
    return bool(errors.mssd_share.min() < CORRECT)


def reliability(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 10
) -> list[tuple[float, float, int]]:
    """Returns (mean confidence, share that is right, count) of each bin of confidence that holds a detection.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bins: Equal parts of [0, 1].
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    held = [place == k for k in range(bins) if (place == k).any()]
    return [(float(confidence[m].mean()), float(correct[m].mean()), int(m.sum())) for m in held]


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 10) -> float:
    """Returns the mean difference of confidence and share that is right, over the bins of ``reliability``, (N,)."""
    rows = reliability(confidence, correct, bins)
    return sum(abs(claimed - right) * count for claimed, right, count in rows) / max(1, len(confidence))
