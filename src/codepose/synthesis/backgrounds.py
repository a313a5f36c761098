"""Backgrounds: a folder of photos, or pictures made by code.

A bank of them stays on the device; each image takes a random window of one, turned, mirrored and recoloured. Pictures
are a quarter larger than the images they stand behind: a background softer than the part before it would give the
part's outline away.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from codepose.cameras.photos import SUFFIXES, read_image
from codepose.randomness import Draws
from codepose.settings.data import BENCHES, DataSettings
from codepose.settings.errors import ConfigError
from codepose.synthesis.benches import benches
from codepose.synthesis.materials import LEAST_SIDE, texture

_SPLITS = ("train", "val", "test")


class Backgrounds:
    """A bank of background pictures of one split.

    Args:
        bank: (N, 3, h, h) uint8 in [0, 255].
        source: What they are, recorded with every result.
    """

    def __init__(self, bank: Tensor, source: str) -> None:
        self.bank = bank
        self.source = source

    def sample(self, draws: Draws, size: int) -> Tensor:
        """Returns (B, 3, size, size) in [0, 1]: 30-100 % of a picture, upright or on one of its sides, a bit tilted."""
        picture = draws.integer("background", len(self.bank))
        zoom = draws.uniform("background zoom", low=0.3, high=1.0)
        angle = draws.integer("background quarter", 4) * (math.pi / 2)
        angle = angle + draws.uniform("background angle", low=-0.3, high=0.3)
        mirror = torch.where(draws.chance("background mirror", 0.5), -1.0, 1.0)
        shift = draws.uniform("background shift", 2, low=-1.0, high=1.0) * (1.0 - zoom)[:, None]
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        affine = torch.stack(
            (
                torch.stack((cos * mirror, -sin, shift[:, 0]), 1),
                torch.stack((sin * mirror, cos, shift[:, 1]), 1),
            ),
            1,
        )
        grid = F.affine_grid(affine, [len(picture), 3, size, size], align_corners=False)  # (B, size, size, 2)
        window = F.grid_sample(self.bank[picture].float(), grid, padding_mode="reflection", align_corners=False)
        gain = draws.uniform("background gain", 3, low=0.7, high=1.3)[:, :, None, None]
        return (window * (gain / 255.0)).clamp_(0.0, 1.0)


def side_for(pixels: int) -> int:
    """Returns the side of the pictures to put behind images of ``pixels`` x ``pixels``."""
    return max(LEAST_SIDE, math.ceil(1.25 * pixels))


def build_backgrounds(
    folder: str | None,
    split: str,
    count: int,
    *,
    seed: int,
    side: int = LEAST_SIDE,
    device: torch.device | str = "cpu",
) -> Backgrounds:
    """Builds the bank of a split; the banks of different splits share no picture.

    Args:
        folder: Folder of photos, searched through all its subfolders (VOC, COCO or any other layout); "benches" =
            things of everyday shape on photographed surfaces and procedural textures; None = procedural textures alone.
        split: "train", "val" or "test".
        count: How many pictures to keep in memory.
        seed: Seed of the textures and of the choice of photos.
        side: Side of the pictures in pixels; a photo's largest centred square is resized to it.
        device: Where the bank lives.

    Raises:
        ConfigError: The folder holds too few photos that can be read; damaged ones are left out with a warning.
        ValueError: The split is unknown.
    """
    if split not in _SPLITS:
        raise ValueError(f"no split is called {split!r}; there are {', '.join(_SPLITS)}")
    if folder is None:
        key = (seed, zlib.crc32(b"textures"), _SPLITS.index(split))
        bank = torch.stack([texture(np.random.default_rng((*key, k)), side) for k in range(count)])
        return Backgrounds(bank.to(device), f"{count} procedural textures of {side} px")
    if folder == BENCHES:
        bank = benches(count, side, [seed, zlib.crc32(b"benches")], _SPLITS.index(split), device)
        return Backgrounds(bank, f"{count} rendered benches of {side} px")
    photos = _photos_of_split(Path(folder), split)
    rng = np.random.default_rng([seed, zlib.crc32(b"photos"), _SPLITS.index(split)])
    readable = (_photo(photos[i], side) for i in rng.permutation(len(photos)))
    chosen = list(itertools.islice((photo for photo in readable if photo is not None), count))
    if not chosen:
        raise ConfigError(f"none of the {len(photos)} photos of {folder} for the {split} split can be read")
    return Backgrounds(torch.stack(chosen).to(device), f"{len(chosen)} photos of {Path(folder).name}, {side} px")


def require_photos(settings: DataSettings) -> None:
    """Refuses a folder of backgrounds that leaves a split without photos, before any of them is read.

    Raises:
        ConfigError: It is none, or holds too few.
    """
    folder = settings.backgrounds
    if folder is not None and folder != BENCHES:
        for split in _SPLITS:
            _photos_of_split(Path(folder), split)


def _photos_of_split(folder: Path, split: str) -> list[Path]:
    """80 / 10 / 10 % by a hash of the file's name, so that adding photos moves none between splits."""
    if not folder.is_dir():
        raise ConfigError(f"the background folder {folder} does not exist")
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    shares = {"train": range(0, 8), "val": range(8, 9), "test": range(9, 10)}
    chosen = [p for p in photos if zlib.crc32(os.fsencode(p.stem)) % 10 in shares[split]]
    if not chosen:
        raise ConfigError(
            f"{folder} holds {len(photos)} photos, too few to give the {split} split any; use 50 or more, or leave "
            "the backgrounds out to get procedural textures"
        )
    return chosen


def _photo(path: Path, size: int) -> Tensor | None:
    try:
        rgb = Image.fromarray(read_image(path))
    except OSError as error:
        warnings.warn(f"the background photo {path} cannot be read and is left out: {error}", stacklevel=2)
        return None
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
