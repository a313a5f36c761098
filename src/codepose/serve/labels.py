"""Poses that a person has accepted, as a BOP dataset; and what they say about the network."""

from __future__ import annotations

import json
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from scipy.spatial.transform import Rotation
from scipy.stats import binomtest

from codepose.bop.dataset import TARGETS_FILE
from codepose.bop.models import numbered
from codepose.bop.results import json_lines
from codepose.bop.writer import image_targets, write_models
from codepose.evaluation.pose_errors import mssd, symmetry_transforms
from codepose.geometry import is_rotation
from codepose.serve.models import Model
from codepose.settings.errors import ConfigError
from codepose.storage.replace import replacing, write_atomically
from codepose.synthesis.world import World

RIGHT = 0.1
"""A pose is right where no point of the part is off by more of its diameter."""
_STATE = "photos.json"
_SPLIT = "test"
_FARTHEST = 1e6

Number = Annotated[float, Field(allow_inf_nan=False, ge=-_FARTHEST, le=_FARTHEST)]
Row = Annotated[list[Number], Field(min_length=3, max_length=3)]


def _rotation(rows: list[list[float]]) -> list[list[float]]:
    R = np.array(rows)
    if not is_rotation(R, 1e-3):
        raise ValueError("it is no rotation matrix")
    exact: list[list[float]] = Rotation.from_matrix(R).as_matrix().tolist()
    return exact


def _in_front(t: list[float]) -> list[float]:
    if t[2] <= 0:
        raise ValueError("it lies behind the camera")
    return t


class Pose(BaseModel):
    """How a part lies, as ``/v1/poses`` tells it."""

    model_config = ConfigDict(extra="forbid")
    R_cam_obj: Annotated[list[Row], Field(min_length=3, max_length=3), AfterValidator(_rotation)]
    t_cam_obj_mm: Annotated[Row, AfterValidator(_in_front)]

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """R (3, 3) and t (3,)."""
        return np.array(self.R_cam_obj), np.array(self.t_cam_obj_mm)


class Label(Pose):
    """A part that is in the photo, and where the network found it.

    Attributes:
        index: Which of the model's objects.
        found: The network's pose; None = it did not find the part.
    """

    index: Annotated[int, Field(ge=0)]
    found: Pose | None = None


