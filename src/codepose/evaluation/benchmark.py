"""Every method on the same held-out scenes: VSD under three readings, recall, IoU, and the rows a reader misses.

Besides the methods themselves: each with ground-truth boxes (its upper bound), and the oracle, which snaps the true
pose to the codebook and so shows the ceiling. The test split is used for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.pipelines import Pipeline
from codepose.evaluation.equivalent_poses import pose_errors
from codepose.evaluation.metrics import box_iou_pairs
from codepose.evaluation.pose_errors import TAU_10, TAU_20, TAU_50, VSD_DELTA_MM, VSD_TAUS
from codepose.evaluation.results import Example, ExampleEstimate, Results, Row
from codepose.evaluation.vsd import vsd
from codepose.networks.detector import Boxes
from codepose.refinement.depth_fit import DepthRefiner
from codepose.refinement.poses import Photos
from codepose.refinement.render_and_compare import useful_size
from codepose.runtime.ranks import Shares, everyones
from codepose.settings.schema import Settings
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource, Split
from codepose.synthesis.world import World
from codepose.training.cost import timed

TAU_MM = 20.0
_MISSED = float("nan")


@dataclass(frozen=True)
class _Estimates:
    """One method's best detection in each image of a batch; zeros where ``found`` is false."""

    found: Tensor  # (B,) bool
    boxes: Tensor  # (B, 4)
    R: Tensor  # (B, 3, 3)
    t: Tensor  # (B, 3)
    score: Tensor  # (B,)
    latents: Tensor | None = None  # (B, D)
    confidence: Tensor | None = None  # (B,)


def evaluate(
    world: World,
    estimators: dict[str, PoseEstimator],
    *,
    images: int,
    split: Split = "test",
    depth: bool = False,
    batch: int = 8,
    examples: int = 12,
    progress: Callable[[float], None] | None = None,
) -> Results:
    """Runs every method on the same scenes; several ranks divide them, and all return the whole.

    Args:
        world: Meshes and renderer.
        estimators: By method name.
        images: How many scenes of the split.
        split: "test", or "val" for choosing anything.
        depth: Add a row with poses fitted to the scenes' depth to every method, after its refinement where it has one.
        batch: Scenes at a time.
        examples: Scenes kept for pictures.
        progress: Told the share done.
    """
    source = SceneSource(world, split)
    fitted = [m for m in estimators if f"{m} + refinement" not in estimators] if depth else []
    names = [*estimators, *(f"{m} + depth" for m in fitted), *(f"{m} + GT box" for m in estimators), "oracle"]
    labels = tuple(o.label for o in world.objects)
    behind = source.backgrounds(world.settings.data.photo_size).source
    results = Results({n: Row() for n in names}, [], [], [], [], images, split, behind, labels)
    books, refiner = next(iter(estimators.values())).codebooks, DepthRefiner(world)
    starts = range(0, images, batch)
    mine = starts[Shares(len(starts)).own]
    for done, start in enumerate(mine, start=1):
        scenes = source.scenes(torch.arange(start, min(start + batch, images)), depth=True, photos=True)
        photos = Photos.of(scenes, useful_size(world.settings.data.camera))
        found, latest = _found(estimators, scenes, photos)
        for name in estimators:
            _count(results.seconds, name, latest[name])
        for name in fitted:
            fitting = partial(_fitted, refiner, found[name], scenes)
            found[f"{name} + depth"], more = timed(fitting, world.device)
            _count(results.seconds, f"{name} + depth", latest[name] + more)
        found["oracle"] = _oracle(world, books, scenes)
        renders = _Renders(world, scenes)
        for name, estimates in found.items():
            _record(results.methods[name], estimates, scenes, renders)
        results.index += scenes.index.tolist()
        results.visible_fraction += scenes.visible_fraction.tolist()
        results.object_index += scenes.objects.tolist()
        _keep_examples(results, world, scenes, found, estimators, examples)
        if progress is not None:
            progress(done / len(mine))
    return _merged(everyones(results), examples)


def _found(
    estimators: dict[str, PoseEstimator], scenes: SceneBatch, photos: Photos | None
) -> tuple[dict[str, _Estimates], dict[str, float]]:
    """Every method's estimates in a batch, with its own boxes and with the true ones, and the seconds of the former."""
    found: dict[str, _Estimates] = {}
    seconds: dict[str, float] = {}
    seen: dict[int, tuple[tuple[Any, list[Boxes]], float]] = {}  # refinement looks through the same networks
    everywhere = torch.ones_like(scenes.objects, dtype=torch.bool)
    for name, estimator in estimators.items():
        pipeline = estimator.pipeline
        if id(pipeline) not in seen:
            seen[id(pipeline)] = timed(partial(_looked, pipeline, scenes.images), scenes.images.device)
        (prepared, boxes), looking = seen[id(pipeline)]
        posing = partial(_detected, estimator, prepared, boxes, scenes, photos)
        found[name], rest = timed(posing, scenes.images.device)
        seconds[name] = looking + rest
        found[f"{name} + GT box"] = _posed(estimator, prepared, scenes, photos, scenes.boxes, everywhere)
    return found, seconds


