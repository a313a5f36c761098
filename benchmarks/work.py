"""What an operation has to do at least: floating-point operations, and bytes moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codepose.training.cost import counted


@dataclass(frozen=True)
class Work:
    """The work of one call.

    Attributes:
        flops: Floating-point operations of its convolutions and matrix products.
        bytes: What its tensor operations read and write, each tensor once an operation, as if no cache kept any of it
            for the next one.
    """

    flops: float
    bytes: float


def count_work(run: Callable[[], object]) -> Work:
    """Calls ``run`` twice and returns the work of one call; what Warp's kernels do is not seen."""
    with _Traffic() as traffic:
        run()
    return Work(counted(run)[1], float(traffic.bytes))


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the sizes of the tensors that operations take and give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and not func.__name__.startswith("empty"):  # neither touches memory
            tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
            self.bytes += sum(min(one.numel() * one.itemsize, one.untyped_storage().nbytes()) for one in tensors)
        return out
