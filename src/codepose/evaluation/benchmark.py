"""Every method on the same held-out scenes: VSD under three readings, recall, IoU, and the rows a reader misses.

Besides the methods themselves: each with ground-truth boxes (its upper bound), and the oracle, which snaps the true
pose to the codebook and so shows the ceiling (30). The test split is used for nothing else (36).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codepose import geometry
from codepose.config import Settings
from codepose.estimation.codebook import Codebook
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation.metrics import box_iou_pairs, summarise_columns, translation_error_mm
from codepose.evaluation.vsd import vsd
from codepose.networks.detector import Boxes
from codepose.synthesis.scenes import SceneBatch, SceneSource, Split
from codepose.synthesis.world import World
from codepose.training.ranks import Shares, everyones

DELTA_MM, TAU_MM = 15.0, 20.0
_BOP_TAUS = tuple(0.05 * k for k in range(1, 11))
_SHARES = (0.1, 0.2, 0.5)
_MISSED = float("nan")


@dataclass
class Row:
    """One method's numbers, one entry an image; NaN where nothing was detected.

    Attributes:
        vsd: Full pose, step cost, tau 20 mm, delta 15 mm (39).
        vsd_rotation: With the true translation: what the rotation alone costs.
        vsd_translation: With the true rotation.
        vsd_tlinear: Full pose, tlinear cost, same tau.
        vsd_10, vsd_20, vsd_50: Full pose, step cost, tau = 10, 20, 50 % of the diameter.
        ar_vsd: BOP19's average recall of the image.
        iou, rotation_deg, translation_mm, score: Of the best-scored detection.
    """

    vsd: list[float] = field(default_factory=list)
    vsd_rotation: list[float] = field(default_factory=list)
    vsd_translation: list[float] = field(default_factory=list)
    vsd_tlinear: list[float] = field(default_factory=list)
    vsd_10: list[float] = field(default_factory=list)
    vsd_20: list[float] = field(default_factory=list)
    vsd_50: list[float] = field(default_factory=list)
    ar_vsd: list[float] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)
    rotation_deg: list[float] = field(default_factory=list)
    translation_mm: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    def array(self, name: str) -> NDArray[np.float64]:
        """Returns one column, (N,)."""
        return np.asarray(getattr(self, name), dtype=np.float64)

    def columns(self) -> list[str]:
        """Returns the columns' names."""
        return list(self.__dataclass_fields__)


@dataclass(frozen=True)
class ExampleEstimate:
    """One method's estimate in an example: box (4,), R (3, 3), t (3,), reconstruction (3, c, c), silhouette (S, S)."""

    box: Tensor
    R: Tensor
    t: Tensor
    reconstruction: Tensor
    mask: Tensor


@dataclass
class Example:
    """A scene with every method's estimate, for pictures.

    Attributes:
        image: (3, S, S) in [0, 1].
        gt_box: (4,).
        K: (3, 3) pixel centres at integer + 0.5.
        target: (3, c, c), the clean view the reconstruction should be.
        estimates: By method; missing where nothing was detected.
    """

    image: Tensor
    gt_box: Tensor
    K: Tensor
    target: Tensor
    estimates: dict[str, ExampleEstimate]


@dataclass
class Results:
    """What ``evaluate`` returns.

    Attributes:
        methods: Rows by name: "joint", "extended", "original", each also as "... + GT box", and "oracle".
        index, visible_fraction, object_index: (N,) of the images.
        examples: The first scenes.
        images: How many scenes.
        split: Which split.
        backgrounds: What the backgrounds were.
        labels: The objects' names.
    """

    methods: dict[str, Row]
    index: list[int]
    visible_fraction: list[float]
    object_index: list[int]
    examples: list[Example]
    images: int
    split: str
    backgrounds: str
    labels: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Returns the content of results.json."""
        everything = np.ones(len(self.index), dtype=bool)
        summary: dict[str, Any] = {
            "methods": {name: _summary(row, everything) for name, row in self.methods.items()},
            "images": self.images,
            "split": self.split,
            "backgrounds": self.backgrounds,
        }
        which = np.asarray(self.object_index)
        if len(self.labels) > 1:
            summary["objects"] = {
                label: {"images": int((which == k).sum())}
                | {name: _summary(row, which == k) for name, row in self.methods.items()}
                for k, label in enumerate(self.labels)
                if (which == k).any()
            }
        return summary

    def csv(self) -> str:
        """Returns the per-image table: one line an image and method; empty cells where nothing was detected."""
        text = io.StringIO()
        columns = next(iter(self.methods.values())).columns()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index", "object", "visible_fraction", "method", *columns])
        for name, row in self.methods.items():
            for i, (index, visible) in enumerate(zip(self.index, self.visible_fraction, strict=True)):
                values = [row.array(c)[i] for c in columns]
                cells = ["" if np.isnan(v) else f"{v:.6g}" for v in values]
                writer.writerow([index, self.object_index[i] + 1, f"{visible:.4f}", name, *cells])
        return text.getvalue()


def _summary(row: Row, chosen: NDArray[np.bool_]) -> dict[str, float | None]:
    """The results table's numbers over some of the images."""
    return summarise_columns({name: row.array(name)[chosen] for name in row.columns()})