def _looked(pipeline: Pipeline, images: Tensor) -> tuple[Any, list[Boxes]]:
    """What a pipeline makes of images, and its detections."""
    prepared = pipeline.prepare(images)
    return prepared, pipeline.detect(prepared)


def _count(seconds: dict[str, float], name: str, more: float) -> None:
    seconds[name] = seconds.get(name, 0.0) + more


def _merged(parts: list[Results], examples: int) -> Results:
    """One rank's scenes after the other's."""
    whole = parts[0]
    for part in parts[1:]:
        for name, row in part.methods.items():
            for column in row.columns():
                getattr(whole.methods[name], column).extend(getattr(row, column))
        whole.index += part.index
        whole.visible_fraction += part.visible_fraction
        whole.object_index += part.object_index
        for name, more in part.seconds.items():
            _count(whole.seconds, name, more)
        whole.examples += part.examples
    del whole.examples[examples:]
    return whole


def _detected(
    estimator: PoseEstimator, prepared: Any, detections: list[Boxes], scenes: SceneBatch, photos: Photos | None
) -> _Estimates:
    """Each image's best-scored detection of the object that is there."""
    boxes = torch.zeros_like(scenes.boxes)
    boxes[:, 2:] = 1.0
    score = torch.zeros(len(boxes), device=boxes.device)
    found = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for i, one in enumerate(detections):
        mine = (one["labels"] == scenes.objects[i] + 1).nonzero().squeeze(1)
        if len(mine):
            boxes[i], score[i], found[i] = one["boxes"][mine[0]], one["scores"][mine[0]], True
    return _posed(estimator, prepared, scenes, photos, boxes, found, score)


def _posed(
    estimator: PoseEstimator,
    prepared: Any,
    scenes: SceneBatch,
    photos: Photos | None,
    boxes: Tensor,
    found: Tensor,
    score: Tensor | None = None,
) -> _Estimates:
    """The poses of one box an image; without a detector's score that is the similarity, and nothing is calibrated."""
    order = torch.arange(len(boxes), device=boxes.device)
    one = estimator.poses(prepared, boxes, order, scenes.objects, scenes.K, photos)
    if score is None:
        return _Estimates(found, boxes, one.R, one.t, one.similarity, one.latents)
    return _Estimates(found, boxes, one.R, one.t, score, one.latents, estimator.confidences(score, one))


def _fitted(refiner: DepthRefiner, estimates: _Estimates, scenes: SceneBatch) -> _Estimates:
    """The same detections, their poses fitted to the scenes' depth."""
    assert scenes.depth is not None
    R, t = estimates.R.clone(), estimates.t.clone()
    for i in estimates.found.nonzero().squeeze(1).tolist():
        given = estimates.R[i].double().cpu().numpy(), estimates.t[i].double().cpu().numpy()
        pose = refiner.fit(int(scenes.objects[i]), *given, scenes.K, scenes.depth[i].cpu().numpy())
        if pose is not None:
            R[i], t[i] = (torch.from_numpy(x) for x in pose)
    return replace(estimates, R=R, t=t, confidence=None)  # which was that of the poses before


def _oracle(world: World, books: Sequence[Codebook], scenes: SceneBatch) -> _Estimates:
    """The codebook's view nearest to the truth, or to one that looks the same, translated from the true box."""
    R, t = torch.empty_like(scenes.R_cam_obj), torch.empty_like(scenes.t_cam_obj)
    for i, index in enumerate(scenes.objects.tolist()):
        book, symmetries = books[index], world.objects[index].symmetries
        if symmetries.any:
            view = symmetries.angles(book.rotations, scenes.R_view[i]).argmin()[None]
        else:
            view = (book.rotations * scenes.R_view[i]).sum((1, 2)).argmax()[None]
        R[i : i + 1], t[i : i + 1] = book.poses(view, scenes.boxes[i : i + 1], scenes.K)
    everywhere = torch.ones(len(R), dtype=torch.bool, device=R.device)
    return _Estimates(everywhere, scenes.boxes, R, t, everywhere.float())


