"""One call of a command: its words are read, it runs, and its end is told: words, JSON, an exit status."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import tyro
from pydantic import ValidationError

from codepose.cli import hub
from codepose.cli import options as o
from codepose.cli.chosen import starting_settings
from codepose.runtime.complaints import complain
from codepose.runtime.outcome import Command, Outcome, plain
from codepose.serve.options import Serve
from codepose.settings.errors import ConfigError
from codepose.settings.files import complaint

COMMAND_OPTIONS: dict[str, type[Command]] = {
    "demo": o.Demo,
    "mesh": o.MeshDoctor,
    "preview": o.Preview,
    "settings": o.ShowSettings,
    "train": o.Train,
    "calibrate": o.Calibrate,
    "evaluate": o.Evaluate,
    "predict": o.Predict,
    "bag": o.Bag,
    "serve": Serve,
    "report": o.Report,
    "reproduce": o.Reproduce,
    "pack": o.Pack,
    "export": o.Export,
    "push": hub.Push,
    "pull": hub.Pull,
    "render": o.Render,
    "completion": o.Completion,
}


def run(command: str, arguments: list[str], description: str) -> int:
    """Parses a command's options and runs it; returns the exit status.

    Errors that a user can mend end in one line on stderr and status 1.
    """
    try:
        options = _options(command, arguments, description)
        o.require_usable(options)
        with _stdout_to_stderr(options.json):
            from codepose.cli.commands import ACTIONS

            outcome = ACTIONS[command](options)
        told = _tell(outcome, options)
        return outcome.status if told else 1
    except Exception as error:
        if _out_of_memory(error):
            error = ConfigError("there is not enough memory: take smaller settings, or end other programs")
        if not isinstance(error, _user_errors()):
            raise
        _complain(command, error)
        return 1


def _options(command: str, arguments: list[str], description: str) -> Command:
    kind: Any = COMMAND_OPTIONS[command]
    default = tyro.MISSING_NONPROP
    if command in ("train", "preview", "render"):
        required = {"bop": tyro.MISSING} if command == "render" else {}
        default = kind(settings=starting_settings(arguments), **required)
    parsed: Command = tyro.cli(
        kind, args=arguments, prog=f"codepose {command}", description=description, default=default
    )
    return parsed


def _tell(outcome: Outcome, options: Command) -> bool:
    """Prints the result for other programs, then does what goes on after it; returns whether somebody reads it."""
    if options.json and _is_first():
        try:
            print(json.dumps(plain(outcome.value)), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it ends
            return False
    if outcome.then is not None:
        with _stdout_to_stderr(options.json):
            outcome.then()
    return True


@contextlib.contextmanager
def _stdout_to_stderr(wanted: bool) -> Iterator[None]:
    """Sends to stderr what is written to stdout, by whom ever: also by libraries in C, and by child processes."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _complain(command: str, error: Exception) -> None:
    """Says in one line what a user can mend."""
    if isinstance(error, ValidationError):  # settings that do not go together
        error = ConfigError(complaint(error))
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        error = OSError(f"{error.filename}: {error.strerror}")  # without its number
    if _is_first():
        complain(f"codepose {command}: {error}")
    elif isinstance(error, OSError):  # all refuse wrong options alike, but a disk may be full on one machine alone
        complain(f"codepose {command}, on another machine or device: {error}")


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy, PyTorch or CUDA could not have the memory that they asked for."""
    words = ("can't allocate memory", "out of memory")  # PyTorch has no class of its own for the first
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def _is_first() -> bool:
    """Whether this process is the one that speaks: with several devices, the first."""
    if "torch" not in sys.modules:  # it takes seconds to import, and alone starts several processes
        return True
    from codepose.runtime.ranks import rank

    return rank() == 0


def _user_errors() -> tuple[type[Exception], ...]:
    from codepose.bop.entries import BopError
    from codepose.parts.mesh import MeshError
    from codepose.runtime.checkpoint import CheckpointError
    from codepose.runtime.run import RunError
    from codepose.storage.checksums import DamagedError
    from codepose.training.meter import NonFiniteLossError

    return (
        ConfigError,
        ValidationError,
        BopError,
        DamagedError,
        MeshError,
        RunError,
        CheckpointError,
        NonFiniteLossError,
        OSError,
    )
