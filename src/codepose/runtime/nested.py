"""Nested values whose tensors lie in a safetensors file: the text beside them says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from codepose.storage.checksums import MARK


def nested(text: str, tensors: Mapping[str, Any]) -> Any:
    """Returns the nested dicts, lists and tuples that a file's text describes.

    Args:
        text: JSON, after a line with the file's checksum where it has one.
        tensors: The file's, by name.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: The text does not describe any.
    """
    return _unpack(json.loads(text.partition("\n")[2] if text.startswith(MARK) else text), tensors)


def _unpack(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        raise TypeError("a list by itself")
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {k: _unpack(v, tensors) for k, v in value["dict"]}
    if "tuple" in value:
        return tuple(_unpack(v, tensors) for v in value["tuple"])
    return [_unpack(v, tensors) for v in value["list"]]
