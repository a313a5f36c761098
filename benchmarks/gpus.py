"""What a GPU is worth, in minutes: renderer, share of peak of both steps, data wait, inference, a refined pose.

Each section is written to the JSON file when it is done; the same command goes on after the last one. ``--seconds``
bounds the rounds of each case. The table of all sections, one line a contestant, comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from benchmarks.inference import build_networks, torchvision_boxes
from benchmarks.iterations import Iterations, precision, stored
from benchmarks.subjects import build_world, camera, chosen
from benchmarks.timing import Case, Contestant, Options, Report, figure, interleaved, run_all
from codepose import geometry
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.photo import Photo
from codepose.estimation.pipelines import Pipeline
from codepose.estimation.window_boxes import given_boxes
from codepose.networks.build import build_extended, build_joint
from codepose.networks.precision import uses_bf16
from codepose.parts.shapes import hammer
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.cost import peak_flops
from codepose.training.plan import Stage
from codepose.training.stages import step1_stage, step2_stage

_CPU_BATCH = {"step1.batch": 8, "step2.batch": 2}
"""The paper's batches take a CPU most of a minute."""
_FOCAL, _PAD = 300.0, 1.2
_OFF_MM = 0.01
"""What rounding may change of a depth."""


def renderer(options: Options) -> Report:
    """Depth, normals and colours of the hammer on the device against the same on the CPU, and whether they agree."""
    size, counts = (32, (4, 8)) if options.quick else (128, (64, 512))
    return Report("renderer", [_renders(count, size, options) for count in counts])


def training_paper(options: Options) -> Report:
    """Both steps at the paper's size."""
    return _training("training_paper", "paper-128-t1", options)


def training_quick(options: Options) -> Report:
    """Both steps of the preset that users begin with."""
    return _training("training_quick", "quick", options)


def inference(options: Options) -> Report:
    """Boxes and latents of one and of sixteen images, against torchvision's Faster R-CNN of the same weights."""
    report = Report("inference")
    for kind in ("bf16", "float32"):
        changes = {"precision": kind, "detection.per_object": 1, "detection.score": 0.0}
        settings = override(chosen("paper-128-t1", options), changes)
        networks = build_networks(settings, options)
        size = settings.data.camera.image_size
        for batch in (1, 2) if options.quick else (1, 16):
            images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(options.place)
            contestants = [
                Contestant("joint: boxes and latents", partial(_latents, networks.joint, images), batch),
                Contestant(
                    "torchvision FasterRCNN", partial(torchvision_boxes, networks.torchvision, settings, images), batch
                ),
            ]
            name = f"{size} px, batch {batch}, {kind}"
            report.cases.append(Case(name, "images/s", interleaved(contestants, options, rounds=7)))
    return report


def refinement(options: Options) -> Report:
    """The pose of one true box of the shipped hammer: refined, by the codebook alone, and both on the CPU."""
    places = {"": options.place} if options.place.type == "cpu" else {"": options.place, ", CPU": torch.device("cpu")}
    contestants = []
    for where, place in places.items():
        for words, refine in (("refined pose", True), ("pose from the codebook", False)):
            contestants.append(Contestant(words + where, _one_pose(place, refine=refine)))
    return Report("refinement", [Case("hammer, one box", "poses/s", interleaved(contestants, options, rounds=7))])


def _renders(count: int, size: int, options: Options) -> Case:
    part, focal = hammer(), _FOCAL * size / 128
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(count, 3, generator=generator), dim=1)
    R = geometry.view_rotation(directions, torch.rand(count, generator=generator) * 2 * torch.pi)
    t = torch.tensor([0.0, 0.0, focal * _PAD * part.diameter / size]).expand(count, 3)
    names = {"codepose, CPU": torch.device("cpu")}
    if options.place.type == "cuda":
        names = {"codepose, CUDA": options.place} | names
    contestants, drawn = [], []
    for name, place in names.items():
        scene = Instances.single(torch.zeros(count, dtype=torch.long, device=place), R.to(place), t.to(place))
        K = camera(focal, size, place).expand(count, 3, 3)
        draw = partial(Renderer([part], place, threads=options.cores).render, scene, K, (size, size))
        contestants.append(Contestant(name, draw, count))
        drawn.append(draw())
    timings = interleaved(contestants, options, rounds=7)
    facts = {"million faces/s": timings[0].rate.median * len(part.faces) / 1e6, **_differences(drawn[0], drawn[-1])}
    return Case(f"hammer, {len(part.faces):,} faces, {size} px, batch {count}", "images/s", timings, facts=facts)


