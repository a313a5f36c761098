"""Procedural textures: materials, and flat shapes laid over them."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

LEAST_SIDE = 320
"""Of a picture, in pixels: at larger sides there is finer grain, and nothing else changes."""


def texture(rng: np.random.Generator, side: int) -> Tensor:
    """Returns a picture (3, side, side) uint8: a material, often with flat shapes over it.

    It is the same of any side, but for its finest grain.
    """
    picture = material(rng, side)
    if rng.random() < 0.6:
        picture = _clutter(picture, rng)
    return grained(picture, rng)


def material(rng: np.random.Generator, side: int) -> Tensor:
    """Returns a picture (3, side, side) in [0, 1]: clouds, stripes, cells, wood, checks or a gradient."""
    kinds = (_clouds, _stripes, _cells, _wood, _checks, _gradient)
    return kinds[rng.integers(len(kinds))](rng, side)


def grained(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Returns a picture (3, h, w) with some noise, as uint8."""
    grain = torch.from_numpy(rng.normal(0.0, rng.uniform(0.0, 0.05), picture.shape).astype(np.float32))
    return ((picture + grain).clamp(0.0, 1.0) * 255.0).round().byte()


def _fractal(rng: np.random.Generator, side: int, roughness: float, first: int = 3) -> Tensor:
    """(side, side) noise of several octaves in [0, 1]."""
    noise = np.random.default_rng(rng.integers(2**63))  # its own: how much is drawn depends on the side
    total, weight = torch.zeros(side, side), 1.0
    for octave in range(6 + round(math.log2(side / LEAST_SIDE))):
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
    unit = side / LEAST_SIDE
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
