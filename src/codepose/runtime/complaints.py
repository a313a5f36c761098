"""What the commands say on stderr: one line each, whatever the names in it hold."""

from __future__ import annotations

import sys

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_SPELLED = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def in_one_line(text: object) -> str:
    """Spells out what would break a line or steer a terminal: file names may hold any of it."""
    return str(text).translate(_SPELLED)


def complain(text: str) -> None:
    """Prints a line on stderr."""
    print(in_one_line(text), file=sys.stderr)
