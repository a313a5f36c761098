"""Trainings that are killed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

SYMMETRIES = {
    "1": {"symmetries_discrete": [[-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]},
}
"""A declaration, so that a run keeps one."""


def train_words(preset: Path, run: Path) -> list[str]:
    """The command line of a small training."""
    return ["train", "--preset", str(preset), "--out", str(run)]


def interrupted_after(stage: str, saves: int, arguments: list[str]) -> None:
    """Runs a training in a child that ends, as if killed, after a stage's so-manieth checkpoint."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(stage, saves, arguments))
    process.start()
    process.join()


def _train(stage: str, saves: int, arguments: list[str]) -> None:
    from codepose.cli.main import main
    from codepose.runtime.run import Run

    save, done = Run.save_checkpoint, []

    def save_and_die(self: Any, name: str, state: Any) -> None:
        save(self, name, state)
        done.append(name)
        if done.count(stage) == saves:
            os._exit(9)

    Run.save_checkpoint = save_and_die  # type: ignore[method-assign]
    main(arguments)
