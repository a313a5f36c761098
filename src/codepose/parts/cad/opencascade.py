"""STEP to GLB with OpenCASCADE, run as a program of its own: on damaged files OpenCASCADE crashes or never ends.

``step.py`` starts it with the folder to work in and the most seconds and bytes that it may take. It reads ``part.step``
there and writes ``part.glb``, an empty one where there is no surface.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import cascadio

_COARSE_MM = 1e6  # the farthest a triangle of the first look may be from its surface: any
_DEFLECTION = 5e-4  # of the part's size: the farthest a triangle may be from its surface
_TURN = 0.2  # radians from one triangle of a curved surface to the next, at most


def convert(folder: Path) -> None:
    """Triangulates twice: coarsely, to learn the part's size, then as finely as that size asks for."""
    step = (folder / "part.step").read_bytes()
    size = _size_mm(_glb(step, _COARSE_MM))
    (folder / "part.glb").write_bytes(_glb(step, _DEFLECTION * size) if size > 0 else b"")


def _glb(step: bytes, deflection: float) -> bytes:
    return cascadio.load(step, "step", tol_linear=deflection, tol_angular=_TURN, use_parallel=False)


def _size_mm(glb: bytes) -> float:
    """The longest side of the largest body's box; a GLB file is in metres."""
    if len(glb) < 20:
        return 0.0
    document: dict[str, Any] = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    boxes = [one for one in document.get("accessors", []) if one["type"] == "VEC3" and "min" in one]
    sides = [high - low for one in boxes for low, high in zip(one["min"], one["max"], strict=True)]
    return 1000.0 * max(sides, default=0.0)


if __name__ == "__main__":
    seconds, most = int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    convert(Path(sys.argv[1]))
