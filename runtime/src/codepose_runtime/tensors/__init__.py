"""What codepose's own files ask of PyTorch, in NumPy, on the CPU: the names, arguments and results are PyTorch's.

The runner executes the very files that ``codepose predict`` does (``shared_files.py``), with this package in PyTorch's
place. It knows no gradients, and only what those files use; ``tests/runtime_package`` compares it with PyTorch.
"""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from codepose_runtime.tensors.random import Generator, normal, uniform
from codepose_runtime.tensors.tensor import (
    Tensor,
    array_of,
    as_dtype,
    bool,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    long,
    shape_of,
    uint8,
)

__all__ = ["Generator", "Tensor", "bool", "float16", "float32", "float64", "int8", "int32", "int64", "long", "uint8"]
inf, nan, pi = np.inf, np.nan, np.pi
channels_last = None


class device:
    """The CPU, whatever else is asked for."""

    type = "cpu"
    index = None

    def __init__(self, name: Any = "cpu") -> None:
        pass

    def __str__(self) -> str:
        return "cpu"


class no_grad(contextlib.ContextDecorator):
    """There are no gradients."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


nn = SimpleNamespace(Module=object)
cpu = SimpleNamespace(get_capabilities=dict)


def get_num_threads() -> int:
    """As many as OMP_NUM_THREADS says, else as the process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


# tensors from nothing


def tensor(values: Any, dtype: Any = None, device: Any = None) -> Tensor:
    array = np.array(array_of(values))
    if dtype is None and array.dtype == np.float64 and not isinstance(values, np.ndarray | np.generic | Tensor):
        dtype = float32
    return Tensor(array if dtype is None else array.astype(dtype))


def from_numpy(values: np.ndarray) -> Tensor:
    return Tensor(values)


def _filled(shape: tuple[Any, ...], value: Any, dtype: Any) -> Tensor:
    return Tensor(np.full(shape_of(shape), value, as_dtype(dtype, float32)))


