"""Exporting a run as ONNX, compared with PyTorch before it is handed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from codepose import geometry
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import OUTPUTS, export_onnx, largest_difference, require_onnx
from codepose.runtime.run import Run, RunError, opened
from codepose.settings.errors import ConfigError
from codepose.synthesis.scenes import SceneSource

_COMPARED = 8
"""Scenes in which an exported file is compared with PyTorch."""
_TOLERANCE = 0.1
"""Pixels by which its boxes may differ: far more than rounding makes of them."""


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and how it agrees with PyTorch on rendered scenes.

    Attributes:
        path: The file.
        outputs: Names of what it returns.
        image_size: Side of its square image, pixels.
        scenes, detections: In how many scenes it was compared, and by how many detections.
        difference: The largest of their boxes, pixels.
    """

    path: Path
    outputs: tuple[str, ...]
    image_size: int
    scenes: int
    detections: int
    difference: float


def export(run: Run | str | Path, path: str | Path) -> Exported:
    """Writes a run's joint network and codebooks as one ONNX file, and compares it with PyTorch on rendered scenes.

    Poses are not refined; docs/deployment.md says what that costs.

    Args:
        run: A trained run, its folder, or "hammer".
        path: The file, such as "part.onnx".

    Raises:
        RunError: The run is not trained, or the two do not agree; then the file stays for a look.
        ConfigError: Another suffix than .onnx, or a package is missing.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"{path}: give a file's name, such as {path.stem}.onnx")
    require_onnx()
    run = opened(run)
    estimator = PoseEstimator.load(run, device="cpu")
    graph = export_onnx(estimator, path)
    scenes = SceneSource(estimator.world, "test").scenes(torch.arange(_COMPARED))
    count, difference = largest_difference(graph, path, scenes.images, geometry.to_opencv(scenes.K))
    if difference > _TOLERANCE:
        raise RunError(f"{path} does not find what PyTorch finds: boxes differ by {difference:.3g} px")
    return Exported(path, tuple(OUTPUTS), run.settings.data.camera.image_size, _COMPARED, count, difference)
