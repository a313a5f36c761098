"""Files that carry their own SHA-256, so that one that was cut off or changed is not taken for whole.

A file of any format has a place for it near its beginning: "codepose-sha256", a few signs, and 64 digits. The checksum
is that of the file with zeros there. It is written together with the file, so there is no moment in which the two do
not fit; and it stays with a file that is copied or moved. A file without such a place is one of before: it is read
unchecked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from codepose.storage.replace import replacing

MARK = "codepose-sha256"
EMPTY = "0" * 64
_PLACE = re.compile(MARK.encode() + rb"\W{1,4}([0-9a-f]{64})")
_DIGITS = re.compile(rb"(?<=\W)[0-9a-f]{64}")
_HURT = 2
"""Bytes of the mark that may be changed, so that it is still known for one."""
_HEAD = 4 << 20
"""Bytes in which the place is looked for; headers of safetensors files are smaller."""


class DamagedError(ValueError):
    """A file that does not match its checksum; the text names it."""


def seal(path: Path) -> None:
    """Writes a file's checksum into the place that was left for it.

    Raises:
        ValueError: The file has no place for it.
    """
    with open(path, "r+b") as file:
        place, digest = _digest(file)
        if place is None:
            raise ValueError(f"{path} has no place for a checksum")
        file.seek(place)
        file.write(digest.encode())


def require_whole(path: Path) -> None:
    """Checks a file against the checksum that it carries; one that carries none passes.

    Raises:
        DamagedError: It does not match, or the mark beside it is hurt.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        place, digest = _digest(file)
        file.seek(place or 0)
        if place is None and _has_hurt_mark(file.read(_HEAD)):
            raise DamagedError(f"{path} is damaged: its checksum has lost its name")
        if place is not None and file.read(len(EMPTY)) != digest.encode():
            raise DamagedError(f"{path} is damaged: it does not match its checksum")


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Writes values as JSON with a checksum, in one step.

    Raises:
        StorageError: It cannot be written.
    """
    with replacing(path) as new:
        new.write_text(json.dumps({MARK: EMPTY, **values}, indent=2) + "\n", encoding="utf-8")
        seal(new)


def read_json(path: Path) -> dict[str, object]:
    """Reads a mapping from a JSON file, checked where it carries a checksum.

    Raises:
        DamagedError: It does not match its checksum, or holds no mapping.
        OSError: It cannot be read.
    """
    require_whole(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise DamagedError(f"{path} is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise DamagedError(f"{path} is no JSON: {error.msg}, line {error.lineno}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        raise DamagedError(f"{path} is no JSON that can be read") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{path} must hold a mapping, not a {type(values).__name__}")
    return {key: value for key, value in values.items() if key != MARK}


def _has_hurt_mark(head: bytes) -> bool:
    """Whether something like the mark stands before 64 digits."""
    mark = MARK.encode()
    for digits in _DIGITS.finditer(head):
        before = head[: digits.start()]
        for signs in range(1, 5):
            name = before[-signs - len(mark) : -signs]
            if len(name) == len(mark) and sum(a != b for a, b in zip(name, mark, strict=True)) <= _HURT:
                return True
    return False


def _digest(file: BinaryIO) -> tuple[int | None, str]:
    """Where a file's checksum belongs, None = nowhere, and what it is."""
    head = file.read(_HEAD)
    found = _PLACE.match(head, max(head.find(MARK.encode()), 0))
    if found is None:
        return None, ""
    digest = hashlib.sha256(head[: found.start(1)])
    digest.update(EMPTY.encode())
    digest.update(memoryview(head)[found.end(1) :])
    while block := file.read(1 << 20):
        digest.update(block)
    return found.start(1), digest.hexdigest()
