"""Three-dimensional occluders: a hand that grips the object, and other things in front, beside and behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.mesh import Mesh
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances
from codepose.settings.data import OcclusionSettings
from codepose.synthesis.world import World

_HAND_GRIP_MM = 16.0
"""Radius of the bar the built-in hand is closed around."""
_NEAREST = 0.1
"""Share of the object's distance that occluders keep from the camera."""
_SMALLER, _LARGEST = 0.6, 1.5
"""Diameters, in the object's, of the largest solids and of the largest things of everyday shape around it."""
ATTEMPTS = 4
"""How often occluders are drawn before an image goes without: later attempts draw fewer and smaller ones."""


@lru_cache(maxsize=1024)  # asked for anew by every split and stage
def grip_radius(mesh: Mesh) -> float:
    """Returns the radius in mm of the mesh around its grip segment: the median distance of its surface from it."""
    a, b = mesh.grip[0], mesh.grip[1]
    corners = mesh.vertices[mesh.faces]  # (F, 3, 3)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    rng = np.random.default_rng(0)
    face = rng.choice(len(area), 4096, p=area / area.sum())
    points = np.einsum("nk,nkd->nd", rng.dirichlet((1.0, 1.0, 1.0), 4096), corners[face])
    length = max(float(np.linalg.norm(b - a)), 1e-6)
    axis = (b - a) / length
    along = (points - a) @ axis
    beside = (along >= 0) & (along <= length)
    if not beside.any():
        return _HAND_GRIP_MM
    away = points[beside] - a - along[beside, None] * axis
    return float(np.median(np.linalg.norm(away, axis=1)))


