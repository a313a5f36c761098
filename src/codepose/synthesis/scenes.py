"""Step-1 crops and Step-2 scenes, in batches on the device; image i is a function of (seed, split, i) alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.randomness import Draws
from codepose.rendering.renderer import Buffers, Instances
from codepose.rendering.shading import CHANGED, Lights, augment, render_shaded
from codepose.settings.crop import ROI_PAD
from codepose.settings.schema import Settings
from codepose.synthesis.backgrounds import Backgrounds
from codepose.synthesis.batches import CropBatch, SceneBatch
from codepose.synthesis.lookalikes import LookAlikes
from codepose.synthesis.occluders import ATTEMPTS, Occluders, merge
from codepose.synthesis.placement import Companions, draw_objects, draw_views, place, place_companions
from codepose.synthesis.world import World

Split = Literal["train", "val", "test"]
SCALE = (0.8, 1.2)
"""Range of the side of Step 1's window, as a factor on the padded square's."""
SHIFT = 0.15
"""Largest shift of Step 1's window along each axis, as a share of the padded square's side."""


@dataclass(frozen=True)
class _Placement:
    """Which object stands where, before which camera: (B,), (B, 3, 3), (B, 3), (B, 3, 3); and what beside it."""

    objects: Tensor
    R: Tensor
    t: Tensor
    K: Tensor
    companions: Companions | None = None

    def select(self, keep: Tensor) -> _Placement:
        beside = None if self.companions is None else self.companions.select(keep)
        return _Placement(self.objects[keep], self.R[keep], self.t[keep], self.K[keep], beside)


@dataclass(frozen=True)
class _Rendered:
    """Colour and coverage (B, 4, s, s), the target's visible pixels, its visible fraction, what stood there, and how
    many pixels of each companion are visible (B, n)."""

    rgba: Tensor
    mask: Tensor
    visible: Tensor
    instances: Instances
    beside: Tensor

    def replaced(self, images: Tensor, new: _Rendered) -> _Rendered:
        """Returns a copy in which ``images`` (n,) are those of ``new``."""
        redone = torch.isin(self.instances.image, images)
        layer = torch.where(new.instances.layer >= 0, images[new.instances.layer.clamp_min(0)], -1)
        moved = dataclasses.replace(new.instances, image=images[new.instances.image], layer=layer)
        return _Rendered(
            self.rgba.index_copy(0, images, new.rgba),
            self.mask.index_copy(0, images, new.mask),
            self.visible.index_copy(0, images, new.visible),
            Instances.merge([self.instances.select(~redone), moved]),
            self.beside.index_copy(0, images, new.beside),
        )


class SceneSource:
    """Makes the images of one split.

    Args:
        world: Meshes and renderer.
        split: "train", "val" or "test": other random numbers and other backgrounds for each.
        backgrounds: Others than the world's own of this split, for images of any size.
        look_alikes: n > 0: of every n + 1 items in a row, the first one's view is drawn, and the others are of the
            same object in views that are easily taken for it.
    """

    def __init__(
        self, world: World, split: Split, backgrounds: Backgrounds | None = None, *, look_alikes: int = 0
    ) -> None:
        self.world = world
        self.split = split
        self.settings: Settings = world.settings
        self._own_backgrounds = backgrounds
        self._occluders = Occluders(world, self.settings.data.occlusion)
        self._group = look_alikes + 1
        numbers = range(len(world.objects) if look_alikes else 0)
        self._look_alikes = [LookAlikes.find(world, number, look_alikes) for number in numbers]

    def backgrounds(self, pixels: int) -> Backgrounds:
        """Returns the pictures that stand behind images of ``pixels`` x ``pixels``."""
        return self._own_backgrounds or self.world.backgrounds(self.split, pixels)

    def crops(self, index: Tensor, difficulty: float = 1.0) -> CropBatch:
        """Returns Step 1's items.

        Args:
            index: (B,) their numbers.
            difficulty: The curriculum's, in [0, 1].
        """
        world, data = self.world, self.settings.data
        draws = Draws(data.seed, f"crops/{self.split}", index, world.device)
        objects, R_view = self.views("crops", index)
        t = world.reference_translations(objects)
        square = geometry.padded_square(world.boxes(objects, R_view, t), ROI_PAD)
        window = self._jittered(square, draws, difficulty)
        K = geometry.crop_camera(world.K, window, self.settings.network.crop)
        placement = _Placement(objects, R_view, t, K)
        render = self._render(draws, placement, self.settings.network.crop, difficulty, clutter=False)
        targets = world.clean_views(objects, R_view)
        inputs = self._finish(render.rgba, draws, difficulty)
        clean = self._clean(draws)
        return CropBatch(
            index=index,
            inputs=torch.where(clean[:, None, None, None], targets, inputs),
            targets=targets,
            objects=objects,
            R_view=R_view,
            visible_fraction=torch.where(clean, 1.0, render.visible),
        )

    def scenes(
        self, index: Tensor, difficulty: float = 1.0, *, depth: bool = False, photos: bool = False
    ) -> SceneBatch:
        """Returns Step 2's items.

        Args:
            index: (B,) their numbers.
            difficulty: The curriculum's, in [0, 1].
            depth: With the scenes' depth, which VSD takes for measured.
            photos: Rendered ``data.photo_scale`` times as large, kept so, and reduced to the network's size.
        """
        world, data = self.world, self.settings.data
        draws = Draws(data.seed, f"scenes/{self.split}", index, world.device)
        objects, R_view = self.views("scenes", index)
        size, scale = data.camera.image_size, data.photo_scale if photos else 1
        placement, boxes = self._arranged(draws, objects, R_view, scale)
        render, images, companions = self._photographed(draws, placement, scale * size, difficulty)
        reduced = images
        if scale > 1:
            reduced = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
        return SceneBatch(
            index=index,
            images=reduced,
            targets=world.clean_views(objects, R_view),
            objects=objects,
            boxes=boxes,
            visible_boxes=_mask_boxes(render.mask) / (data.antialias * scale),
            R_cam_obj=placement.R,
            t_cam_obj=placement.t,
            R_view=R_view,
            visible_fraction=render.visible,
            depth=self._depth(render.instances, world.K.expand_as(placement.K), size) if depth else None,
            K=world.K,
            photos=images if scale > 1 else None,
            **({} if companions is None else self._others(companions, render.beside / scale**2)),
        )

    def _arranged(self, draws: Draws, objects: Tensor, R_view: Tensor, scale: int) -> tuple[_Placement, Tensor]:
        """Places objects (B,), seen so (B, 3, 3), and what stands beside them, before a camera of ``scale`` times the
        pixels; also returns the objects' boxes (B, 4) in the network's own."""
        world, data = self.world, self.settings.data
        R, t = place(world, draws, objects, R_view)
        boxes = world.boxes(objects, R, t).clamp(0, data.camera.image_size)
        companions = None
        if data.occlusion.companions:
            companions = place_companions(
                world,
                draws,
                objects,
                boxes,
                lambda tag: self.companion_objects(draws, objects, tag),
                same=self.split == "train",
            )
        K = geometry.scaled_camera(world.K, scale).expand(len(objects), 3, 3)
        return _Placement(objects, R, t, K, companions), boxes

    def _photographed(
        self, draws: Draws, placement: _Placement, pixels: int, difficulty: float
    ) -> tuple[_Rendered, Tensor, Companions | None]:
        """Renders scenes, lays them over backgrounds, and leaves some clean.

        Returns:
            The renders, the images (B, 3, pixels, pixels), and the companions but those of clean scenes.
        """
        render = self._render(draws, placement, pixels, difficulty, clutter=True)
        images = self._finish(render.rgba, draws, difficulty)
        companions = placement.companions
        clean = self._clean(draws).nonzero().squeeze(1)
        if len(clean):
            bare = self._bare(placement.select(clean), pixels)
            render = render.replaced(clean, bare)
            images[clean] = bare.rgba[:, :3]
            companions = companions.without(clean) if companions is not None else None
        return render, images, companions

    def views(self, kind: Literal["crops", "scenes"], index: Tensor) -> tuple[Tensor, Tensor]:
        """Which objects (B,) are seen how (B, 3, 3)."""
        member = index % self._group
        draws = Draws(self.settings.data.seed, f"{kind}/{self.split}", index - member, self.world.device)
        objects = draw_objects(self.world, draws)
        R_view = draw_views(self.world, draws, objects)
        member = member.to(self.world.device)
        for number, look_alikes in enumerate(self._look_alikes):
            rows = (objects == number) & (member > 0)
            R_view[rows] = look_alikes.of(R_view[rows], member[rows] - 1)
        return objects, R_view

    def companion_objects(self, draws: Draws, objects: Tensor, tag: str) -> Tensor:
        """Which objects (B,) further instances in scenes of these objects (B,) are of."""
        return draw_objects(self.world, draws, tag)

    def _jittered(self, square: Tensor, draws: Draws, difficulty: float) -> Tensor:
        """Scales and shifts Step 1's window, as detections will be off."""
        low, high = SCALE
        scale = 1.0 + (draws.uniform("scale", low=low, high=high) - 1.0) * difficulty
        scale = torch.where(draws.chance("scale?", CHANGED), scale, 1.0)
        reach = SHIFT * difficulty
        shift = draws.uniform("shift", 2, low=-reach, high=reach)
        shift = torch.where(draws.chance("shift?", CHANGED)[:, None], shift, 0.0)
        side = geometry.box_size(square)
        center = geometry.box_center(square) + shift * side
        return geometry.boxes_around(center, side * scale[:, None])

    def _render(
        self, draws: Draws, item: _Placement, size: int, difficulty: float, *, clutter: bool, attempt: int = 0
    ) -> _Rendered:
        """Renders objects and occluders, and anew, with other occluders, where too little of an object is visible."""
        aug, antialias = self.settings.data.augmentation, self.settings.data.antialias
        lights = Lights.draw(draws, aug)
        tint = 1.0 + draws.uniform("tint", 3, low=-1.0, high=1.0) * aug.tint * difficulty
        targets = Instances.single(item.objects, item.R, item.t)
        where = (draws, item.objects, item.R, item.t)
        parts = [(targets, tint), self._occluders.place(*where, attempt=attempt, difficulty=difficulty)]
        if clutter and attempt < ATTEMPTS - 1:
            parts.append(self._occluders.clutter(draws, item.objects, item.t, difficulty))
        if item.companions is not None:
            parts += self._beside(draws, item.companions, attempt, difficulty)
        instances, tints = merge(parts)
        rgba, buffers = render_shaded(self.world.scene_renderer, instances, item.K, size, lights, tints, antialias)
        mask = _object_mask(buffers, instances)
        visible = mask.flatten(1).sum(1) / (buffers.layers > 0).flatten(1).sum(1).clamp_min(1)
        result = _Rendered(rgba, mask, visible, instances, _visible_pixels(buffers, instances, item.companions))
        poor = (visible < self.settings.data.occlusion.min_visible).nonzero().squeeze(1)
        if len(poor) == 0 or attempt == ATTEMPTS - 1:
            return result
        again = self._render(
            draws.select(poor), item.select(poor), size, difficulty, clutter=clutter, attempt=attempt + 1
        )
        return result.replaced(poor, again)

    def _beside(
        self, draws: Draws, companions: Companions, attempt: int, difficulty: float
    ) -> list[tuple[Instances, Tensor]]:
        """Companions and their occluders: as many as the target objects have; the companions last."""
        parts = []
        for k in range(companions.objects.shape[1]):
            where = (draws, companions.objects[:, k], companions.R[:, k], companions.t[:, k])
            parts.append(self._occluders.place(*where, attempt=attempt, difficulty=difficulty, name=f" companion {k}"))
        return [*parts, companions.instances()]

    def _finish(self, rgba: Tensor, draws: Draws, difficulty: float) -> Tensor:
        """Lays a render over a background and changes the whole image's appearance."""
        size = rgba.shape[-1]
        background = self.backgrounds(size).sample(draws, size)
        dim = draws.uniform("background brightness")[:, None, None, None]
        background = background * (difficulty * (1.0 - (1.0 - difficulty) * dim))
        images = rgba[:, :3] + (1.0 - rgba[:, 3:]) * background
        return augment(images, draws, self.settings.data.augmentation, difficulty)

    def _clean(self, draws: Draws) -> Tensor:
        """Which items are left clean, (B,) bool; only in training."""
        return draws.chance("clean", self.settings.data.clean if self.split == "train" else 0.0)

    def _bare(self, item: _Placement, size: int) -> _Rendered:
        """The objects alone before black, in the target's light."""
        lights = Lights.fixed(len(item.objects), self.world.device)
        tint = torch.ones(len(item.objects), 3, device=self.world.device)
        instances = Instances.single(item.objects, item.R, item.t)
        antialias = self.settings.data.antialias
        rgba, buffers = render_shaded(self.world.renderer, instances, item.K, size, lights, tint, antialias)
        mask, whole = _object_mask(buffers, instances), torch.ones_like(tint[:, 0])
        slots = 0 if item.companions is None else item.companions.objects.shape[1]
        return _Rendered(rgba, mask, whole, instances, whole.new_zeros(len(whole), slots))

    def _others(self, companions: Companions, pixels: Tensor) -> dict[str, Tensor]:
        """What a ``SceneBatch`` says of companions, of which so many pixels (B, n) are visible."""
        image, slot = (companions.objects >= 0).nonzero().unbind(1)
        objects, R, t = (x[image, slot] for x in (companions.objects, companions.R, companions.t))
        crop, data = self.settings.network.crop, self.settings.data
        targets = pixels.new_zeros(*pixels.shape, 3, crop, crop)
        R_view = geometry.offaxis_rotation(companions.t).mT @ companions.R
        clean = self.world.clean_views(objects, R_view[image, slot])
        side = geometry.box_size(geometry.padded_square(self.world.boxes(objects, R, t), ROI_PAD))[:, 0]
        silhouette = (clean.amax(1) > 0).float().mean((1, 2)) * (side * data.antialias).square()
        targets[image, slot] = clean
        visible = torch.zeros_like(pixels)
        visible[image, slot] = (pixels[image, slot] / silhouette.clamp_min(1)).clamp_max(1.0)
        return {
            "other_boxes": companions.boxes,
            "other_objects": companions.objects,
            "other_R": companions.R,
            "other_t": companions.t,
            "other_R_view": R_view,
            "other_targets": targets,
            "other_visible": visible,
        }

    def _depth(self, instances: Instances, K: Tensor, size: int) -> Tensor:
        depth = self.world.scene_renderer.depth(instances, K, (size, size))
        return torch.where(depth > 0, depth, self.world.far)


