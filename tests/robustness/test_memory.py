"""10,000 images through one estimator: its memory does not grow."""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from robustness.harness import rng_of

pytestmark = pytest.mark.slow

IMAGES = 10_000
_WARM = 0.1
"""Share of the images after which every size has been seen and every buffer made."""
_GROWTH_MB = 24.0
"""What the allocator's mood may add; a kept image of 100 KB each would add a gigabyte."""
_SIZES = ((64, 48), (128, 128), (96, 160), (200, 120))


def test_memory_stays_flat(
    small_run: Path, seed: int, share: Callable[[int, int], int], figures: Callable[[object], None]
) -> None:
    from codepose.estimation.estimator import PoseEstimator

    estimator = PoseEstimator.load(small_run, refine=True)
    count = share(IMAGES, 300)
    rng, start, sizes = rng_of("memory", seed, 0), time.monotonic(), []
    for number in range(count):
        width, height = _SIZES[number % len(_SIZES)]
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        focal = float(rng.uniform(50.0, 200.0))
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        found = estimator(image, K, min_score=0.0, tiles=2 if number % 50 == 0 else 1)
        assert all(np.isfinite(d.t_cam_obj).all() for d in found)
        if number % max(1, count // 20) == 0:
            sizes.append(resident())
    warm, end = sizes[max(1, round(_WARM * len(sizes)))], resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures(
        f"memory: {count} images through one estimator, {warm:.0f} MB after a tenth of them, {end:.0f} MB at the end, "
        f"peak {peak:.0f} MB; {time.monotonic() - start:.0f} s"
    )
    assert end - warm < _GROWTH_MB, f"grown from {warm:.0f} to {end:.0f} MB: {[round(s) for s in sizes]}"


def resident() -> float:
    """MB that this process holds, without what the allocator merely keeps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
