"""The commands' options: light to import, so that help comes at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Scale = Literal["smoke", "cpu", "paper"]


@dataclass
class Reproduce:
    """Run the paper's experiment: {T1, T2} x {128, 4096} x {joint, extended, original}, and the rows it lacks."""

    out: Path = Path("runs/paper")
    """Folder; an interrupted experiment goes on from there."""
    scale: Scale = "smoke"
    """smoke: seconds a cell, to see that it runs. cpu: about an hour a cell on two cores. paper: the paper's own."""
    cells: tuple[str, ...] = ()
    """Only these, such as "t1-128/*" or "*/joint"; none = all."""
    seeds: int | None = None
    """How many; None = 3 at cpu scale, else 1."""
    dry_run: bool = False
    """Print the plan with images, FLOPs and estimated time, and stop."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Pack:
    """Make a trained run small enough to hand on: float16 weights and codebooks, no logs."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Annotated[Path, tyro.conf.Positional]
    """New folder."""
