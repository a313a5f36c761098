"""Starts Warp, once, and names torch's devices and streams to it. Import this before any module with kernels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import warp as wp

from codepose.storage.caches import use_writable_caches


def _start() -> None:
    """Starts Warp without its greeting, and without its complaint on machines that have no CUDA driver."""
    use_writable_caches()
    wp.config.log_level = wp.LOG_ERROR
    if torch.cuda.is_available():
        wp.init()
        return
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        wp.init()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


_start()


def warp_device(device: torch.device) -> Any:
    """Returns Warp's device for a torch device; without a number it is torch's current one."""
    if device.type != "cuda":
        return wp.get_device("cpu")
    return wp.get_device(f"cuda:{torch.cuda.current_device() if device.index is None else device.index}")


def warp_stream(device: torch.device) -> Any:
    """Returns torch's current stream for Warp, so that the two need not wait for each other; None on a CPU."""
    return None if device.type == "cpu" else wp.stream_from_torch(device)


@cache
def cpu_pool(threads: int) -> ThreadPoolExecutor:
    """Returns threads that launch kernels on a CPU, where a launch uses one thread and releases the GIL."""
    return ThreadPoolExecutor(threads)


os.register_at_fork(after_in_child=cpu_pool.cache_clear)  # threads do not live on in a forked process
