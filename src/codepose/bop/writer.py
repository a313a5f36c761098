"""Synthetic scenes as a BOP dataset, for training or testing other tools.

Layout and the meaning of every number: bop_toolkit's `docs/bop_datasets_format.md` and `scripts/calc_gt_info.py`.
One thing is better known here than from a sensor: a pixel of `mask_visib` is one where the object is nearest, not one
where it lies at most 15 mm behind the measured depth.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from codepose import geometry
from codepose.bop.dataset import MIN_VISIBLE, TARGETS_FILE
from codepose.bop.entries import BopError, to_bop_box
from codepose.bop.models import numbered
from codepose.bop.results import json_lines
from codepose.parts.mesh import Mesh, save_mesh
from codepose.rendering.renderer import Instances
from codepose.storage.replace import write_atomically
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.objects import ObjectModel
from codepose.synthesis.placement import Companions
from codepose.synthesis.scenes import SceneSource, Split
from codepose.synthesis.world import World

_DEPTH_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""mm a stored step: 16 bits reach to 6,553.5 mm, ..., 655 m; what lies further is stored as 0, not measured."""
SCENE_IMAGES = 1000
"""Images a scene folder, as in BOP's own synthetic training data."""

_SYMMETRIES = ("symmetries_discrete", "symmetries_continuous")
_KINDS = ("rgb", "depth", "mask", "mask_visib")
_SAME_MM = 0.05  # two renders of one surface agree better than this
_EMPTY_BOX = [-1, -1, -1, -1]


