"""The scenes of a BOP dataset: images, cameras and labels, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from codepose.bop.entries import (
    Array,
    BopError,
    CameraEntry,
    Label,
    LabelInfo,
    SensorEntry,
    checked,
    excerpt,
    from_bop_box,
    read_json,
)
from codepose.bop.layout import file_name, numbered_file, picture_folders, scene_file
from codepose.bop.packed import Files, PackedFile
from codepose.cameras.depth_images import read_depth
from codepose.cameras.photos import read_image

T = TypeVar("T")


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
        depth_scale: A stored depth times this is mm; None where the dataset does not say.
        instances: The labels; None where the dataset keeps them private.
        camera: The camera's name; "" where the scene's camera has none.
        packed: Its files, where they lie in no folders of their own (``packed.py``).
    """

    scene_id: int
    im_id: int
    folder: Path
    K: Array
    depth_scale: float | None
    instances: tuple[BopInstance, ...] | None
    camera: str = ""
    packed: Files | None = None

    def rgb(self) -> NDArray[np.uint8]:
        """Reads (H, W, 3) uint8; a grey image gets three equal channels.

        Raises:
            BopError: There is no such file, or it cannot be read.
        """
        folders = picture_folders(self.camera)
        file = self._picture(folders)
        if file is None:
            known = " or ".join(f"{name}/" for name in folders)
            raise BopError(f"{self.folder} has no {known} image {self.im_id:06d} (png, jpg or tif)")
        return _read(file, read_image)

    def depth(self) -> NDArray[np.float32] | None:
        """Reads (H, W) mm along the optical axis, 0 = not measured; None where the dataset has no depth.

        Raises:
            BopError: The file cannot be read, or nothing says what its numbers are.
        """
        file = self._picture([file_name("depth", self.camera)])
        if file is None:
            return None
        if (scale := self.depth_scale) is None:
            raise BopError(
                f"{scene_file(self.folder, 'scene_camera', self.camera)}, image {self.im_id}: there is no "
                "'depth_scale', nor in the dataset's camera.json: write one, how many mm a stored depth of 1 is"
            )
        return _read(file, lambda path: read_depth(path, scale))

    def _picture(self, kinds: Sequence[str]) -> Path | PackedFile | None:
        """The first there is of these pictures."""
        if self.packed is not None:
            return next((self.packed[kind] for kind in kinds if kind in self.packed), None)
        return next(filter(None, (numbered_file(self.folder / kind, self.im_id) for kind in kinds)), None)

    def mask(self, index: int, *, visible: bool = False) -> NDArray[np.bool_] | None:
        """Reads (H, W) of an instance: its whole silhouette, or the visible part; None where there is no file.

        Raises:
            BopError: The file cannot be read.
        """
        kind = file_name("mask_visib" if visible else "mask", self.camera)
        path = numbered_file(self.folder / kind, self.im_id, index)
        return None if path is None else _read(path, lambda path: read_image(path).max(axis=2) > 0)


def _read(file: Path | PackedFile, reader: Callable[[Path], T]) -> T:
    """Reads a picture, wherever it lies."""
    try:
        if isinstance(file, Path):
            return reader(file)
        with file.unpacked() as path:
            return reader(path)
    except OSError as error:
        raise BopError(f"{file} cannot be read: {error}") from None


@dataclass(frozen=True, eq=False)
class BopScene:
    """One scene's JSON files; an image's share of them is turned into arrays when it is asked for.

    Attributes:
        scene_id: Its number.
        folder: Where it is.
        camera: Which of its cameras; "" = the only one, without a name.
        cameras: `scene_camera.json`, by image.
        gt: `scene_gt.json`, or None.
        gt_info: `scene_gt_info.json`, or None.
        sensors: `camera.json` or the like, where there are any: its `depth_scale` is the images' that have none.
        packed: The files by image, where they lie in no folders of their own.
    """

    scene_id: int
    folder: Path
    camera: str
    cameras: Mapping[int, Any]
    gt: Mapping[int, Any] | None
    gt_info: Mapping[int, Any] | None
    sensors: Sequence[Path] = ()
    packed: Mapping[int, Files] | None = None

    @property
    def im_ids(self) -> list[int]:
        """The images' numbers, ascending."""
        return sorted(self.cameras)

    def image(self, im_id: int) -> BopImage:
        """Returns one image.

        Raises:
            BopError: The scene has no such image, it has no pinhole camera, or its camera or labels are damaged.
        """
        file = scene_file(self.folder, "scene_camera", self.camera)
        if im_id not in self.cameras:
            raise BopError(f"{file} has no image {im_id}")
        values = self.cameras[im_id]
        if isinstance(values, Mapping) and "cam_K" not in values:
            raise BopError(f"{file}, image {im_id}: only pinhole cameras (cam_K) are read; undistort the images")
        entry = checked(CameraEntry, values, f"{file}, image {im_id}")
        return BopImage(
            scene_id=self.scene_id,
            im_id=im_id,
            folder=self.folder,
            K=entry.cam_K,
            depth_scale=entry.depth_scale or self._common_depth_scale(),
            instances=None if self.gt is None else self._instances(im_id),
            camera=self.camera,
            packed=None if self.packed is None else self.packed[im_id],
        )

    def _common_depth_scale(self) -> float | None:
        entries = (checked(SensorEntry, read_json(path), str(path)) for path in self.sensors)
        return next((entry.depth_scale for entry in entries if entry.depth_scale is not None), None)

    def _instances(self, im_id: int) -> tuple[BopInstance, ...]:
        gt, gt_info = (scene_file(self.folder, kind, self.camera) for kind in ("scene_gt", "scene_gt_info"))
        assert self.gt is not None
        labels = _listed(self.gt, im_id, gt)
        infos = [{}] * len(labels) if self.gt_info is None else _listed(self.gt_info, im_id, gt_info)
        if len(infos) != len(labels):
            raise BopError(
                f"{gt_info} does not belong to {gt.name}: image {im_id} has {len(infos)} entries in it, {len(labels)} "
                "labels there; fetch both again"
            )
        return tuple(
            _instance(
                index,
                checked(Label, label, f"{gt}, image {im_id}, label {index}"),
                checked(LabelInfo, {} if info is None else info, f"{gt_info}, image {im_id}, label {index}"),
            )
            for index, (label, info) in enumerate(zip(labels, infos, strict=True))
        )


def _instance(index: int, label: Label, info: LabelInfo) -> BopInstance:
    return BopInstance(
        index=index,
        obj_id=label.obj_id,
        R_cam_obj=label.cam_R_m2c,
        t_cam_obj=label.cam_t_m2c,
        visible_fraction=1.0 if info.visib_fract is None else info.visib_fract,
        box=from_bop_box(info.bbox_obj),
        visible_box=from_bop_box(info.bbox_visib),
    )


def _listed(entries: Mapping[int, Any], im_id: int, file: Path) -> list[Any]:
    """An image's list of entries; an image without any has none."""
    found = entries.get(im_id)
    if found is not None and not isinstance(found, list):
        raise BopError(f"{file}, image {im_id}: it must hold a list of labels, not {excerpt(found)}")
    return found or []
