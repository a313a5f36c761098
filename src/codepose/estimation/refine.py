"""Render-and-compare: the rotation whose clean render agrees best with the network's own reconstruction.

The reconstruction shows the part as the network believes it to lie, without occluders, in the targets' light. It
knows more than the nearest code says (docs/results.md): the codebook ranks its nearest views by it
(``Codebook.rerank``), and here small turns of the best of these are rendered as targets are and compared with it.
"""

from __future__ import annotations

import math

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose.config import RefinementSettings
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


class Refiner:
    """Refines rotations by render-and-compare.

    Args:
        world: The run's meshes and renderer.
        settings: How many candidates, how far they are turned.
    """

    def __init__(self, world: World, settings: RefinementSettings) -> None:
        self.world = world
        self.settings = settings

    @torch.no_grad()
    def __call__(self, reconstructions: Tensor, candidates: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Finds each object's best rotation.

        Args:
            reconstructions: (N, 3, c, c) in [0, 1].
            candidates: (N, k, 3, 3) R_view to start from, such as the codebook's best views.
            objects: (N,) which object.

        Returns:
            R_view (N, 3, 3), and its agreement with the reconstruction (N,) in [-1, 1].
        """
        reconstructions = reconstructions.to(self.world.device)
        objects = objects.to(self.world.device)
        rotations = candidates.to(self.world.device)
        scores = self._scores(reconstructions, rotations, objects)
        for turn in range(self.settings.rounds):
            rotations, scores = _best(rotations, scores, self.settings.keep)
            steps = _small_turns(self.settings.step_deg * 0.5**turn).to(rotations)
            near = (steps[:, None] @ rotations[:, None]).flatten(1, 2)  # (N, 8 * keep, 3, 3)
            rotations = torch.cat((rotations, near), 1)
            scores = torch.cat((scores, self._scores(reconstructions, near, objects)), 1)
        rotations, scores = _best(rotations, scores, 1)
        return rotations[:, 0].to(candidates), scores[:, 0].to(candidates)

    def _scores(self, reconstructions: Tensor, rotations: Tensor, objects: Tensor) -> Tensor:
        count = rotations.shape[1]
        which = objects.repeat_interleave(count)
        images = torch.cat(
            [
                self.world.clean_views(o, R)
                for o, R in zip(
                    torch.split(which, _RENDERS), torch.split(rotations.flatten(0, 1), _RENDERS), strict=True
                )
            ]
        )
        return agreement(reconstructions, images.reshape(-1, count, *images.shape[1:]))


def _best(rotations: Tensor, scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The ``keep`` rotations (N, keep, 3, 3) of highest score, and their scores."""
    top = scores.topk(min(keep, scores.shape[1]), dim=1)
    rows = torch.arange(len(scores), device=scores.device)[:, None]
    return rotations[rows, top.indices], top.values


def _small_turns(degrees: float) -> Tensor:
    """Turns (8, 3, 3) in the camera frame: six tilts about axes across the view, two turns in the plane."""
    angles = torch.arange(6) * (math.pi / 3)
    across = torch.stack((angles.cos(), angles.sin(), torch.zeros(6)), 1)
    axes = torch.cat((across, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])))
    turns: Tensor = axis_angle_to_rotation_matrix(axes * math.radians(degrees))
    return turns