def write_dataset(
    world: World,
    path: str | Path,
    *,
    split: Split = "train",
    images: int,
    symmetries: Sequence[Mapping[str, Any]] | None = None,
    batch: int = 8,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Writes the first scenes of a split, the same that training and evaluation see, as a BOP dataset.

    Models and poses are in the CAD files' own frame, in mm. A dataset may get one split after the other.

    Args:
        world: Objects, camera and settings of the scenes; object i becomes obj_id i + 1, or the numbers in the objects'
            names where all have one (obj_000005).
        path: The dataset's folder, made if needed.
        split: "train", "val" or "test"; the last also gets `test_targets_bop19.json`.
        images: How many scenes. Labelled are the target object, first, and its companions if the settings have any;
            occluders and clutter are no objects of the dataset.
        symmetries: One mapping an object with `symmetries_discrete` and `symmetries_continuous`, in the CAD frame,
            for `models_info.json`; None = the objects' own, declared in the settings or found.
        batch: Scenes at a time.
        progress: Told the share done.

    Returns:
        The split's folder.

    Raises:
        BopError: The split is already there, the folder holds other objects, other symmetries or another camera,
            or a number is wrong.
    """
    path = Path(path)
    if images < 1:
        raise BopError(f"images must be at least 1, not {images}")
    if (path / split).exists():
        raise BopError(f"{path / split} already exists: remove it, or choose another folder")
    write_models(path, world, symmetries)
    _write_once(path / "camera.json", json.dumps(_camera(world), indent=2) + "\n")
    targets = _write_scenes(world, path / split, split, images, batch, progress)
    if split == "test":
        write_atomically(path / TARGETS_FILE, json_lines(targets))
    return path / split


def _write_scenes(
    world: World, folder: Path, split: Split, images: int, batch: int, progress: Callable[[float], None] | None
) -> list[dict[str, int]]:
    """Writes a split's images and labels, ``SCENE_IMAGES`` a scene folder; returns what is to be found in them."""
    source = SceneSource(world, split)
    targets: list[dict[str, int]] = []
    for scene_id, first in enumerate(range(0, images, SCENE_IMAGES), start=1):
        scene = _Scene(world, folder / f"{scene_id:06d}", first)
        last = min(first + SCENE_IMAGES, images)
        for start in range(first, last, batch):
            index = torch.arange(start, min(start + batch, last))
            scenes = source.scenes(index, depth=True)
            scene.add(scenes, _standing(scenes))
            if progress is not None:
                progress((int(index[-1]) + 1) / images)
        scene.write_labels()
        targets += scene.targets(scene_id)
    return targets


def _camera(world: World) -> dict[str, float | int]:
    K, size = geometry.to_opencv(world.K.cpu()).double(), world.settings.data.camera.image_size
    return {
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "depth_scale": depth_scale(world),
        "fx": float(K[0, 0]),
        "fy": float(K[1, 1]),
        "height": size,
        "width": size,
    }


def write_models(path: Path, world: World, symmetries: Sequence[Mapping[str, Any]] | None) -> None:
    """Writes a dataset's models, in the CAD files' own frame, and `models_info.json`; as ``write_dataset`` does.

    Raises:
        BopError: The folder holds other objects or other symmetries, or the symmetries' number is wrong.
    """
    if symmetries is not None and len(symmetries) != len(world.objects):
        raise BopError(f"symmetries must have one entry an object: {len(symmetries)} for {len(world.objects)} objects")
    meshes = [model.mesh.moved(model.offset.numpy()) for model in world.objects]
    infos = {}
    if symmetries is None:
        symmetries = [model.cad_symmetries.to_bop() for model in world.objects]
    ids = _obj_ids(world)
    for number, mesh, symmetry in sorted(zip(ids, meshes, symmetries, strict=True), key=lambda item: item[0]):
        infos[str(number)] = _model_info(mesh) | {key: symmetry[key] for key in _SYMMETRIES if key in symmetry}
    folder = path / "models"
    folder.mkdir(parents=True, exist_ok=True)
    _write_once(folder / "models_info.json", json_lines(infos))
    for number, mesh in zip(ids, meshes, strict=True):
        save_mesh(mesh, folder / f"obj_{number:06d}.ply", normals=True)


def _model_info(mesh: Mesh) -> dict[str, Any]:
    low, size = mesh.vertices.min(axis=0).tolist(), mesh.extents.tolist()
    corner = {f"min_{axis}": value for axis, value in zip("xyz", low, strict=True)}
    return {"diameter": mesh.diameter} | corner | {f"size_{axis}": v for axis, v in zip("xyz", size, strict=True)}


def _write_once(path: Path, text: str) -> None:
    """Writes a file that all splits of a dataset share; refuses to change it."""
    if path.exists() and path.read_text() != text:
        raise BopError(f"{path} is of other objects, other symmetries or another camera: choose another folder")
    write_atomically(path, text)


@dataclass
class _Scene:
    """A scene folder as it grows; ``first`` is the split's item that is its image 0."""

    world: World
    folder: Path
    first: int
    cameras: dict[str, Any] = field(default_factory=dict)
    gt: dict[str, Any] = field(default_factory=dict)
    gt_info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in _KINDS:
            (self.folder / kind).mkdir(parents=True)

    def add(self, scenes: SceneBatch, standing: Instances) -> None:
        """Writes a batch's pictures and keeps the labels of what is ``standing`` there, image by image."""
        assert scenes.depth is not None
        size, scale = scenes.images.shape[-1], depth_scale(self.world)
        stored = _stored_depth(scenes.depth, scale)
        rgb, camera, _ = scenes.photographs()
        K = camera.flatten().tolist()
        for i, item in enumerate(scenes.index.tolist()):
            name = f"{item - self.first:06d}.png"
            Image.fromarray(rgb[i]).save(self.folder / "rgb" / name)
            Image.fromarray(stored[i]).save(self.folder / "depth" / name)
            key = str(item - self.first)
            self.cameras[key] = {"cam_K": K, "depth_scale": scale}
            self.gt[key], self.gt_info[key] = [], []
        silhouettes, margin, visible = _masks(self.world, scenes, standing)
        for n, image in enumerate(standing.image.tolist()):
            im_id = int(scenes.index[image]) - self.first
            index, labels, infos = int(standing.mesh[n]), self.gt[str(im_id)], self.gt_info[str(im_id)]
            inside = silhouettes[n, margin : margin + size, margin : margin + size]
            for kind, mask in (("mask", inside), ("mask_visib", visible[n])):
                path = self.folder / kind / f"{im_id:06d}_{len(labels):06d}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(path)
            labels.append(_label(self.world.objects[index], standing.R[n], standing.t[n], _obj_ids(self.world)[index]))
            infos.append(_info(silhouettes[n], margin, visible[n], inside & (stored[image] > 0)))

    def write_labels(self) -> None:
        """Writes the three JSON files."""
        for name, content in (("scene_camera", self.cameras), ("scene_gt", self.gt), ("scene_gt_info", self.gt_info)):
            write_atomically(self.folder / f"{name}.json", json_lines(content))

    def targets(self, scene_id: int) -> list[dict[str, int]]:
        """Returns the scene's part of the test targets: the instances of which a tenth or more is visible."""
        targets = []
        for key, labels in self.gt.items():
            infos = zip(labels, self.gt_info[key], strict=True)
            visible = [label["obj_id"] for label, info in infos if info["visib_fract"] >= MIN_VISIBLE]
            targets += image_targets(scene_id, int(key), visible)
        return targets


def image_targets(scene_id: int, im_id: int, obj_ids: Iterable[int]) -> list[dict[str, int]]:
    """Returns an image's part of the test targets: how often each object is to be found in it."""
    return [
        {"im_id": im_id, "inst_count": count, "obj_id": obj_id, "scene_id": scene_id}
        for obj_id, count in sorted(Counter(obj_ids).items())
    ]


def _standing(scenes: SceneBatch) -> Instances:
    """Every instance of a trained object in a batch: each image's target, then its companions."""
    targets = Instances.single(scenes.objects, scenes.R_cam_obj, scenes.t_cam_obj)
    if scenes.other_objects is None:
        return targets
    assert scenes.other_R is not None
    assert scenes.other_t is not None
    assert scenes.other_boxes is not None
    companions = Companions(scenes.other_objects, scenes.other_R, scenes.other_t, scenes.other_boxes)
    return Instances.merge([targets, companions.instances()[0]])


def _obj_ids(world: World) -> list[int]:
    return numbered([model.label for model in world.objects])


def _label(model: ObjectModel, R_cam_obj: Tensor, t_cam_obj: Tensor, obj_id: int) -> dict[str, Any]:
    """One entry of scene_gt.json: the pose of the CAD file's own frame."""
    R, offset = R_cam_obj.cpu().double(), model.offset.double()
    t = t_cam_obj.cpu().double() - R @ offset
    return {"cam_R_m2c": R.flatten().tolist(), "cam_t_m2c": t.tolist(), "obj_id": obj_id}


def _masks(world: World, scenes: SceneBatch, standing: Instances) -> tuple[NDArray[np.bool_], int, NDArray[np.bool_]]:
    """The N instances' whole silhouettes, also where they leave the image, and their visible pixels.

    Returns:
        Silhouettes (N, S + 2 m, S + 2 m), the margin m in pixels, and visible pixels (N, S, S).
    """
    assert scenes.depth is not None
    size = scenes.images.shape[-1]
    camera = world.settings.data.camera
    margin = math.ceil(camera.truncation * camera.box_side[1]) + 2 if camera.truncation > 0 else 0
    K = scenes.K.clone()
    K[:2, 2] += margin
    instances = Instances.single(standing.mesh, standing.R, standing.t)  # each in an image of its own
    whole = size + 2 * margin
    alone = world.renderer.depth(instances, K.expand(len(standing.mesh), 3, 3), (whole, whole))
    inside = alone[:, margin : margin + size, margin : margin + size]
    visible = (inside > 0) & (inside <= scenes.depth[standing.image] + _SAME_MM)
    return (alone > 0).cpu().numpy(), margin, visible.cpu().numpy()


def depth_scale(world: World) -> float:
    """Returns how many mm a step of the stored depth is: a tenth, or as many as bring the background into 16 bits."""
    return next((scale for scale in _DEPTH_SCALES if world.far <= 65535 * scale), _DEPTH_SCALES[-1])


def _stored_depth(depth: Tensor, scale: float) -> NDArray[np.uint16]:
    """Depth in mm as 16-bit steps; 0 where it is too far to be stored."""
    steps = (depth.double() / scale).round()
    stored: NDArray[np.uint16] = torch.where(steps <= 65535, steps, 0.0).cpu().numpy().astype(np.uint16)
    return stored


def _info(
    silhouette: NDArray[np.bool_], margin: int, visible: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> dict[str, Any]:
    """One entry of scene_gt_info.json, as bop_toolkit's calc_gt_info.py has it."""
    count, seen = int(silhouette.sum()), int(visible.sum())
    return {
        "bbox_obj": _mask_box(silhouette, margin) if seen else _EMPTY_BOX,
        "bbox_visib": _mask_box(visible, 0) if seen else _EMPTY_BOX,
        "px_count_all": count,
        "px_count_valid": int(valid.sum()),
        "px_count_visib": seen,
        "visib_fract": seen / count if count else 0.0,
    }


def _mask_box(mask: NDArray[np.bool_], margin: int) -> list[int]:
    """BOP's box of a mask with a margin around the image."""
    rows, columns = np.nonzero(mask)
    box = [columns.min() - margin, rows.min() - margin, columns.max() + 1 - margin, rows.max() + 1 - margin]
    return [int(value) for value in to_bop_box(box)]
