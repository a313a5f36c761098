"""What numbers were measured with: which run, which versions, which machine, when."""

from __future__ import annotations

import hashlib
import platform
import time
from typing import Any

import torch

from codepose import __version__
from codepose.runtime.ranks import world_size
from codepose.runtime.run import Run
from codepose.runtime.vision import TORCHVISION


def provenance(run: Run, device: torch.device) -> dict[str, Any]:
    """Returns what every results.json says of itself: of which run, by which versions, on what, when."""
    cpu = (torch.cpu.get_capabilities().get("cpu_name"), torch.backends.cpu.get_cpu_capability())
    return {
        "preset": run.settings.name,
        "run": identity(run),
        "codepose": __version__,
        "torch": str(torch.__version__),
        "torchvision": TORCHVISION,
        "hardware": hardware(device),
        "processor": ", ".join(filter(None, (*cpu, platform.machine()))),
        "date": time.strftime("%Y-%m-%d"),
    }


def identity(run: Run) -> dict[str, Any]:
    """Returns a run's folder's name and the SHA-256 of its settings and of every stage's weights, by file."""
    paths = [run.path / "config.yaml", *sorted(run.path.glob("*/weights.safetensors"))]
    digests = {}
    for path in paths:
        with open(path, "rb") as file:
            digests[path.relative_to(run.path).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"folder": run.path.resolve().name, "sha256": digests}


def hardware(device: torch.device) -> str:
    """Returns in words what the numbers were measured on."""
    several = f"{world_size()} x " if world_size() > 1 else ""
    if device.type == "cuda":
        return several + str(torch.cuda.get_device_name(device))
    name = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return f"{several}{name}, {torch.get_num_threads()} CPU threads"
