"""Views that are easily taken for one another, such as a hammer's from either side of its head.

Blurred to a few pixels they are the same; the codebook ranks them side by side. Who learns to tell views apart learns
most from these, and a random batch holds hardly any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.symmetry_group import Symmetries
from codepose.synthesis.objects import ObjectModel

if TYPE_CHECKING:
    from codepose.synthesis.world import World

_LEVEL, _LEVEL_NARROW, _IN_PLANE = 2, 3, 36
"""Views that are compared: icosphere subdivisions (those for a cone of ``_NARROW`` or less), angles in the plane."""
_NARROW = 60.0
_APART = 30.0
"""Degrees between a view and its look-alikes, and between these."""
_SIDE = 32
"""Pixels along the renders that are compared: enough for 8 x 8."""
_RENDERS = 256
"""Views rendered at a time."""


def thumbnails(images: Tensor) -> Tensor:
    """Returns images (B, 3, c, c) in grey at 8 x 8 pixels, without their mean, unit length: (B, 64) float32."""
    small = F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), 8).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1, eps=1e-6)


def spread_views(R: Tensor, keep: int, apart_deg: float, symmetries: Symmetries | None = None) -> Tensor:
    """Picks the first views of a ranking that are not close to one picked before.

    Args:
        R: (N, k, 3, 3) R_view of a ranking's views, best first.
        keep: How many to pick, at most k.
        apart_deg: Smallest angle between two of them; where too few are apart, the last ones repeat the best.
        symmetries: The part's: views that look the same are not apart; None = it has none.

    Returns:
        (N, keep) places in the ranking, best first.
    """
    rows = torch.arange(len(R), device=R.device)
    left = torch.ones(R.shape[:2], dtype=torch.bool, device=R.device)
    picked = []
    for _ in range(min(keep, R.shape[1])):
        first = left.int().argmax(1)  # the first that is left; the best where none is
        picked.append(first)
        one = R[rows, first][:, None]
        if symmetries is None or not symmetries.any:
            traces = (R * one).sum((2, 3))
            left &= traces <= 1.0 + 2.0 * math.cos(math.radians(apart_deg)) + 1e-5
        else:
            left &= symmetries.angles(R, one).rad2deg() >= apart_deg - 0.05
        left[rows, first] = False
    return torch.stack(picked, 1)


@dataclass(frozen=True)
class LookAlikes:
    """One object's views, each with those that it is most easily taken for.

    Attributes:
        rotations: (V, 3, 3) R_view, one of each direction.
        others: (V, n, 3, 3) R_view of its look-alikes, all within the trained cone.
        model: The object.
    """

    rotations: Tensor
    others: Tensor
    model: ObjectModel

    @classmethod
    @torch.no_grad()
    def find(cls, world: World, index: int, count: int) -> LookAlikes:
        """Compares an object's clean views with one another.

        Where fewer are far enough apart, such as in a narrow cone of views, a view is its own look-alike.

        Args:
            world: Meshes and renderer.
            index: Which of its objects.
            count: Look-alikes of each view.
        """
        model = world.objects[index]
        level = _LEVEL_NARROW if model.cone_deg <= _NARROW else _LEVEL
        R = geometry.codebook_rotations(level, _IN_PLANE, model.axis, model.cone_deg, opposite=model.opposite)
        if not model.trains(R).any():  # a cone so narrow that it lies between the directions compared
            R = geometry.turned_views(model.axis[None], _IN_PLANE)
        R = R.to(world.device)
        objects = torch.full((len(R),), index, device=world.device)
        parts = zip(torch.split(objects, _RENDERS), torch.split(R, _RENDERS), strict=True)
        small = torch.cat([thumbnails(world.clean_views(one, turned, crop=_SIDE)) for one, turned in parts])
        first = torch.arange(0, len(R), _IN_PLANE, device=world.device)
        trained = model.trains(R).nonzero().squeeze(1)  # R has a margin of one step around the cone
        found = []
        for some in torch.split(first, _RENDERS):
            ranking = trained[(small[some] @ small[trained].T).argsort(dim=1, descending=True)]
            ranking = torch.cat((some[:, None], ranking), 1)  # the view itself is picked first
            picked = spread_views(R[ranking], count + 1, _APART, model.symmetries)[:, 1:]
            found.append(ranking.gather(1, picked))
        return cls(R[first], R[torch.cat(found)], model)

    def of(self, R_view: Tensor, which: Tensor) -> Tensor:
        """Returns a look-alike (B, 3, 3) of each view R_view (B, 3, 3), the ``which``-th (B,).

        What lies between a view and the nearest one compared, the turn in the plane above all, is applied to both;
        where the look-alike would leave the trained cone by it, the turn in the plane alone.
        """
        nearest, between, angle = geometry.nearest_view(R_view, self.rotations)
        other = self.others[nearest, which]
        turn = axis_angle_to_rotation_matrix(F.pad(angle[:, None], (2, 0)))
        moved = between @ other
        return torch.where(self.model.trains(moved)[:, None, None], moved, turn @ other)
