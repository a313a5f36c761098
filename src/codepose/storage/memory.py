"""How much main memory this machine has."""

from __future__ import annotations

import os


def main_memory() -> int:
    """Returns its size in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
