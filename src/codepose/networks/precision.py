"""When to multiply in bf16: one rule for training, codebooks and inference."""

from __future__ import annotations

import torch

from codepose.settings.schema import Settings


def uses_bf16(settings: Settings, device: torch.device) -> bool:
    """Whether layers multiply in bf16 on ``device``: 'auto' = where the processor has it (CUDA, AMX, AVX-512 BF16)."""
    return multiplies_bf16(device) if settings.precision == "auto" else settings.precision == "bf16"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a processor has instructions for bf16."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return any(bool(can.get(name, False)) for name in ("amx_bf16", "avx512_bf16"))


def autocast(settings: Settings, device: torch.device) -> torch.autocast:
    """Returns the context in which networks run; weights, losses and boxes stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(settings, device))
