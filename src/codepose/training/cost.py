"""What a stage costs: floating-point operations and seconds an image, and what the device could do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codepose.networks.precision import autocast
from codepose.settings.schema import Settings
from codepose.training.optimizers import build_optimizer
from codepose.training.plan import Stage, images_per_step, total_steps

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a stage costs to train.

    Attributes:
        images: Training images shown in all, repetitions counted.
        flops: Floating-point operations of forward and backward pass on one image (a multiply-add counts two).
        seconds: Time of one image on this device, data and its share of the optimiser's step included.
    """

    images: int
    flops: float
    seconds: float


def measure(stage: Stage, settings: Settings, device: torch.device, *, batch: int | None = None) -> Cost:
    """Runs two training iterations: one to warm up and count, one to time.

    Args:
        stage: Its network is trained by these iterations: a fresh one, or one that is thrown away.
        settings: The run's, for the precision.
        device: Where.
        batch: Images an iteration; None = the stage's own number, 32 at most.
    """
    network = stage.network.to(device=device).to(memory_format=torch.channels_last).train()
    whole = images_per_step(stage)
    size = min(whole, 32) if batch is None else min(batch, stage.items)
    optimizer = build_optimizer([(p, 1.0) for p in stage.groups.values()], stage.settings.optimizer)

    def learn() -> None:
        with torch.no_grad():
            data = stage.batch(torch.arange(size), 1.0)
        with autocast(settings, device):
            loss: Tensor = stage.loss(network, data)[0]
        loss.backward()  # type: ignore[no-untyped-call]

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    _, flops = counted(learn)
    update()
    seconds = timed(learn, device)[1] / size + timed(update, device)[1] / whole
    return Cost(total_steps(stage) * whole, flops / size, seconds)


def counted(call: Callable[[], T]) -> tuple[T, int]:
    """Returns what a call returns, and the floating-point operations of its convolutions and matrix products.

    A multiply-add counts two; what ``torch.compile`` has compiled is not seen.
    """
    with FlopCounterMode(display=False) as counter:
        result = call()
    return result, int(counter.get_total_flops())


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Returns what a call returns, and the seconds it takes until a GPU is done with it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the floating-point operations a second of large matrix products: what this device reaches at best.

    The best of four of random numbers, after one to warm up: a GPU multiplies ones, and zeros, faster. Half a second on
    a CPU, and measured once a process.
    """
    side = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device, dtype=dtype) for _ in range(2))
    seconds = [timed(partial(torch.mm, a, b), device)[1] for _ in range(5)][1:]
    return 2.0 * side**3 / min(seconds)
