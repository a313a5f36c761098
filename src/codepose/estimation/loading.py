"""What a trained run gives an estimator: networks, codebooks, calibration, meshes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from codepose.estimation.codebook import Codebook
from codepose.estimation.confidence import Confidence
from codepose.estimation.methods import Method, load_codebooks, load_confidence, load_pipeline
from codepose.estimation.pipelines import Pipeline
from codepose.networks.compilation import compile_convolutions
from codepose.refinement.judged_contours import refiner_of
from codepose.refinement.poses import Refiner
from codepose.runtime.devices import current_device
from codepose.runtime.run import Run, opened
from codepose.synthesis.world import World


class Parts(TypedDict):
    """What ``PoseEstimator`` is made of."""

    pipeline: Pipeline
    codebooks: list[Codebook]
    refiner: Refiner | None
    confidence: Confidence | None
    world: World | None


def load_parts(
    run: str | Path | Run,
    method: Method,
    device: str,
    *,
    refine: bool,
    compile: bool,
    progress: Callable[[float], None],
) -> Parts:
    """Loads a trained run; arguments and errors as ``PoseEstimator.load`` has them."""
    run = opened(run)
    pipeline = load_pipeline(run, method, current_device(device))
    world = World(run.settings, pipeline.device) if refine else None
    for model in world.objects if world is not None else ():
        _ = model.symmetries  # found now rather than in the first photo
    books = load_codebooks(run, method, pipeline, world, progress)
    confidence = load_confidence(run, method, pipeline, books, refined=refine)
    if compile:
        for network in pipeline.networks():
            compile_convolutions(network)
    refiner = None if world is None else refiner_of(world, run.settings.refinement)
    return Parts(pipeline=pipeline, codebooks=books, refiner=refiner, confidence=confidence, world=world)
