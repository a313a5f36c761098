"""What a command ends with: a value for other programs, an exit status, and what goes on after both are told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Command:
    """What every command can be told."""

    json: bool = field(default=False, kw_only=True)
    """Print the result as one JSON object on stdout, and everything else on stderr; docs/command-line.md."""


@dataclass(frozen=True)
class Outcome:
    """The end of a command that did what it was asked for.

    Attributes:
        value: What ``--json`` prints: as ``plain`` takes it.
        status: The exit status: 1 if something was skipped.
        then: What runs once the value is told, such as a service that waits for requests.
    """

    value: Mapping[str, Any]
    status: int = 0
    then: Callable[[], None] | None = None


def plain(value: Any) -> Any:
    """Returns a value as JSON knows it: paths are texts, and a number that is none (NaN, infinity) is None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
