"""How far networks are from what the machine could do: the same FLOPs in large matrix products, the same bytes copied.

Every operation of a network is counted. The first peer does as many floating-point operations in matrix products of
the same type, in which a machine comes nearest to its peak; the second as many in 3 x 3 convolutions of 256 channels,
with which the paper's network spends most of its own; the third copies as many bytes as the operations read and write
in all, as if no cache kept anything. The larger time of the first and the third is the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.inference import build_networks, latents
from benchmarks.iterations import Iterations, precision, stored
from benchmarks.subjects import build_world, chosen
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from benchmarks.work import Work, count_work
from codepose.config import Settings
from codepose.config_files import override
from codepose.networks.build import build_extended, build_joint
from codepose.training.stages import step1_stage, step2_stage

_CPU_BATCH = {"step1.batch": 8, "step2.batch": 2}
"""The paper's batches take a CPU most of a minute."""
_CHANNELS, _SIDE = 256, 64


def run(options: Options) -> Report:
    """Measures an iteration of Step 1 and Step 2 on stored batches, and joint inference of one image."""
    report = Report("floor")
    for preset in ("quick",) if options.quick else ("quick", "paper-128-t1"):
        small = preset != "quick" and options.place.type == "cpu"
        settings = chosen(preset, options, dict(_CPU_BATCH) if small else {})
        for step in (1, 2):
            report.cases.append(_training(step, settings, options))
    for kind in ("float32", "bf16"):
        report.cases.append(_inference(override(chosen("paper-128-t1", options), {"precision": kind}), options))
    return report


def _training(step: int, settings: Settings, options: Options) -> Case:
    world = build_world(settings, options)
    if step == 1:
        stage = step1_stage(settings, world, build_extended(settings))
    else:
        stage = step2_stage(settings, world, build_joint(settings))
    iterations = Iterations(stored(stage), settings, options, count=1)
    name = f"step {step}, {settings.name}, batch {iterations.images}, {precision(settings, options)}"
    case = _case(name, iterations.run, iterations.images, precision(settings, options), options)
    iterations.close()
    return case


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
    source = torch.zeros(2**20 if options.quick else 2**29, dtype=torch.uint8, device=options.place)
    calls: list[tuple[str, Callable[[], Tensor], float]] = [
        ("as many FLOPs in matrix products", partial(torch.mm, a, b), 2.0 * n**3 / work.flops),
        (
            "as many FLOPs in 3 x 3 convolutions",
            partial(F.conv2d, maps, kernel, padding=1),
            18.0 * batch * (_CHANNELS * _SIDE) ** 2 / work.flops,
        ),
        ("as many bytes copied", partial(torch.empty_like(source).copy_, source), 2.0 * len(source) / work.bytes),
    ]
    return [Contestant(name, torch.no_grad()(call), images * share) for name, call, share in calls]


if __name__ == "__main__":
    command(run, description=__doc__)