def _object_mask(buffers: Buffers, instances: Instances) -> Tensor:
    """Returns (B, H, W) bool, the pixels where each image's target object is nearest."""
    target = (instances.layer >= 0).nonzero().squeeze(1).int()  # one an image, in the images' order
    return buffers.instance == target[:, None, None]


def _visible_pixels(buffers: Buffers, instances: Instances, companions: Companions | None) -> Tensor:
    """Returns (B, n) float, the pixels where each companion is nearest."""
    if companions is None:
        return torch.zeros(len(buffers.instance), 0, device=buffers.instance.device)
    present = companions.objects >= 0
    ends = torch.bincount(instances.image, minlength=len(present)).cumsum(0)
    rows = ends[:, None] - present.sum(1, keepdim=True) + present.cumsum(1) - 1  # they are the last of each image
    counts = torch.bincount(buffers.instance.flatten() + 1, minlength=len(instances.image) + 1)[1:]
    return torch.where(present, counts[rows.clamp_min(0)], 0).float()


def _mask_boxes(masks: Tensor) -> Tensor:
    """Returns the boxes (B, 4) of masks (B, H, W); zeros for an empty one."""
    columns, rows = masks.any(1), masks.any(2)
    sides = []
    for line in (columns, rows):
        low = line.int().argmax(1)
        high = line.shape[1] - line.flip(1).int().argmax(1)
        sides.append((low, high))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack((x0, y0, x1, y1), 1).float()
    return boxes * columns.any(1, keepdim=True)


def difficulty_at(progress: float, ramp: float) -> float:
    """Returns the curriculum's difficulty after a share ``progress`` of a stage; ``ramp`` = 0 switches it off."""
    return 1.0 if ramp <= 0 else min(1.0, progress / ramp)
