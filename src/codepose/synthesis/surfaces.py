"""Photographs of real surfaces that codepose brings: wood, stone, cloth, metal, plastic (ambientCG, CC0)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codepose.cameras.photos import read_image

_FOLDER = Path(__file__).with_name("surface_photos")
_HELD_OUT = 3
"""Photographs that only the validation's pictures show, and as many only the test's."""
_ZOOM = (0.4, 1.0)
"""Share of a photograph's side that a picture shows."""


def surface(rng: np.random.Generator, side: int, split: int) -> Tensor:
    """Returns a picture (3, side, side) in [0, 1]: a window of a photograph, in its own colours or in others.

    Args:
        rng: Chooses it.
        side: In pixels.
        split: 0, 1 or 2: training's, validation's or the test's; they share no photograph.
    """
    from torchvision.transforms.v2 import functional as V  # it imports torch's compiler, which takes seconds

    photos = surface_photos(split)
    photo = photos[rng.integers(len(photos))]
    window = round(rng.uniform(*_ZOOM) * photo.shape[-1])
    top, left = rng.integers(photo.shape[-1] - window + 1, size=2).tolist()
    cut = V.resized_crop(photo, top, left, window, window, [side, side], antialias=True)
    return _recolored(cut.float() / 255.0, rng)


@lru_cache(maxsize=3)
def surface_photos(split: int) -> Tensor:
    """Returns the photographs (N, 3, 512, 512) of a split, uint8 RGB."""
    files = sorted(_FOLDER.glob("*.jpg"))
    validation, test, training = np.split(np.random.default_rng(0).permutation(len(files)), (_HELD_OUT, 2 * _HELD_OUT))
    chosen = (training, validation, test)[split]
    return torch.stack([torch.from_numpy(read_image(files[k])).permute(2, 0, 1) for k in chosen])


def _recolored(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the pictures as they are, but for the light; the others paler or stronger, and of another hue."""
    from torchvision.transforms.v2 import functional as V

    light = rng.uniform(0.5, 1.3)
    if rng.random() < 0.5:
        picture = V.adjust_saturation(V.adjust_hue(picture, rng.uniform(-0.5, 0.5)), rng.uniform(0.0, 1.5))
    return (light * picture).clamp(0.0, 1.0)
