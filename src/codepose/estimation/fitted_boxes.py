"""Boxes moved to where the part's code is clearest.

A detector that has only seen renderings puts its boxes a fifth off on photographs, and what comes after it expects them
to be right within a tenth. The code of a box is nearest to one of the codebook's views where the box fits, and a code
costs little, since the encoder has already seen the whole image (docs/log/2026-11-30-fitted-boxes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.window_boxes import WindowBoxes, by_object

if TYPE_CHECKING:
    from codepose.estimation.pipelines import Pipeline


@dataclass(frozen=True)
class _Level:
    """A grid of boxes around each: ``places`` along both axes and ``sizes``.

    Up to ``shift`` of the box's longer side away, and up to a log size of ``scale`` larger or smaller.
    """

    shift: float
    scale: float
    places: int
    sizes: int

    def grid(self) -> Tensor:
        """Returns (G, 3): shifts across and down, and log sizes."""
        axis = torch.linspace(-self.shift, self.shift, self.places)
        sizes = torch.linspace(-self.scale, self.scale, self.sizes)
        return torch.stack(torch.meshgrid(axis, axis, sizes, indexing="ij"), -1).reshape(-1, 3)


_LEVELS = (_Level(0.2, 0.3, 3, 5), _Level(0.1, 0.15, 3, 3), _Level(0.05, 0.08, 3, 3))
_PRIOR, _PRIOR_SHIFT, _PRIOR_SIZE = 0.03, 0.1, 0.15
"""What a box must gain in cosine that lies so many of its sides away, or is so much larger or smaller (log): with less
boxes in a heap move to the neighbours."""
_SOFTNESS = 0.03
"""Boxes are averaged; one whose cosine is lower by this counts 1/e as much."""
_AT_ONCE = 512
"""Boxes whose codes are read at a time."""


@torch.no_grad()
def fitted_boxes(pipeline: Pipeline, codebooks: Sequence[Codebook], view: WindowBoxes) -> WindowBoxes:
    """Returns a window's boxes, each moved and resized to where its code is nearest to the codebook's.

    Each gets the proportions of the view that is nearest there, and ends where the image does, as in training.

    Args:
        pipeline: The networks. Where codes are dear (``Pipeline.codes_from_features``) the boxes stay as they are.
        codebooks: One an object.
        view: N boxes.
    """
    if not pipeline.codes_from_features:
        return view
    boxes = view.boxes
    for index, rows in by_object(view.objects):
        boxes = boxes.index_copy(0, rows, _fitted(pipeline, codebooks[index], view, boxes[rows]))
    return view.moved(boxes.clamp(0.0, float(pipeline.settings.data.camera.image_size)))


def _fitted(pipeline: Pipeline, book: Codebook, view: WindowBoxes, boxes: Tensor) -> Tensor:
    """The same for boxes (N, 4) of one object."""
    nearest = boxes.new_zeros(len(boxes), dtype=torch.long)
    for level in _LEVELS:
        grid = level.grid().to(boxes)  # (G, 3)
        center, size = geometry.box_center(boxes), geometry.box_size(boxes)
        centers = center[:, None] + grid[:, :2] * size.amax(1)[:, None, None]  # (N, G, 2)
        tried = geometry.boxes_around(centers, size[:, None] * grid[:, 2:].exp())  # (N, G, 4)
        cosines, views = _nearest(pipeline, book, view, tried)
        far = (grid[:, :2] / _PRIOR_SHIFT).square().sum(1) + (grid[:, 2] / _PRIOR_SIZE).square()
        worth = cosines - _PRIOR * far
        weight = (worth / _SOFTNESS).softmax(1)[..., None]
        boxes = geometry.boxes_around((weight * centers).sum(1), size * (weight * grid[:, 2:]).sum(1).exp())
        nearest = views.gather(1, worth.argmax(1, keepdim=True)).squeeze(1)
    seen = geometry.box_size(book.boxes[nearest])
    proportioned = seen / seen.amax(1, keepdim=True) * geometry.box_size(boxes).amax(1, keepdim=True)
    return geometry.boxes_around(geometry.box_center(boxes), proportioned)


def _nearest(pipeline: Pipeline, book: Codebook, view: WindowBoxes, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine (N, G) of each box's code with the codebook's nearest, and which view that is, (N, G)."""
    parts = torch.split(boxes.flatten(0, 1), _AT_ONCE)
    found = [book.search(view.latents(pipeline, part), 1) for part in parts]
    cosines, views = (torch.cat(values).view(boxes.shape[:2]) for values in zip(*found, strict=True))
    return cosines, views
