"""``codepose export``: a trained run as one ONNX file."""

from __future__ import annotations

import torch

from codepose.cli.options import Export
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import OUTPUTS, export_onnx, largest_difference, require_onnx
from codepose.runtime.run import Run, RunError
from codepose.synthesis.scenes import SceneSource

_SCENES = 8
_TOLERANCE = 0.1
"""Pixels by which boxes may differ from PyTorch's: far more than rounding makes of them."""


def export(options: Export) -> int:
    """Writes the file, and compares it with PyTorch on rendered scenes.

    Raises:
        RunError: The two do not agree; the file stays for a look.
        ConfigError: A package is missing.
    """
    require_onnx()
    run = Run.open(options.run)
    estimator = PoseEstimator.load(run, device="cpu")
    graph = export_onnx(estimator, options.out)
    scenes = SceneSource(estimator.world, "test").scenes(torch.arange(_SCENES))
    count, difference = largest_difference(graph, options.out, scenes.images, scenes.K)
    if difference > _TOLERANCE:
        raise RunError(f"{options.out} does not find what PyTorch finds: boxes differ by {difference:.3g} px")
    size = run.settings.data.camera.image_size
    agree = f"{count} detections in {_SCENES} scenes, boxes within {difference:.2g} px of PyTorch's"
    print(f"wrote {options.out}, {options.out.stat().st_size / 1e6:.1f} MB")
    print(f"checked with ONNX Runtime: {agree}")
    print(f"in: image (1, 3, {size}, {size}), camera (3, 3)")
    print(f"out: {', '.join(OUTPUTS)}")
    print("poses are not refined; docs/deployment.md says what that costs")
    return 0