class Occluders:
    """Places occluders around the objects of a world."""

    def __init__(self, world: World, settings: OcclusionSettings) -> None:
        self.world = world
        self.settings = settings
        device = world.device
        self._grips = torch.stack([torch.from_numpy(o.mesh.grip) for o in world.objects]).to(device)
        scales = [
            min(max(o.mesh.diameter / 300.0, 1.1 * grip_radius(o.mesh) / _HAND_GRIP_MM), 1.6) for o in world.objects
        ]
        self._hand_scales = torch.tensor(scales, device=device)
        self._largest = _SMALLER if settings.shapes == "solids" else _LARGEST
        self._other_diameters = torch.tensor([m.diameter for m in world.other_meshes], device=device)

    def place(
        self,
        draws: Draws,
        objects: Tensor,
        R: Tensor,
        t: Tensor,
        *,
        attempt: int,
        difficulty: float,
        name: str = "",
    ) -> tuple[Instances, Tensor]:
        """Returns the occluders of one object in each of B images, and their tints (N, 3).

        Args:
            draws: The items' random numbers.
            objects: (B,) which object stands in each image, -1 = none.
            R: (B, 3, 3) its pose.
            t: (B, 3) in mm.
            attempt: 0, 1, ...: later attempts draw anew, smaller; the last returns none.
            difficulty: Factor on the probability of any occluder.
            name: Other names give other occluders.
        """
        occluded = (objects >= 0) & draws.chance("occluded" + name, (1.0 - self.settings.unoccluded) * difficulty)
        if attempt >= ATTEMPTS - 1:
            occluded = torch.zeros_like(occluded)
        tag = f"{name}#{attempt}"
        with_hand = occluded & draws.chance("hand" + tag, self.settings.hand)
        if attempt == ATTEMPTS - 2:
            with_hand = torch.zeros_like(with_hand)
        parts = [self._before_the_camera(self._hands(draws, tag, with_hand, objects, R, t), t)]
        with_hand = torch.zeros_like(with_hand).index_fill(0, parts[0][0].image, True)
        shrink = 0.7**attempt
        for k in range(self.settings.others):
            # an image without a hand has at least one other occluder
            wanted = occluded & (draws.chance(f"other {k}" + tag, 0.5) | (~with_hand if k == 0 else False))
            parts.append(self._others(draws, f"other {k}" + tag, wanted, objects, t, shrink))
        if self.settings.large > 0.0:
            wanted = occluded & draws.chance("large" + tag, self.settings.large)
            parts.append(self._large(draws, "large" + tag, wanted, objects, R, t, shrink))
        return merge(parts)

    def clutter(self, draws: Draws, objects: Tensor, t: Tensor, difficulty: float) -> tuple[Instances, Tensor]:
        """Returns things somewhere in the image, behind the object's front, and their tints (N, 3).

        Args:
            draws: The items' random numbers.
            objects: (B,) which object stands in each image.
            t: (B, 3) mm, where.
            difficulty: Factor on the probability of each thing, in [0, 1].
        """
        size = self.world.settings.data.camera.image_size
        parts = [self._others(draws, "", torch.zeros_like(objects, dtype=torch.bool), objects, t, 1.0)]
        for k in range(self.settings.clutter):
            name = f"clutter {k}"
            chosen = draws.chance(name, 0.5 * difficulty).nonzero().squeeze(1)
            chosen_draws = draws.select(chosen)
            center = chosen_draws.uniform(name + " place", 2) * size
            behind = chosen_draws.uniform(name + " depth", low=0.0, high=1.5) * self.world.diameters[objects[chosen]]
            diameter = self._diameter(chosen_draws, name, objects[chosen], self._largest)
            parts.append(self._thing(chosen_draws, name, chosen, diameter, center, t[chosen, 2] + behind))
        return merge(parts)

    def _before_the_camera(self, part: tuple[Instances, Tensor], t: Tensor) -> tuple[Instances, Tensor]:
        """Those occluders all of which lies before the camera: a hand is longer than a small part's distance."""
        things, tint = part
        keep = self.world.scene_renderer.nearest_depths(things) > _NEAREST * t[things.image, 2]
        return things.select(keep), tint[keep]

    def _hands(
        self, draws: Draws, tag: str, wanted: Tensor, objects: Tensor, R: Tensor, t: Tensor
    ) -> tuple[Instances, Tensor]:
        chosen = wanted.nonzero().squeeze(1)
        chosen_draws = draws.select(chosen)
        grip = self._grips[objects[chosen]]  # (n, 2, 3)
        along = chosen_draws.uniform("grip" + tag, low=0.0, high=1.0)[:, None]
        point = grip[:, 0] + along * (grip[:, 1] - grip[:, 0])
        axis = F.normalize(grip[:, 1] - grip[:, 0], dim=1)
        axis = axis * torch.where(chosen_draws.chance("grip end" + tag, 0.5), 1.0, -1.0)[:, None]
        y = torch.tensor([0.0, 1.0, 0.0], device=axis.device)
        roll = chosen_draws.uniform("grip roll" + tag, high=2 * math.pi)
        R_obj_hand = geometry.rotation_between(y, axis) @ _about_y(roll)
        scale = self._hand_scales[objects[chosen]] * chosen_draws.uniform("hand size" + tag, low=0.9, high=1.15)
        instances = Instances(
            chosen,
            torch.full_like(chosen, self.world.hand_index),
            R[chosen] @ R_obj_hand,
            (R[chosen] @ point[..., None])[..., 0] + t[chosen],
            scale,
            torch.full_like(chosen, -1),
        )
        # skin from light to dark, a little redder or yellower
        tone = chosen_draws.uniform("skin" + tag, low=0.35, high=1.25)[:, None]
        hue = chosen_draws.uniform("skin hue" + tag, 3, low=0.9, high=1.1)
        return instances, tone * hue

    def _others(
        self, draws: Draws, name: str, wanted: Tensor, objects: Tensor, t: Tensor, shrink: float
    ) -> tuple[Instances, Tensor]:
        """Things in front of the object: on the ray through a point near its centre, nearer to the camera."""
        chosen = wanted.nonzero().squeeze(1)
        chosen_draws = draws.select(chosen)
        diameter = self.world.diameters[objects[chosen]]
        z = t[chosen, 2]
        spread = 0.4 * diameter * self.world.K[0, 0] / z
        center = geometry.to_pixels(t[chosen], self.world.K)
        center = center + chosen_draws.uniform(name + " place", 2, low=-1.0, high=1.0) * spread[:, None]
        nearer = chosen_draws.uniform(name + " depth", low=0.15, high=0.6) * diameter
        depth = torch.maximum(z - nearer, 0.4 * z)
        return self._thing(
            chosen_draws, name, chosen, shrink * self._diameter(chosen_draws, name, objects[chosen]), center, depth
        )

    def _large(
        self, draws: Draws, name: str, wanted: Tensor, objects: Tensor, R: Tensor, t: Tensor, shrink: float
    ) -> tuple[Instances, Tensor]:
        """Things larger than the object, of which each reaches over it from one side of the image."""
        chosen = wanted.nonzero().squeeze(1)
        chosen_draws = draws.select(chosen)
        targets = Instances.single(objects[chosen], R[chosen], t[chosen])
        diameter = self.world.diameters[targets.mesh]
        z = targets.t[:, 2] - chosen_draws.uniform(name + " depth", low=0.15, high=0.6) * diameter
        z = torch.maximum(z, 0.4 * targets.t[:, 2])
        size = chosen_draws.uniform(name + " size", low=1.0, high=3.0) * diameter
        size = torch.minimum(size, 0.8 * z)  # all of it before the camera
        middle = geometry.to_pixels(targets.t, self.world.K)
        things, tint = self._thing(chosen_draws, name, chosen, size, middle, z)
        across = (torch.arange(2, device=z.device) < 1) == chosen_draws.chance(name + " axis", 0.5)[:, None]  # (n, 2)
        first = chosen_draws.chance(name + " side", 0.5)[:, None]
        share = shrink * chosen_draws.uniform(name + " share", low=0.2, high=0.7)[:, None]
        beside = chosen_draws.uniform(name + " place", 2, low=-0.25, high=0.25)
        low, high = self._ends(targets, targets.image)
        for turn in range(2):  # moved aside, a thing looks larger; the second time it is there
            begins, ends = self._ends(things, targets.image)
            over = torch.where(first, low + share * (high - low) - ends, high - share * (high - low) - begins)
            shift = torch.where(across, over, beside * (ends - begins) * (1 - turn))  # pixels
            things = replace(things, t=things.t + F.pad(shift * (z / self.world.K[0, 0])[:, None], (0, 1)))
        return things, tint

    def _ends(self, instances: Instances, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the first and last pixels (n, 2), across and down, of things in ``images`` (n,) of their own."""
        K = self.world.K.expand(len(images), 3, 3)
        boxes = self.world.scene_renderer.projected_boxes(replace(instances, image=images), K)
        return boxes[:, :2], boxes[:, 2:]

    def _diameter(self, mine: Draws, name: str, objects: Tensor, largest: float = _SMALLER) -> Tensor:
        """Diameters in mm of things by objects (n,), of at most ``largest`` of theirs."""
        return mine.uniform(name + " size", low=0.2, high=largest) * self.world.diameters[objects]

    def _thing(
        self, mine: Draws, name: str, chosen: Tensor, diameter: Tensor, center: Tensor, z: Tensor
    ) -> tuple[Instances, Tensor]:
        """One distractor an image, of ``diameter`` (n,) mm, at image point ``center`` (n, 2) and depth ``z`` (n,)."""
        kind = mine.integer(name + " kind", len(self.world.other_meshes))
        rotation = geometry.view_rotation(mine.direction(name + " turn"), mine.uniform(name + " roll", high=6.283))
        instances = Instances(
            chosen,
            self.world.first_other + kind,
            rotation,
            geometry.from_pixels(center, z, self.world.K),
            diameter / self._other_diameters[kind],
            torch.full_like(chosen, -1),
        )
        if self.settings.shapes == "things":  # they have colours of their own
            return instances, mine.uniform(name + " shade", 1, low=0.6, high=1.2).expand(-1, 3)
        return instances, mine.uniform(name + " colour", 3, low=0.05, high=1.0)


def merge(parts: Sequence[tuple[Instances, Tensor]]) -> tuple[Instances, Tensor]:
    """Joins instances of the same images, with their tints (N, 3), in the images' order."""
    order = torch.argsort(torch.cat([instances.image for instances, _ in parts]), stable=True)
    return Instances.merge([instances for instances, _ in parts]), torch.cat([tint for _, tint in parts])[order]


def _about_y(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack((cos, zero, sin, zero, one, zero, -sin, zero, cos), -1).reshape(-1, 3, 3)
