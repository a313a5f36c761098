"""BOP datasets: what they hold, read when it is asked for.

Everything keeps BOP's conventions: millimetres, OpenCV's camera axes, K for pixel centres at integers, and boxes as
`x, y, w, h` in files. In memory boxes are xyxy with the first pixel at [0, 1), as everywhere else in this package.
Source: `docs/bop_datasets_format.md` of bop_toolkit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codepose.bop import layout as bop_layout
from codepose.bop.entries import BopError, ImageEntry, TargetEntry, by_number, checked, read_json
from codepose.bop.layout import scene_file
from codepose.bop.models import BopModel, read_models
from codepose.bop.packed import labels
from codepose.bop.scenes import BopImage, BopScene

TARGETS_FILE = "test_targets_bop19.json"
IMAGES_FILE = "test_targets_bop24.json"
MIN_VISIBLE = 0.1
"""BOP's targets are the instances of which at least this share is visible."""


@dataclass(frozen=True)
class BopTarget:
    """What BOP asks for: `inst_count` poses of one object in one image."""

    scene_id: int
    im_id: int
    obj_id: int
    inst_count: int


@dataclass(frozen=True, eq=False)
class BopDataset:
    """A folder in BOP's layout: T-LESS, LM-O, YCB-V, IPD, or one that `codepose render` wrote.

    Attributes:
        path: The folder.
        models: Its objects by `obj_id`.
        camera: With which of their cameras scenes are read; None = the only one.
    """

    path: Path
    models: Mapping[int, BopModel]
    camera: str | None = None
    _splits: dict[str, bop_layout.Split] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, models: str | None = None, camera: str | None = None) -> BopDataset:
        """Reads the list of objects and nothing else.

        Args:
            path: The folder.
            models: Which folder of models; None = `models_eval`, `models`, `models_cad` or another one whose name
                begins so, the first there is.
            camera: Which of the scenes' cameras, "photoneo" of `scene_camera_photoneo.json`; None = the only one.

        Raises:
            BopError: There is no such folder, or its `models_info.json` cannot be read.
        """
        path = Path(path)
        return cls(path, read_models(path, models), camera)

    def splits(self) -> list[str]:
        """The folders with scenes in them: "test", "train_pbr", "test_primesense", ..."""
        return bop_layout.splits(self.path)

    def split_camera(self, split: str) -> str:
        """The camera with which a split's scenes are read; "" where theirs has no name.

        Raises:
            BopError: As ``scene_ids``.
        """
        return self._split(split).camera

    def scene_ids(self, split: str) -> list[int]:
        """The split's scenes, ascending.

        Raises:
            BopError: There is no such split (the text lists those there are), its scenes have no such camera, or
                several and none was named.
        """
        return list(self._split(split).scenes)

    def _split(self, name: str) -> bop_layout.Split:
        if name not in self._splits:
            self._splits[name] = bop_layout.Split.find(self.path, name, self.camera)
        return self._splits[name]

    def scene(self, split: str, scene_id: int) -> BopScene:
        """Reads a scene's JSON files.

        Raises:
            BopError: There is no such scene, or a file is damaged.
        """
        found = self._split(split)
        if scene_id not in found.scenes:
            raise BopError(f"{found.folder} has no scene {scene_id} with a scene_camera.json")
        folder = found.scenes[scene_id]
        sensors = bop_layout.sensor_files(self.path, split, found.camera)
        if found.packed is not None:
            images = found.packed[scene_id]
            cameras, gt, gt_info = (labels(images, kind) for kind in ("camera", "gt", "gt_info"))
            return BopScene(scene_id, folder, "", cameras or {}, gt, gt_info, sensors, images)
        cameras, gt, gt_info = (
            by_number(path) if (path := scene_file(folder, kind, found.camera)).is_file() else None
            for kind in ("scene_camera", "scene_gt", "scene_gt_info")
        )
        return BopScene(scene_id, folder, found.camera, cameras or {}, gt, gt_info, sensors)

    def images(self, split: str) -> Iterator[BopImage]:
        """Yields every image of a split, scene by scene."""
        for scene_id in self.scene_ids(split):
            scene = self.scene(split, scene_id)
            for im_id in scene.im_ids:
                yield scene.image(im_id)

    def targets(self, split: str) -> list[BopTarget]:
        """What is to be found.

        For a test split what `test_targets_bop19.json` lists; where there is none, all instances visible by a tenth in
        the images of `test_targets_bop24.json`. Else those in all images.

        Raises:
            BopError: A targets file is damaged, or lists something twice.
        """
        known = set(self.scene_ids(split))
        listed, images = self.path / TARGETS_FILE, self.path / IMAGES_FILE
        if split.startswith("test") and listed.is_file():
            return [target for target in _listed(listed) if target.scene_id in known]
        if split.startswith("test") and images.is_file():
            wanted = {(row.scene_id, row.im_id) for row in (checked(ImageEntry, *row) for row in _rows(images))}
            return [t for i in self.images(split) if (i.scene_id, i.im_id) in wanted for t in _visible(i)]
        return [target for image in self.images(split) for target in _visible(image)]


def _listed(file: Path) -> list[BopTarget]:
    """The targets of test_targets_bop19.json."""
    rows = [checked(TargetEntry, *row) for row in _rows(file)]
    count = Counter((row.scene_id, row.im_id, row.obj_id) for row in rows)
    if twice := next((key for key, times in count.items() if times > 1), None):
        raise BopError(f"{file} lists object {twice[2]} of scene {twice[0]}, image {twice[1]}, twice: keep one of them")
    return [BopTarget(row.scene_id, row.im_id, row.obj_id, row.inst_count) for row in rows]


def _rows(file: Path) -> list[tuple[Any, str]]:
    """A targets file's rows, each with its place in words."""
    return [(row, f"{file}, row {number}") for number, row in enumerate(read_json(file, list), start=1)]


def _visible(image: BopImage) -> list[BopTarget]:
    """An image's targets: all of its instances that are visible by a tenth."""
    seen = Counter(i.obj_id for i in image.instances or () if i.visible_fraction >= MIN_VISIBLE)
    return [BopTarget(image.scene_id, image.im_id, obj_id, n) for obj_id, n in sorted(seen.items())]
