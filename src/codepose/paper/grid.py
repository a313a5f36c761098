"""The cells of the paper's experiment (Section 4), and the run folder and method of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from codepose.estimation.methods import METHODS, STAGES, Method
from codepose.paper.jitter import JITTER
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.settings.training import Phase
from codepose.storage.replace import replacing
from codepose.training.stages import FROM_STEP1

if TYPE_CHECKING:
    from codepose.cli.options import Scale

SCHEDULES = ("t1", "t2")
LATENTS = (128, 4096)
PAPER_PHASES = (1.0, 1.0, 28.0)
"""Epochs of T2's three phases; a smaller scale divides its own in these proportions."""
DEFAULT_SEEDS: dict[Scale, int] = {"smoke": 1, "cpu": 3, "paper": 1}


@dataclass(frozen=True)
class Cell:
    """One network, or pair of networks, of the experiment.

    Attributes:
        group: Its run folder: schedule and latent size, such as "t1-128".
        method: As ``PoseEstimator.load`` takes it.
        settings: Of its run.
    """

    group: str
    method: Method
    settings: Settings

    @property
    def name(self) -> str:
        """What ``--cells`` matches, such as "t1-128/joint"."""
        return f"{self.group}/{self.method}"


def _settings(scale: Scale, schedule: str, latent: int, seed: int) -> Settings:
    if scale == "paper":
        base = load_preset(f"paper-{latent}-{schedule}")
        return override(base, {"seed": seed})
    base = load_preset(scale)
    first = Phase(epochs=PAPER_PHASES[0], train=("rpn", "fc", "box_head"))
    second = Phase(epochs=PAPER_PHASES[1], train=("encoder", "decoder"))
    phases = (first, second, Phase(epochs=PAPER_PHASES[2])) if schedule == "t2" else ()
    changes = {
        "name": f"{scale}-{latent}-{schedule}",
        "seed": seed,
        "network.latent": latent,
        "step2.phases": [p.model_dump(mode="json") for p in phases],
    }
    return override(base, changes)


def cells(scale: Scale, seed: int, patterns: Sequence[str] = ()) -> list[Cell]:
    """Returns the experiment: {T1, T2} x {128, 4,096} x three methods, then a row the paper lacks: jitter.

    Args:
        scale: How large.
        seed: Of weights and order; the images are the same for every seed.
        patterns: Keep the cells whose name matches one of these ("t1-128/*"); none = all.

    Raises:
        ConfigError: A pattern matches no cell; the text lists those there are.
    """
    grid = [
        Cell(f"{schedule}-{latent}", method, _settings(scale, schedule, latent, seed))
        for latent in LATENTS
        for schedule in SCHEDULES
        for method in METHODS
    ]
    first = grid[0]
    grid.append(Cell(first.group, JITTER, first.settings))
    for pattern in patterns:
        if not any(fnmatch(cell.name, pattern) for cell in grid):
            raise ConfigError(f"no cell is called {pattern!r}; there are {', '.join(c.name for c in grid)}")
    return [c for c in grid if not patterns or any(fnmatch(c.name, p) for p in patterns)]


def training_stages(cell: Cell) -> tuple[str, ...]:
    """Returns the stages to train for a cell, in order."""
    needed = STAGES[cell.method]
    return ("step1", *needed) if FROM_STEP1.keys() & set(needed) else needed


def stage_key(cell: Cell, stage: str) -> str:
    """Returns what a stage's outcome depends on: cells with the same key share its weights."""
    latent = cell.settings.network.latent
    return {
        "detector": "detector",
        "original": "original",
        "step1": f"step1-{latent}",
        "jitter": f"jitter-{latent}",
    }.get(stage, f"{stage}-{cell.group}")


def share(stage: str, source: Run, target: Run) -> None:
    """Gives a finished stage's weights and log to another run; without a copy where the disk allows."""
    if source.path == target.path or not source.has(stage) or target.has(stage):
        return
    folder = target.stage(stage)
    for name in ("metrics.jsonl", "weights.safetensors"):  # the weights last: they say that the stage is done
        there = source.path / stage / name
        if there.exists():
            with replacing(folder / name) as new:
                _link(there, new)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
