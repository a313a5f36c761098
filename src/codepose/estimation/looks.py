"""What a network sees of photos through their windows: boxes, and what is needed to give them poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codepose.estimation.pipelines import Pipeline
from codepose.networks.detector import Boxes
from codepose.networks.windows import Window, least_overlap, windows


@dataclass(frozen=True, eq=False)
class Look:
    """One window of a photo in which something was found.

    Attributes:
        view: The window.
        prepared: The pipeline's view of it alone.
        found: At the network's scale.
        in_photo: The same with boxes in the photo's pixels.
        camera: (3, 3) at the network's scale, pixel centres at integer + 0.5.
    """

    view: Window
    prepared: Any
    found: Boxes
    in_photo: Boxes
    camera: Tensor


@torch.no_grad()
def looks_at(
    pipeline: Pipeline, photos: Sequence[tuple[Tensor, Tensor]], tiles: int, min_score: float
) -> list[list[Look]]:
    """Looks at photos through one window each or many, as many windows at a time as there are photos.

    Args:
        pipeline: The networks.
        photos: Each (1, 3, H, W) in [0, 1] with its K (3, 3), pixel centres at integer + 0.5; of any sizes.
        tiles: As ``windows`` takes it.
        min_score: Boxes below are left out.

    Returns:
        Each photo's looks at which something was found.
    """
    camera_settings = pipeline.settings.data.camera
    size = camera_settings.image_size
    overlap = least_overlap(camera_settings.box_side[1], size)
    views = [
        (number, view)
        for number, (photo, _) in enumerate(photos)
        for view in windows(photo.shape[3], photo.shape[2], tiles, overlap)
    ]
    result: list[list[Look]] = [[] for _ in photos]
    for start in range(0, len(views), max(1, len(photos))):
        some = views[start : start + len(photos)]
        seen = [view.look(*photos[number], size) for number, view in some]
        prepared = pipeline.prepare(torch.cat([image for image, _ in seen]))
        detected = above(pipeline.detect(prepared), min_score)
        for place, ((number, view), (_, camera), found) in enumerate(zip(some, seen, detected, strict=True)):
            height, width = photos[number][0].shape[-2:]
            whole = ~view.cuts(found["boxes"], size, width, height)
            kept = {name: values[whole] for name, values in found.items()}
            if len(kept["boxes"]):
                in_photo = kept | {"boxes": view.to_photo(kept["boxes"], size)}
                result[number].append(Look(view, pipeline.one(prepared, place), kept, in_photo, camera))
    return result


def above(found: list[Boxes], min_score: float) -> list[Boxes]:
    """Each image's boxes that score at least so much."""
    return [{name: values[f["scores"] >= min_score] for name, values in f.items()} for f in found]
