"""Render-and-compare: the pose whose render agrees best with the network's reconstruction and with the photo's edges.

The reconstruction shows the part as the network believes it to lie, without occluders, in the targets' light. It
knows more than the nearest code says (docs/results.md): the codebook ranks its nearest views by it
(``Codebook.rerank``), and here small turns of the best of these are rendered as targets are and compared with it. It
says nothing about where the part is and how far away: that is what the edges are for (``contours.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose.config import RefinementSettings
from codepose.estimation.contours import FAR, NEAR, ContourMatcher, Reaches
from codepose.synthesis.world import World

_RENDERS = 256
"""Views rendered at a time."""


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
    """

    images: Tensor
    which: Tensor
    boxes: Tensor
    objects: Tensor
    K: Tensor
    reconstructions: Tensor

    def to(self, device: torch.device) -> Seen:
        """Returns a copy on a device."""
        return Seen(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


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
        return _Hypotheses(*(getattr(self, f.name)[rows, top] for f in fields(self)))

    def joined(self, other: _Hypotheses) -> _Hypotheses:
        return _Hypotheses(*(torch.cat((getattr(self, f.name), getattr(other, f.name)), 1) for f in fields(self)))


class Refiner:
    """Refines poses by render-and-compare: rotations by the reconstruction and the photo's edges, place by the edges.

    Args:
        world: The run's meshes and renderer.
        settings: How many candidates, how far they are turned.
    """

    def __init__(self, world: World, settings: RefinementSettings) -> None:
        self.world = world
        self.settings = settings

    @torch.no_grad()
    def __call__(self, seen: Seen, R_view: Tensor, t: Tensor, similarity: Tensor) -> Refined:
        """Finds each detection's best pose.

        Args:
            seen: The detections.
            R_view: (N, k, 3, 3) to start from, such as the codebook's best views.
            t: (N, k, 3) mm, where the boxes put them.
            similarity: (N, k) cosines of their codes with the detections'.
        """
        home, settings = R_view.device, self.settings
        seen = seen.to(self.world.device)
        R_view, t, similarity = (x.to(self.world.device) for x in (R_view, t, similarity))
        matcher = ContourMatcher(self.world, seen.images, seen.which, seen.boxes, seen.objects, seen.K)
        found = _Hypotheses(R_view, t, similarity, *self._laid(seen, matcher, R_view, t, t, FAR))
        for turn in range(settings.rounds):
            found = found.best(settings.keep, settings)
            steps = _small_turns(settings.step_deg * 0.5**turn).to(found.R_view)
            near = (steps @ found.R_view[:, :, None]).flatten(1, 2)  # (N, 8 keep, 3, 3)
            boxed, begin, like = (x.repeat_interleave(len(steps), 1) for x in (found.boxed, found.t, found.similarity))
            laid = self._laid(seen, matcher, near, boxed, begin, NEAR)
            found = found.joined(_Hypotheses(near, boxed, like, *laid))
        one = found.best(1, settings)
        return Refined(*(x[:, 0].to(home) for x in (one.R_view, one.t, one.agreement, one.contour)))

    def _laid(
        self, seen: Seen, matcher: ContourMatcher, R_view: Tensor, boxed: Tensor, begin: Tensor, reaches: Reaches
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Lays views over the photo: their t, agreement and contour."""
        t, contour = matcher.fit(R_view, boxed, begin, reaches)
        return t, self._agreement(seen, R_view), contour

    def _agreement(self, seen: Seen, rotations: Tensor) -> Tensor:
        count = rotations.shape[1]
        which = seen.objects.repeat_interleave(count)
        parts = zip(torch.split(which, _RENDERS), torch.split(rotations.flatten(0, 1), _RENDERS), strict=True)
        images = torch.cat([self.world.clean_views(objects, R) for objects, R in parts])
        return agreement(seen.reconstructions, images.reshape(-1, count, *images.shape[1:]))


def _small_turns(degrees: float) -> Tensor:
    """Turns (8, 3, 3) in the camera frame: six tilts about axes across the view, two turns in the plane."""
    angles = torch.arange(6) * (math.pi / 3)
    across = torch.stack((angles.cos(), angles.sin(), torch.zeros(6)), 1)
    axes = torch.cat((across, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])))
    turns: Tensor = axis_angle_to_rotation_matrix(axes * math.radians(degrees))
    return turns
