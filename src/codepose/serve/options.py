"""What ``codepose serve`` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from codepose.runtime.outcome import Command


@dataclass
class Serve(Command):
    """Answer photos with poses over HTTP, and show a page at the same address."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders, or "hammer"; each is called by its folder's name."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 = whoever can reach this machine."""
    port: int = 8000
    """0 = any free one."""
    token: str = ""
    """Requests must bring it (Authorization: Bearer ...); better in the environment: CODEPOSE_TOKEN."""
    cameras: Path | None = None
    """Folder of calibration files, as --K of predict takes them: requests name one instead of sending K."""
    labels: Path | None = None
    """Folder for the page's labels: FOLDER/NAME becomes a BOP dataset of each run. None = they are kept until the
    service stops; the page downloads them."""
    train_in: Path | None = None
    """Folder for networks that are trained on the page: CAD files in FOLDER/parts, runs in FOLDER/runs. None = nothing
    is trained. With it no run need be named."""
    queue: int = 16
    """How many requests may wait; more are refused with 429."""
    batch: int = 8
    """How many photos that wait are looked at together."""
    timeout: float = 60.0
    """Seconds for a request to come, and for its answer."""
    max_mb: float = 32.0
    """Megabytes of a request: a photo, or a CAD file."""
    max_megapixels: float = 50.0
    """Megapixels of a photo."""
    method: Literal["joint", "extended", "original"] = "joint"
    """Which of the trained methods."""
    refine: bool = True
    """Refine poses by render-and-compare; --no-refine is the paper's lookup."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
