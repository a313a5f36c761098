"""Random numbers that are a pure function of (seed, split, item, name): any image can be made again by itself.

A batch of items is drawn at once, yet item i gets the same numbers in any batch, on any worker. The generator
is SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) used as a counter-based hash.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Draws:
    """Named random numbers of a batch of items.

    Args:
        seed: Any integer.
        split: Name of the split; different names give unrelated numbers.
        items: (B,) item numbers.
        device: Where the tensors go; the numbers themselves are drawn on the CPU.
    """

    def __init__(self, seed: int, split: str, items: Tensor, device: torch.device | str = "cpu") -> None:
        key = zlib.crc32(split.encode()) ^ (seed * 0x632BE59BD9B4E019)
        numbers = items.cpu().numpy().astype(np.uint64)
        with np.errstate(over="ignore"):
            root = _mix(np.full(1, key & (2**64 - 1), dtype=np.uint64) + _GOLDEN)
            self._state = _mix(root + (numbers + np.uint64(1)) * _GOLDEN)
        self.device: torch.device = torch.device(device)

    def __len__(self) -> int:
        return len(self._state)

    def select(self, keep: Tensor) -> Draws:
        """Returns the draws of some of the items, by mask or index."""
        chosen = Draws.__new__(Draws)
        chosen._state = self._state[keep.cpu().numpy()]
        chosen.device = self.device
        return chosen

    def on_cpu(self) -> Draws:
        """Returns the same draws as tensors on the CPU."""
        copy = Draws.__new__(Draws)
        copy._state, copy.device = self._state, torch.device("cpu")
        return copy

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Returns (B, *shape) float32, uniform in [low, high), up to rounding; the same name gives the same numbers."""
        count = math.prod(shape)
        with np.errstate(over="ignore"):
            stream = _mix(self._state + np.uint64(zlib.crc32(name.encode())) * _GOLDEN)
            counters = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
            bits = _mix(stream[:, None] + counters)
        values = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        drawn = torch.from_numpy(values).reshape(-1, *shape) * (high - low) + low
        return drawn.to(self.device, non_blocking=True)  # a GPU's stream is not waited for

    def chance(self, name: str, probability: float, *shape: int) -> Tensor:
        """Returns (B, *shape) bool, true with the given probability."""
        return self.uniform(name, *shape) < probability

    def integer(self, name: str, below: int, *shape: int) -> Tensor:
        """Returns (B, *shape) int64 in [0, below)."""
        return (self.uniform(name, *shape) * below).long().clamp_max(below - 1)

    def direction(self, name: str) -> Tensor:
        """Returns (B, 3) unit vectors, uniform on the sphere."""
        u = self.uniform(name, 2)
        height, turn = 2.0 * u[:, 0] - 1.0, 2.0 * math.pi * u[:, 1]
        radius = (1.0 - height * height).clamp_min(0.0).sqrt()
        return torch.stack((radius * turn.cos(), radius * turn.sin(), height), -1)
