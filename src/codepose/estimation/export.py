"""The joint network and its codebooks as one ONNX graph, for machines without PyTorch (ONNX Runtime, TensorRT).

The path of ``PoseEstimator`` without refinement, which renders and so is no part of a graph: encoder, proposals, boxes,
latents, nearest views, translations, reconstructions, for one image of the network's own size.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.evidence import evidence
from codepose.estimation.likeliest import likeliest
from codepose.estimation.pipelines import JointPipeline
from codepose.networks.vgg import Decoder
from codepose.settings.errors import ConfigError
from codepose.storage.replace import replacing
from codepose.synthesis.lookalikes import thumbnails

INPUTS = ("image", "camera")
OUTPUTS = ("labels", "scores", "boxes", "R_cam_obj", "t_cam_obj", "similarity", "confidence", "reconstructions")
_OPSET = 18


class LookupGraph(nn.Module):
    """All parts' codebooks as one: ``Codebook.search`` and ``Codebook.poses`` of detections of any part.

    Args:
        books: One an object, of one network.
    """

    codes: Tensor
    thumbnails: Tensor
    rotations: Tensor
    boxes: Tensor
    owner: Tensor
    hulls: Tensor
    offsets: Tensor
    z_ref: Tensor
    K: Tensor

    def __init__(self, books: Sequence[Codebook]) -> None:
        super().__init__()
        for name in ("codes", "thumbnails", "rotations", "boxes"):
            self.register_buffer(name, torch.cat([getattr(book, name) for book in books]))
        self.register_buffer("owner", torch.cat([torch.full((len(b.codes),), i) for i, b in enumerate(books)]))
        most = max(len(book.hull) for book in books)  # shorter ones repeat their first vertex
        places = [torch.arange(most).where(torch.arange(most) < len(book.hull), 0) for book in books]
        self.register_buffer("hulls", torch.stack([b.hull[place] for b, place in zip(books, places, strict=True)]))
        self.register_buffer("offsets", torch.stack([book.offset for book in books]))
        self.register_buffer("z_ref", torch.tensor([book.z_ref for book in books]))
        self.register_buffer("K", books[0].K)

    def nearest(self, latents: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, D) of objects (n,) -> the most similar views (n,) of the same object, and cosines (n,)."""
        cosines = F.normalize(latents, dim=1) @ self.codes.float().T
        similarity, view = torch.where(objects[:, None] == self.owner, cosines, -2.0).max(1)
        return view, similarity

    def poses(self, view: Tensor, boxes: Tensor, objects: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """R_cam_obj (n, 3, 3) and t_cam_obj (n, 3) in mm of the CAD file's origin, for views (n,) in boxes (n, 4)."""
        R_view = self.rotations[view]
        t = geometry.translation_from_box(boxes, K, self.boxes[view], self.K, self.z_ref[objects])
        t = geometry.fit_translation(self.hulls[objects], R_view, boxes, K, t)
        R = geometry.offaxis_rotation(t) @ R_view
        return R, t - (R @ self.offsets[objects][..., None])[..., 0]


class _GroupNorm(nn.Module):
    """GroupNorm, also of no images: ONNX's own form divides by their number."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, shape = self.norm, x.shape[1:]
        groups = x.reshape(-1, norm.num_groups, shape.numel() // norm.num_groups)
        centred = groups - groups.mean(-1, keepdim=True)
        values = centred * ((centred * centred).mean(-1, keepdim=True) + norm.eps).rsqrt()
        values = values.reshape(-1, *shape)
        return values * norm.weight[:, None, None] + norm.bias[:, None, None]


def plain_norms(decoder: Decoder) -> Decoder:
    """Returns the decoder, its GroupNorms written out."""
    for name, layer in decoder.layers.named_children():
        if isinstance(layer, nn.GroupNorm):
            decoder.layers.register_module(name, _GroupNorm(layer))
    return decoder


class PoseGraph(nn.Module):
    """``PoseEstimator`` for one image of the network's own size, in float32.

    Args:
        estimator: Of the joint network, without refinement, on the CPU.

    Raises:
        ConfigError: It is another method's.
    """

    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__()
        if not isinstance(estimator.pipeline, JointPipeline):
            raise ConfigError("only the joint network becomes one graph: the others are two networks")
        self.network = estimator.pipeline.network
        size = estimator.settings.data.camera.image_size
        self.size = (size, size)
        self.decoder = plain_norms(copy.deepcopy(self.network.autoencoder.decoder))
        self.lookup = LookupGraph(estimator.codebooks)
        self.most = estimator.settings.detection.per_object
        self.confidence = estimator.confidence

    def forward(self, image: Tensor, camera: Tensor) -> tuple[Tensor, ...]:
        """Returns ``OUTPUTS``: n detections, best first, as ``Detection`` describes them; n may be 0.

        Args:
            image: (1, 3, S, S) RGB in [0, 1], S as in ``data.camera.image_size``.
            camera: (3, 3) its K in pixels, OpenCV's convention: the centre of the first pixel is (0, 0).
        """
        features = self.network.encoder(image)
        (detected,) = self.network.heads.detect(features, self.size)
        boxes, labels, scores = detected["boxes"], detected["labels"], detected["scores"]
        latents = self.network.latents(features, boxes, torch.zeros_like(labels))
        view, similarity = self.lookup.nearest(latents, labels - 1)
        kept = likeliest(labels, scores, similarity, self.most).nonzero()[:, 0]
        boxes, labels, scores, latents, view, similarity = (
            values[kept] for values in (boxes, labels, scores, latents, view, similarity)
        )
        reconstructions = self.decoder(self.network.autoencoder.head.decode(latents))
        R, t = self.lookup.poses(view, boxes, labels - 1, geometry.from_opencv(camera))
        sure = torch.full_like(similarity, torch.nan)
        if self.confidence is not None:
            agreement = (self.lookup.thumbnails[view].float() * thumbnails(reconstructions)).sum(1)
            sure = self.confidence(evidence(scores, similarity, agreement, torch.zeros_like(scores))).float()
        return labels, scores, boxes, R, t, similarity, sure, reconstructions


def require_onnx() -> None:
    """Refuses to begin where a package is missing.

    Raises:
        ConfigError: One is not installed; the text says what to type.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"to export needs {', '.join(missing)}: type pip install {' '.join(missing)} (the extra onnx)"
        )


