"""The trained runs that the service answers for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import trimesh
from numpy.typing import NDArray

from codepose.cameras.camera import Camera
from codepose.estimation.answers import Wishes, answer, least_score, wanted
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import Method
from codepose.parts.mesh import to_trimesh
from codepose.runtime.progress import shown_if_any
from codepose.runtime.run import Run
from codepose.serve.pictures import to_data_url
from codepose.serve.problems import Problem


@dataclass(frozen=True, eq=False)
class Question:
    """One photo that somebody wants to know about.

    Attributes:
        image: (H, W, 3) uint8, as the lens shows it.
        camera: Of its size.
        wishes: What counts.
        reconstructions: Whether these are sent along.
    """

    file: str
    image: NDArray[np.uint8]
    camera: Camera
    wishes: Wishes
    reconstructions: bool = False


class Model:
    """One run, loaded.

    Args:
        name: By which requests ask for it.
        estimator: Its.
    """

    def __init__(self, name: str, estimator: PoseEstimator) -> None:
        self.name = name
        self.estimator = estimator

    @cached_property
    def about(self) -> dict[str, Any]:
        """What is to know of it, as plain values."""
        objects = [
            {
                "index": index,
                "label": part.label,
                "diameter_mm": round(float(part.mesh.diameter), 3),
                "size_mm": [round(float(side), 3) for side in part.mesh.extents],
                "center_mm": [round(float(value), 3) for value in part.offset],
                "mesh": f"v1/models/{quote(self.name)}/objects/{index}.ply",
            }
            for index, part in enumerate(self.estimator.world.objects)
        ]
        return {
            "name": self.name,
            "objects": objects,
            "refined": self.estimator.refiner is not None,
            "calibrated": self.estimator.confidence is not None,
            "device": self.estimator.device.type,
            "image_size": self.estimator.settings.data.camera.image_size,
        }

    def ply(self, index: int) -> bytes:
        """An object's mesh in the CAD file's own frame, mm, with normals and colours.

        Raises:
            Problem: There is no such object.
        """
        if index not in range(len(self.estimator.world.objects)):
            raise Problem(404, f"{self.name} has {len(self.estimator.world.objects)} objects, numbered from 0")
        part = self.estimator.world.objects[index]
        shape = to_trimesh(part.mesh.moved(part.offset.numpy()), normals=True)
        return bytes(trimesh.exchange.ply.export_ply(shape, vertex_normal=True))

    def answer(self, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
        """Looks at photos, all together where the network can, and says what is in each, one after the other."""
        start = time.perf_counter()
        images = [q.camera.undistort(q.image) for q in questions]
        first = questions[0].wishes  # those that differ in these are not asked together
        cameras = [q.camera.K for q in questions]
        least = least_score(first, judged=self.estimator.judges)
        by_photo = self.estimator.many(images, cameras, min_score=least, tiles=first.tiles)
        for question, detections in zip(questions, by_photo, strict=True):
            end = time.perf_counter()
            found = wanted(self.estimator, detections, question.wishes)
            yield _answer(question, found, 1000.0 * (end - start))
            start = end


def _answer(question: Question, detections: list[Detection], time_ms: float) -> dict[str, Any]:
    values = answer(question.file, question.camera, detections, time_ms)
    if question.reconstructions:
        for detection, entry in zip(detections, values["detections"], strict=True):
            entry["reconstruction"] = (
                None if detection.reconstruction is None else to_data_url(detection.reconstruction)
            )
    return values


def load_model(name: str, path: Path, *, device: str = "auto", method: Method = "joint", refine: bool = True) -> Model:
    """Loads a run.

    Raises:
        RunError: The folder is no run, or its training is not finished.
        ConfigError: There is no such device.
    """
    with shown_if_any(f"codebook of {name}") as progress:
        model = Model(name, PoseEstimator.load(Run.open(path), method, device, refine=refine, progress=progress))
    _ = model.about  # meshes are loaded now rather than in the first request
    return model


def load_models(runs: Sequence[Path], *, device: str, method: Method, refine: bool) -> dict[str, Model]:
    """Loads runs; each is called by its folder's name, of two such the second is NAME-2.

    Raises:
        RunError: A folder is no run, or its training is not finished.
        ConfigError: There is no such device.
    """
    models: dict[str, Model] = {}
    for path in runs:
        base = path.resolve().name
        names = (base, *(f"{base}-{number}" for number in range(2, len(runs) + 2)))
        name = next(name for name in names if name not in models)
        models[name] = load_model(name, path, device=device, method=method, refine=refine)
    return models
