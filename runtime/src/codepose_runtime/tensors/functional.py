"""What codepose's own files ask of ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose_runtime.tensors.tensor import Tensor, float32, int64


def normalize(values: Tensor, dim: int = 1, eps: float = 1e-12) -> Tensor:
    return values / values.norm(dim, keepdim=True).clamp_min(eps)


def relu(values: Tensor) -> Tensor:
    return values.clamp_min(0)


def one_hot(index: Tensor, classes: int) -> Tensor:
    return Tensor((index.array[..., None] == np.arange(classes)).astype(int64))


def pad(values: Tensor, sides: Sequence[int], value: float = 0.0) -> Tensor:
    pairs = [(sides[i], sides[i + 1]) for i in range(0, len(sides), 2)]
    widths = [(0, 0)] * (values.ndim - len(pairs)) + pairs[::-1]
    return Tensor(np.pad(values.array, widths, constant_values=np.asarray(value, values.dtype)))


def avg_pool2d(images: Tensor, size: int) -> Tensor:
    *rest, height, width = images.shape
    down, across = height // size, width // size
    blocks = images.array[..., : down * size, : across * size].reshape(*rest, down, size, across, size)
    return Tensor(blocks.mean((-3, -1)))


def adaptive_avg_pool2d(images: Tensor, size: int) -> Tensor:
    down, across = (_shares(length, size) for length in images.shape[-2:])
    return Tensor(down @ images.array @ across.T)


def _shares(length: int, size: int) -> NDArray[np.float32]:
    """(size, length): the mean of the pixels that each bin touches."""
    weights = np.zeros((size, length), float32)
    for i in range(size):
        first, last = i * length // size, -(-(i + 1) * length // size)
        weights[i, first:last] = 1.0 / (last - first)
    return weights


def max_pool2d(images: Tensor, size: int, stride: int, padding: int) -> Tensor:
    if stride != 1 or size != 2 * padding + 1:
        raise NotImplementedError("only windows around every pixel")
    result = images.array
    for axis in (-2, -1):
        widths = [(0, 0)] * result.ndim
        widths[axis] = (padding, padding)
        padded, length = np.pad(result, widths, constant_values=-np.inf), result.shape[axis]
        result = np.maximum.reduce([padded.take(range(i, i + length), axis) for i in range(size)])
    return Tensor(result)


def interpolate(
    images: Tensor, shape: tuple[int, int], mode: str, align_corners: bool = False, antialias: bool = False
) -> Tensor:
    if mode != "bilinear" or align_corners:
        raise NotImplementedError("only bilinear, by the pixels' edges")
    down, across = (_tents(old, new, antialias) for old, new in zip(images.shape[-2:], shape, strict=True))
    return Tensor(down @ images.array @ across.T)


def _tents(old: int, new: int, antialias: bool) -> NDArray[np.float32]:
    """(new, old): weights of a triangle as wide as a pixel is, of the coarser image with ``antialias``."""
    scale = old / new
    if not antialias:
        place = np.clip((np.arange(new) + 0.5) * scale - 0.5, 0.0, None).astype(float32)
        low = np.minimum(place.astype(int64), old - 1)
        share, rows, weights = place - low, np.arange(new), np.zeros((new, old), float32)
        np.add.at(weights, (rows, low), 1 - share)
        np.add.at(weights, (rows, np.minimum(low + 1, old - 1)), share)
        return weights
    reach = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(int64), old)
    place = np.arange(old)
    weights = np.clip(1.0 - np.abs((place - centre[:, None] + 0.5) / reach), 0.0, None)
    weights *= (place >= first[:, None]) & (place < last[:, None])
    return (weights / weights.sum(1, keepdims=True)).astype(float32)


def grid_sample(
    images: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Tensor:
    if mode != "bilinear" or padding_mode != "border" or align_corners:
        raise NotImplementedError("only bilinear, by the pixels' edges, and beyond them as the image ends")
    count, channels, height, width = images.shape
    limits = np.array([width, height], float32)
    place = np.clip(((grid.array + np.float32(1)) * limits - 1) / 2, 0, limits - 1)  # (N, h, w, 2)
    low = np.floor(place).astype(int64)
    share = (place - low).astype(float32)
    left, top = low[..., 0], low[..., 1]
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = share[..., 0], share[..., 1]
    corners: list[tuple[Any, Any]] = [
        (top * width + left, (1 - across) * (1 - down)),
        (top * width + right, across * (1 - down)),
        (bottom * width + left, (1 - across) * down),
        (bottom * width + right, across * down),
    ]
    flat = images.array.reshape(count, channels, -1)
    result = np.zeros((count, channels, *left.shape[1:]), float32)
    for n in range(count):
        for at, weight in corners:
            result[n] += flat[n][:, at[n]] * weight[n]
    return Tensor(result)
