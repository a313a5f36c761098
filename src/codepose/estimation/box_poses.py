"""Poses of boxes: the codebook's nearest views; or refined ones, looked at again where a box turns out to be off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.hypotheses import Hypotheses
from codepose.estimation.window_boxes import WindowBoxes, by_object
from codepose.refinement.poses import Judge, Poses, Refiner, Seen, Stages
from codepose.refinement.render_and_compare import finer_photos
from codepose.runtime.vision import box_iou
from codepose.synthesis.objects import Objects

if TYPE_CHECKING:
    from codepose.estimation.pipelines import Pipeline

_SAME_BOX = 0.9
"""Boxes of a larger IoU are one: looking again would change nothing."""

_HOPE, _BEHIND = 1.0, 3.5
"""A box gets no further work where the judge holds its poses for less likely than these log-odds, or for so much less
than those of the photo's best box (docs/log/2026-11-29-hopeless-boxes.md)."""


@dataclass(frozen=True, eq=False)
class Looked:
    """Boxes of one object in one window, and what looking at them led to.

    Attributes:
        rows: (n,) which of the window's boxes.
        seen: The n boxes in which the poses were found, with their reconstructions.
        poses: (n, k) poses that each may have, best first.
    """

    rows: Tensor
    seen: Seen
    poses: Poses


Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Boxes (N, 4) -> latents (N, D) and reconstructions (N, 3, c, c)."""


def encoded(pipeline: Pipeline, view: WindowBoxes, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the latents (N, D) and reconstructions (N, 3, c, c) of boxes (N, 4) of a window's image."""
    latents = view.latents(pipeline, boxes)
    return latents, pipeline.decode(latents)


def seen_boxes(pipeline: Pipeline, view: WindowBoxes, *, finer: bool) -> tuple[Seen, Tensor]:
    """Returns what is known of a window's N boxes before they have poses, and their latents (N, D).

    Args:
        pipeline: The networks.
        view: The boxes.
        finer: Whether the photo's own resolution will be looked at, as refinement does.
    """
    latents, reconstructions = encoded(pipeline, view, view.boxes)
    camera = pipeline.settings.data.camera
    seen = Seen(
        images=pipeline.pixels(view.prepared),
        which=torch.zeros_like(view.objects),
        boxes=view.boxes,
        objects=view.objects,
        K=view.K,
        reconstructions=reconstructions,
        extent=view.K.new_tensor(view.window.extent(camera.image_size)),
        photos=finer_photos(view.window, view.photo.pixels, view.photo.K, view.K, camera) if finer else None,
    )
    return seen, latents


def nearest_poses(codebooks: Sequence[Codebook], seen: Seen, latents: Tensor) -> Poses:
    """Returns the codebook's nearest view of each detection, where its box puts it: (N, 1).

    Args:
        codebooks: One an object.
        seen: N detections, with their reconstructions.
        latents: (N, D) their codes.
    """
    result = _no_poses(latents)
    for index, rows in by_object(seen.objects):
        book = codebooks[index]
        cosines, views = book.search(latents[rows], 1)
        _, t = book.poses(views[:, 0], seen.boxes[rows], seen.K)
        nearest = Poses.start(book.rotations[views], t[:, None], cosines)
        agreement = book.agreement(views, seen.reconstructions[rows])
        result = result.replaced(rows, replace(nearest, agreement=agreement))
    return result


