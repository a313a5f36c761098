"""An estimator on a BOP split: BOP19's average recalls, ADD(-S), and every instance's errors."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from codepose import geometry
from codepose.estimation.detection import Detection
from codepose.evaluation.bop import BopDataset, BopError, BopImage, BopInstance, BopTarget
from codepose.evaluation.bop_results import BoxResult, PoseResult
from codepose.evaluation.pose_errors import (
    ADD_THRESHOLD,
    MSPD_WIDTH,
    TAU_10,
    TAU_20,
    TAU_50,
    VSD_DELTA_MM,
    VSD_TAUS,
    TargetErrors,
    add,
    add_s,
    average_recalls,
    greedy_match,
    matched_recall,
    mspd,
    mssd,
    symmetric_distance,
)
from codepose.evaluation.vsd import vsd
from codepose.synthesis.renderer import Renderer


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


@dataclass(frozen=True)
class BopRow:
    """One true instance; NaN where no estimate was matched to it.

    The estimate is BOP's greedy match by MSSD without a threshold.

    Attributes:
        scene_id, im_id, obj_id: Which.
        gt_index: Its place in the image's list of labels.
        visible_fraction: In [0, 1].
        score: Of the estimate.
        vsd_10, vsd_20, vsd_50: VSD with tau = 10, 20, 50 % of the diameter, delta 15 mm.
        mssd_mm: Maximum symmetry-aware surface distance.
        mspd_px: Maximum symmetry-aware projection distance, in the image's own pixels.
        add_mm: ADD-S of a symmetric object, ADD of any other.
        rotation_deg, translation_mm: Against the equivalent true pose whose rotation is nearest.
    """

    scene_id: int
    im_id: int
    obj_id: int
    gt_index: int
    visible_fraction: float
    score: float = math.nan
    vsd_10: float = math.nan
    vsd_20: float = math.nan
    vsd_50: float = math.nan
    mssd_mm: float = math.nan
    mspd_px: float = math.nan
    add_mm: float = math.nan
    rotation_deg: float = math.nan
    translation_mm: float = math.nan


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
    found = [row for row in rows if not math.isnan(row.score)]
    medians = {
        f"{name.replace('_', '_median_', 1)}": float(np.median([getattr(r, name) for r in found])) if found else None
        for name in ("rotation_deg", "translation_mm")
    }
    recalls = {
        **average_recalls(errors)._asdict(),
        "add_recall_10": matched_recall([one.add for one in errors], ADD_THRESHOLD),
        "found_fraction": len(found) / max(1, len(rows)),
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
    judge = _Judge(dataset, obj_ids, torch.device(device))
    groups = _targets_by_image(dataset, split, obj_ids, images)
    results = BopResults({obj_id: [] for obj_id in sorted(obj_ids)})
    scene = dataset.scene(split, groups[0][0].scene_id)
    for number, targets in enumerate(groups, start=1):
        if targets[0].scene_id != scene.scene_id:
            scene = dataset.scene(split, targets[0].scene_id)
        image = scene.image(targets[0].im_id)
        if image.instances is None:
            raise BopError(f"{image.folder} has no scene_gt.json: the labels of this split are not public")
        pixels = image.rgb()
        view = judge.view(image, pixels)
        measured = view.measured.cpu().numpy() if depth and view.measured is not None else None
        start = time.perf_counter()
        found = estimator(pixels, image.K, min_score=min_score, depth=measured, tiles=tiles)
        results.seconds.append(time.perf_counter() - start)
        _record(results, judge, view, targets, found, obj_ids)
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


def _record(
    results: BopResults,
    judge: _Judge,
    view: _View,
    targets: Sequence[BopTarget],
    found: Sequence[Detection],
    obj_ids: Sequence[int],
) -> None:
    """Measures one image."""
    scene_id, im_id, seconds = view.image.scene_id, view.image.im_id, results.seconds[-1]
    ranked = sorted(found, key=lambda d: -d.score)
    results.boxes += [BoxResult(scene_id, im_id, obj_ids[d.object_index], d.score, d.box, seconds) for d in ranked]
    results.without_depth += view.measured is None
    for target in targets:
        obj_id = target.obj_id
        mine = [d for d in ranked if obj_ids[d.object_index] == obj_id][: target.inst_count]
        results.poses += [PoseResult(scene_id, im_id, obj_id, d.score, d.R_cam_obj, d.t_cam_obj, seconds) for d in mine]
        instances = _most_visible(view.image, target)
        if instances:
            errors = judge.errors(view, instances, mine)
            results.errors[obj_id].append(errors)
            results.rows += judge.rows(view, instances, mine, errors)


def _most_visible(image: BopImage, target: BopTarget) -> list[BopInstance]:
    """The instances that count: BOP takes the target's number of them, the most visible first."""
    same = [instance for instance in image.instances or () if instance.obj_id == target.obj_id]
    return sorted(same, key=lambda instance: -instance.visible_fraction)[: target.inst_count]


@dataclass(frozen=True, eq=False)
class _View:
    """One image to judge poses in: K (3, 3) float64 in BOP's convention, (height, width), measured depth or None."""

    image: BopImage
    K: Tensor
    size: tuple[int, int]
    measured: Tensor | None


