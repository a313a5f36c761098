"""A CUDA stream of the data's own, so that what waits for them does not wait for the training, nor the reverse."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


class DataStream:
    """The stream on which a thread makes batches for another thread's stream.

    Args:
        device: A CUDA device; what is there already may be read.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def current(self) -> AbstractContextManager[Any]:
        """Makes it, and its device, the calling thread's current one: both are a thread's own."""
        return torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event:
        """Returns the moment at which everything asked for so far is made."""
        made: torch.cuda.Event = self._stream.record_event()
        return made

    def hand_over(self, batch: Any, made: torch.cuda.Event) -> None:
        """Lets the calling thread's current stream use a batch, a dataclass of tensors.

        Its memory is not used again before that stream is done with it.
        """
        taker = torch.cuda.current_stream(self._stream.device)
        taker.wait_event(made)
        for value in vars(batch).values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(taker)
