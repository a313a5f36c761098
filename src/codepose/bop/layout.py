"""Where the files of a BOP dataset lie, in BOP's scene-wise layout with one camera or several, or packed.

With several cameras a scene has ``scene_camera_CAM.json``, ``scene_gt_CAM.json``, ..., ``rgb_CAM/`` or ``gray_CAM/``,
``depth_CAM/`` and ``mask_CAM/`` for each; HOT3D's pictures are in ``CAM/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from codepose.bop.entries import BopError
from codepose.bop.packed import Files, is_packed, packed_scenes

_CAMERA_FILE = re.compile(r"scene_camera(?:_(.+))?\.json")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SCENE = "SPLIT/000001/ with scene_camera.json, scene_gt.json, rgb/ and depth/"
_UNREAD = {
    "*/*.yml": "YAML files (BOP's format of 2018)",
    "*.zip": "packed files",
}
"""What else a split may hold, by one of its files."""


@dataclass(frozen=True)
class Split:
    """One split's scenes as one of their cameras sees them.

    Attributes:
        folder: The split's.
        camera: The camera's name; "" where scenes have one camera without a name.
        scenes: The scenes' folders by number, ascending; of packed scenes, which have none, the split's.
        packed: The files of packed scenes (``packed.py``), by scene and image; None where scenes have folders.
    """

    folder: Path
    camera: str
    scenes: dict[int, Path]
    packed: dict[int, dict[int, Files]] | None = None

    @classmethod
    def find(cls, dataset: Path, name: str, camera: str | None) -> Split:
        """Looks for a split's scenes.

        Args:
            dataset: The dataset's folder.
            name: The split's folder in it.
            camera: Which of the scenes' cameras; None = the only one.

        Raises:
            BopError: There are none, or none of this camera; there are several cameras and none is named; or two
                folders are the same scene.
        """
        found = _scene_cameras(dataset / name)
        if not found and is_packed(dataset / name):
            return cls._packed(dataset / name, camera)
        if not found:
            raise BopError(_no_scenes(dataset, name))
        names = sorted({one for _, one in found})
        if camera is None and "" not in names and len(names) > 1:
            raise BopError(f"the scenes of {dataset / name} have the cameras {', '.join(names)}: name one (--camera)")
        chosen = camera if camera is not None else names[0]  # "" comes first
        if chosen not in names:
            known = ", ".join(filter(None, names)) or "one without a name: leave out --camera"
            raise BopError(f"no scene of {dataset / name} has a camera {chosen!r}; they have {known}")
        scenes: dict[int, Path] = {}
        for folder in sorted(folder for folder, one in found if one == chosen):
            other = scenes.setdefault(int(folder.name), folder)
            if other != folder:
                raise BopError(f"{other} and {folder} are both scene {int(folder.name)}: rename one")
        return cls(dataset / name, chosen, dict(sorted(scenes.items())))

    @classmethod
    def _packed(cls, folder: Path, camera: str | None) -> Split:
        scenes = packed_scenes(folder)
        if not any(scenes.values()):
            raise BopError(f"{folder} has no image with a camera, such as 000001_000003.camera.json")
        if camera:
            raise BopError(
                f"no scene of {folder} has a camera {camera!r}; they have one without a name: leave out --camera"
            )
        return cls(folder, "", dict.fromkeys(scenes, folder), scenes)


def splits(dataset: Path) -> list[str]:
    """The names of a dataset's folders with scenes in them, sorted."""
    return sorted(
        folder.name for folder in dataset.iterdir() if folder.is_dir() and (_scene_cameras(folder) or is_packed(folder))
    )


def _scene_cameras(split: Path) -> list[tuple[Path, str]]:
    """Each scene's folder with the name of each of its cameras."""
    files = [file for file in split.glob("*/scene_camera*.json") if re.fullmatch(r"[0-9]{1,18}", file.parent.name)]
    matches = [(file.parent, _CAMERA_FILE.fullmatch(file.name)) for file in files]
    return [(folder, match[1] or "") for folder, match in matches if match is not None]


def _no_scenes(dataset: Path, name: str) -> str:
    for pattern, what in _UNREAD.items():
        if any((dataset / name).glob(pattern)):
            return f"{dataset / name} holds {what}, which are not read: unpack or convert them to {_SCENE}"
    known = ", ".join(splits(dataset)) or "none"
    return f"{dataset} has no split {name!r} with a scene_camera.json in it; it has {known}"


def file_name(kind: str, camera: str) -> str:
    """Returns the name of a scene's JSON file ("scene_gt") or folder ("depth") of a camera, without a suffix."""
    return f"{kind}_{camera}" if camera else kind


def scene_file(folder: Path, kind: str, camera: str) -> Path:
    """Returns one of a scene's JSON files: "scene_camera", "scene_gt" or "scene_gt_info"."""
    return folder / f"{file_name(kind, camera)}.json"


def picture_folders(camera: str) -> list[str]:
    """Returns the names under which a camera's pictures may lie in a scene, the likeliest first."""
    return [file_name("rgb", camera), file_name("gray", camera), *([camera] if camera else [])]


def numbered_file(folder: Path, *numbers: int) -> Path | None:
    """Finds IMAGE.png or IMAGE_INSTANCE.png, with zeros before the numbers or without; None where there is none.

    Of the same image in several formats the first of png, jpg and tif is taken.
    """
    pattern = "_".join(f"*{number}" for number in numbers)
    found = [
        path
        for path in folder.glob(f"{pattern}.*")
        if path.suffix.lower() in _SUFFIXES
        and re.fullmatch("_".join(f"0*{number}" for number in numbers), path.stem) is not None
    ]
    return min(found, key=lambda path: (_SUFFIXES.index(path.suffix.lower()), path.name), default=None)


def sensor_files(dataset: Path, split: str, camera: str) -> list[Path]:
    """Returns the files with what a dataset's sensors have in common, where they are there, the likeliest first."""
    kind = split.partition("_")[2]  # test_primesense
    names = [file_name("camera", one) for one in dict.fromkeys((camera, kind, ""))]
    return [path for name in names if (path := dataset / f"{name}.json").is_file()]
