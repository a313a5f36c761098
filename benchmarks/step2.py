"""Images/s of Step 2: with data against a stored batch, and the network alone against torchvision's Faster R-CNN.

torchvision's trains on the same VGG16 features, image size, anchors, proposals and RoIs; ours does more in the same
iteration: it feeds its box back, decodes a reconstruction and compares it. Our detector alone stands beside both.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.iterations import Iterations, precision, stored
from benchmarks.subjects import build_world, chosen, torchvision_detector
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from codepose.networks.backbone import Backbone
from codepose.networks.build import build_detector, build_encoder, build_joint
from codepose.networks.joint import JointNetwork
from codepose.settings.schema import Settings
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.world import World
from codepose.training.plan import Stage
from codepose.training.stages import detector_stage, step2_stage, targets_of

_CPU_BATCH = 2
"""The paper's 12 images of 512 px take a CPU most of a minute."""


def run(options: Options) -> Report:
    """Times an iteration of the quick preset and of the paper's."""
    report = Report("step2")
    for preset in ("quick",) if options.quick else ("quick", "paper-128-t1"):
        small = preset != "quick" and options.place.type == "cpu"
        changes: dict[str, Any] = {"step2.batch": _CPU_BATCH} if small else {}
        settings = chosen(preset, options, changes)
        world = build_world(settings, options)
        real = step2_stage(settings, world, build_joint(settings))
        repeated = stored(real)
        report.cases.append(_data_case(real, repeated, settings, options))
        report.cases.append(_network_case(repeated, settings, world, options))
    return report


def torchvision_stage(joint: Stage, settings: Settings) -> Stage:
    """Returns a stage that trains torchvision's Faster R-CNN on the data of ``joint``, with its optimiser."""
    network = torchvision_detector(settings, _encoder_like(joint, settings))

    def loss(net: nn.Module, batch: SceneBatch) -> tuple[Tensor, dict[str, Tensor]]:
        terms = net(list(batch.images), targets_of(batch).split())
        return torch.stack(list(terms.values())).sum(), terms

    return dataclasses.replace(
        joint, name="torchvision", network=network, groups=_moving(network), loss=loss, validate=None
    )


def _moving(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Returns the parameters that are not frozen, in one group."""
    return {"encoder": [p for p in network.parameters() if p.requires_grad]}


def _encoder_like(joint: Stage, settings: Settings) -> Backbone:
    """Returns an encoder of which the same layers are frozen as in the joint network, if any."""
    encoder, theirs = build_encoder(settings), cast(JointNetwork, joint.network).autoencoder.encoder
    for mine, other in zip(encoder.parameters(), theirs.parameters(), strict=True):
        mine.requires_grad_(other.requires_grad)
    return encoder


def _data_case(stage: Stage, repeated: Stage, settings: Settings, options: Options) -> Case:
    real = Iterations(stage, settings, options)
    bound = Iterations(repeated, settings, options, count=1)
    contestants = [
        Contestant("with data", real.run, real.images, real.settle),
        Contestant("stored batch", bound.run, bound.images, bound.settle),
    ]
    timings = interleaved(contestants, options, rounds=7)
    facts: dict[str, float | str] = {"waits for data": f"{real.waiting:.0%}"}
    real.close()
    bound.close()
    return Case(f"step 2, {_words(settings, options)}", "images/s", timings, facts=facts)


def _network_case(joint: Stage, settings: Settings, world: World, options: Options) -> Case:
    network = build_detector(settings)
    network.encoder = _encoder_like(joint, settings)
    alone = detector_stage(settings, world, network)
    alone = dataclasses.replace(alone, batch=joint.batch, settings=settings.step2, groups=_moving(network))
    stages = {
        "joint network": joint,
        "torchvision FasterRCNN": torchvision_stage(joint, settings),
        "our detector alone": alone,
    }
    running = {name: Iterations(stage, settings, options, count=1) for name, stage in stages.items()}
    contestants = [Contestant(name, one.run, one.images, one.settle) for name, one in running.items()]
    timings = interleaved(contestants, options, rounds=7)
    facts: dict[str, float | str] = {}
    for timing, (name, one) in zip(timings, running.items(), strict=True):
        flops = one.flops()
        facts[f"{name}, GFLOP an image"] = flops / 1e9
        facts[f"{name}, GFLOP/s"] = flops / 1e9 * timing.rate.median
        one.close()
    return Case(f"network of step 2, {_words(settings, options)}", "images/s", timings, facts=facts)


def _words(settings: Settings, options: Options) -> str:
    size = settings.data.camera.image_size
    return f"{settings.name}, {size} px, batch {settings.step2.batch}, {precision(settings, options)}"


if __name__ == "__main__":
    command(run, description=__doc__)
