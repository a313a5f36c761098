"""What a stage costs, before it runs: floating-point operations and seconds an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codepose.config import Settings
from codepose.networks.precision import autocast, uses_bf16
from codepose.training.optimizers import build_optimizer
from codepose.training.plan import Stage, images_per_step, total_steps


@dataclass(frozen=True)
class Cost:
    """A stage's price.

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
    dtype = torch.bfloat16 if uses_bf16(settings, device) else torch.float32
    optimizer = build_optimizer([(p, 1.0) for p in stage.groups.values()], stage.settings.optimizer, dtype)

    def learn() -> None:
        with torch.no_grad():
            data = stage.batch(torch.arange(size), 1.0)
        with autocast(settings, device):
            loss: Tensor = stage.loss(network, data)[0]
        loss.backward()  # type: ignore[no-untyped-call]

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        learn()
    update()
    seconds = _seconds(learn, device) / size + _seconds(update, device) / whole
    return Cost(total_steps(stage) * whole, counter.get_total_flops() / size, seconds)


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """How long a call takes, until a GPU is done with it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
