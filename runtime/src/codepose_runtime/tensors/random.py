"""PyTorch's random numbers on a CPU, to the same bits: refinement tries the same poses here and there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Generator:
    """A Mersenne twister, seeded as PyTorch seeds its own."""

    def __init__(self) -> None:
        self._bits = np.random.MT19937()

    def manual_seed(self, seed: int) -> Generator:
        """Begins anew."""
        self._bits._legacy_seeding(seed)
        return self

    def draw(self, count: int) -> NDArray[np.float32]:
        """Numbers in [0, 1) of 24 bits."""
        raw = self._bits.random_raw(count).astype(np.uint32) & np.uint32((1 << 24) - 1)
        return raw.astype(np.float32) * np.float32(2.0**-24)


def uniform(generator: Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """``torch.rand``."""
    return generator.draw(int(np.prod(shape))).reshape(shape)


def normal(generator: Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """``torch.randn`` of sixteen numbers or more: in blocks of sixteen, of which the last two may overlap."""
    count = int(np.prod(shape))
    if count < 16:
        raise ValueError("fewer than sixteen numbers are drawn in another way")
    values = generator.draw(count)
    whole = count // 16 * 16
    values[:whole] = _box_muller(values[:whole])
    if whole < count:
        values[-16:] = _box_muller(generator.draw(16))
    return values.reshape(shape)


def _box_muller(values: NDArray[np.float32]) -> NDArray[np.float32]:
    first, second = values.reshape(-1, 2, 8).transpose(1, 0, 2)
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - first))
    theta = np.float32(2.0 * np.pi) * second
    return np.stack((radius * np.cos(theta), radius * np.sin(theta)), 1).reshape(-1)
