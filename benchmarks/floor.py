"""How far networks are from what the machine could do: the same FLOPs in large matrix products, the same bytes copied.

Every operation of a network is counted. The first peer does as many floating-point operations in matrix products of
the same type, in which a machine comes nearest to its peak; the second as many in 3 x 3 convolutions of 256 channels,
with which the paper's network spends most of its own; the third copies as many bytes as the operations read and write
in all, as if no cache kept anything. The larger time of the first and the third is the floor.

Images are made, and poses refined, by other work: there the floor is the larger time of the renders, made
again by themselves, and of as many bytes copied.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.inference import build_networks, latents
from benchmarks.iterations import Iterations, precision, stored
from benchmarks.subjects import PAPER_VIEWS, build_world, chosen, random_codebook
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from benchmarks.work import Work, count_work
from codepose import geometry
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.photo import Photo
from codepose.estimation.pipelines import JointPipeline
from codepose.estimation.window_boxes import given_boxes
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.refinement.render_and_compare import ContourRefiner
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.plan import Stage
from codepose.training.stages import detector_stage, step1_stage, step2_stage

_CPU_BATCH = {"step1.batch": 8, "original.batch": 8, "detector.batch": 2, "step2.batch": 2}
"""The paper's batches take a CPU most of a minute."""
_CHANNELS, _SIDE = 256, 64


def run(options: Options) -> Report:
    """Measures an iteration of every training on stored batches, joint inference of one image, data and refinement."""
    report = Report("floor")
    for preset in ("quick",) if options.quick else ("quick", "paper-128-t1"):
        small = preset != "quick" and options.place.type == "cpu"
        settings = chosen(preset, options, dict(_CPU_BATCH) if small else {})
        world = build_world(settings, options)
        for title, stage in _stages(settings, world).items():
            report.cases.append(_training(title, stage, settings, options))
        report.cases += _data(settings, world, options)
        report.cases.append(_refinement(settings, world, options))
    for kind in ("float32", "bf16"):
        report.cases.append(_inference(override(chosen("paper-128-t1", options), {"precision": kind}), options))
    return report


def _stages(settings: Settings, world: World) -> dict[str, Stage]:
    return {
        "step 1": step1_stage(settings, world, build_extended(settings)),
        "original AAE": step1_stage(settings, world, build_original(settings), original=True),
        "detector": detector_stage(settings, world, build_detector(settings)),
        "step 2": step2_stage(settings, world, build_joint(settings)),
    }


def _training(title: str, stage: Stage, settings: Settings, options: Options) -> Case:
    iterations = Iterations(stored(stage), settings, options, count=1)
    name = f"{title}, {settings.name}, batch {iterations.images}, {precision(settings, options)}"
    case = _case(name, iterations.run, iterations.images, precision(settings, options), options)
    iterations.close()
    return case


def _data(settings: Settings, world: World, options: Options) -> list[Case]:
    """Step 1's crops and Step 2's scenes, a batch at a time."""
    source = SceneSource(world, "train", look_alikes=settings.losses.look_alikes)
    crops, scenes = torch.arange(settings.step1.batch), torch.arange(settings.step2.batch)
    return [
        _made(f"crops, {settings.name}", partial(source.crops, crops), len(crops), world, options),
        _made(f"scenes, {settings.name}", partial(source.scenes, scenes), len(scenes), world, options),
    ]


def _refinement(settings: Settings, world: World, options: Options) -> Case:
    """One true box, whose photo is twice as large as what the network sees."""
    pipeline = JointPipeline(build_joint(settings).to(options.place), settings, options.place)
    book = random_codebook(pipeline, world, 100 if options.quick else PAPER_VIEWS, settings.network.latent)
    scene = SceneSource(world, "test").scenes(torch.arange(1))
    estimator = PoseEstimator(pipeline, [book], ContourRefiner(world, settings.refinement), world=world)
    finer = F.interpolate(scene.images, scale_factor=2.0, mode="bilinear")
    photo = Photo(finer, geometry.scaled_camera(scene.K, 2.0))
    call = partial(estimator.looked_at, given_boxes(pipeline, photo, 2.0 * scene.boxes, scene.objects))
    return _made(f"refinement of a pose, {settings.name}", call, 1, world, options)


