"""What ``predict`` leaves behind: overlays, JSON, JSON lines, a BOP results file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codepose.cameras.camera import Camera
from codepose.estimation.answers import answer
from codepose.estimation.detection import Detection
from codepose.predict.bop_file import BopFile
from codepose.predict.sources import Source, Video, import_cv2
from codepose.runtime.ranks import everyones, rank
from codepose.settings.data import ConfigError
from codepose.storage.replace import replacing, write_atomically


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one image.

    Attributes:
        source: Where the image comes from.
        frame: Its number in a video, from 0; 0 for a photo.
        camera: Fitted to the image's size; boxes and poses are those of the image without its lens distortion.
        found: Best first.
        time_ms: From pixels in memory to poses.
    """

    source: Source
    frame: int
    camera: Camera
    found: list[Detection]
    time_ms: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for a JSON file."""
        frame = self.frame if isinstance(self.source, Video) else None
        return answer(_file(self.source), self.camera, self.found, self.time_ms, frame)


class Output:
    """Writes predictions as they come: predictions.jsonl, per photo NAME.json and NAME.overlay.png, per video
    NAME.overlay.mp4; at the end, the BOP results file.

    Args:
        folder: Made if needed; files of the same names are replaced.
        bop: Results file in BOP's format to fill; None = none.
        elsewhere: Sources before these that other ranks treat; their names are taken.
    """

    def __init__(self, folder: Path, bop: BopFile | None = None, elsewhere: Sequence[Source] = ()) -> None:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file: choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._bop = bop
        self._names: dict[Source, str] = {}
        self._taken: set[str] = set()
        self._film: Film | None = None
        for source in elsewhere:
            self._name(source)
        own = "predictions.jsonl" if rank() == 0 else f"predictions.{rank()}.jsonl"  # until they are merged
        self._records = open(folder / own, "w")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records.close()
        self._close_film()
        if self._bop is not None and rank() == 0:
            self._bop.write()

    def write(self, prediction: Prediction, picture: NDArray[np.uint8]) -> None:
        """Writes one image's results; the images of a video must come one after the other.

        Args:
            prediction: What was found.
            picture: (H, W, 3) uint8, the overlay.
        """
        values, name = prediction.to_json(), self._name(prediction.source)
        self._records.write(json.dumps(values) + "\n")
        self._records.flush()
        if self._bop is not None:
            self._bop.add(prediction.source, prediction.found, prediction.time_ms / 1000.0)
        if isinstance(prediction.source, Video):
            if self._film is None or self._film.name != name:
                self._close_film()
                self._film = Film(self.folder, name, prediction.source.rate)
            self._film.add(picture)
            return
        write_atomically(self.folder / f"{name}.json", json.dumps(values, indent=2) + "\n", durable=False)
        with replacing(self.folder / f"{name}.overlay.png", durable=False) as new:
            Image.fromarray(picture).save(new, compress_level=1)

    def merge(self) -> None:
        """Puts the other ranks' lines behind the first one's; every rank calls it when it is done."""
        others = [Path(name) for name in everyones(self._records.name)[1:]]  # all are written: every rank is here
        if rank() == 0:
            for path in others:
                with open(path) as lines:
                    shutil.copyfileobj(lines, self._records)
                path.unlink()
        if self._bop is not None:
            self._bop.merge()

    def _close_film(self) -> None:
        if self._film is not None:
            self._film.close()
            self._film = None

    def _name(self, source: Source) -> str:
        """The source's name, with its suffix or a number where another source took that name."""
        if source not in self._names:
            stem, number = _short(source.name), 2
            name = stem if stem not in self._taken else _short(Path(_file(source)).name)
            while name in self._taken:
                name, number = f"{stem}-{number}", number + 1
            self._names[source] = name
            self._taken.add(name)
        return self._names[source]


class Film:
    """Overlays of a video as NAME.overlay.mp4, or, where OpenCV cannot write that, as NAME.overlay/000000.png ...

    Args:
        folder: Where it goes.
        name: Of the video.
        rate: Frames a second.
    """

    def __init__(self, folder: Path, name: str, rate: float) -> None:
        self.name = name
        self._path = folder / f"{name}.overlay.mp4"
        self._rate = rate
        self._writer: Any = None
        self._size = (0, 0)
        self._count = 0

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Appends a frame (H, W, 3) uint8; all have the first one's size."""
        if self._count == 0:
            cv2 = import_cv2()
            self._size = (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)  # the codec wants even numbers
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(os.fsencode(self._path), codec, self._rate, self._size)
        width, height = self._size
        if self._writer.isOpened():
            self._writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
        else:
            frames = self._path.with_suffix("")
            frames.mkdir(exist_ok=True)
            Image.fromarray(picture).save(frames / f"{self._count:06d}.png", compress_level=1)
        self._count += 1

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()


def _short(name: str) -> str:
    """As much of a name as leaves room for what is hung on it: file systems have 255 bytes for all."""
    return os.fsdecode(os.fsencode(name)[:220])


def _file(source: Source) -> str:
    return source.name if isinstance(source, Video) and source.live else str(source.path)
