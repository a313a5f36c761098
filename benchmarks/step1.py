"""Images/s of Step 1, data included, against the same network on a stored batch, its upper bound."""

from __future__ import annotations

from typing import Any

from benchmarks.iterations import Iterations, precision, stored
from benchmarks.subjects import build_world, chosen
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from codepose.networks.build import build_extended
from codepose.training.stages import step1_stage

_CPU_BATCH = 8
"""The paper's 128 full-size crops take a CPU most of a minute."""


def run(options: Options) -> Report:
    """Times an iteration of the quick preset and of the paper's."""
    presets = ("quick",) if options.quick else ("quick", "paper-128-t1")
    return Report("step1", [_case(preset, options) for preset in presets])


def _case(preset: str, options: Options) -> Case:
    small = preset != "quick" and options.place.type == "cpu"
    changes: dict[str, Any] = {"step1.batch": _CPU_BATCH} if small else {}
    settings = chosen(preset, options, changes)
    world = build_world(settings, options)
    real = Iterations(step1_stage(settings, world, build_extended(settings)), settings, options)
    stage = stored(step1_stage(settings, world, build_extended(settings)))
    bound = Iterations(stage, settings, options, count=1)
    contestants = [
        Contestant("with data", real.run, real.images, real.settle),
        Contestant("stored batch", bound.run, bound.images, bound.settle),
    ]
    timings = interleaved(contestants, options, rounds=7)
    flops = bound.flops()
    facts: dict[str, float | str] = {
        "waits for data": f"{real.waiting:.0%}",
        "GFLOP an image": flops / 1e9,
        "GFLOP/s with data": flops / 1e9 * timings[0].rate.median,
        "GFLOP/s on the stored batch": flops / 1e9 * timings[1].rate.median,
    }
    real.close()
    bound.close()
    name = f"step 1, {settings.name}, batch {settings.step1.batch}, {precision(settings, options)}"
    return Case(name, "images/s", timings, facts=facts)


if __name__ == "__main__":
    command(run, description=__doc__)
