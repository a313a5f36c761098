"""codepose's own commands, run for the service in processes of a low priority."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codepose.serve import curves
from codepose.serve.problems import Problem, as_problem
from codepose.settings.errors import ConfigError
from codepose.storage.memory import main_memory

CODEPOSE = (sys.executable, "-m", "codepose")
_NICE = 10
_LONGEST_S = 300.0
"""Seconds for a look at a CAD file."""
_MEMORY_SHARE = 0.75
"""Of the machine's memory, what a look at a CAD file may take: more would end the service, too."""


class Commands:
    """Runs commands of ``codepose`` in folders.

    Args:
        command: What stands before ``mesh``, ``preview`` and ``train``.
        home: A folder that holds all that they work in; messages do not say where it lies.
    """

    def __init__(self, command: Sequence[str], home: Path) -> None:
        self._command = tuple(command)
        self._home = home

    def start(self, words: Sequence[str], folder: Path, **streams: Any) -> subprocess.Popen[bytes]:
        """Starts a command in a folder, as a process that the terminal's Ctrl-C does not reach.

        Args:
            words: The command and its options.
            folder: Where it works.
            streams: stdout and stderr, as ``subprocess.Popen`` takes them.
        """
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "400"}
        process = subprocess.Popen(
            [*self._command, *words],
            cwd=folder,
            env={key: value for key, value in environment.items() if key != "CODEPOSE_TOKEN"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **streams,
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        return process

    def ask(self, words: Sequence[str], folder: Path) -> None:
        """Has a command do something with the CAD file of a folder, and waits for it.

        Raises:
            Problem: It failed, or took too long or too much memory.
        """
        process = self.start(words, folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        most = _most_memory()
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (most, most))
        try:
            errors = process.communicate(timeout=_LONGEST_S)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            late = f"{folder.name}: it took longer than {_LONGEST_S:g} seconds; a coarser mesh takes less"
            raise Problem(504, late) from None
        if process.returncode:
            reason = curves.complaint(errors.splitlines())
            broken = f"the CAD file's reader broke down, or asked for more than {most / 2**30:.1f} GB of memory"
            message = reason or f"{broken}; export it again, as a coarser mesh"
            raise as_problem(ConfigError(self.without_paths(message, folder)))

    def without_paths(self, message: str, folder: Path) -> str:
        """Returns what a command said in a folder, without this machine's paths."""
        return message.replace(f"{folder}/", "").replace(f"{self._home}/", "")


def _most_memory() -> int:
    """Bytes that a look at a CAD file may take."""
    return int(_MEMORY_SHARE * main_memory())
