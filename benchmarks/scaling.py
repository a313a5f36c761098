"""How images/s of data, training and inference grow with batch, image size, number of objects and threads.

Each series is a case, and its first value the base with which the others are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.iterations import Iterations, stored
from benchmarks.subjects import PAPER_VIEWS, build_world, chosen, random_codebook
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from codepose import geometry
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.pipelines import JointPipeline
from codepose.networks.build import build_joint
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.training.stages import step2_stage

Axis = Literal["batch", "image size", "objects", "threads"]
Build = Callable[[Settings, Options, int, ExitStack], Callable[[], object]]
"""(settings, options, batch, what to close afterwards) -> a call that treats one batch."""


def run(options: Options) -> Report:
    """Times every operation along every axis."""
    report = Report("scaling")
    operations: dict[str, Build] = {"scenes": _scenes, "training, step 2": _training, "inference": _inference}
    for operation, build in operations.items():
        for axis, values in _axes(options).items():
            if len(values) == 1:
                continue  # one thread, or a GPU: there is nothing to compare
            report.cases.append(_series(operation, build, axis, values, options))
    return report


def _axes(options: Options) -> dict[Axis, list[int]]:
    threads = [n for n in (1, 2, 4, 8, 16, 32) if n < options.cores] + [options.cores]
    if options.quick:
        return {"batch": [1, 2], "image size": [96, 128], "objects": [1, 2], "threads": threads[:2]}
    big = options.place.type == "cuda"
    sizes, objects = ([256, 512, 1024] if big else [128, 256, 512]), [1, 2, 4, 8]
    return {
        "batch": [1, 2, 4, 8, 16, 32] if big else [1, 2, 4, 8],
        "image size": sizes,
        "objects": objects,
        "threads": [options.cores] if big else threads,
    }


def _series(operation: str, build: Build, axis: Axis, values: list[int], options: Options) -> Case:
    preset = "paper-128-t1" if options.place.type == "cuda" else "quick"
    base = chosen(preset, options)
    usual = 2 if options.quick else 4
    contestants = []
    with ExitStack() as stack:
        for value in values:
            batch = value if axis == "batch" else usual
            threads = value if axis == "threads" else options.cores
            own = dataclasses.replace(options, threads=threads)
            torch.set_num_threads(threads)
            run_once = build(_changed(base, axis, value, batch), own, batch, stack)
            contestants.append(
                Contestant(f"{axis} {value}", run_once, batch, before=partial(torch.set_num_threads, threads))
            )
        timings = interleaved(contestants, options, rounds=5)
    torch.set_num_threads(options.cores)
    fixed = "" if axis == "batch" else f", batch {usual}"
    return Case(f"{operation}, {base.name}{fixed}", "images/s", timings, growth=True)


def _changed(base: Settings, axis: Axis, value: int, batch: int) -> Settings:
    """The settings of one point of a series."""
    # look-alikes come in groups, which small batches do not hold
    changes: dict[str, Any] = {"step2.batch": batch, "detection.score": 0.0, "losses.look_alikes": 0}
    if axis == "image size":
        changes["data.camera.image_size"] = value
    if axis == "objects":
        one = base.objects[0].model_dump(mode="json")
        changes["objects"] = [one | {"label": f"{base.objects[0].name} {number}"} for number in range(value)]
    changes["detection.per_object"] = value if axis == "objects" else 1
    return override(base, changes)


def _scenes(settings: Settings, options: Options, batch: int, stack: ExitStack) -> Callable[[], object]:
    source = SceneSource(build_world(settings, options), "train")
    return partial(source.scenes, torch.arange(batch))


def _training(settings: Settings, options: Options, batch: int, stack: ExitStack) -> Callable[[], object]:
    stage = stored(step2_stage(settings, build_world(settings, options), build_joint(settings)))
    iterations = Iterations(stage, settings, options, count=1)
    stack.callback(iterations.close)
    return iterations.run


def _inference(settings: Settings, options: Options, batch: int, stack: ExitStack) -> Callable[[], object]:
    world = build_world(settings, options)
    pipeline = JointPipeline(
        build_joint(settings).to(memory_format=torch.channels_last),
        settings,
        options.place,
    )
    views = 100 if options.quick else PAPER_VIEWS
    books = [random_codebook(pipeline, world, views, settings.network.latent, i) for i in range(len(world.objects))]
    size = settings.data.camera.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    estimator, camera = PoseEstimator(pipeline, books), geometry.to_opencv(world.K).cpu()
    return lambda: list(estimator.many(list(images), [camera] * batch))


if __name__ == "__main__":
    command(run, description=__doc__)
