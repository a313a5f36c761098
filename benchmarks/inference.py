"""Joint inference of one image against torchvision's Faster R-CNN and against a detector with a separate AAE.

All three detect with the same VGG16 and the same weights, from as many proposals before and after NMS, at the image's
own size, and keep as many detections. Ours and the two-network pipelines go on to each detection's latent. On a CPU,
the way to poses is timed in ONNX Runtime, too, from the file that ``codepose export`` writes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.subjects import PAPER_VIEWS, build_world, chosen, random_codebook, torchvision_detector
from benchmarks.timing import Case, Contestant, Options, Report, Target, command, interleaved
from codepose import geometry
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import export_onnx, largest_difference, require_onnx
from codepose.estimation.pipelines import JointPipeline, Pipeline, TwoStagePipeline
from codepose.networks.autoencoder import ExtendedAutoencoder
from codepose.networks.build import build_detector, build_joint, build_original
from codepose.networks.detector import Boxes, image_size
from codepose.networks.precision import autocast
from codepose.settings.errors import ConfigError
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.training.cost import counted

_TORCHVISION = "torchvision FasterRCNN"
_SEPARATE = "detector + extended AAE"
_TARGETS = {
    _TORCHVISION: Target(1 / 1.15, "time ≤ 1.15 ×"),
    _SEPARATE: Target(1.5, "≥ 1.5 × as fast"),
}


def run(options: Options) -> Report:
    """Times one image in float32 and bf16, with one, eight and sixteen detections."""
    report = Report("inference")
    for precision in ("float32", "bf16"):
        for detections in (1,) if options.quick else (1, 8, 16):
            settings = chosen("paper-128-t1", options)
            changes = {"precision": precision, "detection.per_object": detections, "detection.score": 0.0}
            changed = override(settings, changes)
            report.cases.append(_case(changed, options))
            if precision == "float32" and options.place.type == "cpu":
                _exported_case(changed, options, report)
    return report


@dataclass(frozen=True)
class Networks:
    """The same weights in all of the contestants."""

    joint: JointPipeline
    separate: TwoStagePipeline
    original: TwoStagePipeline
    torchvision: nn.Module


def build_networks(settings: Settings, options: Options) -> Networks:
    """Returns all contestants' networks, random but equal where they have the same layers."""
    joint = build_joint(settings)
    detector = build_detector(settings)
    detector.encoder.load_state_dict(joint.autoencoder.encoder.state_dict())
    detector.heads.load_state_dict(joint.heads.state_dict())
    peer = torchvision_detector(settings, copy.deepcopy(joint.autoencoder.encoder))
    peer.load_state_dict(joint.heads.state_dict(), strict=False)  # the backbone has them already
    extended: ExtendedAutoencoder = copy.deepcopy(joint.autoencoder)
    original = build_original(settings)
    for network in (joint, detector, peer, extended, original):
        network.to(options.place).to(memory_format=torch.channels_last).eval()
    return Networks(
        JointPipeline(joint, settings, options.place),
        TwoStagePipeline(detector, extended, settings, options.place),
        TwoStagePipeline(detector, original, settings, options.place),
        peer,
    )


