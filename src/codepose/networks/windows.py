"""The parts of a photo that the network looks at, each brought to the network's own size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.runtime.vision import batched_nms
from codepose.settings.errors import ConfigError

if TYPE_CHECKING:
    from codepose.networks.detector import Boxes

MOST = 16
"""Tiles along the longer side: at half of them overlapping, a thousand looks."""
BORDER = 2.0
"""A box that comes so near to a tile's edge, in pixels at the network's scale, is taken for cut off."""


@dataclass(frozen=True)
class Window:
    """A rectangle of a photo, in whole pixels.

    Attributes:
        left, top: Its first column and row.
        width, height: Its size.
    """

    left: int
    top: int
    width: int
    height: int

    def look(self, photo: Tensor, K: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Cuts the window out, scaled to a square, padded, of the given size.

        Args:
            photo: (1, 3, H, W) in [0, 1].
            K: (3, 3) of the photo, pixel centres at integer + 0.5.
            size: Its side in pixels, the network's or refinement's.

        Returns:
            (1, 3, size, size), and its K.
        """
        image = photo[..., self.top : self.top + self.height, self.left : self.left + self.width]
        boxed, scale = letterbox(image, size)
        K = K.clone()
        K[:2, 2] -= K.new_tensor([self.left, self.top])
        return boxed, geometry.scaled_camera(K, K.new_tensor(scale))

    def extent(self, size: int) -> tuple[float, float]:
        """Returns how many pixels across and down of ``look``'s image show the window; beyond them it is padded."""
        across, down = _scales(self.height, self.width, size)
        return self.width * across, self.height * down

    def to_photo(self, boxes: Tensor, size: int) -> Tensor:
        """Brings boxes (N, 4) in the pixels of ``look`` to the photo's own."""
        across, down = _scales(self.height, self.width, size)
        return boxes / boxes.new_tensor([across, down, across, down]) + boxes.new_tensor([self.left, self.top] * 2)

    def from_photo(self, boxes: Tensor, size: int) -> Tensor:
        """Brings boxes (N, 4) in the photo's pixels to those of ``look``."""
        across, down = _scales(self.height, self.width, size)
        return (boxes - boxes.new_tensor([self.left, self.top] * 2)) * boxes.new_tensor([across, down, across, down])

    def cuts(self, boxes: Tensor, size: int, width: int, height: int) -> Tensor:
        """Says which boxes (N, 4), in the pixels of ``look``, end at an edge of the window inside the photo.

        Args:
            boxes: The boxes.
            size: Side of the network's images.
            width: Of the photo.
            height: The same.

        Returns:
            (N,) bool.
        """
        across, down = _scales(self.height, self.width, size)
        left, top, right, bottom = boxes.unbind(-1)
        cut = torch.zeros_like(left, dtype=torch.bool)
        if self.left > 0:
            cut |= left < BORDER
        if self.top > 0:
            cut |= top < BORDER
        if self.left + self.width < width:
            cut |= right > self.width * across - BORDER
        if self.top + self.height < height:
            cut |= bottom > self.height * down - BORDER
        return cut


def windows(width: int, height: int, tiles: int, overlap: float) -> list[Window]:
    """Returns the whole photo and, with ``tiles`` > 1, squares whose side is the longer side over ``tiles``.

    Args:
        width: Of the photo, in pixels.
        height: The same.
        tiles: How many squares would cover the longer side without overlap; 1 = the whole photo only.
        overlap: Least overlap of neighbours as a share of their side, in [0, 1): what is no larger is whole in one.

    Raises:
        ConfigError: As ``require_tiles``.
    """
    require_tiles(tiles)
    whole = Window(0, 0, width, height)
    if tiles == 1:
        return [whole]
    side = math.ceil(max(width, height) / tiles)
    columns, rows = (_starts(length, side, overlap) for length in (width, height))
    return [whole] + [Window(x, y, min(side, width), min(side, height)) for y in rows for x in columns]


def require_tiles(tiles: int) -> None:
    """Refuses what is no number of tiles.

    Raises:
        ConfigError: It is not between 1 and ``MOST``.
    """
    if not 1 <= tiles <= MOST:
        raise ConfigError(f"--tiles must lie between 1 (the whole photo only) and {MOST}, not be {tiles}")


def least_overlap(box_side: float, size: int) -> float:
    """Returns the overlap with which a box is whole in some tile, off its edges; at most a half, for boxes of a half.

    Args:
        box_side: Longer side of the largest box, in pixels at the network's scale.
        size: Side of the network's images.
    """
    return min(0.5, (box_side + 2 * BORDER) / size)


def merged(detections: list[Boxes], iou: float) -> list[Tensor]:
    """Non-maximum suppression over several windows' detections, class by class.

    Args:
        detections: Each window's detections, their boxes in the photo's pixels.
        iou: Of two boxes that overlap by more the better one is kept.

    Returns:
        Each window's indices that are kept, best first.
    """
    boxes, scores, labels = (torch.cat([f[name] for f in detections]) for name in ("boxes", "scores", "labels"))
    kept = batched_nms(boxes, scores, labels, iou)
    window = torch.cat([torch.full_like(f["labels"], i) for i, f in enumerate(detections)])
    firsts = torch.tensor([0] + [len(f["labels"]) for f in detections[:-1]], device=kept.device).cumsum(0)
    return [kept[window[kept] == i] - firsts[i] for i in range(len(detections))]


def letterbox(images: Tensor, size: int) -> tuple[Tensor, tuple[float, float]]:
    """Scales images (B, 3, H, W) so that the longer side is ``size`` and pads them, black, to the right and below.

    Returns:
        (B, 3, size, size), and the scales across and down: they differ a little, because the shorter side becomes a
        whole number of pixels. K's rows times them are the new camera, for continuous pixel coordinates.
    """
    height, width = images.shape[-2:]
    scales = _scales(height, width, size)
    shape = (round(height * scales[1]), round(width * scales[0]))
    if shape != (height, width):
        smaller = max(shape) < max(height, width)
        images = F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=smaller)
    padded = F.pad(images, (0, size - shape[1], 0, size - shape[0])).clamp(0.0, 1.0)
    return padded, scales


def _scales(height: int, width: int, size: int) -> tuple[float, float]:
    """Across and down: the longer side becomes ``size``, both sides whole pixels."""
    scale = size / max(height, width)
    return max(1, round(width * scale)) / width, max(1, round(height * scale)) / height


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin so that they cover a length evenly."""
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1.0 - overlap))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
