"""Every method on the same held-out scenes: VSD under three readings, recall, IoU, and the rows a reader misses.

Estimators are given photographs of the scenes, as users give theirs. Besides the methods themselves: each with
ground-truth boxes (its upper bound), and the oracle, which snaps the true pose to the codebook and so shows the
ceiling. The test split is used for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation.average_recalls import TAU_10, TAU_20, TAU_50, VSD_DELTA_MM, VSD_TAUS
from codepose.evaluation.equivalent_poses import pose_errors
from codepose.evaluation.metrics import box_iou_pairs
from codepose.evaluation.results import Example, Results, Row
from codepose.evaluation.vsd import vsd
from codepose.runtime.ranks import Shares, everyones
from codepose.settings.schema import Settings
from codepose.synthesis.batches import Photographs, SceneBatch
from codepose.synthesis.scenes import SceneSource, Split
from codepose.synthesis.world import World
from codepose.training.cost import timed

TAU_MM = 20.0
_MISSED = float("nan")

Found = Sequence[Detection | None]
"""One method's detection in each scene of a batch; None where it found nothing."""


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
    books = next(iter(estimators.values())).codebooks
    starts = range(0, images, batch)
    shares = starts[Shares(len(starts)).own]
    for done, start in enumerate(shares, start=1):
        scenes = source.scenes(torch.arange(start, min(start + batch, images)), depth=True, photos=True)
        photographs = scenes.photographs()
        found, seconds = _found_by_each(estimators, fitted, scenes, photographs)
        found["oracle"] = _oracle(world, books, scenes, photographs.scale)
        _add(results, found, seconds, scenes, photographs.scale, _Renders(world, scenes))
        shown = {name: found[name] for name in estimators}
        results.examples += _examples(scenes, photographs, shown, examples - len(results.examples))
        if progress is not None:
            progress(done / len(shares))
    return _merged(everyones(results), examples)


def _found_by_each(
    estimators: dict[str, PoseEstimator], fitted: Sequence[str], scenes: SceneBatch, photographs: Photographs
) -> tuple[dict[str, Found], dict[str, float]]:
    """What each method finds, by itself, with depth if it is among ``fitted``, and in true boxes; and seconds.

    What happens in true boxes is not timed.
    """
    found: dict[str, Found] = {}
    seconds: dict[str, float] = {}
    device = scenes.images.device
    for name, estimator in estimators.items():
        found[name], seconds[name] = timed(partial(_detected, estimator, scenes, photographs), device)
        if name in fitted:
            fitting = partial(_fitted, estimator, found[name], scenes, photographs.scale)
            found[f"{name} + depth"], more = timed(fitting, device)
            seconds[f"{name} + depth"] = seconds[name] + more
        found[f"{name} + GT box"] = _in_true_boxes(estimator, scenes, photographs)
    return found, seconds


def _add(
    results: Results,
    found: dict[str, Found],
    seconds: dict[str, float],
    scenes: SceneBatch,
    scale: float,
    renders: _Renders,
) -> None:
    """Adds a batch of scenes: what is known of them, each method's errors, and its time."""
    results.index += scenes.index.tolist()
    results.visible_fraction += scenes.visible_fraction.tolist()
    results.object_index += scenes.objects.tolist()
    for name, detections in found.items():
        _record(results.methods[name], detections, scenes, scale, renders)
    for name, more in seconds.items():
        _count(results.seconds, name, more)


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


def _detected(estimator: PoseEstimator, scenes: SceneBatch, photographs: Photographs) -> Found:
    """Each scene's best detection of the object that is there."""
    images = photographs.images
    by_scene = estimator.many(images, [photographs.K] * len(images))
    return [
        next((d for d in detections if d.object_index == index), None)
        for detections, index in zip(by_scene, scenes.objects.tolist(), strict=True)
    ]


def _in_true_boxes(estimator: PoseEstimator, scenes: SceneBatch, photographs: Photographs) -> Found:
    """Each scene's object in its true box."""
    boxes = (scenes.boxes * photographs.scale).cpu().numpy()
    objects = zip(photographs.images, boxes, scenes.objects.tolist(), strict=True)
    return [estimator.in_boxes(image, photographs.K, box, [index])[0] for image, box, index in objects]


