"""BOP datasets: what they hold, read when it is asked for.

Everything keeps BOP's conventions: millimetres, OpenCV's camera axes, K for pixel centres at integers, and boxes as
`x, y, w, h` in files. In memory boxes are xyxy with the first pixel at [0, 1), as everywhere else in this package.
Source: `docs/bop_datasets_format.md` of bop_toolkit.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from codepose.estimation.depth_images import read_depth
from codepose.evaluation.pose_errors import symmetry_transforms
from codepose.synthesis.mesh import Mesh, load_mesh
from codepose.synthesis.photos import read_image

TARGETS_FILE = "test_targets_bop19.json"
MIN_VISIBLE = 0.1
"""BOP's targets are the instances of which at least this share is visible."""

_MODEL_FOLDERS = ("models_eval", "models", "models_cad")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

Array = NDArray[np.float64]


class BopError(ValueError):
    """A BOP folder or result file that cannot be used; the text says what is missing."""


@dataclass(frozen=True, eq=False)
class BopModel:
    """One object of a dataset.

    Attributes:
        obj_id: Its number, from 1.
        path: The PLY file, mm.
        diameter: Largest distance between two vertices, mm.
        symmetries: (S, 4, 4) float64 from `models_info.json`, the identity first.
    """

    obj_id: int
    path: Path
    diameter: float
    symmetries: Tensor

    @property
    def symmetric(self) -> bool:
        """Whether anything but the identity maps the object onto itself."""
        return len(self.symmetries) > 1

    def mesh(self) -> Mesh:
        """Reads the PLY file for rendering, in its own frame."""
        return load_mesh(self.path, center=False)

    def vertices(self) -> Array:
        """Reads the vertices as they stand in the file, (V, 3) mm: what the vertex-wise errors are defined on.

        Raises:
            BopError: There is no such file, or it is damaged.
        """
        if not self.path.is_file():
            raise BopError(f"{self.path} is missing, but its models_info.json names it")
        try:
            loaded: Any = trimesh.load(str(self.path), process=False, fix_texture=False, skip_materials=True)
            vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
        except Exception as error:  # the parser raises whatever a damaged file makes it raise
            raise BopError(
                f"{self.path} cannot be read ({type(error).__name__}): fetch the dataset's models again"
            ) from None
        if len(vertices) == 0:
            raise BopError(f"{self.path} holds no vertices: fetch the dataset's models again")
        return vertices


@dataclass(frozen=True, eq=False)
class BopInstance:
    """One object in one image.

    Attributes:
        index: Its place in the image's list: `gt_id` of the masks' names.
        obj_id: Which object.
        R_cam_obj: (3, 3), `cam_R_m2c`.
        t_cam_obj: (3,) mm, `cam_t_m2c`.
        visible_fraction: `visib_fract` in [0, 1]; 1 where the dataset does not say.
        box: (4,) amodal box, xyxy; None where the dataset does not say, or nothing of it is in the image.
        visible_box: (4,) box of the visible pixels; None as above.
    """

    index: int
    obj_id: int
    R_cam_obj: Array
    t_cam_obj: Array
    visible_fraction: float
    box: Array | None
    visible_box: Array | None


@dataclass(frozen=True, eq=False)
class BopImage:
    """One image with its camera and its labels; pixels are read when asked for.

    Attributes:
        scene_id: Its scene.
        im_id: Its number in the scene.
        folder: The scene's folder.
        K: (3, 3), pixel centres at integers, as `PoseEstimator.__call__` takes it.
        depth_scale: A stored depth times this is mm.
        instances: The labels; None where the dataset keeps them private.
    """

    scene_id: int
    im_id: int
    folder: Path
    K: Array
    depth_scale: float
    instances: tuple[BopInstance, ...] | None

    def rgb(self) -> NDArray[np.uint8]:
        """Reads (H, W, 3) uint8; a grey image gets three equal channels.

        Raises:
            BopError: There is no such file, or it cannot be read.
        """
        path = self._file("rgb") or self._file("gray")
        if path is None:
            raise BopError(f"{self.folder} has no rgb/ or gray/ image {self.im_id:06d} (png, jpg or tif)")
        try:
            return read_image(path)
        except OSError as error:
            raise BopError(f"{path} cannot be read: {error}") from None

    def depth(self) -> NDArray[np.float32] | None:
        """Reads (H, W) mm along the optical axis, 0 = not measured; None where the dataset has no depth.

        Raises:
            BopError: The file cannot be read.
        """
        path = self._file("depth")
        if path is None:
            return None
        try:
            return read_depth(path, self.depth_scale)
        except OSError as error:
            raise BopError(f"{path} cannot be read: {error}") from None

    def mask(self, index: int, *, visible: bool = False) -> NDArray[np.bool_] | None:
        """Reads (H, W) of an instance: its whole silhouette, or the visible part; None where there is no file."""
        path = self.folder / ("mask_visib" if visible else "mask") / f"{self.im_id:06d}_{index:06d}.png"
        if not path.is_file():
            return None
        with Image.open(path) as opened:
            return np.asarray(opened.convert("L")) > 0

    def _file(self, kind: str) -> Path | None:
        paths = [self.folder / kind / f"{self.im_id:06d}{suffix}" for suffix in _SUFFIXES]
        return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True, eq=False)
