"""BOP's other two layouts: every image's files under one name, loose (imagewise) or in tar files (webdataset).

``000001_000003.rgb.png`` is the colours of image 3 of scene 1, ``.depth.png`` its depth; ``.camera.json``,
``.gt.json`` and ``.gt_info.json`` hold what ``scene_camera.json`` and the like hold of it. Masks are not read.
Source: `bop_toolkit_lib/dataset/bop_imagewise.py` and `bop_webdataset.py` of bop_toolkit.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from codepose.bop.entries import BopError, parsed_json

_NAME = re.compile(r"([0-9]{1,18})_([0-9]{1,18})\.(.+)")
_PICTURE = re.compile(r"(rgb|gray|depth)\.(?:png|jpe?g|tiff?)", re.IGNORECASE)


@dataclass(frozen=True)
class PackedFile:
    """One of an image's files, which lies in another file or is one itself.

    Attributes:
        name: Its own, "000001_000003.rgb.png".
        path: The file that it is a part of.
        offset, size: Which bytes of that.
    """

    name: str
    path: Path
    offset: int
    size: int

    def __str__(self) -> str:
        return str(self.path) if self.path.name == self.name else f"{self.path}, {self.name}"

    def read(self) -> bytes:
        """Reads its content.

        Raises:
            OSError: It cannot be read.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """Writes it to a file of its own name, which is there as long as the block lasts.

        Raises:
            OSError: It cannot be read, or there is no room.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.name
            path.write_bytes(self.read())
            yield path


Files = Mapping[str, PackedFile]
"""An image's, by what they hold: "rgb", "gray" or "depth" of pictures, "camera.json", "gt.json", "gt_info.json"."""


def is_packed(split: Path) -> bool:
    """Whether a folder is a split in one of these layouts."""
    return any(path.is_file() for pattern in ("*.tar", "*_*.camera.json") for path in split.glob(pattern))


def packed_scenes(split: Path) -> dict[int, dict[int, Files]]:
    """Finds the files of a split: by scene, by image. Of tar files only the headers are read.

    Raises:
        BopError: A tar file is damaged, or an image's file is there twice.
    """
    found: dict[int, dict[int, dict[str, PackedFile]]] = {}
    for file in _files(split):
        match = _NAME.fullmatch(file.name)
        if match is None:
            continue
        picture = _PICTURE.fullmatch(match[3])
        kind = picture[1].lower() if picture else match[3]
        image = found.setdefault(int(match[1]), {}).setdefault(int(match[2]), {})
        if (other := image.setdefault(kind, file)) is not file:
            raise BopError(f"{other} and {file} are both {kind} of one image: remove one")
    return {
        scene: {im_id: files for im_id, files in sorted(images.items()) if "camera.json" in files}
        for scene, images in sorted(found.items())
    }


def _files(split: Path) -> Iterator[PackedFile]:
    for path in sorted(split.iterdir()):
        if path.suffix != ".tar":
            if path.is_file():
                yield PackedFile(path.name, path, 0, path.stat().st_size)
            continue
        try:
            with tarfile.open(path, "r:") as tar:
                for one in tar:
                    if one.isfile():
                        yield PackedFile(PurePosixPath(one.name).name, path, one.offset_data, one.size)
        except (OSError, tarfile.TarError) as error:
            raise BopError(f"{path} is damaged, cut off or no tar file ({error}): fetch it again") from None


def labels(images: Mapping[int, Files], kind: str) -> dict[int, Any] | None:
    """What a scene's JSON file would hold, by image: "camera", "gt" or "gt_info"; None where no image has it.

    Raises:
        BopError: One of them cannot be read.
    """
    wanted = {im_id: files[f"{kind}.json"] for im_id, files in images.items() if f"{kind}.json" in files}
    entries = dict if kind == "camera" else list
    return {im_id: parsed_json(_content(file), file, entries) for im_id, file in wanted.items()} or None


def _content(file: PackedFile) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise BopError(f"{file} cannot be read: {error.strerror}") from None