class RefinedPoses:
    """Refines poses of boxes, and looks again where a pose shows that its box was off.

    Args:
        world: The run's meshes and settings.
        hypotheses: Proposes where refinement begins.
        refiner: Refines detections of one object. Of ``Stages`` the second is asked only where the first leaves hope.
    """

    def __init__(self, world: Objects, hypotheses: Hypotheses, refiner: Refiner) -> None:
        self._world, self._hypotheses = world, hypotheses
        self._rank, self._place = refiner, None  # type: Refiner, Refiner | None
        if isinstance(refiner, Stages):
            self._rank, self._place = refiner.first, refiner.second

    def __call__(self, encode: Encoder, seen: Seen, latents: Tensor) -> list[Looked]:
        """Returns the poses of each object's detections.

        A box that overlaps too little with that of its pose is looked at again there, as often as the settings say,
        and the better pose stays, with its box.

        Args:
            encode: Encodes further boxes of the same image.
            seen: N detections in one image, with their reconstructions.
            latents: (N, D) their codes.
        """
        return [
            Looked(rows, *self._one_object(encode, seen.select(rows), latents[rows]))
            for _, rows in by_object(seen.objects)
        ]

    @property
    def judge(self) -> Judge | None:
        """What says by which log-odds any pose is right; None = nothing does."""
        return self._rank if isinstance(self._rank, Judge) and self._place is not None else None

    def proposed(self, seen: Seen, R: Tensor, t: Tensor, similarity: Tensor) -> Poses:
        """Refines poses that something else than codes and edges proposes; there must be a judge.

        Args:
            seen: N detections of one object.
            R: (N, k, 3, 3) R_cam_obj.
            t: (N, k, 3) mm, the object's own middle.
            similarity: (N,) cosine of each one's code with the codebook's nearest.

        Returns:
            As many poses (N, k) as are proposed, best first, with scores that compare to those of the first ones.
        """
        assert self.judge is not None
        R_view = geometry.offaxis_rotation(t).mT @ R
        begun = Poses.start(R_view, t, similarity[:, None].expand(t.shape[:2]))
        return self._placed(seen, replace(begun, judged=self.judge.scores(seen, begun)))

    def _one_object(self, encode: Encoder, seen: Seen, latents: Tensor) -> tuple[Seen, Poses]:
        """Detections of one object in the boxes in which their poses were found, and the poses (n, k)."""
        poses, boxes, best = self._first_look(seen, latents), seen.boxes, seen
        for _ in range(self._world.settings.refinement.looks - 1):
            pose_boxes = self._world.boxes(seen.objects, poses.R[:, 0], poses.t[:, 0], seen.K)
            off = (box_iou(pose_boxes, boxes).diagonal() < _SAME_BOX) & self._hopeful(poses)
            again = off.nonzero().squeeze(1)
            if len(again) == 0:
                break
            boxes = boxes.index_copy(0, again, pose_boxes[again])
            codes, reconstructions = encode(pose_boxes[again])
            part = replace(seen.select(again), boxes=pose_boxes[again], reconstructions=reconstructions)
            placed = self._placed(part, self._ranked(part, codes))
            better = (placed.score[:, 0] >= poses.score[again, 0]).nonzero().squeeze(1)
            poses = poses.replaced(again[better], placed.select(better))
            best = best.replaced(again[better], part.select(better))
        return best, poses

    def _first_look(self, seen: Seen, latents: Tensor) -> Poses:
        """The poses (N, k) of each detection in its own box, best first, placed where there is hope."""
        ranked = self._ranked(seen, latents)
        worth = self._hopeful(ranked).nonzero().squeeze(1)
        if len(worth) == 0:
            return ranked
        placed = self._placed(seen.select(worth), ranked.select(worth))
        return ranked.best(placed.t.shape[1]).replaced(worth, placed)

    def _ranked(self, seen: Seen, latents: Tensor) -> Poses:
        """The ranked poses (N, k) of each detection, of which each has the similarity of the nearest view."""
        hypotheses, similarity = self._hypotheses(seen, latents)
        ranked = self._rank(seen, hypotheses)
        ranked = replace(ranked, similarity=similarity[:, None].expand_as(ranked.similarity))
        return ranked.best(ranked.t.shape[1])

    def _placed(self, seen: Seen, poses: Poses) -> Poses:
        """The poses (N, k) of each detection, best first, laid over the photo where there is a refiner for that."""
        if self._place is None:
            return poses
        placed = self._place(seen, poses)
        return placed.best(placed.t.shape[1])

    def _hopeful(self, poses: Poses) -> Tensor:
        """Says which detections (N,) of an object in one image deserve more work, by what the judge says of them."""
        if self._place is None:
            return torch.ones_like(poses.judged[:, 0], dtype=torch.bool)
        best = poses.judged[:, 0]
        return best >= (best.max() - _BEHIND).clamp_min(_HOPE)


def _no_poses(latents: Tensor) -> Poses:
    """As many poses (N, 1) as latents (N, D), to be replaced."""
    count = len(latents)
    R_view = torch.eye(3).to(latents).expand(count, 1, 3, 3)
    return Poses.start(R_view, latents.new_zeros(count, 1, 3), latents.new_zeros(count, 1))
