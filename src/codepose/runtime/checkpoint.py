"""Nested training state in one safetensors file: tensors by name, the rest as JSON. No pickle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from codepose.runtime.nested import nested
from codepose.storage.checksums import EMPTY, MARK, DamagedError, require_whole, seal
from codepose.storage.replace import StorageError, replacing


class CheckpointError(ValueError):
    """A file that is not one of our checkpoints, or not the one that was asked for."""


def save_state(path: str | Path, state: Any) -> None:
    """Writes nested dicts and lists of tensors, numbers, strings, booleans and None, in one step, with a checksum.

    Raises:
        TypeError: The state holds something else.
        StorageError: The disk is full, or the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(state, tensors, "")
    with replacing(path) as new:
        try:
            # one entry: safetensors writes several in any order, and the same state would make other files
            save_file(tensors, new, metadata={"codepose": f"{MARK} {EMPTY}\n{json.dumps(tree)}"})
        except SafetensorError as error:  # such as "... I/O error: No space left on device (os error 28)"
            why = re.sub(r".*error: | \(os error \d+\)", "", str(error))
            raise StorageError(f"{path} cannot be written: {why}") from None
        seal(new)


def load_state(path: str | Path) -> Any:
    """Reads what ``save_state`` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or something else.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        require_whole(Path(path))
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except DamagedError as error:
        raise CheckpointError(str(error)) from None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:  # a damaged header may claim any shape
        raise CheckpointError(f"{path} is damaged or is no safetensors file: {error}") from None
    if "codepose" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not one that codepose wrote")
    try:
        return nested(metadata["codepose"], tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: what its tensors are cannot be read: {error!r}") from None


def _pack(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    if isinstance(value, torch.Tensor):
        key = name.lstrip("/") or "value"
        # a copy: safetensors refuses tensors that share memory
        tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": key}
    if isinstance(value, dict):
        # JSON turns integer keys into strings; optimizers number their parameters
        items = [[k, _pack(v, tensors, f"{name}/{k}")] for k, v in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(v, tensors, f"{name}/{i}") for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} at {name or 'the top'}")
