"""PoseRunner: a folder of ``codepose export`` in, detections with poses out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codepose_runtime.estimation.codebook import Codebook, CodebookError, DamagedCodebookError
from codepose_runtime.estimation.detection import Detection
from codepose_runtime.estimation.estimator import PoseEstimator
from codepose_runtime.estimation.evidence import probability
from codepose_runtime.graphs import FolderError, Graph, GraphJudge, GraphPipeline
from codepose_runtime.parts.symmetry_group import ContinuousSymmetry, Symmetries
from codepose_runtime.refinement.judged_contours import contours_judged_by
from codepose_runtime.refinement.view_edges import ViewEdges
from codepose_runtime.runtime.checkpoint import CheckpointError, load_state
from codepose_runtime.synthesis.objects import ObjectModel, Objects
from codepose_runtime.tensors import zeros

_STATE, _FORMAT = "runner.safetensors", 3


@dataclass(frozen=True, eq=False)
class PackedObject(ObjectModel):
    """An object of which ``codepose export`` has drawn the edges: ``ViewEdges.draw`` asks for them."""

    edges: ViewEdges | None = None


class PoseRunner:
    """Finds an exported run's objects in images and says how they lie, as ``codepose.PoseEstimator`` does.

    Args:
        folder: What ``codepose export RUN FOLDER`` wrote.
        refine: Refine poses by render-and-compare.

    Raises:
        FolderError: It is no such folder, or a file in it is damaged.
    """

    def __init__(self, folder: str | Path, *, refine: bool = True) -> None:
        folder = Path(folder)
        state = _state(folder)
        settings = _namespace(state["settings"])
        world = Objects(settings, "cpu", [_object(one) for one in state["objects"]])
        pipeline = GraphPipeline(folder, state["graphs"], settings)
        books = [_codebook(folder, number, state["fingerprint"]) for number in range(1, len(world.objects) + 1)]
        confidence = state["confidence"]["refined" if refine else "plain"]
        told = None if confidence is None else partial(probability, **confidence)
        refiner = _refiner(folder, state["graphs"], world) if refine else None
        self.estimator = PoseEstimator(pipeline, books, refiner, told, world=world)

    def __call__(
        self, image: NDArray[np.uint8], camera: ArrayLike, *, min_score: float | None = None, tiles: int = 1
    ) -> list[Detection]:
        """Finds the objects in one image.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            camera: (3, 3) its pinhole matrix in pixels, OpenCV's convention, no lens distortion.
            min_score: Leave out detections below; None = the run's threshold.
            tiles: For parts that are small in a large image: besides the whole of it, look at overlapping squares of
                1/tiles of its longer side.

        Returns:
            Detections, best first.

        Raises:
            ValueError: The image or the camera has the wrong shape or type.
        """
        return self.estimator(image, camera, min_score=min_score, tiles=tiles)


def _state(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder: type codepose export RUN {folder}")
    if not (folder / _STATE).is_file():
        raise FolderError(f"{folder} holds no {_STATE}: it is not from codepose export RUN FOLDER")
    try:
        state: dict[str, Any] = load_state(folder / _STATE)
    except CheckpointError as error:
        raise FolderError(f"{error}; export it again") from None
    if state.get("format") != _FORMAT:
        raise FolderError(f"{folder} is of another version of codepose than this runner: install the same ones")
    return state


def _codebook(folder: Path, number: int, fingerprint: str) -> Codebook:
    try:
        return Codebook.load(folder / f"codebook-{number}.safetensors", fingerprint)
    except (CodebookError, DamagedCodebookError) as error:
        raise FolderError(f"{error}; export it again") from None


def _refiner(folder: Path, checksums: dict[str, str], world: Objects) -> Any:
    def network() -> GraphJudge:
        return GraphJudge(Graph(folder / "judge.onnx", checksums["judge.onnx"]))

    return contours_judged_by(network, world, world.settings.refinement)


def _object(state: dict[str, Any]) -> ObjectModel:
    arrays = {name: getattr(value, "array", value) for name, value in state["mesh"].items()}
    axes = tuple(ContinuousSymmetry(np.array(c["axis"]), np.array(c["offset"])) for c in state["continuous"])
    return PackedObject(
        label=state["label"],
        mesh=SimpleNamespace(**arrays),
        offset=state["offset"],
        axis=zeros(3),
        cone_deg=180.0,
        opposite=False,
        z_ref=state["z_ref"],
        declared=Symmetries(state["discrete"].array, axes),
        edges=ViewEdges(**state["edges"]),
    )


def _namespace(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return SimpleNamespace(**{name: _namespace(value) for name, value in values.items()})