def zeros(*shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
    return Tensor(np.zeros(shape_of(shape), as_dtype(dtype, float32)))


def ones(*shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
    return _filled(shape, 1, dtype)


def empty(*shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
    return Tensor(np.empty(shape_of(shape), as_dtype(dtype, float32)))


def full(shape: Sequence[int], value: Any, dtype: Any = None, device: Any = None) -> Tensor:
    if dtype is None:
        kind = builtins.bool if isinstance(value, builtins.bool) else builtins.int
        dtype = {builtins.bool: bool, builtins.int: int64}[kind] if isinstance(value, kind) else float32
    return _filled((shape,), value, dtype)


def zeros_like(like: Tensor, dtype: Any = None) -> Tensor:
    return Tensor(np.zeros(like.shape, as_dtype(dtype, like.dtype)))


def ones_like(like: Tensor, dtype: Any = None) -> Tensor:
    return Tensor(np.ones(like.shape, as_dtype(dtype, like.dtype)))


def full_like(like: Tensor, value: Any, dtype: Any = None) -> Tensor:
    return Tensor(np.full(like.shape, value, as_dtype(dtype, like.dtype)))


def eye(size: int, dtype: Any = None, device: Any = None) -> Tensor:
    return Tensor(np.eye(size, dtype=as_dtype(dtype, float32)))


def arange(*limits: Any, dtype: Any = None, device: Any = None) -> Tensor:
    return Tensor(np.arange(*map(int, limits), dtype=as_dtype(dtype, int64)))


def linspace(start: float, end: float, steps: int) -> Tensor:
    """From both ends towards the middle, as PyTorch does it: the values are symmetric to the last bit."""
    if steps == 1:
        return Tensor(np.full(1, start, float32))
    step, place = np.float32((end - start) / (steps - 1)), np.arange(steps)
    rising = np.float32(start) + step * place.astype(float32)
    falling = np.float32(end) - step * (steps - 1 - place).astype(float32)
    return Tensor(np.where(place < steps // 2, rising, falling).astype(float32))


def rand(*shape: int, generator: Generator) -> Tensor:
    return Tensor(uniform(generator, shape_of(shape)))


def randn(*shape: int, generator: Generator) -> Tensor:
    return Tensor(normal(generator, shape_of(shape)))


# tensors from tensors


def cat(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return Tensor(np.concatenate([part.array for part in parts], dim))


def stack(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return Tensor(np.stack([part.array for part in parts], dim))


def split(values: Tensor, size: int) -> list[Tensor]:
    return [values[start : start + size] for start in range(0, max(1, len(values)), size)]


def where(condition: Tensor, a: Any, b: Any) -> Tensor:
    kinds = [x.dtype for x in (a, b) if isinstance(x, Tensor)] or [float32]
    kind = np.result_type(*kinds)
    return Tensor(np.where(condition.array, array_of(a), array_of(b)).astype(kind, copy=False))


def minimum(a: Tensor, b: Tensor) -> Tensor:
    return Tensor(np.minimum(a.array, b.array))


def meshgrid(*lines: Tensor, indexing: str) -> tuple[Tensor, ...]:
    return tuple(map(Tensor, np.meshgrid(*(line.array for line in lines), indexing=indexing)))


def cartesian_prod(*lines: Tensor) -> Tensor:
    return stack(meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))


def argsort(values: Tensor, dim: int = -1, descending: builtins.bool = False, stable: builtins.bool = True) -> Tensor:
    return values.argsort(dim, descending)


def searchsorted(values: Tensor, wanted: Tensor) -> Tensor:
    return Tensor(np.searchsorted(values.array, wanted.array))


def bincount(values: Tensor, minlength: int = 0) -> Tensor:
    return Tensor(np.bincount(values.array, minlength=minlength).astype(int64))


def einsum(formula: str, *operands: Tensor) -> Tensor:
    return Tensor(np.einsum(formula, *(one.array for one in operands), optimize=True))


def outer(a: Tensor, b: Tensor) -> Tensor:
    return Tensor(np.outer(a.array, b.array))


def diag_embed(values: Tensor) -> Tensor:
    result = np.zeros((*values.shape, values.shape[-1]), values.dtype)
    place = np.arange(values.shape[-1])
    result[..., place, place] = values.array
    return Tensor(result)


def promote_types(a: Any, b: Any) -> Any:
    return np.promote_types(a, b)


def exp(values: Tensor) -> Tensor:
    return values.exp()


def log(values: Tensor) -> Tensor:
    return values.log()


def sigmoid(values: Tensor) -> Tensor:
    return Tensor(1.0 / (1.0 + np.exp(-values.array)))


def atan2(a: Tensor, b: Tensor) -> Tensor:
    return Tensor(np.arctan2(a.array, b.array))


def hypot(a: Tensor, b: Tensor) -> Tensor:
    return Tensor(np.hypot(a.array, b.array))


def logit(values: Tensor, eps: float) -> Tensor:
    share = values.clamp(eps, 1.0 - eps)
    return (share / (1.0 - share)).log()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), -1)


def _matrix_exp(matrix: Tensor) -> Tensor:
    """Of small matrices: scaled down, a power series, squared up again."""
    values = matrix.array.astype(np.float64)
    halvings = max(0, int(np.ceil(np.log2(max(1e-12, float(np.abs(values).sum(-1).max(initial=0.0))))))) + 4
    small = values / 2.0**halvings
    result = term = np.broadcast_to(np.eye(values.shape[-1]), values.shape)
    for number in range(1, 14):
        term = term @ small / number
        result = result + term
    for _ in range(halvings):
        result = result @ result
    return Tensor(result.astype(matrix.dtype))


def _solve(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Of matrices (M, n, n) and vectors (M, n)."""
    return Tensor(np.linalg.solve(matrices.array, vectors.array[..., None])[..., 0])


linalg = SimpleNamespace(cross=_cross, matrix_exp=_matrix_exp, solve=_solve)
