"""codepose: from a CAD model to a network that finds the part in a photo and gives its 6-D pose."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codepose.api import calibrate, evaluate, export, preview, train
    from codepose.cameras.camera import Camera
    from codepose.estimation.codebook import Codebook
    from codepose.estimation.detection import Detection
    from codepose.estimation.estimator import PoseEstimator
    from codepose.evaluation.vsd import vsd
    from codepose.parts.mesh import Mesh, load_mesh
    from codepose.rendering.renderer import Renderer
    from codepose.runtime.run import Run
    from codepose.settings.files import load_preset, load_settings
    from codepose.settings.schema import Settings

__version__ = "0.1.0"

_HOMES = {
    "Settings": "settings.schema",
    "Run": "runtime.run",
    "Camera": "cameras.camera",
    "train": "api",
    "calibrate": "api",
    "evaluate": "api",
    "preview": "api",
    "export": "api",
    "load_preset": "settings.files",
    "load_settings": "settings.files",
    "Mesh": "parts.mesh",
    "load_mesh": "parts.mesh",
    "Renderer": "rendering.renderer",
    "Codebook": "estimation.codebook",
    "Detection": "estimation.detection",
    "PoseEstimator": "estimation.estimator",
    "vsd": "evaluation.vsd",
}

__all__ = [
    "Camera",
    "Codebook",
    "Detection",
    "Mesh",
    "PoseEstimator",
    "Renderer",
    "Run",
    "Settings",
    "__version__",
    "calibrate",
    "evaluate",
    "export",
    "load_mesh",
    "load_preset",
    "load_settings",
    "preview",
    "train",
    "vsd",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'codepose' has no attribute {name!r}")
    return getattr(import_module(f"codepose.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
