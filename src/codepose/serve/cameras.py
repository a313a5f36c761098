"""The camera of a request: numbers, a calibration as JSON, or the name of one that the service was given."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from codepose.cameras.camera import Camera, FieldOfView
from codepose.cameras.camera_entries import CameraError, named_camera
from codepose.cameras.camera_files import SUFFIXES, read_calibration
from codepose.serve.fields import CameraFields
from codepose.serve.problems import Problem, as_problem
from codepose.settings.errors import ConfigError

_LONGEST = 20_000
_WAYS = (
    "give K as fx,fy,cx,cy in pixels, as fov=60 (horizontal, degrees; a guess) or as JSON, or a stored camera's name"
)
_NUMBERS = re.compile(r"[-+.\deE\s]+(,[-+.\deE\s]+)*")

AnyCamera = Camera | FieldOfView


class Cameras:
    """Those that the service was given, by name.

    Args:
        folder: Of calibration files; None = none are stored.

    Raises:
        ConfigError: The folder does not exist, or a calibration in it cannot be read.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.stored: dict[str, Camera] = {}
        if folder is None:
            return
        if not folder.is_dir():
            raise ConfigError(f"--cameras {folder}: there is no such folder")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                try:
                    self.stored[path.stem] = Camera(*read_calibration(path))
                except CameraError as error:
                    raise ConfigError(f"{path}: {error}") from None
        self._fitted = lru_cache(maxsize=16)(self._fit)

    def find(self, fields: CameraFields, width: int, height: int) -> Camera:
        """The camera of a photo of some size.

        Args:
            fields: What the request says of it.
            width, height: The upright photo's.

        Raises:
            Problem: There is none, there are two, or it does not fit the photo.
        """
        try:
            found = self.unfitted(fields)
            return self._fitted(fields.camera, width, height) if fields.camera else found.for_size(width, height)
        except ConfigError as error:
            raise as_problem(error) from None

    def unfitted(self, fields: CameraFields) -> AnyCamera:
        """The camera that a request names, of photos of whatever size.

        Raises:
            Problem: There is none, or there are two.
        """
        K, name = fields.K, fields.camera
        if bool(K) == bool(name):
            raise Problem(422, f"{'K and camera exclude each other' if K else 'the camera is missing'}: {_WAYS}")
        if not name:
            try:
                return parse(K, fields.distortion)
            except ConfigError as error:
                raise as_problem(error) from None
        if name not in self.stored:
            raise Problem(422, f"camera: none is called {name[:60]!r}; {self._choices()}")
        if fields.distortion:
            raise Problem(422, "distortion goes with K: a stored camera has its own")
        return self.stored[name]

    def _choices(self) -> str:
        return f"there are {', '.join(self.stored)}" if self.stored else "start the service with --cameras FOLDER"

    def _fit(self, name: str, width: int, height: int) -> Camera:
        """Kept with its map of the lens, which takes longer than a photo."""
        return self.stored[name].for_size(width, height)


def parse(K: str, distortion: str = "") -> AnyCamera:
    """Reads a request's camera; never a file, whatever the text says.

    Raises:
        CameraError: It is none.
    """
    text = K.strip()
    if len(text) > _LONGEST or len(distortion) > _LONGEST:
        raise CameraError(f"K is too long: {_WAYS}")
    if text.lower().startswith("fov="):
        if distortion:
            raise CameraError("distortion goes with a calibrated K, not with a field of view")
        return FieldOfView(_numbers(text[4:], "fov", 1)[0])
    lens = tuple(_numbers(distortion, "distortion")) if distortion.strip() else ()
    if text[:1] in ("{", "["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise CameraError(f"K is no JSON: {_WAYS}") from None
        calibration = named_camera({"K": values} if isinstance(values, list) else values)
        return Camera(*(calibration._replace(distortion=lens) if lens else calibration))
    fx, fy, cx, cy = _numbers(text, "K", 4)
    return Camera(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), distortion=lens)


def _numbers(text: str, name: str, count: int | None = None) -> list[float]:
    try:
        if not _NUMBERS.fullmatch(text.strip()):
            raise ValueError
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or count not in (None, len(found)):
        what = {None: "numbers with commas", 1: "a number"}.get(count, f"{count} numbers with commas")
        raise CameraError(f"{name} {text.strip()[:60]!r} is not {what}: {_WAYS}")
    return found
