"""Reads the safetensors files that codepose writes: tensors by name, and what they are, as JSON."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from codepose_runtime.runtime.nested import nested
from codepose_runtime.storage.checksums import DamagedError, require_whole
from codepose_runtime.tensors.tensor import Tensor

_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1", "BOOL": "?"}


class CheckpointError(ValueError):
    """A file that is damaged, or none of codepose's."""


def load_state(path: str | Path) -> Any:
    """Reads nested values.

    Raises:
        CheckpointError: The file is missing, damaged or something else.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        require_whole(Path(path))
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(memory[:8], "little")
        header = json.loads(memory[8 : 8 + length])
        text = header.pop("__metadata__")["codepose"]
        return nested(text, {name: _tensor(memory, 8 + length, entry) for name, entry in header.items()})
    except DamagedError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or is no file of codepose's: {error!r}") from None


def save_state(path: str | Path, state: Any) -> None:
    """Is not done here."""
    raise NotImplementedError("codepose-runtime writes no networks")


def _tensor(memory: mmap.mmap, start: int, entry: dict[str, Any]) -> Tensor:
    first, last = entry["data_offsets"]
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    if last - first != dtype.itemsize * int(np.prod(shape)):
        raise ValueError("a tensor's size is not that of its shape")
    values = np.frombuffer(memory, dtype, int(np.prod(shape)), start + first)
    return Tensor(values.reshape(shape))
