"""The batches of a training, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from codepose.runtime.ranks import Shares
from codepose.synthesis.batches import split_batch
from codepose.synthesis.scenes import difficulty_at
from codepose.training.plan import Clock, Stage, steps_per_epoch
from codepose.training.streams import DataStream

_TOGETHER = {"cpu": 128, "cuda": 1024}
"""Images made in one go, at most."""


class Feed(Iterator[tuple[Any, float]]):
    """Makes the batches of a stage, in an order that is a function of (seed, epoch): a resumed stage sees the same.

    On a GPU a thread makes them, on a stream of its own, while the network trains on earlier ones. On a CPU they are
    made in between, on all cores: a thread beside the network's own would only take its cores away (see
    docs/log/2026-11-22-speed-on-two-cores.md).
    """

    def __init__(self, stage: Stage, clock: Clock, seed: int, step: int, device: torch.device, ahead: int = 2) -> None:
        self._stage, self._clock, self._seed, self._step = stage, clock, seed, step
        self._queue: queue.Queue[tuple[Any, float, torch.cuda.Event] | BaseException] = queue.Queue(ahead)
        self._ready: list[tuple[Any, float]] = []
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)
        self._stopped = threading.Event()
        self._most = _TOGETHER["cpu" if device.type == "cpu" else "cuda"]
        self._thread: threading.Thread | None = None
        if device.type == "cuda":
            self._stream = DataStream(device)
            self._thread = threading.Thread(target=self._work, daemon=True, name=f"{stage.name}-data")
            self._thread.start()

    def _indices(self, step: int) -> Tensor:
        per_epoch, size = steps_per_epoch(self._stage), self._stage.settings.batch
        epoch, place = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._ordered(epoch)
        whole = self._order[place * size : (place + 1) * size]
        return whole[Shares(len(whole)).own]

    def _ordered(self, epoch: int) -> Tensor:
        """Returns all items in the order of an epoch; those of a group stay together."""
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
        group = self._stage.group
        groups = torch.randperm(self._stage.items // group, generator=generator)
        return (groups[:, None] * group + torch.arange(group)).flatten()

    @torch.no_grad()
    def _make(self) -> tuple[Any, float]:
        """The next batch; several are made in one go, always the same ones together, so that a resumed stage repeats
        them: much of the time is spent once a call, whatever its size."""
        if not self._ready:
            together = max(1, min(4, self._most // self._stage.settings.batch))
            first = self._step - self._step % together
            items = [self._indices(step) for step in range(first, first + together)]
            difficulty = difficulty_at(self._clock.progress(first), self._stage.curriculum)
            made = split_batch(self._stage.batch(torch.cat(items), difficulty), [len(i) for i in items])
            self._ready = [(batch, difficulty) for batch in made[self._step - first :]]
        self._step += 1
        return self._ready.pop(0)

    def _work(self) -> None:
        try:
            with self._stream.current():
                while not self._stopped.is_set():
                    self._put((*self._make(), self._stream.mark()))
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: tuple[Any, float, torch.cuda.Event] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def __next__(self) -> tuple[Any, float]:
        if self._thread is None:
            return self._make()
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        batch, difficulty, made = item
        self._stream.hand_over(batch, made)
        return batch, difficulty

    def close(self) -> None:
        """Stops the thread, if there is one."""
        if self._thread is None:
            return
        self._stopped.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=30.0)