@dataclass(frozen=True)
class _Estimates:
    """One method's best detection in each image of a batch; zeros where ``found`` is false."""

    found: Tensor  # (B,) bool
    boxes: Tensor  # (B, 4)
    R: Tensor  # (B, 3, 3)
    t: Tensor  # (B, 3)
    score: Tensor  # (B,)
    latents: Tensor | None  # (B, D)


def evaluate(
    world: World,
    estimators: dict[str, PoseEstimator],
    *,
    images: int,
    split: Split = "test",
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
        batch: Scenes at a time.
        examples: Scenes kept for pictures.
        progress: Told the share done.
    """
    source = SceneSource(world, split)
    names = [*estimators, *(f"{m} + GT box" for m in estimators), "oracle"]
    labels = tuple(o.label for o in world.objects)
    results = Results({n: Row() for n in names}, [], [], [], [], images, split, source.backgrounds.source, labels)
    books = next(iter(estimators.values())).codebooks
    starts = range(0, images, batch)
    mine = starts[Shares(len(starts)).own]
    for done, start in enumerate(mine, start=1):
        scenes = source.scenes(torch.arange(start, min(start + batch, images)), depth=True)
        found: dict[str, _Estimates] = {}
        seen: dict[int, tuple[Any, list[Boxes]]] = {}  # refinement looks through the same networks
        for name, estimator in estimators.items():
            pipeline = estimator.pipeline
            if id(pipeline) not in seen:
                prepared = pipeline.prepare(scenes.images)
                seen[id(pipeline)] = prepared, pipeline.detect(prepared)
            prepared, boxes = seen[id(pipeline)]
            found[name] = _detected(estimator, prepared, boxes, scenes)
            found[f"{name} + GT box"] = _posed(
                estimator, prepared, scenes, scenes.boxes, torch.ones_like(scenes.objects, dtype=torch.bool)
            )
        found["oracle"] = _oracle(books, scenes)
        renders = _Renders(world, scenes)
        for name, estimates in found.items():
            _record(results.methods[name], estimates, scenes, renders)
        results.index += scenes.index.tolist()
        results.visible_fraction += scenes.visible_fraction.tolist()
        results.object_index += scenes.objects.tolist()
        _keep_examples(results, scenes, found, estimators, renders, examples)
        if progress is not None:
            progress(done / len(mine))
    return _merged(everyones(results), examples)


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
        whole.examples += part.examples
    del whole.examples[examples:]
    return whole


def _detected(estimator: PoseEstimator, prepared: Any, detections: list[Boxes], scenes: SceneBatch) -> _Estimates:
    """Each image's best-scored detection of the object that is there."""
    boxes = torch.zeros_like(scenes.boxes)
    boxes[:, 2:] = 1.0
    score = torch.zeros(len(boxes), device=boxes.device)
    found = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for i, one in enumerate(detections):
        mine = (one["labels"] == scenes.objects[i] + 1).nonzero().squeeze(1)
        if len(mine):
            boxes[i], score[i], found[i] = one["boxes"][mine[0]], one["scores"][mine[0]], True
    estimates = _posed(estimator, prepared, scenes, boxes, found)
    return _Estimates(found, boxes, estimates.R, estimates.t, score, estimates.latents)


def _posed(estimator: PoseEstimator, prepared: Any, scenes: SceneBatch, boxes: Tensor, found: Tensor) -> _Estimates:
    order = torch.arange(len(boxes), device=boxes.device)
    one = estimator.poses(prepared, boxes, order, scenes.objects, scenes.K)
    return _Estimates(found, boxes, one.R, one.t, one.similarity, one.latents)


def _oracle(books: Sequence[Codebook], scenes: SceneBatch) -> _Estimates:
    """The codebook's view nearest to the truth, translated from the true box."""
    R, t = torch.empty_like(scenes.R_cam_obj), torch.empty_like(scenes.t_cam_obj)
    for i, index in enumerate(scenes.objects.tolist()):
        book = books[index]
        trace = (book.rotations * scenes.R_view[i]).sum((1, 2))
        view = trace.argmax()[None]
        R[i : i + 1], t[i : i + 1] = book.poses(view, scenes.boxes[i : i + 1], scenes.K)
    everywhere = torch.ones(len(R), dtype=torch.bool, device=R.device)
    return _Estimates(everywhere, scenes.boxes, R, t, everywhere.float(), None)


class _Renders:
    """Depth renders of a batch and the VSD of any pose against its truth."""

    def __init__(self, world: World, scenes: SceneBatch) -> None:
        self.world, self.scenes = world, scenes
        self.gt = self.depth(scenes.R_cam_obj, scenes.t_cam_obj)
        self.K = geometry.to_opencv(scenes.K)
        diameters = torch.tensor([o.mesh.diameter for o in world.objects], device=scenes.images.device)
        self.diameter = diameters[scenes.objects]

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
            delta=DELTA_MM,
            taus=taus,
            cost="tlinear" if cost == "tlinear" else "step",
            diameter=self.diameter if relative else None,
        )


