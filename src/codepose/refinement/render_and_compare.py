"""Render-and-compare: the pose whose render agrees best with the network's reconstruction and with the photo's edges.

The reconstruction shows the part as the network believes it to lie, without occluders, in the targets' light. It
knows more than the nearest code says (docs/log/2026-11-22-codes.md): the codebook ranks its nearest views by it
(``Codebook.rerank``), and here poses near the best of these are rendered as targets are and compared with it. Where
the part is and how far away, and how it lies to a few degrees, the photo's edges say (``contours.py``): poses are
searched for along them (``edge_search.py``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose.networks.windows import Window
from codepose.refinement.contours import ContourMatcher, Reach, Reaches
from codepose.refinement.edge_search import search
from codepose.refinement.edges import COARSE, FINE, PAD, by_resolution
from codepose.refinement.poses import Photos, Poses, Seen
from codepose.synthesis.objects import Objects

if TYPE_CHECKING:
    from codepose.settings.data import CameraSettings
    from codepose.settings.inference import RefinementSettings

_RENDERS = 256
"""Views rendered at a time."""
_FAR: Reaches = (Reach(0.12, 0.20, 9), Reach(0.045, 0.075, 7), Reach(0.010, 0.015, 3))
"""Where to look from a box: down to a third of a pixel of the coarse window."""
_NEAR: Reaches = (Reach(0.03, 0.045, 7), Reach(0.008, 0.012, 3))
HYPOTHESES = 8
"""Poses of each detection that are laid over the photo where the judge has ranked none."""
KEEP = 4
"""Around how many the third round searches, and around half as many each round after it; the first two around all."""
AGREEMENT, SIMILARITY = 0.2, 0.5
"""Weights of the agreement with the reconstruction, and of the cosine of the codes, beside the match of the edges."""
STEP_DEG = 8.0
"""How far around poses the first round searches: the standard deviation of the turns."""
_NEARER = 0.63
"""How much nearer each round searches than the one before."""


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


def useful_size(camera: CameraSettings) -> int:
    """Returns the side of photos, in pixels, that fills the fine window around a box of the middle of the range.

    Larger boxes then have a little more pixels there than the window, smaller ones a little fewer.
    """
    middle = sum(camera.box_side) / 2
    return max(camera.image_size, round(camera.image_size * FINE / (PAD * middle)))


def finer_photos(view: Window, photo: Tensor, K: Tensor, camera: Tensor, settings: CameraSettings) -> Photos | None:
    """Returns what refinement sees of a window beyond the network's image, at most ``useful_size``; None = no more.

    Args:
        view: A window of the photo.
        photo: (1, 3, H, W) in [0, 1].
        K: (3, 3) of the photo, pixel centres at integer + 0.5.
        camera: (3, 3) of the network's image of the window.
        settings: Say how large that image is.
    """
    size = min(useful_size(settings), max(view.width, view.height))
    if size <= settings.image_size:
        return None
    image, finer = view.look(photo, K, size)
    return Photos(image, (finer / camera).diagonal()[:2])


class ContourRefiner:
    """Refines poses by render-and-compare: rotations by the reconstruction and the photo's edges, place by the edges.

    Detections around which the photos, or else the images, have a quarter more pixels than the coarse window are
    searched for in a fine one.

    Args:
        world: The run's meshes and renderer.
        settings: How many rounds there are.
        agreement: Weight of the agreement with the reconstruction beside the match of the edges; a large one alone
            decides how the part lies.
        similarity: Weight of the cosine of the codes beside the match of the edges.
        step_deg: How far around poses the first round searches: the standard deviation of the turns.
    """

    def __init__(
        self,
        world: Objects,
        settings: RefinementSettings,
        *,
        agreement: float = AGREEMENT,
        similarity: float = SIMILARITY,
        step_deg: float = STEP_DEG,
    ) -> None:
        self.world = world
        self.settings = settings
        self.weights = (agreement, similarity)
        self.step_deg = step_deg

    @torch.no_grad()
    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        """Returns each detection's best pose (N, 1); all of the given ones are laid over the photo."""
        home = poses.t.device
        seen, poses = seen.to(self.world.device), poses.to(self.world.device)
        start = replace(poses, agreement=self._agreement(seen, poses.R_view))
        laid = self._lay(_matcher(self.world, seen, COARSE), start, _FAR)
        best = laid.best(1)
        in_photos = seen.in_photos()
        coarse, fine = by_resolution(in_photos.boxes)
        for side, detections, rows in ((COARSE, seen, coarse), (FINE, in_photos, fine)):
            if len(rows):
                best = best.replaced(rows, self._searched(side, detections.select(rows), laid.select(rows)).best(1))
        return best.to(home)

    def _searched(self, side: int, seen: Seen, start: Poses) -> Poses:
        """Lays poses over the photo anew, then searches around the best, ever nearer."""
        matcher = _matcher(self.world, seen, side)
        poses = self._lay(matcher, start, _NEAR)
        rendered = matcher.rendered(poses.R_view, poses.t, poses.boxed)
        for turn in range(self.settings.rounds):
            count = HYPOTHESES if turn < 2 else max(1, KEEP >> (turn - 2))
            places = poses.ranking(count)
            near, around = poses.picked(places), rendered.picked(places)
            R_view, t = search(matcher.field, around, near.R_view, self.step_deg * _NEARER**turn)
            found = matcher.rendered(R_view, t, near.boxed)
            near = replace(near, R_view=R_view, t=t, agreement=self._agreement(seen, R_view))
            poses = poses.joined(self._scored(near, matcher.scores(found)))
            rendered = rendered.joined(found, len(places))  # none is rendered twice
        return poses

    def _lay(self, matcher: ContourMatcher, poses: Poses, reaches: Reaches) -> Poses:
        """Poses where their edges lie best on the photo's."""
        t, contour = matcher.fit(poses.R_view, poses.boxed, poses.t, reaches)
        return self._scored(replace(poses, t=t), contour)

    def _scored(self, poses: Poses, contour: Tensor) -> Poses:
        agreeing, similar = self.weights
        score = contour + agreeing * poses.agreement + similar * poses.similarity
        return replace(poses, contour=contour, score=score)

    def _agreement(self, seen: Seen, rotations: Tensor) -> Tensor:
        count = rotations.shape[1]
        which = seen.objects.repeat_interleave(count)
        parts = zip(torch.split(which, _RENDERS), torch.split(rotations.flatten(0, 1), _RENDERS), strict=True)
        images = torch.cat([self.world.clean_views(objects, R) for objects, R in parts])
        return agreement(seen.reconstructions, images.reshape(-1, count, *images.shape[1:]))


def _matcher(world: Objects, seen: Seen, side: int) -> ContourMatcher:
    where = (seen.images, seen.which, seen.boxes, seen.objects, seen.K)
    return ContourMatcher(world, *where, side=side, extent=seen.extent)
