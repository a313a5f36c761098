"""Which of a detector's boxes get a pose: those that their codes, too, take for the part.

On photographs a detector that has only seen renderings scores clutter as high as the part. The code of a box that shows
the part lies nearer to one of the codebook's views (docs/log/2026-11-29-candidates.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codepose.estimation.codebook import Codebook
from codepose.estimation.window_boxes import WindowBoxes, by_object
from codepose.runtime.vision import batched_nms

if TYPE_CHECKING:
    from codepose.estimation.pipelines import Pipeline
    from codepose.settings.schema import Settings

_COSINE = 10.0
"""What a cosine of 1 with the nearest view counts beside the log-odds of the detector's score."""
_DOUBLES_IOU = 0.7
"""Boxes of one object that overlap by more show one place: the likeliest of them is enough. Where ``detection.nms`` is
larger, that counts. With less, the box that fits best is lost to one with a better score, in heaps above all
(docs/log/2026-11-30-more-candidates.md)."""


def candidates_iou(settings: Settings) -> float:
    """Returns the IoU up to which boxes of one object are different candidates for refined poses."""
    return max(_DOUBLES_IOU, settings.detection.nms)


def likeliest(labels: Tensor, scores: Tensor, cosines: Tensor, most: int) -> Tensor:
    """Says which boxes of one image are chosen: those that are worth most.

    Args:
        labels: (n,) whole numbers: which object.
        scores: (n,) the detector's, in [0, 1].
        cosines: (n,) of each box's code with the codebook's nearest.
        most: How many of each label, at most.

    Returns:
        (n,) bool.
    """
    worth = _worth(scores, cosines)
    order = torch.arange(worth.shape[0], device=worth.device)  # len() would fix the number when it is exported
    tied = (worth[:, None] == worth) & (order[:, None] > order)  # of equal ones the first
    better = (labels[:, None] == labels) & ((worth[:, None] < worth) | tied)  # (n, n): the column than the row
    return better.sum(1) < most


def _worth(scores: Tensor, cosines: Tensor) -> Tensor:
    """What boxes are worth (n,): the log-odds of the score + 10 x cosine."""
    return torch.logit(scores.float(), eps=1e-4) + _COSINE * cosines


@torch.no_grad()
def worth_a_pose(pipeline: Pipeline, codebooks: Sequence[Codebook], view: WindowBoxes, most: int) -> Tensor:
    """Returns the places (k,) of those of a window's boxes that get a pose, in their order, each place in it once.

    Args:
        pipeline: The networks.
        codebooks: One an object.
        view: N boxes.
        most: How many of each object, at most.
    """
    # where there are few, all of them are chosen, whatever their codes, but for doubles
    cosines = _cosines(pipeline, codebooks, view, more_than=most)
    worth = _worth(view.scores, cosines)
    kept: Tensor = batched_nms(view.boxes.float(), worth, view.objects, candidates_iou(pipeline.settings))
    kept = kept[kept.argsort()]
    return kept[likeliest(view.objects[kept], view.scores[kept], cosines[kept], most)]


@torch.no_grad()
def worth_a_pose_in_photo(
    pipeline: Pipeline, codebooks: Sequence[Codebook], views: Sequence[WindowBoxes], most: int
) -> list[Tensor]:
    """Returns the places of those boxes of each of a photo's windows that get a pose, when all windows are seen.

    Args:
        pipeline: The networks.
        codebooks: One an object.
        views: The windows, each with those of its boxes that are worth a pose there.
        most: How many of each object in all, at most.
    """
    if not views:
        return []
    cosines = torch.cat([_cosines(pipeline, codebooks, view) for view in views])
    objects, scores = (torch.cat([getattr(view, name) for view in views]) for name in ("objects", "scores"))
    chosen = likeliest(objects, scores, cosines, most)
    ends = list(accumulate(len(view.boxes) for view in views))
    return [chosen[begin:end].nonzero().squeeze(1) for begin, end in pairwise([0, *ends])]


def _cosines(pipeline: Pipeline, codebooks: Sequence[Codebook], view: WindowBoxes, more_than: int = 0) -> Tensor:
    """The cosine (N,) of each box's code with the codebook's nearest; 0 for objects that have fewer boxes."""
    cosines = torch.zeros_like(view.scores, dtype=torch.float32)
    for index, rows in by_object(view.objects):
        if len(rows) > more_than:
            cosines[rows] = codebooks[index].search(view.latents(pipeline, view.boxes[rows]), 1)[0][:, 0]
    return cosines
