"""What becomes of predictions: how an output is called, and what it gets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codepose.cameras.camera import Camera
from codepose.estimation.answers import answer
from codepose.estimation.detection import Detection
from codepose.predict.sources import Source, Video
from codepose.runtime.ranks import everyones
from codepose.settings.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one image.

    Attributes:
        source: Where the image comes from.
        frame: Its number in a video, from 0; 0 for a photo.
        camera: Fitted to the image's size; boxes and poses are those of the image without its lens distortion.
        found: Best first.
        time_ms: From pixels in memory to poses.
        image: (H, W, 3) uint8 RGB without lens distortion.
    """

    source: Source
    frame: int
    camera: Camera
    found: list[Detection]
    time_ms: float
    image: NDArray[np.uint8]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for a JSON file."""
        frame = self.frame if isinstance(self.source, Video) else None
        return answer(file_of(self.source), self.camera, self.found, self.time_ms, frame)


class Output(Protocol):
    """Gets every prediction, as it comes: a file, a topic, a database.

    ``codepose serve`` and ``codepose bag`` have none: an answer belongs to its request, and a bag's message needs the
    header and the time of the image's message, which no ``Source`` has.

    Several ranks divide the sources; each has outputs of its own, which come together when all is done
    (``ranks.everyones``).
    """

    def write(self, prediction: Prediction) -> None:
        """Takes one image's results; the images of a video come one after the other."""
        ...

    def close(self, done: bool) -> None:
        """Ends the output.

        Args:
            done: Whether all sources were looked at, and every rank calls this; else something broke off.
        """
        ...


class Records:
    """Keeps every image's answer, as a line of predictions.jsonl has it; once closed, those of all ranks."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []

    def write(self, prediction: Prediction) -> None:
        self.values.append(prediction.to_json())

    def close(self, done: bool) -> None:
        if done:
            self.values = [value for values in everyones(self.values) for value in values]


class Folder:
    """Where files of predictions go, and what they are called.

    Args:
        path: Made if needed; files of the same names are replaced.
        elsewhere: Sources before these that other ranks treat; their names are taken.
    """

    def __init__(self, path: Path, elsewhere: Iterable[Source] = ()) -> None:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file: choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._names: dict[Source, str] = {}
        self._taken: set[str] = set()
        for source in elsewhere:
            self.name(source)

    def name(self, source: Source) -> str:
        """Returns the source's name, with its suffix or a number where another source took that name."""
        if source not in self._names:
            stem, number = _short(source.name), 2
            name = stem if stem not in self._taken else _short(Path(file_of(source)).name)
            while name in self._taken:
                name, number = f"{stem}-{number}", number + 1
            self._names[source] = name
            self._taken.add(name)
        return self._names[source]


def file_of(source: Source) -> str:
    """Returns what a source is called in results."""
    return source.name if isinstance(source, Video) and source.live else str(source.path)


def _short(name: str) -> str:
    """As much of a name as leaves room for what is hung on it: file systems have 255 bytes for all."""
    return os.fsdecode(os.fsencode(name)[:220])