class Labels:
    """One dataset a model, in one folder.

    Args:
        folder: Where they are kept, FOLDER/MODEL; None = in a temporary one, until the service stops.
        models: By name.

    Raises:
        ConfigError: The folder cannot be used, or holds what another version wrote.
        BopError: A dataset there is of other objects.
    """

    def __init__(self, folder: Path | None, models: Mapping[str, Model]) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"--labels {folder} is a file: name a folder")
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="codepose-labels-")
        self._folder = Path(self._temporary.name) if self._temporary else folder or Path()
        self._lock = threading.Lock()
        self._photos: dict[str, dict[str, Any]] = {}
        for model in models.values():
            self.add(model)

    def add(self, model: Model) -> None:
        """Keeps labels of one model more.

        Raises:
            ConfigError: What is in its folder is damaged.
            BopError: The dataset there is of other objects.
        """
        path, photos = self._folder / model.name, dict[str, Any]()
        if (path / _STATE).is_file():
            try:
                photos = json.loads((path / _STATE).read_text())
            except ValueError:
                raise ConfigError(f"{path / _STATE} is damaged: choose another --labels") from None
            write_models(path, model.estimator.world, None)  # the same, or it is refused
        self._photos[model.name] = photos

    def close(self) -> None:
        """Removes what was not to be kept."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def save(
        self, model: Model, digest: str, file: str, image: NDArray[np.uint8], K: NDArray[np.float64],
        labels: list[Label], rejected: int,
    ) -> dict[str, Any]:  # fmt: skip
        """Keeps a photo with its labels; what was kept of the same photo is replaced.

        Args:
            model: Whose parts they are.
            digest: Of the photo's file: the same photo is the same.
            file: What it was called.
            image: (H, W, 3) uint8 without lens distortion.
            K: (3, 3) its camera.
            labels: All parts of the model that are in it.
            rejected: How many of the network's detections were none.

        Returns:
            ``summary``.
        """
        world = model.estimator.world
        errors = [_error(world, label) for label in labels]
        with self._lock:
            path, photos = self._folder / model.name, self._photos[model.name]
            if not photos:
                write_models(path, world, None)
            number = photos[digest]["im_id"] if digest in photos else len(photos)
            (path / _SPLIT / "000001" / "rgb").mkdir(parents=True, exist_ok=True)
            with replacing(path / _SPLIT / "000001" / "rgb" / f"{number:06d}.png", durable=False) as new:
                Image.fromarray(image).save(new, compress_level=1)
            photos[digest] = {
                "im_id": number, "file": file, "K": K.tolist(), "rejected": rejected,
                "labels": [label.model_dump() | {"error": error} for label, error in zip(labels, errors, strict=True)],
            }  # fmt: skip
            self._write(path, world, photos)
        return self.summary(model)

    def _write(self, path: Path, world: World, photos: dict[str, Any]) -> None:
        ids = numbered([part.label for part in world.objects])
        cameras: dict[str, Any] = {}
        gt: dict[str, Any] = {}
        targets = []
        for photo in sorted(photos.values(), key=lambda one: one["im_id"]):
            key = str(photo["im_id"])
            cameras[key] = {"cam_K": [value for row in photo["K"] for value in row], "depth_scale": 1.0}
            gt[key] = [
                {
                    "cam_R_m2c": [value for row in label["R_cam_obj"] for value in row],
                    "cam_t_m2c": label["t_cam_obj_mm"],
                    "obj_id": ids[label["index"]],
                }
                for label in photo["labels"]
            ]
            targets += image_targets(1, int(key), [one["obj_id"] for one in gt[key]])
        scene = path / _SPLIT / "000001"
        write_atomically(scene / "scene_camera.json", json_lines(cameras), durable=False)
        write_atomically(scene / "scene_gt.json", json_lines(gt), durable=False)
        write_atomically(path / TARGETS_FILE, json_lines(targets), durable=False)
        write_atomically(path / _STATE, json.dumps(photos), durable=False)

    def summary(self, model: Model) -> dict[str, Any]:
        """How good the network is on the photos so far."""
        photos = self._photos[model.name].values()
        errors = [label["error"] for photo in photos for label in photo["labels"]]
        shares = sorted(error["of_diameter"] for error in errors if error is not None)
        right = sum(share <= RIGHT for share in shares)
        return {
            "photos": len(photos),
            "files": {digest: photo["file"] for digest, photo in self._photos[model.name].items()},
            "parts": len(errors),
            "found": len(shares),
            "right": right,
            "rejected": sum(photo["rejected"] for photo in photos),
            "median_mm": _median([error["mm"] for error in errors if error is not None]),
            "interval": _interval(right, len(errors)),
            "kept_in": str(self._folder / model.name) if self._temporary is None else None,
        }

    def archive(self, model: Model) -> Path | None:
        """A ZIP file of a model's dataset, to be removed by whoever asked; None = nothing is labelled."""
        with self._lock:
            path = self._folder / model.name
            if not self._photos[model.name]:
                return None
            handle, name = tempfile.mkstemp(prefix="codepose-", suffix=".zip")
            with open(handle, "wb") as file, zipfile.ZipFile(file, "w") as packed:
                for inner in sorted(p for p in path.rglob("*") if p.is_file() and p.name != _STATE):
                    packed.write(inner, Path(model.name) / inner.relative_to(path))
            return Path(name)


def _error(world: World, label: Label) -> dict[str, float] | None:
    """How far the network's pose is from the accepted one, symmetries allowed for."""
    if label.found is None:
        return None
    part = world.objects[label.index]
    hull = torch.from_numpy(part.mesh.hull + part.offset.numpy()).double()
    poses = [torch.from_numpy(x)[None] for one in (label.found, label) for x in one.arrays()]
    symmetries = symmetry_transforms(part.cad_symmetries.to_bop())
    off = float(mssd(hull, poses[0], poses[1], poses[2], poses[3], symmetries))
    return {"mm": round(off, 3), "of_diameter": round(off / part.mesh.diameter, 5)}


def _median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 2) if values else None


def _interval(right: int, of: int) -> list[float] | None:
    """Wilson's interval, in which the share lies with a probability of 95 %."""
    if of == 0:
        return None
    return [round(float(end), 4) for end in binomtest(right, of).proportion_ci(method="wilson")]
