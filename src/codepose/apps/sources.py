"""Where images come from: photos, folders, patterns, videos, webcams."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from codepose.config_data import ConfigError
from codepose.synthesis import photos

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})


_WHOLE = 0.9
"""Share of the frames that a video says it holds which must come: its own count may be a few off."""


class SourceError(ValueError):
    """A photo or video that cannot be read; the text says why."""


@dataclass(frozen=True)
class Photo:
    """One photo file."""

    path: Path

    @property
    def name(self) -> str:
        """What its results are called."""
        return self.path.stem

    @property
    def count(self) -> int:
        """How many images it holds."""
        return 1

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yields it, (H, W, 3) uint8 RGB.

        Raises:
            SourceError: It cannot be read.
        """
        try:
            image = photos.read_image(self.path)
        except OSError as error:
            raise SourceError(str(error)) from None
        yield image


@dataclass(frozen=True)
class Video:
    """A video file, or a webcam by its number."""

    path: Path | int

    @property
    def name(self) -> str:
        """What its results are called."""
        return f"webcam-{self.path}" if isinstance(self.path, int) else self.path.stem

    @property
    def live(self) -> bool:
        """Whether it goes on until it is stopped."""
        return isinstance(self.path, int)

    @property
    def count(self) -> int | None:
        """How many images it says it holds; None = not known."""
        return None if self.live else round(self._property("CAP_PROP_FRAME_COUNT")) or None

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self._property("CAP_PROP_FPS") or 30.0

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames, upright, (H, W, 3) uint8 RGB.

        Raises:
            SourceError: There is no such webcam, no frame can be read, or, after the last one, the file is damaged.
        """
        cv2 = import_cv2()
        capture = cv2.VideoCapture(self.path if isinstance(self.path, int) else str(self.path))
        try:
            read, frame = capture.read()
            if not read:
                raise SourceError("no frame can be read from it")
            frames, said = 0, self.count
            while read:
                yield np.ascontiguousarray(frame[..., ::-1])  # OpenCV's channels are blue, green, red
                frames += 1
                read, frame = capture.read()
            if said is not None and frames < _WHOLE * said:  # a file's own count may be off by a few
                raise SourceError(f"all after frame {frames} of {said}: the file breaks off there")
        finally:
            capture.release()

    def _property(self, name: str) -> float:
        cv2 = import_cv2()
        capture = cv2.VideoCapture(self.path if isinstance(self.path, int) else str(self.path))
        value = float(capture.get(getattr(cv2, name)))
        capture.release()
        return value if np.isfinite(value) and value > 0 else 0.0


Source = Photo | Video


def find_sources(texts: Sequence[str]) -> list[Source]:
    """Finds what a user names, each once, in the order given; folders and patterns sorted by name.

    Args:
        texts: Files, folders (their photos), patterns such as "photos/*.jpg", "webcam" or "webcam:1".

    Raises:
        ConfigError: Nothing is named, something does not exist, or a folder or a pattern holds no photo.
    """
    if not texts:
        raise ConfigError("name a photo, a folder, a pattern such as 'photos/*.jpg', a video, or webcam")
    found: list[Source] = []
    for text in texts:
        webcam, path = re.fullmatch(r"webcam(?::(\d+))?", text), Path(text)
        if webcam and not path.exists():
            found.append(Video(int(webcam[1] or 0)))
        elif path.is_dir():
            found += _known(sorted(path.iterdir()), photos.SUFFIXES, f"{text} holds no photo")
        elif path.exists():
            found.append(_file(path))
        elif glob.has_magic(text):
            paths = sorted(Path(p) for p in glob.glob(text, recursive=True))
            found += _known(paths, photos.SUFFIXES | VIDEO_SUFFIXES, f"{text} matches no photo and no video")
        else:
            raise ConfigError(f"{text} does not exist")
    if any(isinstance(source, Video) for source in found):
        import_cv2()
    return list(dict.fromkeys(found))


def _known(paths: list[Path], suffixes: frozenset[str], complaint: str) -> list[Source]:
    """The photos and videos among files; hidden ones and our own overlays are none."""
    files = [p for p in paths if p.is_file() and not p.name.startswith(".") and not p.stem.endswith(".overlay")]
    found = [_file(path) for path in files if path.suffix.lower() in suffixes]
    if not found:
        raise ConfigError(complaint)
    return found


def _file(path: Path) -> Source:
    return Video(path) if path.suffix.lower() in VIDEO_SUFFIXES else Photo(path)


def import_cv2() -> ModuleType:
    """Returns OpenCV, which only videos need.

    Raises:
        ConfigError: It is not installed; the text says what to type.
    """
    try:
        import cv2
    except ImportError:
        raise ConfigError(
            "videos and webcams need OpenCV: type pip install opencv-python-headless (the extra codepose[video])"
        ) from None
    return cv2