def _fitted(estimator: PoseEstimator, found: Found, scenes: SceneBatch, scale: float) -> Found:
    """The same detections, their poses fitted to the scenes' depth, which has the network's resolution."""
    assert scenes.depth is not None
    result: list[Detection | None] = []
    for detection, depth in zip(found, scenes.depth.cpu().numpy(), strict=True):
        if detection is not None:
            scaled = replace(detection, box=detection.box / scale)
            (scaled,) = estimator.depth_refiner([scaled], scenes.K.cpu(), depth)
            # a confidence is that of the pose before
            detection = replace(scaled, box=detection.box, confidence=None)
        result.append(detection)
    return result


def _oracle(world: World, books: Sequence[Codebook], scenes: SceneBatch, scale: float) -> Found:
    """The codebook's view nearest to the truth, or to one that looks the same, translated from the true box."""
    detections = []
    for i, index in enumerate(scenes.objects.tolist()):
        book, symmetries = books[index], world.objects[index].symmetries
        if symmetries.any:
            view = symmetries.angles(book.rotations, scenes.R_view[i]).argmin()[None]
        else:
            view = (book.rotations * scenes.R_view[i]).sum((1, 2)).argmax()[None]
        R, t = (x[0].double().cpu().numpy() for x in book.poses(view, scenes.boxes[i : i + 1], scenes.K))
        box = scenes.boxes[i].double().cpu().numpy() * scale
        origin = t - R @ book.offset.double().cpu().numpy()
        detections.append(Detection(book.label, index, 1.0, 1.0, box, R, origin))
    return detections


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


def _record(row: Row, found: Found, scenes: SceneBatch, scale: float, renders: _Renders) -> None:
    """Adds a batch's numbers to a method's row."""
    detected = torch.tensor([d is not None for d in found])
    R, t = _poses(found, scenes, renders.world)
    boxes = torch.tensor(np.array([np.zeros(4) if d is None else d.box / scale for d in found]))
    full = renders.depth(R, t)
    bop = renders.vsd(full, VSD_TAUS, relative=True)
    thresholds = torch.tensor(VSD_TAUS, dtype=bop.dtype, device=bop.device)
    true = (scenes.R_cam_obj, scenes.t_cam_obj)
    errors = pose_errors(renders.world.objects, scenes.objects, R, t, *true, scenes.K)
    columns = {
        "vsd": renders.vsd(full)[:, 0],
        "vsd_rotation": renders.vsd(renders.depth(R, scenes.t_cam_obj))[:, 0],
        "vsd_translation": renders.vsd(renders.depth(scenes.R_cam_obj, t))[:, 0],
        "vsd_tlinear": renders.vsd(full, cost="tlinear")[:, 0],
        "vsd_10": bop[:, TAU_10],
        "vsd_20": bop[:, TAU_20],
        "vsd_50": bop[:, TAU_50],
        "ar_vsd": (bop[:, :, None] < thresholds).double().mean((1, 2)),
        "iou": box_iou_pairs(boxes.to(scenes.boxes), scenes.boxes),
        "score": torch.tensor([_MISSED if d is None else d.score for d in found]),
        "confidence": torch.tensor([_MISSED if d is None or d.confidence is None else d.confidence for d in found]),
        **errors._asdict(),
    }
    for name, values in columns.items():
        getattr(row, name).extend(torch.where(detected, values.double().cpu(), _MISSED).tolist())


def _poses(found: Found, scenes: SceneBatch, world: World) -> tuple[Tensor, Tensor]:
    """R_cam_obj (B, 3, 3) and t (B, 3) mm of the objects' own middles; the true ones where nothing was found."""
    R, t = scenes.R_cam_obj.clone(), scenes.t_cam_obj.clone()
    for i, detection in enumerate(found):
        if detection is not None:
            offset = world.objects[detection.object_index].offset.double().cpu().numpy()
            R[i], t[i] = torch.from_numpy(detection.R_cam_obj), torch.from_numpy(detection.to_camera(offset))
    return R, t


def _examples(scenes: SceneBatch, photographs: Photographs, found: dict[str, Found], wanted: int) -> list[Example]:
    """The first scenes, at most so many, for pictures."""
    return [
        Example(
            image=photographs.images[i],
            gt_box=scenes.boxes[i].double().cpu().numpy() * photographs.scale,
            K=photographs.K,
            target=scenes.targets[i].cpu(),
            object_index=index,
            detections={name: d for name, by_scene in found.items() if (d := by_scene[i]) is not None},
        )
        for i, index in enumerate(scenes.objects.tolist()[: max(0, wanted)])
    ]


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
