"""Which of a processor's instructions may be used."""

from __future__ import annotations

import os


def asks_for_older_instructions() -> bool:
    """Whether oneDNN, which multiplies for PyTorch on CPUs, is told to use only instructions up to some generation."""
    return any(os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