class BopScene:
    """One scene's JSON files; an image's share of them is turned into arrays when it is asked for.

    Attributes:
        scene_id: Its number.
        folder: Where it is.
        cameras: `scene_camera.json`, by image.
        gt: `scene_gt.json`, or None.
        gt_info: `scene_gt_info.json`, or None.
    """

    scene_id: int
    folder: Path
    cameras: Mapping[str, Any]
    gt: Mapping[str, Any] | None
    gt_info: Mapping[str, Any] | None

    @property
    def im_ids(self) -> list[int]:
        """The images' numbers, ascending."""
        return sorted(int(key) for key in self.cameras)

    def image(self, im_id: int) -> BopImage:
        """Returns one image.

        Raises:
            BopError: The scene has no such image, it has no pinhole camera, or its camera or labels are damaged.
        """
        camera = self.cameras.get(str(im_id))
        if camera is None:
            raise BopError(f"{self.folder / 'scene_camera.json'} has no image {im_id}")
        if "cam_K" not in camera:
            raise BopError(f"{self.folder}, image {im_id}: only pinhole cameras (cam_K) are read")
        try:
            return BopImage(
                scene_id=self.scene_id,
                im_id=im_id,
                folder=self.folder,
                K=np.asarray(camera["cam_K"], dtype=np.float64).reshape(3, 3),
                depth_scale=float(camera.get("depth_scale", 1.0)),
                instances=None if self.gt is None else self._instances(str(im_id)),
            )
        except BopError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BopError(f"{self.folder}, image {im_id}: {_words(error)}") from None

    def _instances(self, key: str) -> tuple[BopInstance, ...]:
        assert self.gt is not None
        labels = self.gt.get(key, [])
        infos = [{}] * len(labels) if self.gt_info is None else self.gt_info.get(key, [])
        if len(infos) != len(labels):
            raise BopError(f"{self.folder}, image {key}: scene_gt_info.json does not belong to scene_gt.json")
        return tuple(
            BopInstance(
                index=index,
                obj_id=int(label["obj_id"]),
                R_cam_obj=np.asarray(label["cam_R_m2c"], dtype=np.float64).reshape(3, 3),
                t_cam_obj=np.asarray(label["cam_t_m2c"], dtype=np.float64).reshape(3),
                visible_fraction=float(info.get("visib_fract", 1.0)),
                box=from_bop_box(info.get("bbox_obj")),
                visible_box=from_bop_box(info.get("bbox_visib")),
            )
            for index, (label, info) in enumerate(zip(labels, infos, strict=True))
        )


@dataclass(frozen=True)
class BopTarget:
    """What BOP asks for: `inst_count` poses of one object in one image."""

    scene_id: int
    im_id: int
    obj_id: int
    inst_count: int


