"""The files that ``predict`` leaves behind: JSON, and overlays. Another output is a class and a name in ``OUTPUTS``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codepose.predict.output import Folder, Output, Prediction
from codepose.predict.sources import Video, import_cv2
from codepose.runtime.ranks import everyones, rank
from codepose.settings.errors import ConfigError
from codepose.storage.replace import replacing, write_atomically

if TYPE_CHECKING:
    from codepose.predict.overlay import Overlay


class JsonFiles:
    """Writes predictions.jsonl, and NAME.json for a photo."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        own = "predictions.jsonl" if rank() == 0 else f"predictions.{rank()}.jsonl"  # until they are merged
        self._records = open(folder.path / own, "w")  # noqa: SIM115 - closed by close

    def write(self, prediction: Prediction) -> None:
        values = prediction.to_json()
        self._records.write(json.dumps(values) + "\n")
        self._records.flush()
        if not isinstance(prediction.source, Video):
            path = self.folder.path / f"{self.folder.name(prediction.source)}.json"
            write_atomically(path, json.dumps(values, indent=2) + "\n", durable=False)

    def close(self, done: bool) -> None:
        """Puts the other ranks' lines behind the first one's."""
        others = [Path(name) for name in everyones(self._records.name)[1:]] if done else []
        if rank() == 0:
            for path in others:  # all are written: every rank is here
                with open(path) as lines:
                    shutil.copyfileobj(lines, self._records)
                path.unlink()
        self._records.close()


class Overlays:
    """Draws what was found: NAME.overlay.png of a photo, NAME.overlay.mp4 of a video."""

    def __init__(self, folder: Folder, draw: Overlay) -> None:
        self.folder = folder
        self.draw = draw
        self._film: Film | None = None

    def write(self, prediction: Prediction) -> None:
        picture = self.draw(prediction.image, prediction.camera.K, prediction.found)
        folder, name = self.folder.path, self.folder.name(prediction.source)
        if isinstance(prediction.source, Video):
            if self._film is None or self._film.name != name:
                self._end_film()
                self._film = Film(folder, name, prediction.source.rate)
            self._film.add(picture)
            return
        with replacing(folder / f"{name}.overlay.png", durable=False) as new:
            Image.fromarray(picture).save(new, compress_level=1)

    def close(self, done: bool) -> None:
        self._end_film()

    def _end_film(self) -> None:
        if self._film is not None:
            self._film.close()
            self._film = None


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


OUTPUTS: dict[str, Callable[[Folder, Overlay], Output]] = {
    "json": lambda folder, _: JsonFiles(folder),
    "overlays": Overlays,
}
"""What ``predict --write`` may name: what makes an output, of the folder and of what draws poses into photos."""


def require_outputs(names: tuple[str, ...]) -> None:
    """Refuses names that no output has.

    Raises:
        ConfigError: There is none of this name; the text lists those there are.
    """
    for name in names:
        if name not in OUTPUTS:
            raise ConfigError(f"--write: no output is called {name!r}; there are {', '.join(OUTPUTS)}")
