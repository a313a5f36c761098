"""What refinement works on: detections in photos, the poses tried for each, and how a refiner is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from codepose import geometry

_OF_EACH = ("which", "boxes", "objects", "reconstructions")
"""What ``Seen`` holds of each detection; the rest is of all."""


@dataclass(frozen=True)
class Photos:
    """What the camera saw, where that is more than the network sees.

    Attributes:
        images: (B, 3, H, W) in [0, 1], with the network's images' field of view.
        scale: (2,) pixels of these over pixels of the network's images, across and down.
    """

    images: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Seen:
    """N detections and what a refinement looks at.

    Attributes:
        images: (B, 3, H, W) in [0, 1], as the network sees them.
        which: (N,) the image each detection is in.
        boxes: (N, 4) amodal, unpadded.
        objects: (N,) which object.
        K: (3, 3) the images' camera.
        reconstructions: (N, 3, c, c) in [0, 1].
        extent: (2,) pixels across and down of what the images show; beyond lies a letterbox.
        photos: The same images at a higher resolution; None = there are none.
    """

    images: Tensor
    which: Tensor
    boxes: Tensor
    objects: Tensor
    K: Tensor
    reconstructions: Tensor
    extent: Tensor
    photos: Photos | None = None

    def to(self, device: torch.device) -> Seen:
        """Returns a copy on a device; photos of a higher resolution follow when they are looked at."""
        names = (f.name for f in fields(self) if f.name != "photos")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def in_photos(self) -> Seen:
        """Returns the same detections in the photos' pixels; the detections themselves where there are none."""
        if self.photos is None:
            return self
        scale = self.photos.scale.to(self.K)
        return replace(
            self,
            images=self.photos.images.to(self.images),
            boxes=self.boxes * scale.repeat(2),
            K=geometry.scaled_camera(self.K, scale),
            extent=self.extent * scale,
            photos=None,
        )

    def select(self, chosen: Tensor) -> Seen:
        """Returns some of the detections, by their numbers."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _OF_EACH})

    def replaced(self, chosen: Tensor, new: Seen) -> Seen:
        """Returns a copy in which the detections numbered ``chosen`` are others of the same images."""
        return replace(self, **{n: getattr(self, n).index_copy(0, chosen, getattr(new, n)) for n in _OF_EACH})


@dataclass(frozen=True)
class Poses:
    """k poses of each of N detections, and what speaks for them.

    Attributes:
        R_view: (N, k, 3, 3) as seen along the ray through the object.
        t: (N, k, 3) mm, where the object's own middle lies.
        boxed: (N, k, 3) mm, where the pose began: where the box puts its view, or the edges by which it was found.
        similarity: (N, k) cosine of that view's code with the detection's.
        agreement: (N, k) of the clean render with the reconstruction, in [-1, 1]; 0 = not looked at.
        contour: (N, k) how much of the render's edges lies on the photo's; 0 = chance, or not looked at.
        judged: (N, k) log-odds by which the judge holds it right (``JudgeRefiner.scores``); 0 = not looked at.
        score: (N, k) by which the last refiner ranks them; nan comes last.
    """

    R_view: Tensor
    t: Tensor
    boxed: Tensor
    similarity: Tensor
    agreement: Tensor
    contour: Tensor
    judged: Tensor
    score: Tensor

    @classmethod
    def start(cls, R_view: Tensor, t: Tensor, similarity: Tensor) -> Self:
        """Returns poses of which nothing is known but their codes, which rank them.

        Args:
            R_view: (N, k, 3, 3) rotations as seen along the ray through the object.
            t: (N, k, 3) mm, where the boxes put them.
            similarity: (N, k) cosines of their codes with those of the detections.
        """
        nothing = torch.zeros_like(similarity)
        return cls(R_view, t, t, similarity, nothing, nothing, nothing, similarity)

    @property
    def R(self) -> Tensor:
        """(N, k, 3, 3) R_cam_obj."""
        return geometry.offaxis_rotation(self.t) @ self.R_view

    def best(self, keep: int) -> Self:
        """Returns the ``keep`` best of each detection, or all if there are fewer, best first."""
        return self.picked(self.ranking(keep))

    def ranking(self, keep: int) -> Tensor:
        """Returns the places (N, m) of the ``keep`` best of each detection, or of all, best first."""
        value = self.score.nan_to_num(nan=-math.inf)
        return value.topk(min(keep, value.shape[1]), dim=1).indices

    def picked(self, places: Tensor) -> Self:
        """Returns those at places (N, m) of each detection, in that order."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        return self._each(lambda values: values[rows, places])

    def select(self, chosen: Tensor) -> Self:
        """Returns those of some of the detections, by their numbers."""
        return self._each(lambda values: values[chosen])

    def to(self, device: torch.device) -> Self:
        """Returns a copy on a device."""
        return self._each(lambda values: values.to(device))

    def replaced(self, chosen: Tensor, new: Self) -> Self:
        """Returns a copy with other poses, as many of each, for the detections numbered ``chosen``."""
        names = [f.name for f in fields(self)]
        return type(self)(*(getattr(self, name).index_copy(0, chosen, getattr(new, name)) for name in names))

    def joined(self, other: Self) -> Self:
        """Returns these poses and others of the same detections."""
        names = [f.name for f in fields(self)]
        return type(self)(*(torch.cat((getattr(self, name), getattr(other, name)), 1) for name in names))

    def where(self, chosen: Tensor, other: Self) -> Self:
        """Returns these poses where ``chosen`` (N, k) says so, and as many others elsewhere."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return type(self)(*(torch.where(chosen.view(*chosen.shape, *[1] * (a.ndim - 2)), a, b) for a, b in pairs))

    def reshaped(self, detections: int, count: int) -> Self:
        """Returns the same poses in the same order as ``count`` of each of so many detections."""
        return self._each(lambda values: values.reshape(detections, count, *values.shape[2:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*(change(getattr(self, f.name)) for f in fields(self)))


class Refiner(Protocol):
    """Poses in, poses out: what follows the network's own estimate. Refiners can be called one after the other."""

    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        """Returns better poses of the same detections, best first.

        Args:
            seen: N detections of one object, and their images.
            poses: At least one pose each.

        Returns:
            At least one pose of each detection on the poses' device; how many is the refiner's choice.
        """
        ...


@runtime_checkable
class Judge(Refiner, Protocol):
    """A refiner that also says of any poses by what log-odds it holds them for right."""

    def scores(self, seen: Seen, poses: Poses) -> Tensor:
        """Returns log-odds (N, k) of k poses each of N detections of one object."""
        ...


@dataclass(frozen=True)
class InTurn:
    """Two refiners, one after the other, as one."""

    first: Refiner
    second: Refiner

    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        """As ``Refiner`` has it."""
        return self.second(seen, self.first(seen, poses))


class Stages(InTurn):
    """Two refiners of which the second need only be asked where the first leaves hope.

    The first ranks and moves poses, the second lays the best of them over the photo.
    """
