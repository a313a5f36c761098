"""Backgrounds: a folder of photos, or varied procedural textures where there is none.

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
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from codepose.cameras.photos import SUFFIXES, read_image
from codepose.randomness import Draws
from codepose.settings.data import DataSettings
from codepose.settings.errors import ConfigError

_LEAST_SIDE = 320
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
    return max(_LEAST_SIDE, math.ceil(1.25 * pixels))


def build_backgrounds(
    folder: str | None,
    split: str,
    count: int,
    *,
    seed: int,
    side: int = _LEAST_SIDE,
    device: torch.device | str = "cpu",
) -> Backgrounds:
    """Builds the bank of a split; the banks of different splits share no picture.

    Args:
        folder: Folder of photos, searched through all its subfolders (VOC, COCO or any other layout); None =
            procedural textures.
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
        bank = torch.stack([_texture(np.random.default_rng((*key, k)), side) for k in range(count)])
        return Backgrounds(bank.to(device), f"{count} procedural textures of {side} px")
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
    if settings.backgrounds is not None:
        for split in _SPLITS:
            _photos_of_split(Path(settings.backgrounds), split)


def _photos_of_split(folder: Path, split: str) -> list[Path]:
    """80 / 10 / 10 % by a hash of the file's name, so that adding photos moves none between splits."""
    if not folder.is_dir():
        raise ConfigError(f"the background folder {folder} does not exist")
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    shares = {"train": range(0, 8), "val": range(8, 9), "test": range(9, 10)}
    mine = [p for p in photos if zlib.crc32(os.fsencode(p.stem)) % 10 in shares[split]]
    if not mine:
        raise ConfigError(
            f"{folder} holds {len(photos)} photos, too few to give the {split} split any; use 50 or more, or leave "
            "the backgrounds out to get procedural textures"
        )
    return mine


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


def _texture(rng: np.random.Generator, side: int) -> Tensor:
    """One picture: a material, or a clutter of shapes laid over it; the same of any side, but for its finest grain."""
    kinds = (_clouds, _stripes, _cells, _wood, _checks, _gradient)
    ground = kinds[rng.integers(len(kinds))](rng, side)
    if rng.random() < 0.6:
        ground = _clutter(ground, rng)
    grain = torch.from_numpy(rng.normal(0.0, rng.uniform(0.0, 0.05), ground.shape).astype(np.float32))
    return ((ground + grain).clamp(0.0, 1.0) * 255.0).round().byte()


def _fractal(rng: np.random.Generator, side: int, roughness: float, first: int = 3) -> Tensor:
    """(side, side) noise of several octaves in [0, 1]."""
    noise = np.random.default_rng(rng.integers(2**63))  # its own: how much is drawn depends on the side
    total, weight = torch.zeros(side, side), 1.0
    for octave in range(6 + round(math.log2(side / _LEAST_SIDE))):
        cells = min(first * 2**octave, side)
        coarse = torch.from_numpy(noise.random((1, 1, cells, cells), dtype=np.float32))
        total += weight * F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)[0, 0]
        weight *= roughness
    return (total - total.min()) / (total.max() - total.min())


def _palette(value: Tensor, rng: np.random.Generator) -> Tensor:
    """Maps values in [0, 1] to colours along a path through 2-4 random colours, (3, side, side)."""
    stops = torch.from_numpy(rng.random((rng.integers(2, 5), 3), dtype=np.float32))
    if rng.random() < 0.4:  # greyish, as most rooms are
        stops = stops.mean(1, keepdim=True) + 0.25 * (stops - stops.mean(1, keepdim=True))
    place = value.clamp(0.0, 1.0) * (len(stops) - 1)
    low = place.long().clamp_max(len(stops) - 2)
    mix = (place - low)[..., None]
    return (stops[low] * (1.0 - mix) + stops[low + 1] * mix).permute(2, 0, 1)


def _grid(side: int) -> tuple[Tensor, Tensor]:
    line = torch.linspace(0.0, 1.0, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def _clouds(rng: np.random.Generator, side: int) -> Tensor:
    return _palette(_fractal(rng, side, rng.uniform(0.4, 0.9), int(rng.integers(2, 9))), rng)


def _stripes(rng: np.random.Generator, side: int) -> Tensor:
    x, y = _grid(side)
    angle, count = rng.uniform(0, math.pi), rng.uniform(3, 40)
    phase = (x * math.cos(angle) + y * math.sin(angle)) * count + _fractal(rng, side, 0.5) * rng.uniform(0, 3)
    return _palette(0.5 + 0.5 * torch.sin(2 * math.pi * phase).mul(rng.uniform(1, 6)).clamp(-1, 1), rng)


def _cells(rng: np.random.Generator, side: int) -> Tensor:
    x, y = _grid(side)
    seeds = torch.from_numpy(rng.random((int(rng.integers(8, 60)), 2), dtype=np.float32))
    points = torch.stack((x, y), -1).view(-1, 2)
    distance, owner = torch.cdist(points, seeds).topk(2, largest=False)
    flat = torch.from_numpy(rng.random(len(seeds), dtype=np.float32))[owner[:, 0]]
    edge = ((distance[:, 1] - distance[:, 0]) * rng.uniform(5, 40)).clamp(0, 1)
    return _palette((flat * (0.3 + 0.7 * edge)).view(side, side), rng)


def _wood(rng: np.random.Generator, side: int) -> Tensor:
    x, _ = _grid(side)
    rings = (x * rng.uniform(1, 4) + _fractal(rng, side, 0.5) * rng.uniform(0.5, 2)) * rng.uniform(3, 12)
    value = 0.6 * (rings - rings.floor()) + 0.4 * _fractal(rng, side, 0.9, 24)
    return _palette(value if rng.random() < 0.5 else value.T, rng)


def _checks(rng: np.random.Generator, side: int) -> Tensor:
    x, y = _grid(side)
    count, bend = rng.uniform(3, 24), rng.uniform(0, 0.15)
    wave = _fractal(rng, side, 0.5) * bend
    value = (((x + wave) * count).floor() + ((y + wave) * count).floor()) % 2
    return _palette(value * 0.8 + 0.2 * _fractal(rng, side, 0.7), rng)


def _gradient(rng: np.random.Generator, side: int) -> Tensor:
    x, y = _grid(side)
    angle = rng.uniform(0, 2 * math.pi)
    value = x * math.cos(angle) + y * math.sin(angle)
    value = (value - value.min()) / (value.max() - value.min())
    return _palette(0.85 * value + 0.15 * _fractal(rng, side, 0.6), rng)


def _clutter(ground: Tensor, rng: np.random.Generator) -> Tensor:
    """Draws shapes, bars and lines over a picture: edges such as an untidy bench has."""
    side = ground.shape[-1]
    unit = side / _LEAST_SIDE
    picture = Image.fromarray((ground.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy())
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 25))):
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        x, y = rng.uniform(0, side, 2)
        w, h = rng.uniform(5 * unit, side / 3, 2)
        kind = rng.integers(4)
        if kind == 0:
            pen.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=color)
        elif kind == 1:
            turn = rng.uniform(0, math.pi)
            axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
            corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ axes + (x, y)
            pen.polygon([(float(u), float(v)) for u, v in corners], fill=color)
        elif kind == 2:
            corners = rng.normal((x, y), (w / 2, h / 2), (int(rng.integers(3, 7)), 2))
            pen.polygon([(float(u), float(v)) for u, v in corners], fill=color)
        else:
            pen.line((x, y, *rng.uniform(0, side, 2)), fill=color, width=round(unit * int(rng.integers(1, 14))))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0
