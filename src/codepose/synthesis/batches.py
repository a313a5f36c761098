"""What training and evaluation get: batches of crops and of scenes, with everything that is known about them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codepose import geometry


@dataclass(frozen=True)
class CropBatch:
    """Step 1's data.

    Attributes:
        index: (B,) item numbers.
        inputs: (B, 3, c, c) in [0, 1], x_i: lit, occluded, on a background, shifted and scaled.
        targets: (B, 3, c, c) in [0, 1], x_t: clean and centred.
        objects: (B,) which object.
        R_view: (B, 3, 3) its rotation as seen along the ray through its centre.
        visible_fraction: (B,) share of the silhouette inside the window that nothing hides.
    """

    index: Tensor
    inputs: Tensor
    targets: Tensor
    objects: Tensor
    R_view: Tensor
    visible_fraction: Tensor


@dataclass(frozen=True)
class SceneBatch:
    """Step 2's data: a target object in each scene and, where the settings have any, companions.

    Attributes:
        index: (B,) item numbers.
        images: (B, 3, S, S) in [0, 1].
        targets: (B, 3, c, c) in [0, 1], the clean, centred view at R_view.
        objects: (B,) which object.
        boxes: (B, 4) amodal box, xyxy pixels, clipped to the image.
        visible_boxes: (B, 4) box of the visible pixels.
        R_cam_obj: (B, 3, 3).
        t_cam_obj: (B, 3) mm.
        R_view: (B, 3, 3), R_cam_obj = offaxis_rotation(t) @ R_view.
        visible_fraction: (B,).
        depth: (B, S, S) mm of object, occluders and clutter before a far plane; None unless asked for.
        K: (3, 3) the camera.
        photos: (B, 3, n S, n S) in [0, 1], the images at n times their resolution; None unless asked for, and n > 1.
        other_boxes: (B, n, 4) boxes of further instances of trained objects; None where the settings have none.
        other_objects: (B, n) which objects they are, -1 where there is none.
        other_R, other_t: (B, n, 3, 3) and (B, n, 3) mm, their R_cam_obj and t_cam_obj.
        other_R_view: (B, n, 3, 3).
        other_targets: (B, n, 3, c, c) in [0, 1], their clean views; black where there is none.
        other_visible: (B, n) their visible fractions, roughly: the whole silhouette's size is that of the clean view.
    """

    index: Tensor
    images: Tensor
    targets: Tensor
    objects: Tensor
    boxes: Tensor
    visible_boxes: Tensor
    R_cam_obj: Tensor
    t_cam_obj: Tensor
    R_view: Tensor
    visible_fraction: Tensor
    depth: Tensor | None
    K: Tensor
    photos: Tensor | None = None
    other_boxes: Tensor | None = None
    other_objects: Tensor | None = None
    other_R: Tensor | None = None
    other_t: Tensor | None = None
    other_R_view: Tensor | None = None
    other_targets: Tensor | None = None
    other_visible: Tensor | None = None

    def photographs(self) -> Photographs:
        """Returns the scenes as a camera would give them, as large as they were rendered."""
        pixels = self.images if self.photos is None else self.photos
        scale = pixels.shape[-1] / self.images.shape[-1]
        K = geometry.to_opencv(geometry.scaled_camera(self.K, scale)).double().cpu().numpy()
        images = (pixels * 255.0).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return Photographs(list(images), K, scale)

    def poses(self, min_visible: float) -> ScenePoses:
        """Returns what poses there are to learn: the target objects', and those of companions that can be seen."""
        shown = self.objects[:, None] >= 0  # (B, 1 + n): every scene shows its target object
        targets = (self.objects, self.boxes, self.R_view, self.targets)
        columns = [value[:, None] for value in targets]
        if self.other_objects is not None:
            assert self.other_visible is not None
            assert self.other_boxes is not None
            assert self.other_R_view is not None
            assert self.other_targets is not None
            others = (self.other_objects, self.other_boxes, self.other_R_view, self.other_targets)
            columns = [torch.cat((a, b), 1) for a, b in zip(columns, others, strict=True)]
            shown = torch.cat((shown, (self.other_objects >= 0) & (self.other_visible >= min_visible)), 1)
        if shown.shape[1] == 1:  # else a GPU must be asked how many can be seen
            image, slot = torch.arange(len(shown), device=shown.device), torch.zeros_like(self.objects)
        else:
            image, slot = shown.nonzero().unbind(1)
        return ScenePoses(image, slot, shown.shape[1], *(column[image, slot] for column in columns))


class Photographs(NamedTuple):
    """What a camera gives of a batch of scenes.

    Attributes:
        images: (H, W, 3) uint8 RGB each.
        K: (3, 3) their camera, OpenCV's convention.
        scale: Their pixels over those of the network's images.
    """

    images: list[NDArray[np.uint8]]
    K: NDArray[np.float64]
    scale: float


class ScenePoses(NamedTuple):
    """M instances in a batch of scenes, image by image, each image's target object first.

    Attributes:
        image: (M,) the scene of each.
        slot: (M,) its number there: 0 = the target object.
        slots: How many there may be in a scene.
        objects: (M,) which object.
        boxes: (M, 4) amodal box.
        R_view: (M, 3, 3).
        targets: (M, 3, c, c) the clean view.
    """

    image: Tensor
    slot: Tensor
    slots: int
    objects: Tensor
    boxes: Tensor
    R_view: Tensor
    targets: Tensor

    def spread(self, values: Tensor, scenes: int) -> Tensor:
        """Returns values (M, ...) as (scenes, slots, ...), zero where there is no instance; with gradient."""
        spread = values.new_zeros(scenes, self.slots, *values.shape[1:])
        return spread.index_put((self.image, self.slot), values)


AnyBatch = TypeVar("AnyBatch", CropBatch, SceneBatch)


def split_batch(batch: AnyBatch, sizes: list[int]) -> list[AnyBatch]:
    """Cuts a batch into smaller ones of the given sizes; item i is the same in any of them."""
    parts, start = [], 0
    for size in sizes:
        own = {
            f.name: getattr(batch, f.name)[start : start + size]
            for f in dataclasses.fields(batch)
            if f.name != "K" and getattr(batch, f.name) is not None
        }
        parts.append(dataclasses.replace(batch, **own))
        start += size
    return parts
