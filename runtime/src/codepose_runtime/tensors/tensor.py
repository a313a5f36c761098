"""A tensor: a NumPy array with PyTorch's methods."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
uint8, int8, int32, int64 = np.dtype("uint8"), np.dtype("int8"), np.dtype("int32"), np.dtype("int64")
long = int64
bool = np.dtype("bool")


class Largest(NamedTuple):
    """What ``max`` along an axis and ``topk`` return."""

    values: Tensor
    indices: Tensor


def array_of(value: Any) -> Any:
    """A tensor's array; of lists of tensors, an array of them; anything else as it is."""
    if isinstance(value, Tensor):
        return value.array
    if isinstance(value, list | tuple) and any(isinstance(one, Tensor | list | tuple) for one in value):
        return np.array([array_of(one) for one in value])
    return value


def as_dtype(dtype: Any, otherwise: Any) -> Any:
    """The dtype, or another one where none is given."""
    return otherwise if dtype is None else dtype


def shape_of(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape that is given as one sequence or as several numbers."""
    if len(sizes) == 1 and not isinstance(sizes[0], int | np.integer | Tensor):
        sizes = tuple(sizes[0])
    return tuple(int(size) for size in sizes)


def _rank(dtype: np.dtype[Any]) -> int:
    return {"b": 0, "u": 1, "i": 1, "f": 2}[dtype.kind]


def _alike(a: Tensor, b: Any) -> tuple[NDArray[Any], Any]:
    """Both operands in the dtype that PyTorch would calculate in."""
    x = a.array
    if not isinstance(b, Tensor):
        if isinstance(b, np.ndarray | np.generic):
            return x, b
        if isinstance(b, float) and x.dtype.kind != "f":
            return x.astype(float32), np.float32(b)
        if isinstance(b, int) and x.dtype.kind == "b" and not isinstance(b, builtins.bool):
            return x.astype(int64), b
        return x, b
    y = b.array
    if x.dtype == y.dtype:
        return x, y
    first, second = _rank(x.dtype), _rank(y.dtype)
    if first > second:
        return x, y.astype(x.dtype)
    if second > first:
        return x.astype(y.dtype), y
    if (x.ndim == 0) != (y.ndim == 0):  # what has dimensions decides
        kind = y.dtype if x.ndim == 0 else x.dtype
    else:
        kind = np.promote_types(x.dtype, y.dtype)
    return x.astype(kind, copy=False), y.astype(kind, copy=False)


def _binary(function: Callable[..., Any], swapped: builtins.bool = False) -> Callable[[Tensor, Any], Tensor]:
    def calculate(self: Tensor, other: Any) -> Tensor:
        a, b = _alike(self, other)
        return Tensor(function(b, a) if swapped else function(a, b))

    return calculate


def _quotient(a: Any, b: Any) -> Any:
    whole = all(np.asarray(x).dtype.kind in "biu" for x in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(a, b, dtype=float32) if whole else np.true_divide(a, b)


def _in_place(function: Callable[..., Any]) -> Callable[[Tensor, Any], Tensor]:
    def calculate(self: Tensor, other: Any) -> Tensor:
        self.array[...] = function(*_alike(self, other))
        return self

    return calculate


def _unary(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    def calculate(self: Tensor) -> Tensor:
        x = self.array
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return Tensor(function(x if x.dtype.kind == "f" else x.astype(float32)))

    return calculate


def _cast(dtype: Any) -> Callable[[Tensor], Tensor]:
    return lambda self: Tensor(self.array.astype(dtype, copy=False))


def _axes(dims: tuple[Any, ...]) -> Any:
    """One axis, several, or None for all."""
    if not dims:
        return None
    return tuple(dims[0]) if isinstance(dims[0], tuple | list) else dims[0]


def _extreme(name: str) -> Callable[..., Any]:
    def calculate(self: Tensor, *dims: Any, keepdim: builtins.bool = False, dim: Any = None) -> Any:
        dims = dims if dim is None else (dim,)
        if len(dims) == 2 and isinstance(dims[1], builtins.bool):
            dims, keepdim = dims[:1], dims[1]
        if not dims:
            return Tensor(getattr(self.array, name)())
        places = getattr(self.array, f"arg{name}")(axis=dims[0])
        values = np.take_along_axis(self.array, np.expand_dims(places, dims[0]), dims[0])
        return Largest(
            Tensor(values if keepdim else values.squeeze(dims[0])),
            Tensor(np.expand_dims(places, dims[0]) if keepdim else places),
        )

    return calculate


class Tensor:
    """A NumPy array with PyTorch's methods, as far as codepose's shared files use them; ``array`` is the array."""

    __slots__ = ("array",)
    __array_priority__ = 1000
    is_cuda = False
    requires_grad = False

    def __init__(self, array: Any) -> None:
        self.array: NDArray[Any] = np.asarray(array)

    # what it is

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    dtype = property(lambda self: self.array.dtype)
    T = property(lambda self: Tensor(self.array.T))
    mT = property(lambda self: Tensor(self.array.swapaxes(-1, -2)))

    @property
    def device(self) -> Any:
        from codepose_runtime.tensors import device

        return device()

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Tensor]:
        return (Tensor(row) for row in self.array)

    def __repr__(self) -> str:
        return f"Tensor({self.array!r})"

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return self.array if dtype is None else self.array.astype(dtype)

    def __bool__(self) -> builtins.bool:
        return builtins.bool(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __index__(self) -> int:
        return int(self.array)

    def __float__(self) -> float:
        return float(self.array)

    def numel(self) -> int:
        return int(self.array.size)

    def item(self) -> Any:
        return self.array.item()

    def tolist(self) -> Any:
        return self.array.tolist()

    def numpy(self) -> NDArray[Any]:
        return self.array

    # parts of it

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self.array[_key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[_key(key)] = array_of(value)

    def gather(self, dim: int, index: Tensor) -> Tensor:
        axis = dim % self.ndim
        part = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(index.shape))
        return Tensor(np.take_along_axis(self.array[part], index.array, axis))

    def index_copy(self, dim: int, index: Tensor, values: Tensor) -> Tensor:
        result = self.array.copy()
        result[index.array] = values.array
        return Tensor(result)

    def scatter_reduce(self, dim: int, index: Tensor, values: Tensor, how: str) -> Tensor:
        result, columns = self.array.copy(), np.arange(self.shape[1])
        {"amin": np.minimum, "amax": np.maximum}[how].at(result, (index.array, columns), values.array)
        return Tensor(result)

    def masked_fill(self, mask: Tensor, value: Any) -> Tensor:
        return Tensor(np.where(mask.array, np.asarray(value, self.dtype), self.array))

    def masked_fill_(self, mask: Tensor, value: Any) -> Tensor:
        self.array[mask.array] = value
        return self

    def nonzero(self) -> Tensor:
        return Tensor(np.argwhere(self.array))

    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        return tuple(Tensor(part) for part in np.moveaxis(self.array, dim, 0))

    def diagonal(self, dim1: int = 0, dim2: int = 1) -> Tensor:
        return Tensor(np.diagonal(self.array, axis1=dim1, axis2=dim2))

    # its form

    def view(self, *shape: Any) -> Tensor:
        return Tensor(self.array.reshape(shape_of(shape)))

    reshape = view

    def view_as(self, other: Tensor) -> Tensor:
        return Tensor(self.array.reshape(other.shape))

    def flatten(self, first: int = 0, last: int = -1) -> Tensor:
        shape, start, end = self.shape, first % max(1, self.ndim), last % max(1, self.ndim)
        return Tensor(self.array.reshape(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))

    def squeeze(self, dim: int) -> Tensor:
        return self if self.shape[dim] != 1 else Tensor(self.array.squeeze(dim))

    def permute(self, *dims: int) -> Tensor:
        return Tensor(self.array.transpose(dims))

    def transpose(self, a: int, b: int) -> Tensor:
        return Tensor(self.array.swapaxes(a, b))

    def flip(self, dim: int) -> Tensor:
        return Tensor(np.flip(self.array, dim))

    def expand(self, *shape: Any) -> Tensor:
        wanted = shape_of(shape)
        own = (1,) * (len(wanted) - self.ndim) + self.shape
        return Tensor(np.broadcast_to(self.array, [o if w == -1 else w for o, w in zip(own, wanted, strict=True)]))

    def expand_as(self, other: Tensor) -> Tensor:
        return Tensor(np.broadcast_to(self.array, other.shape))

    def repeat(self, *times: Any) -> Tensor:
        return Tensor(np.tile(self.array, shape_of(times)))

    def repeat_interleave(self, times: Any, dim: int | None = None, output_size: int | None = None) -> Tensor:
        return Tensor(np.repeat(self.array, array_of(times), dim))

    # copies

    def to(self, what: Any = None, *more: Any, **ignored: Any) -> Tensor:
        dtype = what.dtype if isinstance(what, Tensor) else what
        return Tensor(self.array.astype(dtype, copy=False)) if isinstance(dtype, np.dtype) else self

    def cpu(self) -> Tensor:
        return self

    detach = cpu

    def contiguous(self, **ignored: Any) -> Tensor:
        return Tensor(np.ascontiguousarray(self.array)) if self.ndim else self

    def clone(self) -> Tensor:
        return Tensor(self.array.copy())

    float, double, half = _cast(float32), _cast(float64), _cast(float16)
    long, int, byte = _cast(int64), _cast(int32), _cast(uint8)

    def new_tensor(self, values: Any) -> Tensor:
        return Tensor(np.array(array_of(values)).astype(self.dtype))

    def new_zeros(self, *shape: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.zeros(shape_of(shape), as_dtype(dtype, self.dtype)))

    def new_ones(self, *shape: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.ones(shape_of(shape), as_dtype(dtype, self.dtype)))

    def new_empty(self, *shape: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.empty(shape_of(shape), as_dtype(dtype, self.dtype)))

    def new_full(self, shape: Any, value: Any, dtype: Any = None) -> Tensor:
        return Tensor(np.full(shape_of((shape,)), value, as_dtype(dtype, self.dtype)))

    # element by element

    __add__ = __radd__ = _binary(np.add)
    __mul__ = __rmul__ = _binary(np.multiply)
    __sub__, __rsub__ = _binary(np.subtract), _binary(np.subtract, swapped=True)
    __truediv__, __rtruediv__ = _binary(_quotient), _binary(_quotient, swapped=True)
    __floordiv__, __mod__ = _binary(np.floor_divide), _binary(np.remainder)
    __pow__ = _binary(np.power)
    __lt__, __le__, __gt__, __ge__ = map(_binary, (np.less, np.less_equal, np.greater, np.greater_equal))
    __eq__, __ne__ = _binary(np.equal), _binary(np.not_equal)  # type: ignore[assignment]
    __hash__ = object.__hash__
    __and__, __or__ = _binary(np.bitwise_and), _binary(np.bitwise_or)
    __iand__, __ior__, __iadd__, __imul__ = map(_in_place, (np.bitwise_and, np.bitwise_or, np.add, np.multiply))
    add_, sub_, mul_, div_ = map(_in_place, (np.add, np.subtract, np.multiply, np.divide))

    def __matmul__(self, other: Tensor) -> Tensor:
        return Tensor(np.matmul(self.array, other.array))

    def __neg__(self) -> Tensor:
        return Tensor(-self.array)

    def __invert__(self) -> Tensor:
        return Tensor(~self.array)

    sqrt, exp, log, cos, sin, acos = map(_unary, (np.sqrt, np.exp, np.log, np.cos, np.sin, np.arccos))
    deg2rad, rad2deg, isinf, isfinite = map(_unary, (np.deg2rad, np.rad2deg, np.isinf, np.isfinite))

    def abs(self) -> Tensor:
        return Tensor(np.abs(self.array))

    def square(self) -> Tensor:
        return Tensor(np.square(self.array))

    def floor(self) -> Tensor:
        return Tensor(np.floor(self.array))

    def ceil(self) -> Tensor:
        return Tensor(np.ceil(self.array))

    def round(self) -> Tensor:
        return Tensor(np.rint(self.array))

    def minimum(self, other: Tensor) -> Tensor:
        return Tensor(np.minimum(*_alike(self, other)))

    def clamp(self, low: Any = None, high: Any = None) -> Tensor:
        return Tensor(np.clip(self.array, array_of(low), array_of(high)).astype(self.dtype, copy=False))

    def clamp_(self, low: Any = None, high: Any = None) -> Tensor:
        self.array[...] = np.clip(self.array, low, high)
        return self

    def clamp_min(self, low: Any) -> Tensor:
        return self.clamp(low)

    def clamp_max(self, high: Any) -> Tensor:
        return self.clamp(None, high)

    def nan_to_num(self, nan: builtins.float = 0.0) -> Tensor:
        return Tensor(np.nan_to_num(self.array, nan=nan))

    # sums and the like

    def _sum_dtype(self) -> Any:
        return int64 if self.dtype.kind in "biu" else self.dtype

    def sum(self, *dims: Any, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.sum(_axes(dims), dtype=self._sum_dtype(), keepdims=keepdim))

    def prod(self, *dims: Any, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.prod(_axes(dims), dtype=self._sum_dtype(), keepdims=keepdim))

    def cumsum(self, dim: int) -> Tensor:
        return Tensor(self.array.cumsum(dim, dtype=self._sum_dtype()))

    def mean(self, *dims: Any, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.mean(_axes(dims), keepdims=keepdim))

    def std(self, dim: int) -> Tensor:
        return Tensor(self.array.std(dim, ddof=1))

    def norm(self, dim: int, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(np.sqrt(np.square(self.array).sum(dim, keepdims=keepdim)))

    def any(self, *dims: Any) -> Tensor:
        return Tensor(self.array.any(_axes(dims)))

    def all(self, *dims: Any) -> Tensor:
        return Tensor(self.array.all(_axes(dims)))

    def amax(self, *dims: Any, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.max(_axes(dims), keepdims=keepdim))

    def amin(self, *dims: Any, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.min(_axes(dims), keepdims=keepdim))

    max, min = _extreme("max"), _extreme("min")

    def softmax(self, dim: int) -> Tensor:
        raised = np.exp(self.array - self.array.max(axis=dim, keepdims=True))
        return Tensor(raised / raised.sum(axis=dim, keepdims=True))

    def argmax(self, dim: int, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.argmax(dim, keepdims=keepdim))

    def argmin(self, dim: int, keepdim: builtins.bool = False) -> Tensor:
        return Tensor(self.array.argmin(dim, keepdims=keepdim))

    def argsort(self, dim: int = -1, descending: builtins.bool = False) -> Tensor:
        return Tensor(np.argsort(-self.array if descending else self.array, axis=dim, kind="stable"))

    def topk(self, count: int, dim: int = -1) -> Largest:
        """Of equal values the first; the largest of many are sought before they are sorted."""
        values = -np.moveaxis(self.array, dim, -1)
        if count < values.shape[-1] // 4:
            some = np.sort(np.argpartition(values, count - 1, axis=-1)[..., :count], axis=-1)
            order = np.argsort(np.take_along_axis(values, some, -1), axis=-1, kind="stable")
            order = np.take_along_axis(some, order, -1)
        else:
            order = np.argsort(values, axis=-1, kind="stable")[..., :count]
        found = -np.take_along_axis(values, order, -1)
        return Largest(Tensor(np.moveaxis(found, -1, dim)), Tensor(np.moveaxis(order, -1, dim)))


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(array_of(part) for part in key)
    return array_of(key)