@torch.no_grad()
def export_onnx(estimator: PoseEstimator, path: Path) -> PoseGraph:
    """Writes an estimator as one ONNX file of ``INPUTS`` and ``OUTPUTS``.

    The file's metadata hold what a caller must know: ``names`` (JSON, that of label 1 first), ``image_size`` and
    ``version``.

    Args:
        estimator: Of the joint network, without refinement, on the CPU.
        path: Is overwritten.

    Returns:
        What was written, to compare with.

    Raises:
        ConfigError: It is another method's, or a package is missing.
    """
    import codepose

    require_onnx()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give a file's name, such as {path / 'part.onnx'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    graph, size = PoseGraph(estimator).eval(), estimator.settings.data.camera.image_size
    example = (torch.rand(1, 3, size, size), geometry.camera_matrix(size, size / 2, size / 2))
    names = json.dumps([book.label for book in estimator.codebooks])
    with replacing(path) as new:
        program = onnx_program(graph, example, INPUTS, OUTPUTS)
        program.model.metadata_props.update(names=names, image_size=str(size), version=codepose.__version__)
        program.save(str(new))
    return graph


def onnx_program(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[dict[int, torch.export.Dim] | None, ...] | None = None,
) -> torch.onnx.ONNXProgram:
    """Returns a network as ONNX has it, without the libraries' remarks, of which none can be acted on.

    Args:
        graph: The network.
        example: What goes into it.
        inputs, outputs: Names of what goes in and comes out.
        dynamic_shapes: As ``torch.onnx.export`` takes them.
    """
    remarks = logging.getLogger("onnx_ir")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torchvision's, of torch's own names
            warnings.simplefilter("ignore", UserWarning)  # torch's: inputs come in one number, as they are meant to
            program = torch.onnx.export(
                graph.eval(),
                example,
                input_names=inputs,
                output_names=outputs,
                opset_version=_OPSET,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    finally:
        remarks.setLevel(level)
    assert program is not None
    return program


@torch.no_grad()
def largest_difference(graph: PoseGraph, path: Path, images: Tensor, camera: Tensor) -> tuple[int, float]:
    """Runs an exported file with ONNX Runtime and compares it with PyTorch.

    Args:
        graph: What was exported.
        path: The file.
        images: (B, 3, S, S) in [0, 1].
        camera: (3, 3) their K, OpenCV's convention.

    Returns:
        How many detections there were, and the largest difference of their boxes in pixels; infinite where one of the
        two finds more.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    count, largest = 0, 0.0
    for image in torch.split(images, 1):
        expected = graph(image, camera)[2]
        boxes = torch.from_numpy(session.run(["boxes"], {"image": image.numpy(), "camera": camera.numpy()})[0])
        count += len(boxes)
        if len(boxes) != len(expected):
            return count, torch.inf
        if len(boxes) > 0:
            largest = max(largest, float((boxes - expected).abs().max()))
    return count, largest