def _record(row: Row, estimates: _Estimates, scenes: SceneBatch, renders: _Renders) -> None:
    full = renders.depth(estimates.R, estimates.t)
    bop = renders.vsd(full, _BOP_TAUS, relative=True)
    thresholds = torch.tensor(_BOP_TAUS, dtype=bop.dtype, device=bop.device)
    shares = renders.vsd(full, _SHARES, relative=True)
    columns = {
        "vsd": renders.vsd(full)[:, 0],
        "vsd_rotation": renders.vsd(renders.depth(estimates.R, scenes.t_cam_obj))[:, 0],
        "vsd_translation": renders.vsd(renders.depth(scenes.R_cam_obj, estimates.t))[:, 0],
        "vsd_tlinear": renders.vsd(full, cost="tlinear")[:, 0],
        "vsd_10": shares[:, 0],
        "vsd_20": shares[:, 1],
        "vsd_50": shares[:, 2],
        "ar_vsd": (bop[:, :, None] < thresholds).double().mean((1, 2)),
        "iou": box_iou_pairs(estimates.boxes, scenes.boxes),
        "rotation_deg": geometry.geodesic_angle(estimates.R, scenes.R_cam_obj).rad2deg(),
        "translation_mm": translation_error_mm(estimates.t, scenes.t_cam_obj),
        "score": estimates.score,
    }
    for name, values in columns.items():
        missing = torch.where(estimates.found.to(values.device), values.double(), _MISSED)
        getattr(row, name).extend(missing.tolist())


def _keep_examples(
    results: Results,
    scenes: SceneBatch,
    found: dict[str, _Estimates],
    estimators: dict[str, PoseEstimator],
    renders: _Renders,
    wanted: int,
) -> None:
    count = min(len(scenes.images), wanted - len(results.examples))
    if count <= 0:
        return
    kept = [
        Example(scenes.images[i].cpu(), scenes.boxes[i].cpu(), scenes.K.cpu(), scenes.targets[i].cpu(), {})
        for i in range(count)
    ]
    for name, estimator in estimators.items():
        one = found[name]
        assert one.latents is not None
        masks = renders.depth(one.R, one.t) > 0
        reconstructions = estimator.pipeline.decode(one.latents[:count])
        for i, example in enumerate(kept):
            if bool(one.found[i]):
                example.estimates[name] = ExampleEstimate(
                    one.boxes[i].cpu(),
                    one.R[i].cpu(),
                    one.t[i].cpu(),
                    reconstructions[i].cpu(),
                    masks[i].cpu(),
                )
    results.examples += kept


def settings_note(settings: Settings) -> str:
    """Returns in words under which protocol the numbers were measured."""
    return (
        f"VSD: delta {DELTA_MM:.0f} mm, tau {TAU_MM:.0f} mm, step cost; a missed detection counts 1. "
        f"Scenes of {settings.data.camera.image_size} px, views within "
        f"{max(o.view_cone_deg for o in settings.objects):.0f} degrees of the trained direction."
    )
