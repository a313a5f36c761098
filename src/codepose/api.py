"""What the commands do, for Python users too: preview, train, evaluate, report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lightning_fabric import Fabric

from codepose import __version__
from codepose.estimation.confidence import Confidence
from codepose.estimation.estimator import PoseEstimator
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
from codepose.evaluation.benchmark import evaluate
from codepose.evaluation.reliability import calibrate
from codepose.evaluation.results import Results
from codepose.refinement.judged_contours import refiner_of
from codepose.reports import draw
from codepose.reports.run_report import write_run_report
from codepose.runtime.devices import make_fabric
from codepose.runtime.progress import Display
from codepose.runtime.ranks import first_before_others, from_first, world_size
from codepose.runtime.run import Run, RunError
from codepose.settings.schema import Settings
from codepose.storage.checksums import DamagedError
from codepose.storage.replace import replacing_together, write_atomically
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.stages import train_detector, train_jitter, train_original, train_step1, train_step2


def train(
    run: Run, methods: Sequence[Method] = PAPER_METHODS, *, device: str = "auto", devices: int = 1, nodes: int = 1
) -> None:
    """Trains, or goes on training, every stage that the methods need, joint network first.

    Args:
        run: Its settings say what and how.
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


def evaluate_run(
    run: Run,
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
        run: A trained run.
        methods: None = all that are trained.
        images: How many scenes; None = the settings' test split.
        split: "test", or "val" for choosing anything.
        refine: Also give every method a row with render-and-compare.
        depth: Also give every method, refined where ``refine`` is on, a row with poses fitted to the scenes' depth.
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``; they divide the scenes.

    Raises:
        RunError: A method is not trained, or the run is one that codepose brings.
    """
    run.require_own()
    where = make_fabric(device, devices, nodes).device
    world = World(run.settings, where)
    methods = list(methods or trained_methods(run) or ["joint"])
    estimators = _estimators(run, methods, world, refine=refine)
    with Display(f"Evaluation on {split}") as display:
        results = evaluate(
            world,
            estimators,
            images=images or run.settings.data.test_images,
            split="val" if split == "val" else "test",
            depth=depth,
            progress=lambda share: display.update(share, ""),
        )
    summary: dict[str, Any] = results.summary() | {
        "seed": run.settings.seed,
        "data_seed": run.settings.data.seed,
        "photo_scale": run.settings.data.photo_scale,
        "weights": run.settings.network.weights,
        "symmetries": {o.label: o.cad_symmetries.to_bop() for o in world.objects if o.symmetries.any},
        **provenance(run, where),
    }
    return from_first(lambda: _written(run, world, results, summary))


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
    folder = run.stage("evaluation")
    json_path, csv_path = folder / "results.json", folder / "per_image.csv"
    with replacing_together():  # results.json last: where it is, all the rest is there
        write_atomically(csv_path, results.csv())
        write_run_report(run, world, results, summary, run.path / "report.html")
        write_atomically(json_path, json.dumps(summary, indent=2) + "\n")
    return Evaluation(results, summary, json_path, csv_path)


def calibrate_run(
    run: Run, method: Method = "joint", *, images: int | None = None, device: str = "auto", again: bool = False
) -> dict[bool, Confidence]:
    """Fits a method's confidence on validation scenes, without and with refinement, and keeps both in the run.

    Args:
        run: A trained run.
        method: Which method.
        images: How many scenes; None = the settings' validation split.
        device: "auto", "cpu", "cuda" or "cuda:N".
        again: Also where it is there already, of these weights and settings.

    Returns:
        The confidence of plain (False) and refined (True) poses.

    Raises:
        RunError: The method is not trained, it found nothing at all, or the run is one that codepose brings.
    """
    run.require_own()
    world = World(run.settings, make_fabric(device).device)
    plain = _estimator(run, method, world)
    fitted: dict[bool, Confidence] = {}
    for refined in (False, True):
        path = confidence_path(run, method, refined=refined)
        mark = confidence_mark(plain.pipeline, plain.codebooks, refined=refined)
        known = None
        if not again:
            with contextlib.suppress(DamagedError):
                known = Confidence.load(path, mark)
        if known is not None:
            fitted[refined] = known
            continue
        refiner = refiner_of(world, run.settings.refinement) if refined else None
        estimator = PoseEstimator(plain.pipeline, plain.codebooks, refiner, world=world)
        with Display(f"Confidence: {method}{', refined' if refined else ''}") as display:
            try:
                found = calibrate(
                    world,
                    estimator,
                    images=images or run.settings.data.val_images,
                    fingerprint=mark,
                    progress=lambda share: display.update(share, ""),
                )
            except ValueError as error:
                raise RunError(f"{run.path}: {error}; look at its report and train longer") from None
        path.parent.mkdir(exist_ok=True)
        found.save(path)
        fitted[refined] = found
    return fitted


def _estimator(run: Run, method: Method, world: World) -> PoseEstimator:
    with Display(f"Codebook: {method}") as display:
        start = time.monotonic()
        pipeline = load_pipeline(run, method, world.device)
        books = first_before_others(lambda: load_codebooks(run, method, pipeline, world))
        views = sum(len(b.codes) for b in books)
        display.update(1.0, f"{views} views in {time.monotonic() - start:.0f} s")
    confidence = load_confidence(run, method, pipeline, books, refined=False)
    return PoseEstimator(pipeline, books, confidence=confidence, world=world)


def provenance(run: Run, device: torch.device) -> dict[str, Any]:
    """Returns what every results.json says of itself: of which run, by which versions, on what, when."""
    cpu = (torch.cpu.get_capabilities().get("cpu_name"), torch.backends.cpu.get_cpu_capability())
    return {
        "preset": run.settings.name,
        "run": identity(run),
        "codepose": __version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "hardware": hardware(device),
        "processor": ", ".join(filter(None, (*cpu, platform.machine()))),
        "date": time.strftime("%Y-%m-%d"),
    }


def identity(run: Run) -> dict[str, Any]:
    """Returns a run's folder's name and the SHA-256 of its settings and of every stage's weights, by file."""
    paths = [run.path / "config.yaml", *sorted(run.path.glob("*/weights.safetensors"))]
    digests = {}
    for path in paths:
        with open(path, "rb") as file:
            digests[path.relative_to(run.path).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"folder": run.path.resolve().name, "sha256": digests}


def hardware(device: torch.device) -> str:
    """Returns in words what the numbers were measured on."""
    several = f"{world_size()} x " if world_size() > 1 else ""
    if device.type == "cuda":
        return several + str(torch.cuda.get_device_name(device))
    name = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return f"{several}{name}, {torch.get_num_threads()} CPU threads"


def preview(settings: Settings, *, count: int = 8, scenes: bool = True, difficulty: float = 1.0) -> draw.Picture:
    """Draws a contact sheet of training data before any training.

    Args:
        settings: The run's.
        count: Columns.
        scenes: Also draw Step-2 scenes with their boxes.
        difficulty: Of the curriculum, in [0, 1].

    Returns:
        uint8 (H, W, 3).
    """
    world = World(settings)
    source = SceneSource(world, "train")
    with torch.no_grad():
        crops = source.crops(torch.arange(count), difficulty)
        rows = [("input", crops.inputs), ("target", crops.targets)]
        sheet = draw.contact_sheet(rows, columns=count, scale=max(1, 128 // settings.network.crop))
        if not scenes:
            return sheet
        batch = source.scenes(torch.arange(min(count, 4)), difficulty)
    nothing = np.full((1, len(batch.boxes), 4), np.nan)
    pictures = draw.detections(
        batch.images,
        batch.boxes,
        nothing,
        None,
        [f"{v:.0%} visible" for v in batch.visible_fraction.tolist()],
        ["amodal box"],
    )
    width = max(sheet.shape[1], pictures.shape[1])
    padded = [np.pad(p, ((0, 8), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in (sheet, pictures)]
    return np.concatenate(padded)