def _made(name: str, call: Callable[[], object], images: int, world: World, options: Options) -> Case:
    """Something whose work is renders and bytes, not multiplications."""
    with mock.patch.object(world.renderer, "render", wraps=world.renderer.render) as watched:
        call()
    renders = [one.args for one in watched.call_args_list]  # (instances, K, (height, width)) each
    work = count_work(call)
    contestants = [
        Contestant("codepose", call, images),
        Contestant("its renders alone", lambda: [world.renderer.render(*one) for one in renders], images),
        _copying(work, images, options),
    ]
    timings = interleaved(contestants, options, rounds=7)
    facts: dict[str, float | str] = {
        "MB an image": work.bytes / images / 1e6,
        "calls of the renderer": str(len(renders)),
        "pixels an image, in thousands": sum(len(K) * size[0] * size[1] for _, K, size in renders) / images / 1e3,
    }
    return Case(name, "images/s", timings, facts=facts)


def _inference(settings: Settings, options: Options) -> Case:
    settings = override(settings, {"detection.per_object": 1, "detection.score": 0.0})
    size = settings.data.camera.image_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(options.place)
    networks = build_networks(settings, options)
    name = f"joint inference, {size} px, {settings.precision}"
    return _case(name, partial(latents, networks.joint, image), 1, settings.precision, options)


def _case(name: str, call: Callable[[], object], images: int, kind: str, options: Options) -> Case:
    """One operation and the floors; the peers' items are images, too: as many as their work would be worth."""
    work = count_work(call)
    contestants = [Contestant("codepose", call, images), *_peers(work, images, kind, options)]
    timings = interleaved(contestants, options, rounds=7)
    facts: dict[str, float | str] = {
        "GFLOP an image": work.flops / images / 1e9,
        "MB an image": work.bytes / images / 1e6,
        "GFLOP/s": work.flops / images / 1e9 * timings[0].rate.median,
        "matrix products, GFLOP/s": work.flops / images / 1e9 * timings[1].rate.median,
        "copying, GB/s": work.bytes / images / 1e9 * timings[3].rate.median,
    }
    return Case(name, "images/s", timings, facts=facts)


def _peers(work: Work, images: int, kind: str, options: Options) -> list[Contestant]:
    large = options.place.type == "cuda" and not options.quick
    dtype, n = torch.bfloat16 if kind == "bf16" else torch.float32, 256 if options.quick else 8192 if large else 2048
    new: dict[str, Any] = {"dtype": dtype, "device": options.place}
    a, b = torch.randn(n, n, **new), torch.randn(n, n, **new)
    batch = 1 if options.quick else 64 if large else 4
    maps = torch.randn(batch, _CHANNELS, _SIDE, _SIDE, **new).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(_CHANNELS, _CHANNELS, 3, 3, **new).contiguous(memory_format=torch.channels_last)
    calls: list[tuple[str, Callable[[], Tensor], float]] = [
        ("as many FLOPs in matrix products", partial(torch.mm, a, b), 2.0 * n**3 / work.flops),
        (
            "as many FLOPs in 3 x 3 convolutions",
            partial(F.conv2d, maps, kernel, padding=1),
            18.0 * batch * (_CHANNELS * _SIDE) ** 2 / work.flops,
        ),
    ]
    peers = [Contestant(name, torch.no_grad()(call), images * share) for name, call, share in calls]
    return [*peers, _copying(work, images, options)]


def _copying(work: Work, images: int, options: Options) -> Contestant:
    source = torch.zeros(2**20 if options.quick else 2**29, dtype=torch.uint8, device=options.place)
    copy = torch.no_grad()(partial(torch.empty_like(source).copy_, source))
    return Contestant("as many bytes copied", copy, images * 2.0 * len(source) / work.bytes)


if __name__ == "__main__":
    command(run, description=__doc__)
