"""Several processes that train as one, each on its own device: what each takes of a batch, and what all share.

DDP averages the gradients of the processes' losses. A process has a number, its rank; the first one, 0, alone writes
files and speaks. In a single process every function here gives back what it was given.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from codepose.settings.errors import ConfigError

T = TypeVar("T")


def world_size() -> int:
    """Returns how many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def layout(devices: int, nodes: int) -> tuple[int, int]:
    """Returns devices a machine, and machines: as torchrun or srun started this process, else as asked for.

    Raises:
        ConfigError: The two contradict each other.
    """
    started = _started()
    if started is None or (devices, nodes) == started:
        return devices, nodes
    if (devices, nodes) != (1, 1):
        raise ConfigError(
            f"torchrun or srun started {started[0]} processes on each of {started[1]} machines: "
            f"leave --devices {devices} --nodes {nodes} out, or start without them"
        )
    return started


def _started() -> tuple[int, int] | None:
    """Processes a machine, and machines, that a launcher started; None where this one was started by itself."""
    names = {
        "TORCHELASTIC_RUN_ID": ("WORLD_SIZE", "GROUP_WORLD_SIZE"),
        "SLURM_STEP_ID": ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"),
    }
    for mark, (tasks, machines) in names.items():
        if mark in os.environ and tasks in os.environ:
            count = int(os.environ.get(machines, "1"))
            return int(os.environ[tasks]) // count, count
    return None


def from_first(action: Callable[[], T]) -> T:
    """Runs on the first rank alone; every rank gets what it returns, or raises what it raises."""
    if world_size() == 1:
        return action()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = action()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, 0)
    if answer[1] is not None:
        raise answer[1]
    return cast("T", answer[0])


def first_before_others(action: Callable[[], T]) -> T:
    """Runs on every rank, on the others once the first is done: they read what it writes."""
    if rank() == 0:
        try:
            return action()
        finally:
            barrier()
    barrier()
    return action()


def everyones(value: T) -> list[T]:
    """Returns every rank's value, on every rank, in their order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def total(values: Tensor) -> Tensor:
    """Returns the sum over all ranks, without gradient."""
    if world_size() > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Waits until every rank is here."""
    if world_size() > 1:
        everyones(0)


@dataclass(frozen=True)
class Shares:
    """How a batch of images is divided among the ranks: their parts, one after the other, are the whole.

    Attributes:
        images: Of all ranks together: the settings' batch size, whatever the number of devices.
    """

    images: int

    @property
    def sizes(self) -> list[int]:
        """Each rank's number of images; they differ by one at most."""
        size, rest = divmod(self.images, world_size())
        return [size + (r < rest) for r in range(world_size())]

    @property
    def own(self) -> slice:
        """Which of them are this rank's."""
        start = sum(self.sizes[: rank()])
        return slice(start, start + self.sizes[rank()])

    def require_one_each(self, stage: str) -> None:
        """Refuses to train with idle devices.

        Raises:
            ConfigError: There are more ranks than images.
        """
        if self.images < world_size():
            raise ConfigError(
                f"{stage}: the {self.images} images of an iteration cannot be divided among {world_size()} devices: "
                f"raise the stage's batch size (it is that of all devices together), or use {self.images} at most"
            )

    def mean(self, value: Tensor) -> Tensor:
        """Turns the mean over this rank's images into its part of the mean over all, which DDP's average completes."""
        return value if world_size() == 1 else value * (world_size() * self.sizes[rank()] / self.images)

    def gather(self, values: Tensor) -> Tensor:
        """Returns all ranks' values, (images, ...), in the batch's order, with gradient to this rank's own.

        For losses over the whole batch, which every rank computes alike.
        """
        return values if world_size() == 1 else cast("Tensor", _Gather.apply(values, self))


class _Gather(torch.autograd.Function):
    """Every rank computes the same loss from what is gathered, so the sum over ranks of its gradients with regard to
    this rank's values is world_size times this rank's; DDP's average divides by world_size again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shares: Shares) -> Tensor:
        ctx.own = shares.own
        padded = values.new_zeros(max(shares.sizes), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in shares.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, shares.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own] * world_size(), None


def reseed(seed: int, step: int) -> None:
    """The random numbers of an iteration are a function of (seed, step, rank), also when it is resumed or repeated."""
    torch.manual_seed(((seed * 1_000_003 + step) * 1_000_003 + rank()) % 2**63)


def mean_over(value: Tensor, count: Tensor) -> Tensor:
    """As ``Shares.mean``, for a mean over ``count`` of this rank's things: their number differs from rank to rank."""
    if world_size() == 1:
        return value
    own_count = count.to(value)
    return value * (world_size() * own_count / total(own_count).clamp_min(1))


class Interrupt:
    """Ctrl-C is noted, for the loop to stop between two iterations, all ranks together; a second one stops at once."""

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is not threading.main_thread():
            return self
        # one process leaves it ignored where nohup or & did; several must be able to stop together
        if world_size() > 1 or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.signal(signal.SIGINT, self._before)
