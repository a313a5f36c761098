"""What a network makes of a few validation images, as a small picture: a column an image."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import draw_bounding_boxes, make_grid, save_image

from codepose.storage.replace import replacing

CROPS = 5
"""Columns of Step 1's pictures."""
SCENES = 3
"""Columns of Step 2's pictures, which are larger: boxes have to be seen in them."""
_WIDTH = 592
"""Pixels, at most."""
_GAP = 2
_TRUE, _FOUND = (255, 255, 255), (240, 128, 24)


def crops_picture(inputs: Tensor, reconstructions: Tensor, targets: Tensor) -> Tensor:
    """Shows the first crops: above what the network sees, in the middle what it makes of it, below what it is to make.

    Args:
        inputs, reconstructions, targets: (B, 3, c, c) in [0, 1].

    Returns:
        (3, H, W) in [0, 1] on the CPU.
    """
    return _grid([_tiles(images, CROPS) for images in (inputs, reconstructions, targets)])


def scenes_picture(images: Tensor, truth: Tensor, found: Tensor, *crops: Tensor) -> Tensor:
    """Shows the first scenes with their true boxes, white, and those found, orange; crops follow below them.

    Args:
        images: (B, 3, S, S) in [0, 1].
        truth: (B, 4) xyxy in pixels.
        found: (B, 4) xyxy in pixels; NaN where nothing was found.
        crops: (N, 3, c, c) in [0, 1] each, of the same scenes, N at least ``SCENES`` or B; each becomes a row.

    Returns:
        (3, H, W) in [0, 1] on the CPU.
    """
    tiles = _tiles(images, SCENES)
    scale = tiles.shape[-1] / images.shape[-1]
    for tile, both in zip(tiles, torch.stack((truth, found), 1).cpu() * scale, strict=False):
        boxes = both[both.isfinite().all(1)]
        tile.copy_(draw_bounding_boxes(tile, boxes, colors=[_TRUE, _FOUND][: len(boxes)], width=2))
    return _grid([tiles, *(_tiles(row, SCENES) for row in crops)])


def write_picture(path: Path, picture: Tensor) -> None:
    """Replaces a PNG file in one step.

    Args:
        path: The file.
        picture: (3, H, W) in [0, 1].

    Raises:
        StorageError: It cannot be written; the old one is as it was.
    """
    with replacing(path, durable=False) as new:
        save_image(picture, new)


def _tiles(images: Tensor, count: int) -> Tensor:
    """The first images, (count, 3, side, side) on the CPU; as many fit beside one another."""
    side = (_WIDTH - _GAP) // count - _GAP
    tiles = F.interpolate(images[:count].float(), (side, side), mode="bilinear", align_corners=False, antialias=True)
    return tiles.clamp(0, 1).cpu()


def _grid(rows: list[Tensor]) -> Tensor:
    """Rows of as many tiles each, on white."""
    grid: Tensor = make_grid(torch.cat(rows), nrow=len(rows[0]), padding=_GAP, pad_value=1.0)
    return grid
