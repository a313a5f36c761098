"""What text-based CAD files have in common: encodings, numbers, and the names of other files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.surface import refuse


def decoded(data: bytes) -> str:
    """Text in UTF-8 or UTF-16 with or without its mark, or else in Latin-1; ends of lines become newlines."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbers(words: Sequence[str]) -> NDArray[np.float64]:
    """(N,) of N words.

    Raises:
        MeshError: One of them is no number.
    """
    try:
        return np.array(words, dtype=np.float64)
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        return refuse(f"it is damaged: {wrong[:40]!r} stands where a number should be")


def whole(words: Sequence[str]) -> NDArray[np.int64]:
    """(N,) whole numbers of N words.

    Raises:
        MeshError: One of them is no whole number.
    """
    values = numbers(words)
    if (values.size and not (np.abs(values) < 2**53).all()) or (values != np.trunc(values)).any():
        refuse("it is damaged: an index is no whole number")
    return values.astype(np.int64)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def file_named(folders: Sequence[Path], name: str) -> Path | None:
    """The file that a CAD file calls ``name``: in the first of the folders that has it, None where none has.

    Windows' paths and names in the wrong case are found, too, and what has a path to another machine's folder is
    looked for by its name alone.
    """
    plain = name.strip().strip('"')
    if not plain or "\0" in plain:
        return None
    for option in dict.fromkeys((name, plain, plain.replace("\\", "/"), PureWindowsPath(plain).name)):
        for folder in folders:
            found = _file(folder / option)
            if found is not None:
                return found
    return None


def _file(path: Path) -> Path | None:
    """A file, or the only one in its folder whose name differs in its case alone."""
    try:
        if path.is_file():
            return path
        if not path.parent.is_dir():
            return None
        alike = [other for other in path.parent.iterdir() if other.name.lower() == path.name.lower()]
    except (OSError, ValueError):  # a name too long, or with a zero in it
        return None
    return alike[0] if len(alike) == 1 and alike[0].is_file() else None
