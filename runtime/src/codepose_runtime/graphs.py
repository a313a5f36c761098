"""The networks, as ONNX Runtime runs them: what ``codepose``'s pipeline and judge are to the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from codepose_runtime.networks.pose_judge import Verdict
from codepose_runtime.tensors import Tensor, device, get_num_threads


class FolderError(ValueError):
    """A folder that is none of ``codepose export``'s, or damaged; the text says which."""


class Graph:
    """One ONNX file.

    Args:
        path: The file.
        checksum: Its SHA-256, as hexadecimal digits.

    Raises:
        FolderError: It is missing, or has another checksum.
    """

    def __init__(self, path: Path, checksum: str) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FolderError(f"{path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != checksum:
            raise FolderError(f"{path} is damaged: it does not match its checksum; export it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = get_num_threads(), 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Runs it on float32 arrays by name."""
        given = {name: np.ascontiguousarray(values, np.float32) for name, values in inputs.items()}
        outputs: list[NDArray[Any]] = self._session.run(None, given)
        return outputs


@dataclass(frozen=True)
class Prepared:
    """Images, and of each one what the detector gave.

    Features (1, C, h, w); boxes, labels and scores; and the same of candidates for refined poses.
    """

    images: Tensor
    found: tuple[tuple[NDArray[Any], ...], ...]


class GraphPipeline:
    """The joint network, as ``codepose.estimation.pipelines.Pipeline`` has it.

    Args:
        folder: Holds the graphs.
        checksums: Of each graph, by the file's name.
        settings: The run's.
    """

    codes_from_features = True

    def __init__(self, folder: Path, checksums: Mapping[str, str], settings: Any) -> None:
        self.settings, self.device = settings, device("cpu")
        self._detector, self._latents, self._decoder = (
            Graph(folder / name, checksums[name]) for name in ("detector.onnx", "latents.onnx", "decoder.onnx")
        )

    def prepare(self, images: Tensor) -> Prepared:
        each = (images.array[i : i + 1] for i in range(len(images)))
        return Prepared(images, tuple(tuple(self._detector(image=image)) for image in each))

    def select(self, prepared: Prepared, index: int) -> Prepared:
        return Prepared(prepared.images[index : index + 1], prepared.found[index : index + 1])

    def pixels(self, prepared: Prepared) -> Tensor:
        return prepared.images

    def detect(self, prepared: Prepared, iou: float | None = None) -> list[dict[str, Tensor]]:
        """As ``Pipeline`` has it; any ``iou`` but the settings' is that of the graph's candidates."""
        first = 1 if iou in (None, self.settings.detection.nms) else 4
        names = ("boxes", "labels", "scores")
        return [
            {name: Tensor(values) for name, values in zip(names, found[first : first + 3], strict=True)}
            for found in prepared.found
        ]

    def latents(self, prepared: Prepared, boxes: Tensor, images: Tensor) -> Tensor:
        (features, *_), (wanted,) = prepared.found[int(images[0])], {*images.tolist()}
        assert wanted == int(images[0]), "boxes of one image at a time"
        return Tensor(self._latents(features=features, boxes=boxes.array)[0])

    def decode(self, latents: Tensor) -> Tensor:
        return Tensor(self._decoder(latents=latents.array)[0])


class GraphJudge:
    """The judge, as ``codepose.networks.pose_judge.PoseJudge`` answers."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __call__(self, photos: Tensor, renders: Tensor) -> Verdict:
        logits, motions = map(Tensor, self._graph(photos=photos.array, renders=renders.array))
        return Verdict(logits, motions[:, :2], motions[:, 2], motions[:, 3:])
