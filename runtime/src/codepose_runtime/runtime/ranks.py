"""There is one process: what several would share out, it has."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def rank() -> int:
    """Returns its number."""
    return 0


def everyones(value: T) -> list[T]:
    """Returns what each process has."""
    return [value]