class _Judge:
    """Compares poses of a dataset's objects, with its own models."""

    def __init__(self, dataset: BopDataset, obj_ids: Sequence[int], device: torch.device) -> None:
        missing = [obj_id for obj_id in obj_ids if obj_id not in dataset.models]
        if missing or len(set(obj_ids)) != len(obj_ids):
            known = ", ".join(map(str, dataset.models))
            raise BopError(f"{dataset.path} has the objects {known}; name each of yours once, not {list(obj_ids)}")
        self.device = device
        self.models = {obj_id: dataset.models[obj_id] for obj_id in obj_ids}
        self._place = {obj_id: place for place, obj_id in enumerate(obj_ids)}
        self._vertices = {i: torch.from_numpy(model.vertices()).to(device) for i, model in self.models.items()}
        self._renderer = Renderer([model.mesh() for model in self.models.values()], device)

    def view(self, image: BopImage, pixels: NDArray[np.uint8]) -> _View:
        depth = image.depth()
        if depth is not None and depth.shape != pixels.shape[:2]:
            raise BopError(
                f"{image.folder}, image {image.im_id}: its depth is {depth.shape[1]} x {depth.shape[0]}, its colours "
                f"{pixels.shape[1]} x {pixels.shape[0]}"
            )
        measured = None if depth is None else torch.from_numpy(depth).to(self.device)
        return _View(image, torch.from_numpy(image.K).to(self.device), pixels.shape[:2], measured)

    def errors(self, view: _View, instances: Sequence[BopInstance], estimates: Sequence[Detection]) -> TargetErrors:
        """Returns every error of every estimate against every instance."""
        shape = (len(estimates), len(instances))
        if not estimates:
            nothing = np.zeros(shape)
            return TargetErrors(np.zeros((*shape, len(VSD_TAUS))), nothing, nothing, nothing)
        model, vertices = self.models[instances[0].obj_id], self._vertices[instances[0].obj_id]
        pairs = _pairs(estimates, instances, self.device)
        width = view.size[1]
        average = add_s if model.symmetric else add
        return TargetErrors(
            vsd=self._vsd(view, instances, estimates),
            mssd=_table(mssd(vertices, *pairs, model.symmetries), shape) / model.diameter,
            mspd=_table(mspd(vertices, *pairs, view.K, model.symmetries), shape) * MSPD_WIDTH / width,
            add=_table(average(vertices, *pairs), shape) / model.diameter,
        )

    def rows(
        self, view: _View, instances: Sequence[BopInstance], estimates: Sequence[Detection], errors: TargetErrors
    ) -> list[BopRow]:
        """Returns one row an instance, with the errors of the estimate that BOP's matching gives it."""
        model = self.models[instances[0].obj_id]
        rows = []
        for place, (instance, e) in enumerate(zip(instances, greedy_match(errors.mssd, math.inf), strict=True)):
            row = BopRow(
                view.image.scene_id, view.image.im_id, instance.obj_id, instance.index, instance.visible_fraction
            )
            if e >= 0:
                pair = _pairs([estimates[e]], [instance], self.device)
                angle, shift = symmetric_distance(*pair, model.symmetries)
                row = replace(
                    row,
                    score=estimates[e].score,
                    vsd_10=float(errors.vsd[e, place, TAU_10]),
                    vsd_20=float(errors.vsd[e, place, TAU_20]),
                    vsd_50=float(errors.vsd[e, place, TAU_50]),
                    mssd_mm=float(errors.mssd[e, place] * model.diameter),
                    mspd_px=float(errors.mspd[e, place] * view.size[1] / MSPD_WIDTH),
                    add_mm=float(errors.add[e, place] * model.diameter),
                    rotation_deg=math.degrees(float(angle)),
                    translation_mm=float(shift),
                )
            rows.append(row)
        return rows

    def _vsd(
        self, view: _View, instances: Sequence[BopInstance], estimates: Sequence[Detection]
    ) -> NDArray[np.float64]:
        """Returns (E, G, 10)."""
        model = self.models[instances[0].obj_id]
        true = torch.stack([self._depth(view, model.obj_id, i.R_cam_obj, i.t_cam_obj) for i in instances])
        measured = torch.zeros_like(true[0]) if view.measured is None else view.measured
        rows = []
        for estimate in estimates:
            alone = self._depth(view, model.obj_id, estimate.R_cam_obj, estimate.t_cam_obj)
            values = vsd(
                alone.expand_as(true),
                true,
                measured.expand_as(true),
                view.K,
                delta=VSD_DELTA_MM,
                taus=VSD_TAUS,
                diameter=model.diameter,
            )
            rows.append(values)
        return torch.stack(rows).cpu().numpy()

    def _depth(self, view: _View, obj_id: int, R: NDArray[np.float64], t: NDArray[np.float64]) -> Tensor:
        """The object alone at a pose in its own frame, (H, W) mm."""
        R_cam_obj, t_cam_obj = (torch.from_numpy(x).float().to(self.device)[None] for x in (R, t))
        index = torch.tensor([self._place[obj_id]], device=self.device)
        K = geometry.from_opencv(view.K).float()
        return self._renderer.depth_alone(index, R_cam_obj, t_cam_obj, K, view.size)[0]


def _pairs(
    estimates: Sequence[Detection], instances: Sequence[BopInstance], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every estimate with every instance: R (E G, 3, 3) and t (E G, 3) of both."""
    arrays = (
        np.stack([e.R_cam_obj for e in estimates for _ in instances]),
        np.stack([e.t_cam_obj for e in estimates for _ in instances]),
        np.stack([i.R_cam_obj for _ in estimates for i in instances]),
        np.stack([i.t_cam_obj for _ in estimates for i in instances]),
    )
    R, t, R_gt, t_gt = (torch.from_numpy(array).to(device) for array in arrays)
    return R, t, R_gt, t_gt


def _table(values: Tensor, shape: tuple[int, int]) -> NDArray[np.float64]:
    table: NDArray[np.float64] = values.reshape(shape).cpu().numpy()
    return table
