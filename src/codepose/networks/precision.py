"""When to multiply in bf16: one rule for training, codebooks and inference."""

from __future__ import annotations

import torch

from codepose.runtime.instructions import asks_for_older_instructions
from codepose.settings.schema import Settings


def uses_bf16(settings: Settings, device: torch.device) -> bool:
    """Whether layers multiply in bf16 on ``device``: 'auto' = where that is faster, see ``multiplies_bf16``."""
    return multiplies_bf16(device) if settings.precision == "auto" else settings.precision == "bf16"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a processor is faster in bf16: GPUs that have it, CPUs with AMX, and others than Intel's with AVX-512
    BF16.

    Intel's AVX-512 BF16 without AMX, as virtual machines offer it, takes up to 1.7 times as long as float32
    (docs/log/2026-11-29-arithmetic.md). Where oneDNN is told to leave such instructions alone, it takes many times as
    long.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    if asks_for_older_instructions():
        return False
    return bool(can.get("amx_bf16")) or (bool(can.get("avx512_bf16")) and "Intel" not in str(can.get("cpu_name")))


def autocast(settings: Settings, device: torch.device) -> torch.autocast:
    """Returns the context in which networks run; weights, losses and boxes stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(settings, device))
