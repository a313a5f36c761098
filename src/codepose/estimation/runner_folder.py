"""A folder for ``codepose-runtime``, which finds parts without PyTorch: graphs, codebooks, meshes, settings.

The networks become ONNX graphs; everything between them is done by the very code that is here, on NumPy
(``runtime/shared_files.py``). So what is written is what that code asks of a run.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codepose.estimation.confidence import Confidence
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import onnx_program, plain_norms, require_onnx
from codepose.estimation.likeliest import candidates_iou
from codepose.estimation.methods import load_confidence
from codepose.estimation.pipelines import JointPipeline
from codepose.networks.joint import JointNetwork
from codepose.networks.pose_judge import RENDERED, SIDE, PoseJudge
from codepose.refinement.judge_weights import load_network
from codepose.refinement.view_edges import ViewEdges
from codepose.runtime.checkpoint import save_state
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.synthesis.objects import ObjectModel

STATE = "runner.safetensors"
FORMAT = 3
"""Changes when an older runner could not read the folder."""
_FOUND = ("boxes", "labels", "scores")


class _Detector(nn.Module):
    """An image (1, 3, S, S) -> its features; boxes, labels and scores; and the same of candidates for refined poses."""

    def __init__(self, network: JointNetwork, size: int, iou: float) -> None:
        super().__init__()
        self.network, self.size, self.iou = network, (size, size), iou

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.network.encoder(image)
        both = [self.network.heads.detect(features, self.size, iou)[0] for iou in (None, self.iou)]
        return features, *(found[name] for found in both for name in _FOUND)


class _Latents(nn.Module):
    """Features of one image and boxes (n, 4) -> latents (n, D)."""

    def __init__(self, network: JointNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.network.latents(features, boxes, torch.zeros_like(boxes[:, 0], dtype=torch.long))


class _Decoder(nn.Module):
    """Latents (n, D) -> reconstructions (n, 3, c, c)."""

    def __init__(self, network: JointNetwork) -> None:
        super().__init__()
        self.head = network.autoencoder.head
        self.decoder = plain_norms(copy.deepcopy(network.autoencoder.decoder))

    def forward(self, latents: Tensor) -> Tensor:
        reconstructions: Tensor = self.decoder(self.head.decode(latents))
        return reconstructions


class _Judge(nn.Module):
    """Photos (n, 3, 128, 128) and renders (n, 8, 128, 128) -> logits (n, 4) and motions (n, 6)."""

    def __init__(self, network: PoseJudge) -> None:
        super().__init__()
        self.network = network

    def forward(self, photos: Tensor, renders: Tensor) -> tuple[Tensor, Tensor]:
        verdict = self.network(photos, renders)
        return verdict.logits, torch.cat((verdict.shift, verdict.log_depth[:, None], verdict.turn), 1)


def export_run(run: str | Path | Run, folder: Path) -> None:
    """Writes a run's joint network as a folder for ``codepose-runtime``.

    Args:
        run: A trained run, its folder, or "hammer".
        folder: Is made if needed; files of the same names are replaced.

    Raises:
        RunError: The run is not trained.
        ConfigError: As ``export_folder``.
    """
    require_onnx()
    run = run if isinstance(run, Run) else Run.open(run)
    estimator = PoseEstimator.load(run, device="cpu", refine=True)
    plain = load_confidence(run, "joint", estimator.pipeline, estimator.codebooks, refined=False)
    export_folder(estimator, plain, folder)


@torch.no_grad()
def export_folder(estimator: PoseEstimator, plain: Confidence | None, folder: Path) -> None:
    """Writes an estimator as a folder for ``codepose-runtime``.

    Args:
        estimator: Of the joint network, with refinement, on the CPU.
        plain: Its calibration without refinement; None = there is none.
        folder: Is made if needed; files of the same names are replaced.

    Raises:
        ConfigError: It is another method's, has a refiner of its own, or a package is missing.
    """
    require_onnx()
    pipeline, settings, world = estimator.pipeline, estimator.settings, estimator.world
    if not isinstance(pipeline, JointPipeline):
        raise ConfigError("only the joint network is exported: the others are two networks")
    if settings.refinement.refiner != "contours":
        raise ConfigError(f"refinement.refiner {settings.refinement.refiner!r} is not codepose's own: it stays behind")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    sums = {name: _write(folder / name, *graph) for name, graph in _graphs(pipeline.network, settings).items()}
    for number, book in enumerate(estimator.codebooks, start=1):
        book.save(folder / f"codebook-{number}.safetensors")
    state = {
        "format": FORMAT,
        "graphs": sums,
        "settings": _settings(settings),
        "fingerprint": estimator.codebooks[0].fingerprint,
        "confidence": {name: _numbers(one) for name, one in (("plain", plain), ("refined", estimator.confidence))},
        "objects": [_object(one, ViewEdges.draw(world, i)) for i, one in enumerate(world.objects)],
    }
    save_state(folder / STATE, state)


def _graphs(network: JointNetwork, settings: Settings) -> dict[str, tuple[Any, ...]]:
    """Each file's network, an example, and the names of what goes in and comes out."""
    size = settings.data.camera.image_size
    image, boxes = torch.rand(1, 3, size, size), torch.tensor([[0.1, 0.2, 0.6, 0.5]]).repeat(3, 1) * size
    features = network.encoder(image)
    graphs: dict[str, tuple[Any, ...]] = {
        "detector.onnx": (
            *(_Detector(network, size, candidates_iou(settings)), (image,)),
            *(["image"], ["features", *_FOUND, *(f"candidate_{name}" for name in _FOUND)], []),
        ),
        "latents.onnx": (_Latents(network), (features, boxes), ["features", "boxes"], ["latents"], ["boxes"]),
        "decoder.onnx": (
            *(_Decoder(network), (torch.rand(3, settings.network.latent),)),
            *(["latents"], ["reconstructions"], ["latents"]),
        ),
    }
    if settings.refinement.judged:
        pair = torch.rand(3, 3, SIDE, SIDE), torch.rand(3, RENDERED, SIDE, SIDE)
        names = ["photos", "renders"]
        judge = _Judge(load_network(torch.device("cpu")))
        graphs["judge.onnx"] = (judge, pair, names, ["logits", "motions"], names)
    return graphs