@dataclass(frozen=True, eq=False)
class BopDataset:
    """A folder in BOP's layout: T-LESS, LM-O, YCB-V, or one that `codepose render` wrote.

    Attributes:
        path: The folder.
        models: Its objects by `obj_id`.
    """

    path: Path
    models: Mapping[int, BopModel]

    @classmethod
    def open(cls, path: str | Path, *, models: str | None = None) -> BopDataset:
        """Reads the list of objects and nothing else.

        Args:
            path: The folder.
            models: Which folder of models; None = `models_eval`, `models` or `models_cad`, the first there is.

        Raises:
            BopError: There is no such folder, or its `models_info.json` cannot be read.
        """
        path = Path(path)
        names = _MODEL_FOLDERS if models is None else (models,)
        folder = next((path / name for name in names if (path / name / "models_info.json").is_file()), None)
        if folder is None:
            raise BopError(f"{path} is no BOP dataset: there is no {' or '.join(names)} with a models_info.json")
        found = {}
        for key, info in _read_json(folder / "models_info.json").items():
            try:
                number = int(key)
                file = folder / f"obj_{number:06d}.ply"
                found[number] = BopModel(number, file, float(info["diameter"]), symmetry_transforms(info))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise BopError(f"{folder / 'models_info.json'}, object {key}: {_words(error)}") from None
        return cls(path, dict(sorted(found.items())))

    def splits(self) -> list[str]:
        """The folders with scenes in them: "test", "train_pbr", "test_primesense", ..."""
        found = {file.parent.parent.name for file in self.path.glob("*/*/scene_camera.json")}
        return sorted(found)

    def scene_ids(self, split: str) -> list[int]:
        """The split's scenes, ascending.

        Raises:
            BopError: There is no such split; the text lists those there are.
        """
        found = [f.parent.name for f in (self.path / split).glob("*/scene_camera.json") if f.parent.name.isdigit()]
        if not found:
            known = ", ".join(self.splits()) or "none"
            raise BopError(f"{self.path} has no split {split!r} with a scene_camera.json in it; it has {known}")
        return sorted(int(name) for name in found)

    def scene(self, split: str, scene_id: int) -> BopScene:
        """Reads a scene's JSON files.

        Raises:
            BopError: There is no such scene.
        """
        folder = self.path / split / f"{scene_id:06d}"
        if not (folder / "scene_camera.json").is_file():
            raise BopError(f"{folder} has no scene_camera.json")
        gt, gt_info = (
            _read_json(folder / name) if (folder / name).is_file() else None
            for name in ("scene_gt.json", "scene_gt_info.json")
        )
        return BopScene(scene_id, folder, _read_json(folder / "scene_camera.json"), gt, gt_info)

    def images(self, split: str) -> Iterator[BopImage]:
        """Yields every image of a split, scene by scene."""
        for scene_id in self.scene_ids(split):
            scene = self.scene(split, scene_id)
            for im_id in scene.im_ids:
                yield scene.image(im_id)

    def targets(self, split: str) -> list[BopTarget]:
        """What is to be found: `test_targets_bop19.json` for a test split, else all instances visible by a tenth."""
        file = self.path / TARGETS_FILE
        if split.startswith("test") and file.is_file():
            known = set(self.scene_ids(split))
            fields = ("scene_id", "im_id", "obj_id", "inst_count")
            try:
                listed = [BopTarget(*(int(row[name]) for name in fields)) for row in _read_json(file, list)]
            except (KeyError, TypeError, ValueError) as error:
                raise BopError(f"{file}: {_words(error)}") from None
            return [target for target in listed if target.scene_id in known]
        found = []
        for image in self.images(split):
            seen = Counter(i.obj_id for i in image.instances or () if i.visible_fraction >= MIN_VISIBLE)
            found += [BopTarget(image.scene_id, image.im_id, obj_id, n) for obj_id, n in sorted(seen.items())]
        return found


def numbered(names: Sequence[str]) -> list[int]:
    """Returns the `obj_id` of a run's objects: the numbers in names such as obj_000005, else 1, 2, ..."""
    found = [int(match[1]) for name in names if (match := re.fullmatch(r"obj_(\d+)", name))]
    return found if len(set(found)) == len(names) else list(range(1, len(names) + 1))


def to_bop_box(box: ArrayLike) -> list[float]:
    """Returns `x, y, w, h` of a box (4,) xyxy.

    BOP counts from pixel centre to pixel centre: a silhouette that covers n pixels is n - 1 wide.
    """
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64).tolist()
    return [x0, y0, x1 - x0 - 1.0, y1 - y0 - 1.0]


def from_bop_box(values: Sequence[float] | None) -> Array | None:
    """Returns the box (4,) xyxy of BOP's `x, y, w, h`; None for a missing box or BOP's mark of an empty one."""
    if values is None or tuple(values) == (-1, -1, -1, -1):
        return None
    x, y, w, h = (float(v) for v in values)
    return np.array([x, y, x + w + 1.0, y + h + 1.0])


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BopError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, kind):
        raise BopError(f"{path} must hold a {kind.__name__}, not a {type(values).__name__}")
    return values


def _words(error: Exception) -> str:
    return f"there is no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
