"""Trainings that the page starts: of each a CAD file, what is known of it, and the run that learns it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter

from codepose.parts.cad.alone import standing_alone
from codepose.parts.cad.files import READERS
from codepose.parts.cad.surface import MeshError
from codepose.serve import curves
from codepose.serve.problems import Problem
from codepose.serve.processes import CODEPOSE, Commands
from codepose.settings.data import Unit
from codepose.settings.errors import ConfigError
from codepose.settings.files import DEFAULT_PRESET
from codepose.storage.replace import write_atomically

PICTURES = ("sheet", "preview")
_STOP_S = 300.0
"""Seconds for a training to save its state, within which it may have to finish an iteration and a validation."""
_KEPT = 4
"""CAD files that were looked at and never trained."""
_STEP1 = 0.6
"""Of the time for learning; the rest is Step 2's."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    stopped: bool = False


class Trainings:
    """Keeps CAD files in FOLDER/parts/NAME and runs in FOLDER/runs/NAME, and trains one at a time.

    All work is done by the command line in processes of their own, at a low priority.

    Args:
        folder: Where they are kept; made if needed.
        device: To train on.
        preset: To train with.
        command: What stands before ``mesh``, ``preview`` and ``train``.

    Attributes:
        looking: Lets one CAD file be looked at at a time.

    Raises:
        ConfigError: The folder is a file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        preset: str = DEFAULT_PRESET,
        command: Sequence[str] = CODEPOSE,
    ) -> None:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--train-in {folder} is a file: name a folder")
        self.folder = folder.resolve()
        self.preset = preset
        self.looking = CapacityLimiter(1)
        self._device = device
        self._commands = Commands(command, self.folder)
        self._child: _Child | None = None
        self._closed = False
        self._starting = threading.Lock()
        for name in ("parts", "runs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Those of all trainings, the last begun first."""
        folders = [path.parent.name for path in (self.folder / "parts").glob("*/part.json")]
        return sorted(
            (name for name in folders if _NAME.fullmatch(name)), key=lambda name: -self._read(name)["created"]
        )

    def run(self, name: str) -> Path:
        """The folder of a training's run."""
        return self.folder / "runs" / name

    def add(self, file: str, data: bytes, unit: Unit, body: str) -> str:
        """Keeps a CAD file and looks it over.

        Args:
            file: What it was called; its suffix says what it is.
            data: Its content.
            unit: Of its coordinates.
            body: Only the body that the file calls so; empty = all.

        Returns:
            The training's name.

        Raises:
            Problem: It is none, or cannot be trained.
        """
        stem, suffix = re.split(r"[/\\]", file)[-1], Path(file).suffix.lower()
        if suffix not in READERS:
            raise Problem(422, f"file: {suffix or 'a file without a suffix'} is not read: {', '.join(READERS)} are")
        try:
            data = standing_alone(suffix, data)
        except MeshError as error:
            raise Problem(422, f"file: {error}") from None
        name = self._new_name(stem.removesuffix(Path(stem).suffix))
        given = f"given/{name}{suffix}"
        (self._part(name) / "given").mkdir()
        (self._part(name) / given).write_bytes(data)
        self._write(name, {"created": time.time(), "file": stem[:80], "given": given})
        try:
            self.look(name, unit, body)
        except Problem:
            if not (self._part(name) / "report.json").is_file():  # with one, another unit or body may do
                shutil.rmtree(self._part(name))
            raise
        finally:
            self._forget_old()
        return name

    def look(self, name: str, unit: Unit, body: str) -> None:
        """Looks a kept CAD file over, in a unit.

        Raises:
            Problem: It cannot be trained so, or is trained already.
        """
        part = self._read(name)
        if self.begun(name) or self.running == name:
            raise Problem(409, f"{name} is trained already: send the file again for another unit or body")
        folder = self._part(name)
        for old in ("report.json", "sheet.png", "preview.png", f"{name}.ply"):
            (folder / old).unlink(missing_ok=True)
        words = [part["given"], "--unit", unit]
        words += ["--out", "sheet.png", "--save", f"{name}.ply", "--report", "report.json"]
        self._write(name, part | {"unit": unit, "body": body})
        self._commands.ask(["mesh", *words, *([f"--body={body}"] if body else [])], folder)

    def draw(self, name: str, options: Sequence[str]) -> None:
        """Draws training images with the settings that the options name.

        Raises:
            Problem: They cannot be drawn.
        """
        words = ["--preset", self.preset, "--count", "6", "--out", "preview.png"]
        self._commands.ask(["preview", self.mesh(name), *words, *options], self._part(name))

    def mesh(self, name: str) -> str:
        """The file, beside ``part.json``, that is trained.

        Raises:
            Problem: There is no such training, or its part cannot be trained.
        """
        self._read(name)
        if not (self._part(name) / f"{name}.ply").is_file():
            raise Problem(409, f"{name} cannot be trained as it is: choose another unit or file")
        return f"{name}.ply"

    def begun(self, name: str) -> bool:
        """Whether there is a run to go on with."""
        return (self.run(name) / "config.yaml").is_file()

    def start(self, name: str, options: Sequence[str], minutes: float) -> None:
        """Begins a training, or goes on with it; then its options are those with which it was begun.

        Args:
            name: Of the training.
            options: Of ``train``.
            minutes: For learning.

        Raises:
            Problem: Another one runs, or this one is done.
        """
        mesh = self.mesh(name)
        with self._starting:
            if self._closed:
                raise Problem(503, "the service stops")
            if (running := self.running) is not None:
                raise Problem(409, f"{running} is being trained: stop it, or wait until it is done")
            if self.done(name):
                raise Problem(409, f"{name} is trained: use it, or send the file again to train it anew")
            words = ["train", "--out", str(self.run(name)), "--device", self._device]
            if self.begun(name):
                words += ["--resume"]
            else:
                seconds = 60.0 * minutes
                limits = {"step1": _STEP1 * seconds, "step2": (1 - _STEP1) * seconds}
                words += [mesh, "--preset", self.preset, *options]
                words += [word for stage, s in limits.items() for word in (f"--{stage}.time-limit", f"{s:.1f}")]
                self._write(name, self._read(name) | {"minutes": minutes})
            with (self._part(name) / "train.log").open("wb") as log:
                process = self._commands.start(words, self._part(name), stdout=log, stderr=subprocess.STDOUT)
            self._child = _Child(name, process)

    @property
    def running(self) -> str | None:
        """The name of the training that runs."""
        child = self._child
        return child.name if child is not None and child.process.poll() is None else None

    def stop(self, name: str) -> None:
        """Asks a training to save its state and end.

        Raises:
            Problem: It does not run.
        """
        self._read(name)
        child = self._child
        if child is None or child.name != name or child.process.poll() is not None:
            raise Problem(409, f"{name} is not being trained")
        child.stopped = True
        child.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Stops what runs, and waits until it is saved; it can be gone on with. Nothing is started any more."""
        with self._starting:
            self._closed = True
        child = self._child
        if child is None or child.process.poll() is not None:
            return
        self.stop(child.name)
        try:
            child.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()

    def done(self, name: str) -> bool:
        """Whether a run is trained, and nothing is done to it any more."""
        return (self.run(name) / "step2" / "weights.safetensors").is_file() and self.running != name

    def about(self, name: str) -> dict[str, Any]:
        """What is known of a training, as plain values.

        Raises:
            Problem: There is none of this name.
        """
        part, folder = self._read(name), self._part(name)
        lines = curves.tail(folder / "train.log")
        state, message = self._state(name, lines)
        with contextlib.suppress(OSError, ValueError):
            part["report"] = json.loads((folder / "report.json").read_text())
        return {
            "name": name,
            "file": part["file"],
            "state": state,
            "begun": self.begun(name),
            "message": message,
            "unit": part.get("unit"),
            "body": part.get("body"),
            "minutes": part.get("minutes"),
            "report": part.get("report"),
            "pictures": [picture for picture in PICTURES if (folder / f"{picture}.png").is_file()],
            "progress": curves.progress(lines) if self.begun(name) else None,
        }

    def picture(self, name: str, which: str) -> bytes:
        """The six views, the training images, or what the network makes of a few validation images now, as PNG.

        Raises:
            Problem: There is none.
        """
        self._read(name)
        folder = self._part(name)
        pictures = {picture: folder / f"{picture}.png" for picture in PICTURES}
        if (newest := curves.newest_picture(self.run(name))) is not None:
            pictures["validation"] = newest.path
        if which not in pictures or not pictures[which].is_file():
            raise Problem(404, f"there is no picture {which[:20]!r} of {name}")
        return pictures[which].read_bytes()

    def _state(self, name: str, lines: list[str]) -> tuple[str, str]:
        """ready, refused, training, stopping, stopped, failed or done; and what there is to say."""
        child = self._child if self._child is not None and self._child.name == name else None
        if child is not None and child.process.poll() is None:
            return ("stopping" if child.stopped else "training"), ""
        if self.done(name):
            warned = [line for line in lines if line.startswith("codepose: ")]
            warning = warned[-1].removeprefix("codepose: ") if warned else ""
            return "done", self._commands.without_paths(warning, self._part(name))
        if complaint := curves.complaint(lines):
            return "failed", self._commands.without_paths(complaint, self._part(name))
        if child is not None and child.process.returncode not in (0, 130) and not child.stopped:
            return "failed", f"the training broke down (status {child.process.returncode}); train.log says more"
        if self.begun(name):
            return "stopped", ""
        return ("ready" if (self._part(name) / f"{name}.ply").is_file() else "refused"), ""

    def _part(self, name: str) -> Path:
        return self.folder / "parts" / name

    def _read(self, name: str) -> dict[str, Any]:
        path = self._part(name) / "part.json"
        if not _NAME.fullmatch(name) or not path.is_file():
            raise Problem(404, f"there is no training {name[:60]!r}")
        part: dict[str, Any] = json.loads(path.read_text())
        return part

    def _write(self, name: str, values: dict[str, Any]) -> None:
        write_atomically(self._part(name) / "part.json", json.dumps(values), durable=False)

    def _new_name(self, stem: str) -> str:
        """A name that is none of a path, and its folder."""
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:32] or "part"
        number = 1
        while True:
            name = base if number == 1 else f"{base}-{number}"
            if not self.run(name).exists():
                with contextlib.suppress(FileExistsError):
                    self._part(name).mkdir()
                    return name
            number += 1

    def _forget_old(self) -> None:
        for name in [name for name in self.names() if not self.begun(name) and name != self.running][_KEPT:]:
            shutil.rmtree(self._part(name), ignore_errors=True)
