"""Evaluating a trained run on held-out scenes, and calibrating how far its confidence can be believed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from codepose.estimation.confidence import Confidence
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import (
    Method,
    confidence_mark,
    confidence_path,
    load_codebooks,
    load_confidence,
    load_pipeline,
    trained_methods,
)
from codepose.evaluation import benchmark, reliability
from codepose.evaluation.results import Results
from codepose.refinement.judged_contours import refiner_of
from codepose.runtime.devices import current_device, make_fabric
from codepose.runtime.extras import require_training
from codepose.runtime.progress import Display
from codepose.runtime.provenance import provenance
from codepose.runtime.ranks import first_before_others, from_first
from codepose.runtime.run import Run, RunError, opened
from codepose.settings.errors import ConfigError
from codepose.storage.checksums import DamagedError, write_json
from codepose.storage.replace import replacing_together, write_atomically
from codepose.synthesis.scenes import Split
from codepose.synthesis.world import World


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
    refine: bool | Sequence[Method] = False,
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
        refine: Also give every method, or these, a row with render-and-compare.
        depth: Also give every method, refined where ``refine`` is on, a row with poses fitted to the scenes' depth.
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``; they divide the scenes.

    Raises:
        RunError: A method is not trained, or the run is one that codepose brings.
        ConfigError: There is no such split or device, or ``refine`` names a method that is not evaluated.
    """
    require_training("the evaluation's report")
    if split not in ("test", "val"):
        raise ConfigError(f"the split is test or val, not {split!r}: other splits are those of BOP datasets")
    run = opened(run)
    run.require_own()
    world = World(run.settings, make_fabric(device, devices, nodes).device)
    methods = list(methods or trained_methods(run) or ["joint"])
    estimators = _estimators(run, methods, world, _refined(methods, refine))
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


def _refined(methods: Sequence[Method], refine: bool | Sequence[Method]) -> Sequence[Method]:
    """Which of the methods that are evaluated are refined, too."""
    refined = methods if refine is True else refine or ()
    for method in refined:
        if method not in methods:
            raise ConfigError(f"{method} cannot be refined: of this run {', '.join(methods)} are evaluated")
    return refined


def _estimators(
    run: Run, methods: Sequence[Method], world: World, refined: Sequence[Method]
) -> dict[str, PoseEstimator]:
    """Each method's estimator, then those that refine, by the names of their rows."""
    estimators: dict[str, PoseEstimator] = {method: _estimator(run, method, world) for method in methods}
    if refined:
        refiner = refiner_of(world, run.settings.refinement)
        for method in refined:
            plain = estimators[method]
            confidence = load_confidence(run, method, plain.pipeline, plain.codebooks, refined=True)
            refining = PoseEstimator(plain.pipeline, plain.codebooks, refiner, confidence, world=world)
            estimators[f"{method} + refinement"] = refining
    return estimators


def _written(run: Run, world: World, results: Results, summary: dict[str, Any]) -> Evaluation:
    from codepose.reports.run_report import write_run_report  # with matplotlib, which prediction does without

    folder = run.stage("evaluation")
    json_path, csv_path = folder / "results.json", folder / "per_image.csv"
    with replacing_together():  # results.json last: where it is, all the rest is there
        write_atomically(csv_path, results.csv())
        write_run_report(run, world, results, summary, run.path / "report.html")
        write_json(json_path, summary)
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
    run = opened(run)
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
