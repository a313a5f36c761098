"""STEP files: OpenCASCADE (cascadio, of the extra ``step``) makes a GLB file of them, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.gltf import read_gltf
from codepose.parts.cad.surface import Surface, refuse
from codepose.storage.memory import main_memory

_MAGIC, _END = b"ISO-10303-21", b"END-ISO-10303-21"
_SECONDS, _SECONDS_A_MB = 30, 30
"""Of one processor, that a file may take."""
_WAITING = 10
"""Times as long by the clock: other programs run, too."""
_SOLIDS = "export the part again as solids, in AP203, AP214 or AP242"


def read_step(path: Path, data: bytes) -> list[Surface]:
    """The surfaces in a STEP file, in mm whatever its unit, with triangles that are fine enough for its size.

    Raises:
        MeshError: The extra is not installed, or the file is damaged, cut off or without surfaces.
    """
    if find_spec("cascadio") is None:
        refuse("a STEP file needs cascadio", "type pip install 'codepose[step]', in the checkout pip install '.[step]'")
    if _MAGIC not in data[:1000]:
        refuse("it is damaged, or no STEP file")
    if _END not in data[-1000:]:
        refuse(f"the file ends early: {_END.decode()} is missing")
    return [replace(one, triangles=_in_mm(one.triangles)) for one in read_gltf(path, _as_glb(data))]


def _in_mm(metres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the GLB file's metres, kept in single precision: `read_cad` looks whether that has blurred the part."""
    return (metres.astype(np.float32) * np.float32(1000)).astype(np.float64)


@lru_cache(maxsize=2)  # the mesh doctor asks twice
def _as_glb(data: bytes) -> bytes:
    seconds = _SECONDS + _SECONDS_A_MB * len(data) // 2**20
    with tempfile.TemporaryDirectory(prefix="codepose-") as folder:
        Path(folder, "part.step").write_bytes(data)
        program = str(Path(__file__).with_name("opencascade.py"))
        limits = [str(seconds), str(main_memory())]
        command = [sys.executable, "-P", program, folder, *limits]  # -P: beside it are no libraries
        try:
            done = subprocess.run(command, capture_output=True, timeout=_WAITING * seconds, check=False)
        except subprocess.TimeoutExpired:
            return _endless(seconds)
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return _endless(seconds)
        if done.returncode < 0:
            return refuse(f"it is damaged: OpenCASCADE crashes on it ({signal.Signals(-done.returncode).name})")
        if done.returncode > 0:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason is given"])[-1]
            return refuse(f"OpenCASCADE fails on it ({reason[:200]})")
        return Path(folder, "part.glb").read_bytes() or refuse("OpenCASCADE finds no surface in it", _SOLIDS)


def _endless(seconds: int) -> NoReturn:
    refuse(f"OpenCASCADE does not get done with it in {seconds} seconds of one processor", "export the part again")
