"""Boxes in photos: those that the detector finds through windows, or given ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codepose.estimation.photo import Photo
from codepose.networks.windows import Window, least_overlap, merged, windows

if TYPE_CHECKING:
    from codepose.estimation.pipelines import Pipeline
    from codepose.networks.detector import Boxes


@dataclass(frozen=True, eq=False)
class WindowBoxes:
    """N boxes in one window of a photo.

    Attributes:
        photo: The whole of it.
        window: Its part that the network looked at.
        prepared: The pipeline's view of the window.
        K: (3, 3) of the network's image of it, pixel centres at integer + 0.5.
        boxes: (N, 4) amodal, unpadded, in that image's pixels.
        objects: (N,) which object.
        scores: (N,) in [0, 1].
    """

    photo: Photo
    window: Window
    prepared: Any
    K: Tensor
    boxes: Tensor
    objects: Tensor
    scores: Tensor

    def select(self, chosen: Tensor) -> WindowBoxes:
        """Returns some of the boxes, by their numbers."""
        boxes, objects, scores = (x[chosen] for x in (self.boxes, self.objects, self.scores))
        return WindowBoxes(self.photo, self.window, self.prepared, self.K, boxes, objects, scores)

    def moved(self, boxes: Tensor) -> WindowBoxes:
        """Returns a copy with boxes (N, 4) in the places of its own."""
        return replace(self, boxes=boxes)

    def latents(self, pipeline: Pipeline, boxes: Tensor) -> Tensor:
        """Returns the latents (M, D) of any boxes (M, 4) of this window's image."""
        return pipeline.latents(self.prepared, boxes, boxes.new_zeros(len(boxes), dtype=torch.long))

    def in_photo(self, size: int) -> Boxes:
        """Returns the boxes in the photo's own pixels, as a detector gives them; ``size`` is the network's."""
        boxes = self.window.to_photo(self.boxes, size)
        return {"boxes": boxes, "labels": self.objects + 1, "scores": self.scores}


def by_object(objects: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields each object of objects (N,), and the places (n,) where it stands."""
    for index in sorted(set(objects.tolist())):
        yield index, (objects == index).nonzero().squeeze(1)


@torch.no_grad()
def detected_boxes(
    pipeline: Pipeline, photos: Sequence[Photo], tiles: int, iou: float | None = None
) -> list[list[WindowBoxes]]:
    """Detects in photos, through one window each or many, as many windows at a time as there are photos.

    Of boxes that several windows show, the best-scored one stays; those that a window cuts off are left out.

    Args:
        pipeline: The networks.
        photos: Of any sizes.
        tiles: As ``windows`` takes it.
        iou: Of two boxes of one object that overlap by more, the better-scored one is kept; None = as the settings say.

    Returns:
        Each photo's windows in which something was found.
    """
    settings = pipeline.settings
    size, iou = settings.data.camera.image_size, settings.detection.nms if iou is None else iou
    overlap = least_overlap(settings.data.camera.box_side[1], size)
    views = [
        (number, window)
        for number, photo in enumerate(photos)
        for window in windows(photo.width, photo.height, tiles, overlap)
    ]
    by_photo: list[list[WindowBoxes]] = [[] for _ in photos]
    for start in range(0, len(views), max(1, len(photos))):
        part = views[start : start + len(photos)]
        seen = [window.look(photos[number].pixels, photos[number].K, size) for number, window in part]
        prepared = pipeline.prepare(torch.cat([image for image, _ in seen]))
        for place, ((number, window), (_, K), boxes) in enumerate(
            zip(part, seen, pipeline.detect(prepared, iou), strict=True)
        ):
            photo = photos[number]
            whole = ~window.cuts(boxes["boxes"], size, photo.width, photo.height)
            labels, features = boxes["labels"] - 1, pipeline.select(prepared, place)
            view = WindowBoxes(photo, window, features, K, boxes["boxes"], labels, boxes["scores"])
            by_photo[number].append(view.select(whole.nonzero().squeeze(1)))
    return [_once(several, iou, size) for several in by_photo]


def _once(views: list[WindowBoxes], iou: float, size: int) -> list[WindowBoxes]:
    """One photo's windows with each box in one of them only; those without any are left out."""
    kept = merged([view.in_photo(size) for view in views], iou)
    return [view.select(chosen) for view, chosen in zip(views, kept, strict=True) if len(chosen)]


@torch.no_grad()
def given_boxes(
    pipeline: Pipeline, photo: Photo, boxes: Tensor, objects: Tensor, window: Window | None = None
) -> WindowBoxes:
    """Looks at given boxes instead of detected ones.

    Args:
        pipeline: The networks.
        photo: Of any size.
        boxes: (N, 4) amodal, unpadded, in the photo's pixels.
        objects: (N,) which object.
        window: The part of the photo to look at; None = all of it.
    """
    size = pipeline.settings.data.camera.image_size
    window = window or Window(0, 0, photo.width, photo.height)
    image, K = window.look(photo.pixels, photo.K, size)
    scores = torch.ones(len(boxes), device=boxes.device)
    return WindowBoxes(photo, window, pipeline.prepare(image), K, window.from_photo(boxes, size), objects, scores)
