"""Loss terms and speed, averaged between two lines of the log."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from codepose.runtime.ranks import total, world_size


class NonFiniteLossError(FloatingPointError):
    """A term of the loss became NaN or infinite; the text names it."""


class Meter:
    """Running means of the loss terms since the last reading, without a synchronisation in between on a GPU.

    Args:
        batch: Images of an iteration, all ranks together.
        device: Where the terms are.
        peak: Floating-point operations a second that one rank's device can do; None = not known.

    Attributes:
        flops: Of forward and backward pass on one image; None = not counted.
        means: Of the loss terms, over the iterations before the last reading that had them, and over all ranks.
        images_per_s: Of all ranks together.
    """

    def __init__(self, batch: int, device: torch.device, peak: float | None = None) -> None:
        self._batch = batch
        self._eager = device.type == "cpu"
        self._peak = peak
        self.flops: float | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._count, self._wait, self._start = 0, 0.0, time.monotonic()
        self.means: dict[str, float] = {}
        self.images_per_s = 0.0

    def add(self, terms: dict[str, Tensor], wait: float) -> None:
        """Adds the loss terms of an iteration, and the seconds for which it waited for its data."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._count += 1
        self._wait += wait
        if self._eager:
            self.require_finite()

    def require_finite(self) -> None:
        """Checks that every term since the last reading was finite, on every rank: all ranks raise, or none.

        Raises:
            NonFiniteLossError: A term was not.
        """
        self._finite_sums()

    def _finite_sums(self) -> dict[str, float]:
        if not self._sums:
            return {}
        everyones = total(torch.stack(list(self._sums.values()))) / world_size()
        sums = dict(zip(self._sums, everyones.tolist(), strict=True))
        for name, value in sums.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"the loss term {name!r} is {value}: lower the learning rate, or set precision to float32"
                )
        return sums

    def read(self, step: int) -> dict[str, float]:
        """Returns a record for the log, and starts anew.

        Raises:
            NonFiniteLossError: A term is not finite.
        """
        sums = self._finite_sums()
        seconds = max(time.monotonic() - self._start, 1e-9)
        self.means = {name: value / self._counts[name] for name, value in sums.items()}
        self.images_per_s = self._count * self._batch / seconds
        record = {
            "step": step,
            **self.means,
            "images_per_s": self.images_per_s,
            "data_wait": self._wait / seconds,
        }
        if self.flops is not None:
            done = self.images_per_s * self.flops
            record["gflop_per_s"] = done / 1e9
            if self._peak is not None:
                record["share_of_peak"] = done / (self._peak * world_size())
        self._sums, self._counts, self._count, self._wait, self._start = {}, {}, 0, 0.0, time.monotonic()
        return record
