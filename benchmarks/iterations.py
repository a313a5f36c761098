"""The package's own training loop, one iteration at a time, with its real data or with a stored batch."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Options, synchronise
from codepose.networks.precision import uses_bf16
from codepose.runtime.devices import make_fabric
from codepose.runtime.progress import Display
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.synthesis.batches import split_batch
from codepose.training import loop
from codepose.training.cost import counted
from codepose.training.feed import Feed
from codepose.training.plan import Stage

TOGETHER = 4
"""Iterations between which a CPU makes data: as many batches at a time (``training/feed.py``). Calls of ``run`` do a
multiple of it, so that every call pays for the data it uses."""
_PREFETCHED = 3
"""Batches that the data thread of a GPU may have ready; they are used up before a turn."""


class Iterations:
    """Iterations of a stage as the package trains it: same loop, same optimiser, same precision.

    Args:
        stage: What is trained.
        settings: The run's.
        options: Device.
        count: Iterations a call.

    Attributes:
        images: Treated by one call.
    """

    def __init__(self, stage: Stage, settings: Settings, options: Options, count: int = TOGETHER) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="codepose-benchmark-")
        fabric = make_fabric(options.place.type)
        run = Run.create(self._folder.name, settings)
        self._state = loop.begin(stage, run, fabric, 0, Display(stage.name))
        self._feed = _Watched(self._state.feed)
        state: Any = self._state
        state.feed = self._feed
        loop.enter_phase(self._state, self._state.progress())
        for group in self._state.optimizer.param_groups:  # AdaBound's other rate: weights stay as they are
            if "final_lr" in group:
                group["final_lr"] = 1e-9
        self._place, self._count = options.place, count
        self.images = count * stage.settings.batch
        self._seconds = 0.0

    def run(self) -> None:
        """``count`` iterations."""
        start = time.perf_counter()
        for _ in range(self._count):
            self._iterate()
        synchronise(self._place)
        self._seconds += time.perf_counter() - start

    def _iterate(self) -> None:
        """An iteration of ``loop.fit``, without what it does now and then."""
        self._state.begun = self._state.progress()  # the phase stays the first one
        loop.set_learning_rate(self._state)
        batch, _, waited = loop.next_batch(self._state)
        terms = loop.forward_and_backward(self._state, batch)
        self._state.meter.add(terms | {"gradient_norm": loop.clip_gradients(self._state)}, waited)
        loop.update_weights(self._state)

    def settle(self) -> None:
        """Uses up what a data thread made while others had their turn."""
        if self._place.type == "cuda":
            waited = self._feed.seconds
            for _ in range(_PREFETCHED):
                self._iterate()
            self._feed.seconds = waited

    @property
    def waiting(self) -> float:
        """Share of the time in ``run`` that went by until data were there."""
        return self._feed.seconds / max(self._seconds, 1e-9)

    def flops(self) -> float:
        """Returns the floating-point operations an image."""
        return counted(self._iterate)[1] / self.images * self._count

    def close(self) -> None:
        """Stops the data thread and removes the run folder."""
        loop.close(self._state)
        self._folder.cleanup()


class _Watched(Iterator[tuple[Any, float]]):
    """A feed with a stop-watch."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.seconds = 0.0

    def __next__(self) -> tuple[Any, float]:
        start = time.perf_counter()
        item = next(self._feed)
        self.seconds += time.perf_counter() - start
        return item

    def close(self) -> None:
        self._feed.close()


def stored(stage: Stage) -> Stage:
    """Returns the stage with its first images over and over, so that an iteration makes no data."""
    with torch.no_grad():
        kept = stage.batch(torch.arange(TOGETHER * stage.settings.batch), 1.0)

    def batch(index: Tensor, difficulty: float) -> Any:
        return split_batch(kept, [len(index)])[0]

    return dataclasses.replace(stage, batch=batch)


def precision(settings: Settings, options: Options) -> str:
    """Returns the name of the type in which layers multiply."""
    return "bf16" if uses_bf16(settings, options.place) else "float32"