class _Renders:
    """Depth renders of a batch and the VSD of any pose against its truth."""

    def __init__(self, world: World, scenes: SceneBatch) -> None:
        self.world, self.scenes = world, scenes
        self.gt = self.depth(scenes.R_cam_obj, scenes.t_cam_obj)
        self.K = geometry.to_opencv(scenes.K)
        self.diameter = world.diameters[scenes.objects]

    def depth(self, R: Tensor, t: Tensor) -> Tensor:
        size = self.scenes.images.shape[-1]
        return self.world.renderer.depth_alone(self.scenes.objects, R, t, self.scenes.K, (size, size))

    def vsd(
        self, depth: Tensor, taus: Sequence[float] = (TAU_MM,), *, cost: str = "step", relative: bool = False
    ) -> Tensor:
        """Returns (B, len(taus))."""
        assert self.scenes.depth is not None
        return vsd(
            depth,
            self.gt,
            self.scenes.depth,
            self.K,
            delta=VSD_DELTA_MM,
            taus=taus,
            cost="tlinear" if cost == "tlinear" else "step",
            diameter=self.diameter if relative else None,
        )


def _record(row: Row, estimates: _Estimates, scenes: SceneBatch, renders: _Renders) -> None:
    full = renders.depth(estimates.R, estimates.t)
    bop = renders.vsd(full, VSD_TAUS, relative=True)
    thresholds = torch.tensor(VSD_TAUS, dtype=bop.dtype, device=bop.device)
    true = (scenes.R_cam_obj, scenes.t_cam_obj)
    errors = pose_errors(renders.world.objects, scenes.objects, estimates.R, estimates.t, *true, scenes.K)
    columns = {
        "vsd": renders.vsd(full)[:, 0],
        "vsd_rotation": renders.vsd(renders.depth(estimates.R, scenes.t_cam_obj))[:, 0],
        "vsd_translation": renders.vsd(renders.depth(scenes.R_cam_obj, estimates.t))[:, 0],
        "vsd_tlinear": renders.vsd(full, cost="tlinear")[:, 0],
        "vsd_10": bop[:, TAU_10],
        "vsd_20": bop[:, TAU_20],
        "vsd_50": bop[:, TAU_50],
        "ar_vsd": (bop[:, :, None] < thresholds).double().mean((1, 2)),
        "iou": box_iou_pairs(estimates.boxes, scenes.boxes),
        "score": estimates.score,
        "confidence": torch.full_like(estimates.score, _MISSED)
        if estimates.confidence is None
        else estimates.confidence,
        **errors._asdict(),
    }
    for name, values in columns.items():
        missing = torch.where(estimates.found.to(values.device), values.double(), _MISSED)
        getattr(row, name).extend(missing.tolist())


def _keep_examples(
    results: Results,
    world: World,
    scenes: SceneBatch,
    found: dict[str, _Estimates],
    estimators: dict[str, PoseEstimator],
    wanted: int,
) -> None:
    """Keeps the first scenes for pictures, as large as they were rendered."""
    count = min(len(scenes.images), wanted - len(results.examples))
    if count <= 0:
        return
    photos = (scenes.images if scenes.photos is None else scenes.photos)[:count]
    size = photos.shape[-1]
    scale = size / scenes.images.shape[-1]
    K = geometry.scaled_camera(scenes.K, scale)
    kept = [
        Example(photos[i].cpu(), scenes.boxes[i].cpu() * scale, K.cpu(), scenes.targets[i].cpu(), index, {})
        for i, index in enumerate(scenes.objects[:count].tolist())
    ]
    for name, estimator in estimators.items():
        one = found[name]
        assert one.latents is not None
        posed = (scenes.objects[:count], one.R[:count], one.t[:count], K.expand(count, 3, 3))
        masks = world.renderer.depth_alone(*posed, (size, size)) > 0
        reconstructions = estimator.pipeline.decode(one.latents[:count])
        for i, example in enumerate(kept):
            if bool(one.found[i]):
                example.estimates[name] = ExampleEstimate(
                    one.boxes[i].cpu() * scale,
                    one.R[i].cpu(),
                    one.t[i].cpu(),
                    reconstructions[i].cpu(),
                    masks[i].cpu(),
                )
    results.examples += kept


def settings_note(settings: Settings) -> str:
    """Returns in words under which protocol the numbers were measured."""
    size = settings.data.camera.image_size
    views = (
        f"{o.name} seen within {o.view_cone_deg:.0f} degrees of {'either side' if o.view_opposite else 'one side'}"
        if o.view_cone_deg < 180
        else f"{o.name} seen from everywhere"
        for o in settings.objects
    )
    return (
        f"VSD: delta {VSD_DELTA_MM:.0f} mm, tau {TAU_MM:.0f} mm, step cost; a missed detection counts 1. "
        f"Scenes of {settings.data.photo_size} px, of which the network sees {size}; {', '.join(views)}."
    )
