"""Render-and-compare: the pose whose render agrees best with the network's reconstruction and with the photo's edges.

The reconstruction shows the part as the network believes it to lie, without occluders, in the targets' light. It
knows more than the nearest code says (docs/log/2026-11-22-codes.md): the codebook ranks its nearest views by it
(``Codebook.rerank``), and here poses near the best of these are rendered as targets are and compared with it. Where
the part is and how far away, and how it lies to a few degrees, the photo's edges say (``contours.py``): poses are
searched for along them (``edge_search.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.config import RefinementSettings
from codepose.config_data import CameraSettings
from codepose.estimation.contours import PAD, ContourMatcher, Reach, Reaches
from codepose.estimation.edge_search import search
from codepose.estimation.windows import letterbox
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.world import World

_RENDERS = 256
"""Views rendered at a time."""
_COARSE, _FINE = 96, 192
"""Pixels along the windows in which renders are compared with the photo."""
_FAR: Reaches = (Reach(0.12, 0.20, 9), Reach(0.045, 0.075, 7), Reach(0.010, 0.015, 3))
"""Where to look from a box: down to a third of a pixel of the coarse window."""
_NEAR: Reaches = (Reach(0.03, 0.045, 7), Reach(0.008, 0.012, 3))
_THERE: Reaches = (Reach(0.0, 0.0, 1),)
_NEARER = 0.63
"""How much nearer each round searches than the one before."""
_CLOSER = 1.25
"""From so many photo pixels on for one of the coarse window's, the fine one shows more."""


def agreement(reconstructions: Tensor, renders: Tensor) -> Tensor:
    """Normalised cross-correlation of images, the same for any gain and offset of either.

    Args:
        reconstructions: (N, 3, c, c).
        renders: (N, k, 3, c, c).

    Returns:
        (N, k) in [-1, 1]; 0 where one of the images is flat.
    """
    a, b = reconstructions.flatten(1), renders.flatten(2)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(2, keepdim=True)
    return torch.einsum("nd,nkd->nk", F.normalize(a, dim=1, eps=1e-6), F.normalize(b, dim=2, eps=1e-6))


