"""An estimator on a BOP split: BOP19's average recalls, ADD(-S), and every instance's errors."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from codepose.bop.dataset import TARGETS_FILE, BopDataset, BopTarget
from codepose.bop.entries import BopError
from codepose.bop.layout import scene_file
from codepose.bop.results import BoxResult, PoseResult
from codepose.bop.scenes import BopImage, BopInstance
from codepose.bop.scoring import BopRow, Judge, View
from codepose.estimation.detection import Detection
from codepose.evaluation.average_recalls import ADD_THRESHOLD, TargetErrors, average_recalls, matched_recall


class Estimator(Protocol):
    """What is measured; ``PoseEstimator`` is one."""

    def __call__(
        self,
        image: NDArray[np.uint8],
        camera: ArrayLike,
        *,
        min_score: float | None = None,
        depth: NDArray[Any] | None = None,
        tiles: int = 1,
    ) -> list[Detection]:
        """Returns the detections in an image (H, W, 3), K (3, 3) for pixel centres at integers, depth (H, W) mm."""
        ...


@dataclass
class BopResults:
    """What ``evaluate_images`` returns.

    Attributes:
        errors: One entry an object and image, by obj_id.
        rows: Every true instance that counts.
        poses: The estimates that were judged, for BOP's results file.
        boxes: All detections of the evaluated objects.
        seconds: Each image's estimation time.
        without_depth: Images that have no depth; there VSD takes the whole silhouettes for visible.
    """

    errors: dict[int, list[TargetErrors]] = field(default_factory=dict)
    rows: list[BopRow] = field(default_factory=list)
    poses: list[PoseResult] = field(default_factory=list)
    boxes: list[BoxResult] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    without_depth: int = 0

    def summary(self) -> dict[str, Any]:
        """Returns the content of results.json: scores of all objects together, and of each under ``objects``."""
        everything = [one for errors in self.errors.values() for one in errors]
        objects = {str(i): _scores(self.errors[i], [r for r in self.rows if r.obj_id == i]) for i in self.errors}
        return _scores(everything, self.rows) | {
            "images": len(self.seconds),
            "images_without_depth": self.without_depth,
            "seconds_median": float(np.median(self.seconds)) if self.seconds else None,
            "objects": objects,
        }

    def csv(self) -> str:
        """Returns the table of all instances, sorted by image; empty cells where nothing was matched."""
        text, columns = io.StringIO(), list(BopRow.__dataclass_fields__)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in self.rows:
            values = [getattr(row, name) for name in columns]
            writer.writerow(["" if v != v else f"{v:.6g}" if isinstance(v, float) else v for v in values])
        return text.getvalue()


def _scores(errors: Sequence[TargetErrors], rows: Sequence[BopRow]) -> dict[str, Any]:
    matched = [row for row in rows if not math.isnan(row.score)]
    medians = {
        f"{name.replace('_', '_median_', 1)}": float(np.median([getattr(r, name) for r in matched]))
        if matched
        else None
        for name in ("rotation_deg", "translation_mm")
    }
    recalls = {
        **average_recalls(errors)._asdict(),
        "add_recall_10": matched_recall([one.add for one in errors], ADD_THRESHOLD),
        "found_fraction": len(matched) / max(1, len(rows)),
        "box_iou_mean": float(np.mean([0.0 if math.isnan(r.box_iou) else r.box_iou for r in rows])) if rows else None,
        "box_recall_50": sum(r.box_iou > 0.5 for r in rows) / max(1, len(rows)),
    }
    # of an object that is in none of the images, nothing was measured
    return {**(recalls if rows else dict.fromkeys(recalls)), **medians, "instances": len(rows)}


def evaluate_images(
    estimator: Estimator,
    dataset: BopDataset,
    split: str,
    obj_ids: Sequence[int],
    *,
    images: int | None = None,
    min_score: float | None = None,
    depth: bool = False,
    tiles: int = 1,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> BopResults:
    """Runs an estimator on a split's target images and measures what it finds.

    As BOP's localisation task has it: of an object with n targets in an image, the n best-scored estimates count, and
    the n most visible instances are to be found.

    Args:
        estimator: Called with each image and the image's own K.
        dataset: Where the images are.
        split: A folder of it, "test" or "test_primesense".
        obj_ids: The dataset's number of the estimator's objects, by ``object_index``.
        images: Only the first so many target images; None = all.
        min_score: Handed to the estimator.
        depth: Whether the estimator is given the dataset's depth images.
        tiles: Handed to the estimator.
        device: Where poses are rendered.
        progress: Told the share done.

    Raises:
        BopError: The dataset has no such split or object, no target of these objects, or no public labels.
    """
    judge = Judge(dataset, obj_ids, torch.device(device))
    groups = _targets_by_image(dataset, split, obj_ids, images)
    results = BopResults({obj_id: [] for obj_id in sorted(obj_ids)})
    scene = dataset.scene(split, groups[0][0].scene_id)
    for number, targets in enumerate(groups, start=1):
        if targets[0].scene_id != scene.scene_id:
            scene = dataset.scene(split, targets[0].scene_id)
        image = _labelled(scene.image(targets[0].im_id))
        pixels = image.rgb()
        view = judge.view(image, pixels)
        measured = view.measured.cpu().numpy() if depth and view.measured is not None else None
        start = time.perf_counter()
        detections = estimator(pixels, image.K, min_score=min_score, depth=measured, tiles=tiles)
        results.seconds.append(time.perf_counter() - start)
        _record(results, judge, view, targets, detections, obj_ids)
        if progress is not None:
            progress(number / len(groups))
    return results


def _targets_by_image(
    dataset: BopDataset, split: str, obj_ids: Sequence[int], images: int | None
) -> list[list[BopTarget]]:
    """The targets of some objects, image by image; of the first so many images, None = all.

    Raises:
        BopError: There is none.
    """
    wanted = sorted(
        (target for target in dataset.targets(split) if target.obj_id in obj_ids),
        key=lambda target: (target.scene_id, target.im_id, target.obj_id),
    )
    groups = [list(g) for _, g in groupby(wanted, key=lambda target: (target.scene_id, target.im_id))][:images]
    if not groups:
        raise BopError(f"{dataset.path / split} has no target of the objects {', '.join(map(str, obj_ids))}")
    return groups


def _labelled(image: BopImage) -> BopImage:
    """The image itself.

    Raises:
        BopError: Nobody may know where its objects are.
    """
    if image.instances is None:
        missing = scene_file(image.folder, "scene_gt", image.camera)
        raise BopError(f"there is no {missing}: the labels of this split are not public; measure on another one")
    return image


def _record(
    results: BopResults,
    judge: Judge,
    view: View,
    targets: Sequence[BopTarget],
    detections: Sequence[Detection],
    obj_ids: Sequence[int],
) -> None:
    """Measures one image."""
    scene_id, im_id, seconds = view.image.scene_id, view.image.im_id, results.seconds[-1]
    ranked = sorted(detections, key=lambda d: -d.rank)
    results.boxes += [BoxResult(scene_id, im_id, obj_ids[d.object_index], d.score, d.box, seconds) for d in ranked]
    results.without_depth += view.measured is None
    for target in targets:
        obj_id = target.obj_id
        estimates = [d for d in ranked if obj_ids[d.object_index] == obj_id][: target.inst_count]
        results.poses += [
            PoseResult(scene_id, im_id, obj_id, d.rank, d.R_cam_obj, d.t_cam_obj, seconds) for d in estimates
        ]
        instances = _most_visible(view.image, target)
        judge.require_before_camera(view, instances)
        errors = judge.errors(view, instances, estimates)
        results.errors[obj_id].append(errors)
        results.rows += judge.rows(view, instances, estimates, errors)


def _most_visible(image: BopImage, target: BopTarget) -> list[BopInstance]:
    """The instances that count: BOP takes the target's number of them, the most visible first."""
    same = [instance for instance in image.instances or () if instance.obj_id == target.obj_id]
    if len(same) < target.inst_count:
        raise BopError(
            f"{TARGETS_FILE} asks for {target.inst_count} of object {target.obj_id} in image {image.im_id}, but "
            f"{scene_file(image.folder, 'scene_gt', image.camera)} has {len(same)}: fetch both files again"
        )
    return sorted(same, key=lambda instance: -instance.visible_fraction)[: target.inst_count]
