"""What a run's logs and pictures show of its training so far."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from codepose.runtime.run import Run
from codepose.settings.schema import Settings

_CHARTS = (
    ("step1", "Step 1: error of the reconstruction", "log", {"mse": "training", "val_mse": "validation"}),
    ("step2", "Step 2: error of the reconstruction", "log", {"mse": "training", "val_mse_gt_boxes": "validation"}),
    ("step2", "Step 2: overlap of found and true boxes", "share", {"val_mean_iou": "validation"}),
)
_MOST = 200
"""Points of a line."""
_TAIL = 16_384
"""Bytes of a log's end."""
_PROGRESS = re.compile(r"^(.+?): +(\d+)%.*?left (\S+)$")


def charts(run: Path) -> list[dict[str, Any]]:
    """The curves of a run's stages that have begun.

    Args:
        run: Its folder; it need not be there.

    Returns:
        Of each chart its stage, its title, "log" or "share" as its scale, and its lines: a name, steps and values.
    """
    drawn = []
    for stage, title, scale, names in _CHARTS:
        records = list(Run(run, Settings()).metrics(stage))
        lines = [_line(name, [(r["step"], r[key]) for r in records if key in r]) for key, name in names.items()]
        lines = [line for line in lines if line["steps"]]
        if lines:
            drawn.append({"stage": stage, "title": title, "scale": scale, "lines": lines})
    return drawn


class Picture(NamedTuple):
    """What a stage's network made of a few validation images: a PNG file, after ``step`` iterations."""

    path: Path
    stage: str
    step: int


def newest_picture(run: Path) -> Picture | None:
    """The picture of a run's last validation; None where there is none yet, or no run."""
    for stage in ("step2", "step1"):
        of = Run(run, Settings())
        looks = [r["step"] for r in of.metrics(stage) if any(name.startswith("val_") for name in r)]
        if looks and of.picture(stage).is_file():
            return Picture(of.picture(stage), stage, looks[-1])
    return None


def _line(name: str, points: list[tuple[int, float]]) -> dict[str, Any]:
    every = max(1, -(-len(points) // _MOST))
    kept = points[::-1][::every][::-1]  # the last one always
    return {"name": name, "steps": [step for step, _ in kept], "values": [round(value, 6) for _, value in kept]}


def tail(log: Path) -> list[str]:
    """The last lines of a text file; none where it is not there."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        return file.read().decode(errors="replace").splitlines()


def progress(lines: Iterable[str]) -> dict[str, Any] | None:
    """What the last line that tells it says: the phase, its share that is done, and how much time is left."""
    matches = [match for match in map(_PROGRESS.match, lines) if match]
    if not matches:
        return None
    phase, percent, left = matches[-1].groups()
    return {"phase": phase, "share": int(percent) / 100, "left": None if left == "?" else left}


def complaint(lines: Iterable[str]) -> str:
    """The one line in which a command has ended; empty where it has not failed."""
    complaints = [line for line in lines if re.match(r"codepose \w+: ", line)]
    return complaints[-1].partition(": ")[2] if complaints else ""