def latents(pipeline: Pipeline, image: Tensor) -> Tensor:
    """Returns the latents (N, D) of whatever is detected in one image (1, 3, S, S)."""
    prepared = pipeline.prepare(image)
    boxes = pipeline.detect(prepared)[0]["boxes"]
    return pipeline.latents(prepared, boxes, torch.zeros(len(boxes), dtype=torch.long, device=boxes.device))


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """Returns one image (1, 3, S, S) in [0, 1] as a camera gives it, (S, S, 3)."""
    return (image[0] * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()


def torchvision_boxes(network: nn.Module, settings: Settings, image: Tensor) -> list[Boxes]:
    """Returns torchvision's detections in one image (1, 3, S, S)."""
    with torch.no_grad(), autocast(settings, image.device):
        found: list[Boxes] = network(list(image))
    return found


def _case(settings: Settings, options: Options) -> Case:
    networks = build_networks(settings, options)
    estimator = _estimator(networks.joint, settings, options)
    size = settings.data.camera.image_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(options.place)
    camera = geometry.to_opencv(estimator.codebooks[0].K)
    runs: dict[str, Callable[[], object]] = {
        "joint: boxes and latents": partial(latents, networks.joint, image),
        _TORCHVISION: partial(torchvision_boxes, networks.torchvision, settings, image),
        _SEPARATE: partial(latents, networks.separate, image),
        "detector + original AAE": partial(latents, networks.original, image),
        "joint, to pose and reconstruction": partial(estimator, pixels(image), camera),
    }
    facts: dict[str, float | str] = {f"{name}, GFLOP": counted(one)[1] / 1e9 for name, one in runs.items()}
    facts["joint, detections"] = str(len(latents(networks.joint, image)))
    facts["torchvision, detections"] = str(len(torchvision_boxes(networks.torchvision, settings, image)[0]["boxes"]))
    if settings.precision == "float32":  # rounded scores come in another order
        facts["largest difference of their proposals"] = f"{_difference(networks, settings, image):.3g} px"
    timings = interleaved([Contestant(n, r) for n, r in runs.items()], options)
    detections = settings.detection.per_object
    name = f"{size} px, {settings.precision}, {detections} detection{'s' * (detections > 1)}"
    return Case(name, "images/s", timings, _TARGETS, facts)


def _exported_case(settings: Settings, options: Options, report: Report) -> None:
    """Adds PyTorch against ONNX Runtime, from an image to poses and reconstructions."""
    try:
        require_onnx()
    except ConfigError as error:
        report.skipped.append(f"ONNX Runtime: {error}")
        return
    import onnxruntime

    torch.manual_seed(0)
    estimator = _estimator(JointPipeline(build_joint(settings), settings, options.place), settings, options)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = options.cores
    size = settings.data.camera.image_size
    image, camera = torch.rand(1, 3, size, size), geometry.to_opencv(estimator.codebooks[0].K)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        graph = export_onnx(estimator, path)
        session = onnxruntime.InferenceSession(path, threads, providers=["CPUExecutionProvider"])
        count, difference = largest_difference(graph, path, image, camera)
    inputs = {"image": image.numpy(), "camera": camera.numpy()}
    contestants = [
        Contestant("joint, to pose and reconstruction", partial(estimator, pixels(image), camera)),
        Contestant("ONNX Runtime", partial(session.run, None, inputs)),
    ]
    facts: dict[str, float | str] = {"detections": str(count), "boxes differ by at most": f"{difference:.2g} px"}
    name = f"{size} px, float32, {count} detection{'s' * (count != 1)}, to poses"
    report.cases.append(Case(name, "images/s", interleaved(contestants, options), {}, facts))


def _estimator(pipeline: JointPipeline, settings: Settings, options: Options) -> PoseEstimator:
    """With a random codebook of the paper's size."""
    views = 100 if options.quick else PAPER_VIEWS
    world = build_world(settings, options)
    return PoseEstimator(pipeline, [random_codebook(pipeline, world, views, settings.network.latent)])


@torch.no_grad()
def _difference(networks: Networks, settings: Settings, image: Tensor) -> float:
    """How far torchvision's proposals lie from ours, at most; infinite if there are not as many."""
    joint: Any = networks.joint.network
    peer: Any = networks.torchvision
    with autocast(settings, image.device):
        proposals = joint.heads.propose(joint.encoder(image), image_size(image))
        ours = proposals.boxes[proposals.valid]
        normalised, _ = peer.transform(list(image))
        theirs = peer.rpn(normalised, {"0": peer.backbone(normalised.tensors)})[0][0]
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")


if __name__ == "__main__":
    command(run, description=__doc__)
