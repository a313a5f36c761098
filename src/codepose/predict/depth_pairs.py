"""Which depth image belongs to which photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codepose.cameras import depth_images
from codepose.predict.sources import Source, SourceError, Video
from codepose.settings.errors import ConfigError


@dataclass(frozen=True)
class Depths:
    """The depth images of some photos.

    Attributes:
        path: One file, or a folder of files with the photos' names.
        scale: A stored depth times this is mm.
    """

    path: Path
    scale: float = 1.0

    @classmethod
    def find(cls, path: Path, scale: float, sources: Sequence[Source]) -> Depths:
        """Checks what a user names.

        Raises:
            ConfigError: It does not exist, it is one file for several photos, or of several, there is a video, or the
                scale is none.
        """
        if not path.exists():
            raise ConfigError(f"--depth {path} does not exist")
        if any(isinstance(source, Video) for source in sources):
            raise ConfigError("--depth goes with photos: take the frames out of the video, with their depth images")
        if path.is_file() and len(sources) > 1:
            raise ConfigError(
                f"--depth {path} is one image but there are {len(sources)} photos: name a folder of images with the "
                "photos' names"
            )
        if not 0.0 < scale < float("inf"):
            raise ConfigError(f"--depth-scale is what a stored depth is multiplied with to give mm, not {scale:g}")
        depths = cls(path, scale)
        first: dict[Path, Path] = {}
        for source in depths.photos(sources):
            own = _file_of(source)
            other = first.setdefault(depths._candidates(source)[0], own)
            if other != own:
                raise ConfigError(
                    f"--depth {path}: {other} and {own} have one name, so that one depth image would be taken for "
                    "both: go through one folder at a time"
                )
        return depths

    def photos(self, sources: Sequence[Source]) -> list[Source]:
        """Returns the sources without those that are another one's depth image, as in a folder that holds both.

        Raises:
            ConfigError: There is no other one.
        """
        files = {source: _file_of(source) for source in sources}
        depths = {
            candidate.resolve()
            for source in sources
            for candidate in ([self.path] if self.path.is_file() else self._candidates(source))
        }
        photos = [source for source, file in files.items() if file not in depths or not _is_depth(file)]
        if not photos:
            raise ConfigError(f"--depth {self.path}: there are depth images, but no photo")
        return photos

    def of(self, source: Source, width: int, height: int) -> NDArray[np.float32]:
        """Reads a photo's depth image, (height, width) mm, 0 = not measured.

        Raises:
            SourceError: There is none, it cannot be read, or it has another size.
        """
        path = self._file(source)
        try:
            depth = depth_images.read_depth(path, self.scale)
        except OSError as error:
            raise SourceError(f"its depth image {path}: {error}") from None
        if 0.0 < depth.max() < depth_images.NEAREST_MM:
            raise SourceError(
                f"its depth image {path} ends {depth.max():.3g} mm from the camera: if it is in metres, type "
                f"--depth-scale {1000 * self.scale:g}"
            )
        if depth.shape != (height, width):
            raise SourceError(
                f"its depth image {path} is {depth.shape[1]} x {depth.shape[0]}, the photo {width} x {height}: depth "
                "must be registered to the photo, pixel for pixel"
            )
        return depth

    def _file(self, source: Source) -> Path:
        if self.path.is_file():
            return self.path
        paths = self._candidates(source)
        for path in paths:
            if path.is_file():
                return path
        raise SourceError(f"it has no depth image {' or '.join(p.name for p in paths)} in {self.path}")

    def _candidates(self, source: Source) -> list[Path]:
        """The files that may hold a source's depth; the photo itself does not."""
        named = [self.path / f"{source.name}{suffix}" for suffix in depth_images.SUFFIXES]
        return [path for path in named if path.resolve() != _file_of(source)]


def _file_of(source: Source) -> Path:
    return Path(str(source.path)).resolve()


def _is_depth(path: Path) -> bool:
    """Whether a file can be read as depth: a photo cannot, with its three channels of eight bits."""
    try:
        depth_images.read_depth(path)
    except OSError:
        return False
    return True
