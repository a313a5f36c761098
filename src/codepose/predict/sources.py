"""Where images come from: photos, folders, patterns, videos, webcams."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.cameras import photos
from codepose.settings.errors import ConfigError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".asf", ".mts", ".m2ts", ".m2t", ".ts"}
    | {".3gp", ".3g2", ".flv", ".f4v", ".ogv", ".ogg", ".vob", ".m2v", ".mjpg", ".mjpeg", ".mxf", ".divx", ".dv", ".qt"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".ivf", ".insv", ".lrv"}
)
_FASTEST = 1000.0
"""Frames a second beyond which a video's word on its rate is not taken."""


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
        said = self._property("CAP_PROP_FPS")
        return said if 1.0 <= said <= _FASTEST else 30.0

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames, upright, (H, W, 3) uint8 RGB.

        Raises:
            SourceError: There is no such webcam, no frame can be read, or, after the last one, the file is damaged.
        """
        cv2 = import_cv2()
        capture = self._open()
        try:
            read, frame = capture.read()
            if not read:
                raise SourceError("no frame can be read from it")
            frames = 0
            while read:
                yield np.ascontiguousarray(frame[..., ::-1])  # OpenCV's channels are blue, green, red
                frames += 1
                read, frame = capture.read()
            if isinstance(self.path, Path) and breaks_off(self.path):
                of = f" of {self.count}" if (self.count or 0) > frames else ""
                raise SourceError(f"all after frame {frames}{of}: the file breaks off there")
        except cv2.error:
            raise SourceError("it is damaged: OpenCV cannot go on reading it") from None
        finally:
            capture.release()

    def _open(self) -> Any:
        """OpenCV's reader, which ends the process where a name is given as text that is not UTF-8."""
        return import_cv2().VideoCapture(self.path if isinstance(self.path, int) else os.fsencode(self.path))

    def _property(self, name: str) -> float:
        capture = self._open()
        value = float(capture.get(getattr(import_cv2(), name)))
        capture.release()
        return value if np.isfinite(value) and value > 0 else 0.0


def breaks_off(path: Path) -> bool:
    """Says whether a video is shorter than its container says: AVI, MP4 and its kin, Matroska and WebM.

    How many frames it says it holds proves nothing: headers are written before the frames.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        if start[:4] == b"RIFF":
            return 8 + int.from_bytes(start[4:8], "little") > size
        if start[:4] == b"\x1aE\xdf\xa3":
            header, place = _matroska_length(start, 4)
            if header is None or start[place + header : place + header + 4] != b"\x18S\x80g":
                return False
            segment, place = _matroska_length(start, place + header + 4)
            return segment is not None and place + segment > size
        place = 0
        while start[4:8] == b"ftyp" and place + 8 <= size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\1" else head[:4], "big")
            if length < 8:  # 0: as far as the file goes
                return False
            place += length
        return place > size


def _matroska_length(data: bytes, place: int) -> tuple[int | None, int]:
    """A number that Matroska writes in as many bytes as its first one has leading zeros, and one; and where it ends.

    None = not known, as while it is recorded.
    """
    count = 9 - data[place].bit_length() if place < len(data) else 9
    number = int.from_bytes(data[place : place + count], "big") & (2 ** (7 * count) - 1)
    return (None if count > 8 or number == 2 ** (7 * count) - 1 else number), place + count


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
    sources: list[Source] = []
    for text in texts:
        webcam, path = re.fullmatch(r"webcam(?::(\d+))?", text), Path(text)
        if webcam and not path.exists():
            sources.append(Video(int(webcam[1] or 0)))
        elif path.is_dir():
            sources += _readable(sorted(path.iterdir()), photos.SUFFIXES, f"{text} holds no photo")
        elif path.exists():
            sources.append(_file(path))
        elif glob.has_magic(text):
            paths = sorted(Path(p) for p in glob.glob(text, recursive=True))
            sources += _readable(paths, photos.SUFFIXES | VIDEO_SUFFIXES, f"{text} matches no photo and no video")
        else:
            raise ConfigError(f"{text} does not exist")
    if any(isinstance(source, Video) for source in sources):
        import_cv2()
    return list(dict.fromkeys(sources))


def _readable(paths: list[Path], suffixes: frozenset[str], complaint: str) -> list[Source]:
    """The photos and videos among files, those among them whose format is not read; hidden ones and our own overlays
    are none."""
    files = [p for p in paths if p.is_file() and not p.name.startswith(".") and not p.stem.endswith(".overlay")]
    sources = [_file(path) for path in files if path.suffix.lower() in suffixes]
    if not sources:
        raise ConfigError(complaint)
    return sources


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
