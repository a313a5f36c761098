"""What a stage costs, before it runs: floating-point operations and seconds an image."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codepose.config import Settings
from codepose.networks.precision import autocast
from codepose.training.plan import Stage, images_per_step, total_steps


@dataclass(frozen=True)
class Cost:
    """A stage's price.

    Attributes:
        images: Training images shown in all, repetitions counted.
        flops: Floating-point operations of forward and backward pass on one image (a multiply-add counts two).
        seconds: Time of one image on this device, data included.
    """

    images: int
    flops: float
    seconds: float


def measure(stage: Stage, settings: Settings, device: torch.device, *, batch: int | None = None) -> Cost:
    """Runs two training iterations, without the optimiser's part: one to warm up and count, one to time.

    Args:
        stage: Its network's gradients are thrown away; weights stay as they are.
        settings: The run's, for the precision.
        device: Where.
        batch: Images an iteration; None = the stage's own number, 32 at most.
    """
    network = stage.network.to(device=device).to(memory_format=torch.channels_last).train()
    size = min(images_per_step(stage), 32) if batch is None else min(batch, stage.items)

    def iterate() -> None:
        with torch.no_grad():
            data = stage.batch(torch.arange(size), 1.0)
        with autocast(settings, device):
            loss: Tensor = stage.loss(network, data)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with FlopCounterMode(display=False) as counter:
        iterate()
    start = time.perf_counter()
    iterate()
    seconds = (time.perf_counter() - start) / size
    return Cost(total_steps(stage) * stage.settings.batch, counter.get_total_flops() / size, seconds)
