"""What the commands do, for Python: preview, train, calibrate, evaluate, export. What they check is checked here."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from codepose import geometry
from codepose.estimation.confidence import Confidence
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import OUTPUTS, export_onnx, largest_difference, require_onnx
from codepose.estimation.methods import (
    METHODS,
    PAPER_METHODS,
    STAGES,
    Method,
    confidence_mark,
    confidence_path,
    load_codebooks,
    load_confidence,
    load_pipeline,
)
from codepose.evaluation import benchmark, reliability
from codepose.evaluation.results import Results
from codepose.refinement.judged_contours import refiner_of
from codepose.reports.preview import preview
from codepose.runtime.devices import current_device, make_fabric
from codepose.runtime.extras import require_training
from codepose.runtime.progress import Display
from codepose.runtime.provenance import provenance
from codepose.runtime.ranks import first_before_others, from_first, world_size
from codepose.runtime.run import Run, RunError
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.storage.checksums import DamagedError
from codepose.storage.replace import replacing_together, write_atomically
from codepose.synthesis.backgrounds import require_photos
from codepose.synthesis.placement import require_visible
from codepose.synthesis.scenes import SceneSource, Split
from codepose.synthesis.world import World
from codepose.training.initial import require_initial
from codepose.training.memory import require_memory
from codepose.training.stages import train_detector, train_jitter, train_original, train_step1, train_step2

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "Evaluation",
    "Exported",
    "calibrate",
    "evaluate",
    "export",
    "preview",
    "train",
    "train_stages",
    "trained_methods",
]

_COMPARED = 8
"""Scenes in which an exported file is compared with PyTorch."""
_TOLERANCE = 0.1
"""Pixels by which its boxes may differ: far more than rounding makes of them."""


def train(
    settings: Settings,
    out: str | Path,
    methods: Sequence[Method] = ("joint",),
    *,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    before: Callable[[World], None] | None = None,
) -> Run:
    """Trains networks on CAD parts and calibrates them: all that ``codepose train`` does.

    What cannot be trained is refused before anything is written. With several devices nothing is calibrated: call
    ``calibrate`` in one process afterwards.

    Args:
        settings: As ``load_preset`` returns them; ``objects`` names the CAD files.
        out: The run's folder; it must not hold a run unless ``resume`` is set.
        methods: Which of "joint", "extended", "original", "jitter".
        resume: Goes on where the folder's run stopped, or begins it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``.
        before: Is shown the parts once all is checked, before anything is written.

    Returns:
        The trained run.

    Raises:
        ConfigError: Settings that cannot be trained, more memory than there is, or no such device.
        MeshError: A CAD file that cannot be used.
        RunError: The folder holds another run, or another process trains it.
        StorageError: The disk is full; the run can be resumed.

    Warns:
        UserWarning: A network finds nothing yet, so it cannot be calibrated.
    """
    require_training("training")
    make_fabric(device, devices, nodes)  # with several devices, starts the other processes
    begun = resume and (Path(out) / "config.yaml").is_file()
    run = Run.create(out, settings, resume=True) if begun else None
    world = _trainable(run.settings if run else settings, nodes, begun=begun)
    if before is not None:
        before(world)
    run = run or Run.create(out, settings)
    train_stages(run, methods, device=device, devices=devices, nodes=nodes)
    for method in methods if world_size() == 1 else ():
        try:
            calibrate(run, method, device=device, again=False)
        except RunError as error:
            warnings.warn(str(error))
    return run


def _trainable(settings: Settings, nodes: int, *, begun: bool) -> World:
    """Returns the parts of settings that can be trained, and refuses others; a begun run has its first weights."""
    require_memory(settings, nodes)
    if not begun:
        require_initial(settings)
    require_photos(settings.data)
    world = World(settings)
    require_visible(world)
    return world


def train_stages(
    run: Run, methods: Sequence[Method] = PAPER_METHODS, *, device: str = "auto", devices: int = 1, nodes: int = 1
) -> None:
    """Trains, or goes on training, every stage that the methods need, joint network first.

    Args:
        run: Its settings say what and how. They are not checked again.
        methods: Which of "joint", "extended", "original", "jitter".
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``; call that before ``Run.create`` where there are several.

    Raises:
        RunError: Another process trains the run.
        StorageError: The disk is full; the run can be resumed.
    """
    fabric = make_fabric(device, devices, nodes)
    with run.training():
        _train(run, {stage for method in methods for stage in STAGES[method]}, fabric)


def _train(run: Run, needed: set[str], fabric: Fabric) -> None:
    world = World(run.settings, fabric.device)
    if needed & {"step1", "step2", "jitter"}:
        extended = train_step1(run, world, fabric)
        if "step2" in needed:
            train_step2(run, world, fabric, extended)
        if "jitter" in needed:
            train_jitter(run, world, fabric, extended)
    if "detector" in needed:
        train_detector(run, world, fabric)
    if "original" in needed:
        train_original(run, world, fabric)


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def trained_methods(run: Run) -> list[Method]:
    """Returns the methods all of whose stages are done."""
    return [m for m in METHODS if all(run.has(stage) for stage in STAGES[m])]


@dataclass(frozen=True)
class Evaluation:
    """Results, the content of results.json, and where the files are."""

    results: Results
    summary: dict[str, Any]
    json_path: Path
    csv_path: Path


def evaluate(
    run: Run | str | Path,
    methods: Sequence[Method] | None = None,
    *,
    images: int | None = None,
    split: str = "test",
    refine: bool = False,
    depth: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
) -> Evaluation:
    """Evaluates methods on the same held-out scenes and writes results.json, per_image.csv and report.html.

    Args:
        run: A trained run, or its folder.
        methods: None = all that are trained.
        images: How many scenes; None = the settings' test split.
        split: "test", or "val" for choosing anything.
        refine: Also give every method a row with render-and-compare.
        depth: Also give every method, refined where ``refine`` is on, a row with poses fitted to the scenes' depth.
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``; they divide the scenes.

    Raises:
        RunError: A method is not trained, or the run is one that codepose brings.
        ConfigError: There is no such split or device.
    """
    require_training("the evaluation's report")
    if split not in ("test", "val"):
        raise ConfigError(f"the split is test or val, not {split!r}: other splits are those of BOP datasets")
    run = _opened(run)
    run.require_own()
    world = World(run.settings, make_fabric(device, devices, nodes).device)
    methods = list(methods or trained_methods(run) or ["joint"])
    estimators = _estimators(run, methods, world, refine=refine)
    with Display(f"Evaluation on {split}") as display:
        results = benchmark.evaluate(
            world,
            estimators,
            images=images or run.settings.data.test_images,
            split=cast("Split", split),
            depth=depth,
            progress=lambda share: display.update(share, ""),
        )
    summary = results.summary() | _conditions(run, world)
    return from_first(lambda: _written(run, world, results, summary))


def _conditions(run: Run, world: World) -> dict[str, Any]:
    """Under which settings, and on what, a run was evaluated, for results.json."""
    return {
        "seed": run.settings.seed,
        "data_seed": run.settings.data.seed,
        "photo_scale": run.settings.data.photo_scale,
        "weights": run.settings.network.weights,
        "symmetries": {o.label: o.cad_symmetries.to_bop() for o in world.objects if o.symmetries.any},
        **provenance(run, world.device),
    }


def _estimators(run: Run, methods: Sequence[Method], world: World, *, refine: bool) -> dict[str, PoseEstimator]:
    """Each method's estimator, then, with ``refine``, each method's that refines, by the names of their rows."""
    estimators: dict[str, PoseEstimator] = {method: _estimator(run, method, world) for method in methods}
    if refine:
        refiner = refiner_of(world, run.settings.refinement)
        for method in methods:
            plain = estimators[method]
            confidence = load_confidence(run, method, plain.pipeline, plain.codebooks, refined=True)
            refined = PoseEstimator(plain.pipeline, plain.codebooks, refiner, confidence, world=world)
            estimators[f"{method} + refinement"] = refined
    return estimators


def _written(run: Run, world: World, results: Results, summary: dict[str, Any]) -> Evaluation:
    from codepose.reports.run_report import write_run_report  # with matplotlib, which prediction does without

    folder = run.stage("evaluation")
    json_path, csv_path = folder / "results.json", folder / "per_image.csv"
    with replacing_together():  # results.json last: where it is, all the rest is there
        write_atomically(csv_path, results.csv())
        write_run_report(run, world, results, summary, run.path / "report.html")
        write_atomically(json_path, json.dumps(summary, indent=2) + "\n")
    return Evaluation(results, summary, json_path, csv_path)


def calibrate(
    run: Run | str | Path,
    method: Method = "joint",
    *,
    images: int | None = None,
    device: str = "auto",
    again: bool = True,
) -> dict[bool, Confidence]:
    """Fits a method's confidence on validation scenes, without and with refinement, and keeps both in the run.

    Args:
        run: A trained run, or its folder.
        method: Which method.
        images: How many scenes; None = the settings' validation split.
        device: "auto", "cpu", "cuda" or "cuda:N".
        again: False = what was fitted for these weights and settings is kept.

    Returns:
        The confidence of plain (False) and refined (True) poses.

    Raises:
        RunError: The method is not trained, it found nothing at all, or the run is one that codepose brings.
    """
    run = _opened(run)
    run.require_own()
    world = World(run.settings, current_device(device))
    plain = _estimator(run, method, world)
    fitted: dict[bool, Confidence] = {}
    for refined in (False, True):
        path = confidence_path(run, method, refined=refined)
        mark = confidence_mark(plain.pipeline, plain.codebooks, refined=refined)
        known = None if again else _kept_confidence(path, mark)
        if known is None:
            refiner = refiner_of(world, run.settings.refinement) if refined else None
            estimator = PoseEstimator(plain.pipeline, plain.codebooks, refiner, world=world)
            title = f"Confidence: {method}{', refined' if refined else ''}"
            known = _fitted_confidence(run, estimator, images or run.settings.data.val_images, mark, title)
            path.parent.mkdir(exist_ok=True)
            known.save(path)
        fitted[refined] = known
    return fitted


def _kept_confidence(path: Path, mark: str) -> Confidence | None:
    """What was fitted before for the same network and settings; None where there is nothing, or it is damaged."""
    with contextlib.suppress(DamagedError):
        return Confidence.load(path, mark)
    return None


def _fitted_confidence(run: Run, estimator: PoseEstimator, images: int, mark: str, title: str) -> Confidence:
    """Fits an estimator's confidence on so many of the run's validation scenes."""
    with Display(title) as display:
        try:
            return reliability.calibrate(
                estimator.world,
                estimator,
                images=images,
                fingerprint=mark,
                progress=lambda share: display.update(share, ""),
            )
        except ValueError as error:
            raise RunError(f"{run.path}: {error}; look at its report and train longer") from None


def _estimator(run: Run, method: Method, world: World) -> PoseEstimator:
    with Display(f"Codebook: {method}") as display:
        start = time.monotonic()
        pipeline = load_pipeline(run, method, world.device)
        books = first_before_others(
            lambda: load_codebooks(run, method, pipeline, world, lambda share: display.update(0.99 * share, ""))
        )
        views = sum(len(b.codes) for b in books)
        display.update(1.0, f"{views} views in {time.monotonic() - start:.0f} s")
    confidence = load_confidence(run, method, pipeline, books, refined=False)
    return PoseEstimator(pipeline, books, confidence=confidence, world=world)


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and how it agrees with PyTorch on rendered scenes.

    Attributes:
        path: The file.
        outputs: Names of what it returns.
        image_size: Side of its square image, pixels.
        scenes, detections: In how many scenes it was compared, and by how many detections.
        difference: The largest of their boxes, pixels.
    """

    path: Path
    outputs: tuple[str, ...]
    image_size: int
    scenes: int
    detections: int
    difference: float


def export(run: Run | str | Path, path: str | Path) -> Exported:
    """Writes a run's joint network and codebooks as one ONNX file, and compares it with PyTorch on rendered scenes.

    Poses are not refined; docs/deployment.md says what that costs.

    Args:
        run: A trained run, its folder, or "hammer".
        path: The file, such as "part.onnx".

    Raises:
        RunError: The run is not trained, or the two do not agree; then the file stays for a look.
        ConfigError: Another suffix than .onnx, or a package is missing.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"{path}: give a file's name, such as {path.stem}.onnx")
    require_onnx()
    run = _opened(run)
    estimator = PoseEstimator.load(run, device="cpu")
    graph = export_onnx(estimator, path)
    scenes = SceneSource(estimator.world, "test").scenes(torch.arange(_COMPARED))
    count, difference = largest_difference(graph, path, scenes.images, geometry.to_opencv(scenes.K))
    if difference > _TOLERANCE:
        raise RunError(f"{path} does not find what PyTorch finds: boxes differ by {difference:.3g} px")
    return Exported(path, tuple(OUTPUTS), run.settings.data.camera.image_size, _COMPARED, count, difference)