def _write(
    path: Path, graph: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str], many: list[str]
) -> str:
    """Writes a graph, of which some inputs come in any number; returns the file's SHA-256."""
    number = torch.export.Dim("n", min=1, max=65536)
    shapes = tuple({0: number} if name in many else None for name in inputs)
    program = onnx_program(graph, example, inputs, outputs, shapes if many else None)
    program.save(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _settings(settings: Settings) -> dict[str, Any]:
    """Those that finding poses asks for."""
    camera, refinement = settings.data.camera, settings.refinement
    return {
        "data": {
            "antialias": settings.data.antialias,
            "camera": {name: getattr(camera, name) for name in ("image_size", "focal", "box_side")},
        },
        "network": {"crop": settings.network.crop},
        "detection": settings.detection.model_dump(),
        "refinement": refinement.model_dump(),
    }


def _numbers(confidence: Confidence | None) -> dict[str, Any] | None:
    if confidence is None:
        return None
    return {name: getattr(confidence, name) for name in ("mean", "scale", "weights", "bias")}


def _object(model: ObjectModel, edges: ViewEdges) -> dict[str, Any]:
    mesh = model.mesh
    arrays = {
        name: torch.from_numpy(getattr(mesh, name)) for name in ("vertices", "faces", "normals", "colors", "hull")
    }
    arrays |= {
        f"rests_{name}": torch.from_numpy(values) for name, values in zip(("down", "share"), model.rests, strict=True)
    }
    turns: Sequence[Any] = model.symmetries.continuous
    return {
        "label": model.label,
        "mesh": arrays | {"diameter": mesh.diameter, "closed": mesh.closed},
        "offset": model.offset,
        "z_ref": model.z_ref,
        "discrete": torch.from_numpy(model.symmetries.discrete),
        "continuous": [{"axis": c.axis.tolist(), "offset": c.offset.tolist()} for c in turns],
        "edges": vars(edges),
    }