def _differences(there: Buffers, here: Buffers) -> dict[str, float | str]:
    """How far two renders of the same are apart."""
    same = (there.depth.cpu() > 0) == (here.depth > 0)
    both = same & (here.depth > 0)
    off = (there.depth.cpu() - here.depth).abs()[both]
    return {
        "pixels that only one draws": f"{int((~same).sum())} of {int((here.depth > 0).sum()):,}",
        f"depths off by more than {_OFF_MM:g} mm": f"{int((off > _OFF_MM).sum())}",
        "largest difference of a depth": f"{float(off.max()):.2g} mm",
    }


def _training(name: str, preset: str, options: Options) -> Report:
    small = preset != "quick" and options.place.type == "cpu"
    settings = chosen(preset, options, dict(_CPU_BATCH) if small else {})
    world = build_world(settings, options)
    stages: dict[str, Callable[[], Stage]] = {
        "step 1": lambda: step1_stage(settings, world, build_extended(settings)),
        "step 2": lambda: step2_stage(settings, world, build_joint(settings)),
    }
    return Report(name, [_iterations(title, build, settings, options) for title, build in stages.items()])


def _iterations(title: str, build: Callable[[], Stage], settings: Settings, options: Options) -> Case:
    real = Iterations(build(), settings, options)
    bound = Iterations(stored(build()), settings, options, count=1)
    contestants = [
        Contestant("with data", real.run, real.images, real.settle),
        Contestant("stored batch", bound.run, bound.images),
    ]
    timings = interleaved(contestants, options, rounds=7)
    peak = peak_flops(options.place, torch.bfloat16 if uses_bf16(settings, options.place) else torch.float32)
    flops = bound.flops()
    facts: dict[str, float | str] = {
        "waits for data": f"{real.waiting:.1%}",
        "GFLOP an image": flops / 1e9,
        "peak, TFLOP/s": peak / 1e12,
        "share of peak with data": flops * timings[0].rate.median / peak,
        "share of peak on the stored batch": flops * timings[1].rate.median / peak,
    }
    real.close()
    bound.close()
    name = f"{title}, {settings.name}, batch {bound.images}, {precision(settings, options)}"
    return Case(name, "images/s", timings, facts=facts)


def _latents(pipeline: Pipeline, images: Tensor) -> Tensor:
    """Returns the latents (N, D) of whatever is detected in images (B, 3, S, S)."""
    prepared = pipeline.prepare(images)
    boxes = [found["boxes"] for found in pipeline.detect(prepared)]
    counts = torch.tensor([len(one) for one in boxes], device=images.device)
    which = torch.arange(len(boxes), device=images.device).repeat_interleave(counts)
    return pipeline.latents(prepared, torch.cat(boxes), which)


def _one_pose(place: torch.device, *, refine: bool) -> Callable[[], object]:
    """Returns what finds the pose in a true box, whose photo is twice as large as what the network sees."""
    estimator = PoseEstimator.load("hammer", device=str(place), refine=refine)
    scene = SceneSource(World(estimator.settings), "test").scenes(torch.arange(1))
    images, boxes, objects, K = (x.to(place) for x in (scene.images, scene.boxes, scene.objects, scene.K))
    finer = F.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
    photo = Photo(finer, geometry.scaled_camera(K, 2.0))
    return partial(estimator.looked_at, given_boxes(estimator.pipeline, photo, 2.0 * boxes, objects))


SECTIONS = (renderer, training_paper, training_quick, inference, refinement)


def lines(results: dict[str, Any]) -> list[str]:
    """Returns the short table: every contestant's time and rate, how many times as fast the first one is, and facts."""
    found = []
    for section in results["benchmarks"]:
        for case in section["cases"]:
            found.append(f"{section['name']}: {case['name']}")
            ratios = {ratio["against"]: ratio["times_as_fast"]["median"] for ratio in case["ratios"]}
            for one in case["contestants"]:
                rate = one["rate"]["median"]
                against = f", the first is {figure(ratios[one['name']])} times as fast" if one["name"] in ratios else ""
                ms = figure(1e3 * one["items"] / rate)
                found.append(f"  {one['name']}: {ms} ms, {figure(rate)} {case['unit']}{against}")
            facts = [
                f"{key}: {value if isinstance(value, str) else figure(value)}" for key, value in case["facts"].items()
            ]
            found += [f"  {'; '.join(facts)}"] if facts else []
    return found


def main() -> None:
    """Runs the sections that the JSON file lacks, and prints all."""
    results = run_all(SECTIONS, tyro.cli(Options, description=__doc__), resume=True)
    print("\n".join(["", *lines(results)]))


if __name__ == "__main__":
    main()
