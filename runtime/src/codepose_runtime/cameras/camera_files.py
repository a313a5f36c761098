"""Calibration files are codepose's to read."""

from __future__ import annotations

from pathlib import Path

from codepose_runtime.cameras.camera_entries import CameraError

SUFFIXES = frozenset({".json", ".yaml", ".yml", ".xml", ".txt", ".bin"})


def read_calibration(path: Path) -> tuple[object, ...]:
    """Refuses a file.

    Raises:
        CameraError: Always.
    """
    raise CameraError("codepose-runtime reads no calibration files: type --K fx,fy,cx,cy")