@dataclass(frozen=True)
class Seen:
    """N detections and what a refinement looks at.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        which: (N,) the image each detection is in.
        boxes: (N, 4) amodal, unpadded.
        objects: (N,) which object.
        K: (3, 3) the images' camera.
        reconstructions: (N, 3, c, c) in [0, 1].
        extent: (2,) pixels across and down of what the images show; beyond lies a letterbox.
    """

    images: Tensor
    which: Tensor
    boxes: Tensor
    objects: Tensor
    K: Tensor
    reconstructions: Tensor
    extent: Tensor

    def to(self, device: torch.device) -> Seen:
        """Returns a copy on a device."""
        return Seen(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def through(self, photos: Photos) -> Seen:
        """Returns the same detections in the photos' pixels."""
        scale = photos.scale.to(self.K)
        return replace(
            self,
            images=photos.images.to(self.images),
            boxes=self.boxes * scale.repeat(2),
            K=geometry.scaled_camera(self.K, scale),
            extent=self.extent * scale,
        )

    def select(self, chosen: Tensor) -> Seen:
        """Returns some of the detections, by their numbers."""
        own = {name: getattr(self, name)[chosen] for name in ("which", "boxes", "objects", "reconstructions")}
        return replace(self, **own)


@dataclass(frozen=True)
class Photos:
    """What the camera saw, where that is more than the network sees.

    Attributes:
        images: (B, 3, H, W) in [0, 1], with the network's images' field of view.
        scale: (2,) pixels of these over pixels of the network's images, across and down.
    """

    images: Tensor
    scale: Tensor

    @classmethod
    def of(cls, scenes: SceneBatch, most: int) -> Photos | None:
        """Returns those of a batch of scenes, if it has any, with sides of ``most`` pixels at most."""
        if scenes.photos is None:
            return None
        photos, _ = letterbox(scenes.photos, min(most, scenes.photos.shape[-1]))
        return cls(photos, scenes.K.new_full((2,), photos.shape[-1] / scenes.images.shape[-1]))


def useful_size(camera: CameraSettings) -> int:
    """Returns the side of photos, in pixels, that fills the fine window around a box of the middle of the range.

    Larger boxes then have a little more pixels there than the window, smaller ones a little fewer.
    """
    middle = sum(camera.box_side) / 2
    return max(camera.image_size, round(camera.image_size * _FINE / (PAD * middle)))


@dataclass(frozen=True)
class Refined:
    """Poses of N detections, best hypothesis each.

    Attributes:
        R_view: (N, 3, 3) as seen along the ray through the object.
        t: (N, 3) mm.
        agreement: (N,) of the clean render with the reconstruction, in [-1, 1].
        contour: (N,) how much of the render's edges lies on the photo's; 0 = chance (``ContourMatcher.fit``).
    """

    R_view: Tensor
    t: Tensor
    agreement: Tensor
    contour: Tensor


@dataclass(frozen=True)
class _Hypotheses:
    """k poses for each of N detections; ``boxed`` is the translation by the box from which each came."""

    R_view: Tensor  # (N, k, 3, 3)
    boxed: Tensor  # (N, k, 3)
    similarity: Tensor  # (N, k), of the code of the codebook's view from which each came
    t: Tensor  # (N, k, 3)
    agreement: Tensor  # (N, k)
    contour: Tensor  # (N, k)

    def best(self, keep: int, settings: RefinementSettings) -> _Hypotheses:
        """The ``keep`` best of each detection."""
        value = self.contour + settings.agreement * self.agreement + settings.similarity * self.similarity
        value = value.nan_to_num(nan=-math.inf)
        rows = torch.arange(len(value), device=value.device)[:, None]
        top = value.topk(min(keep, value.shape[1]), dim=1).indices
        return self._each(lambda values: values[rows, top])

    def select(self, chosen: Tensor) -> _Hypotheses:
        """Some of the detections."""
        return self._each(lambda values: values[chosen])

    def replaced(self, chosen: Tensor, new: _Hypotheses) -> _Hypotheses:
        """Other hypotheses, as many, for some of the detections."""
        return _Hypotheses(*(getattr(self, f.name).index_copy(0, chosen, getattr(new, f.name)) for f in fields(self)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> _Hypotheses:
        return _Hypotheses(*(change(getattr(self, f.name)) for f in fields(self)))

    def joined(self, other: _Hypotheses) -> _Hypotheses:
        return _Hypotheses(*(torch.cat((getattr(self, f.name), getattr(other, f.name)), 1) for f in fields(self)))


class Refiner:
    """Refines poses by render-and-compare: rotations by the reconstruction and the photo's edges, place by the edges.

    Args:
        world: The run's meshes and renderer.
        settings: How many candidates, how far around them it searches.
    """

    def __init__(self, world: World, settings: RefinementSettings) -> None:
        self.world = world
        self.settings = settings

    @torch.no_grad()
    def __call__(
        self, seen: Seen, R_view: Tensor, t: Tensor, similarity: Tensor, photos: Photos | None = None
    ) -> Refined:
        """Finds each detection's best pose.

        Args:
            seen: The detections, in the network's images.
            R_view: (N, k, 3, 3) to start from, such as the codebook's best views.
            t: (N, k, 3) mm, where the boxes put them.
            similarity: (N, k) cosines of their codes with the detections'.
            photos: The same images at a higher resolution. Detections around which these, or else the images, have a
                quarter more pixels than the coarse window are searched for in a fine one.
        """
        home, settings = R_view.device, self.settings
        seen = seen.to(self.world.device)
        R_view, t, similarity = (x.to(self.world.device) for x in (R_view, t, similarity))
        agreed, unknown = self._agreement(seen, R_view), torch.zeros_like(similarity)
        start = _Hypotheses(R_view, t, similarity, t, agreed, unknown)
        found = _laid(_matcher(self.world, seen, _COARSE), start, _FAR)
        one = found.best(1, settings)
        of_photos = seen if photos is None else seen.through(photos)
        coarse, fine = _by_resolution(of_photos.boxes)
        for side, looked, rows in ((_COARSE, seen, coarse), (_FINE, of_photos, fine)):
            if len(rows):
                better = self._searched(side, looked.select(rows), found.select(rows))
                one = one.replaced(rows, better.best(1, settings))
        return Refined(*(x[:, 0].to(home) for x in (one.R_view, one.t, one.agreement, one.contour)))

    def _searched(self, side: int, seen: Seen, start: _Hypotheses) -> _Hypotheses:
        """Lays hypotheses over the photo anew, then searches around the best, ever nearer."""
        settings, matcher = self.settings, _matcher(self.world, seen, side)
        found = _laid(matcher, start, _NEAR)
        for turn in range(settings.rounds):
            count = settings.hypotheses if turn < 2 else max(1, settings.keep >> (turn - 2))
            near = found.best(count, settings)
            R_view, t = search(matcher, near.R_view, near.t, near.boxed, settings.step_deg * _NEARER**turn)
            near = replace(near, R_view=R_view, t=t, agreement=self._agreement(seen, R_view))
            found = found.joined(_laid(matcher, near, _THERE))
        return found

    def _agreement(self, seen: Seen, rotations: Tensor) -> Tensor:
        count = rotations.shape[1]
        which = seen.objects.repeat_interleave(count)
        parts = zip(torch.split(which, _RENDERS), torch.split(rotations.flatten(0, 1), _RENDERS), strict=True)
        images = torch.cat([self.world.clean_views(objects, R) for objects, R in parts])
        return agreement(seen.reconstructions, images.reshape(-1, count, *images.shape[1:]))


def _matcher(world: World, seen: Seen, side: int) -> ContourMatcher:
    where = (seen.images, seen.which, seen.boxes, seen.objects, seen.K)
    return ContourMatcher(world, *where, side=side, extent=seen.extent)


def _laid(matcher: ContourMatcher, given: _Hypotheses, reaches: Reaches) -> _Hypotheses:
    """Hypotheses where their edges lie best on the photo's."""
    t, contour = matcher.fit(given.R_view, given.boxed, given.t, reaches)
    return replace(given, t=t, contour=contour)


def _by_resolution(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of those boxes (N, 4) for which the coarse windows are fine enough, and of the others."""
    fine = geometry.box_size(boxes).amax(1) * PAD >= _CLOSER * _COARSE
    return (~fine).nonzero().squeeze(1), fine.nonzero().squeeze(1)
