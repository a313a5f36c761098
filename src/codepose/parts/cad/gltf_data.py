"""The numbers in a glTF file: buffers, views of them and accessors, as floats."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.surface import MOST_TRIANGLES, refuse
from codepose.parts.cad.text import file_named

_KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_MOST = 3 * MOST_TRIANGLES


class Data:
    """A glTF document and the buffers that it names, read when they are needed.

    Args:
        document: The JSON.
        binary: A .glb file's own buffer.
        folder: Where other files are.
    """

    def __init__(self, document: dict[str, Any], binary: bytes | None, folder: Path) -> None:
        self.document = document
        self.folder = folder
        self._binary = binary
        self.pictures: dict[int, NDArray[np.uint8]] = {}  # that were decoded, by image
        self._buffers: dict[int, bytes] = {}

    def entry(self, kind: str, number: Any) -> dict[str, Any]:
        """One of the document's lists' entries.

        Raises:
            MeshError: It is not there.
        """
        entries = self.document.get(kind, [])
        if not isinstance(number, int) or not 0 <= number < len(entries):
            refuse(f"it is damaged: it names number {number} of {len(entries)} {kind}")
        return dict(entries[number])

    def accessor(self, number: Any, types: Sequence[str], *, whole: bool = False) -> NDArray[np.float64]:
        """(N, K) numbers of an accessor of one of the types; K = 1 for SCALAR.

        Args:
            number: The accessor.
            types: What it may be.
            whole: Take integers for parts of a whole even where the file does not say that they are.

        Raises:
            MeshError: It is of another type, or beyond its buffer's end.
        """
        entry = self.entry("accessors", number)
        kind, count = _KINDS.get(entry.get("componentType", 0)), entry.get("count", 0)
        if entry.get("type") not in types or kind is None:
            refuse(f"it is damaged: accessor {number} is of type {entry.get('type')}")
        if not isinstance(count, int) or not 0 <= count <= _MOST:
            refuse(f"it is damaged: accessor {number} has {count} elements")
        width, sparse = _WIDTHS[entry["type"]], entry.get("sparse")
        if "bufferView" in entry:
            values = self._read(entry["bufferView"], _whole(entry, "byteOffset", 0), count, width, kind)
        elif sparse is None:
            used = ", ".join(map(str, self.document.get("extensionsUsed", []))) or "none"
            refuse(
                f"a body's numbers are compressed or not in it (extensions: {used})",
                "export the part again without compression",
            )
        else:
            values = np.zeros((count, width), kind)
        if sparse is not None:
            values = self._changed(values, sparse, width, kind)
        return _floats(values, bool(entry.get("normalized")) or whole)

    def view(self, number: Any) -> memoryview:
        """The bytes of a view of a buffer.

        Raises:
            MeshError: They are compressed, or beyond the buffer's end.
        """
        entry = self.entry("bufferViews", number)
        for extension in entry.get("extensions", {}):
            if "compression" in extension:
                refuse(f"it is compressed with {extension}, which is not read", "export the part without compression")
        buffer = self._buffer(entry.get("buffer"))
        start, length = _whole(entry, "byteOffset", 0), _whole(entry, "byteLength", -1)
        if not 0 <= start <= start + length <= len(buffer):
            refuse(f"the file ends early: view {number} is beyond the end of its buffer of {len(buffer):,} bytes")
        return memoryview(buffer)[start : start + length]

    def uri(self, uri: str) -> bytes | Path | None:
        """What a URI holds, the file that it names, or None where that is not there."""
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=False)
            except (binascii.Error, ValueError):
                refuse("it is damaged: a data URI is not in base 64")
        return file_named([self.folder], unquote(uri)) or file_named([self.folder], uri)

    def _read(self, view: Any, start: int, count: int, width: int, kind: str) -> NDArray[Any]:
        """(N, K) as they are stored."""
        size = np.dtype(kind).itemsize
        step = _whole(self.entry("bufferViews", view), "byteStride", 0) or size * width
        found = self.view(view)
        if start < 0 or step < size * width or (count and start + (count - 1) * step + size * width > len(found)):
            refuse(f"the file ends early: {count:,} elements are more than a view of {len(found):,} bytes holds")
        if count == 0:
            return np.zeros((0, width), kind)
        values: NDArray[Any] = np.ndarray((count, width), kind, found, start, (step, size))
        return values.copy()

    def _changed(self, values: NDArray[Any], sparse: dict[str, Any], width: int, kind: str) -> NDArray[Any]:
        """The values with those of a sparse accessor in their places."""
        count, where, what = sparse["count"], sparse["indices"], sparse["values"]
        if not isinstance(count, int) or not 0 <= count <= len(values):
            refuse(f"it is damaged: a sparse accessor changes {count} of {len(values)} elements")
        at_kind = _KINDS[where["componentType"]]
        at = self._read(where["bufferView"], where.get("byteOffset", 0), count, 1, at_kind)[:, 0].astype(np.int64)
        if count and not 0 <= at.min() <= at.max() < len(values):
            refuse("it is damaged: a sparse accessor changes what is not there")
        values[at] = self._read(what["bufferView"], what.get("byteOffset", 0), count, width, kind)
        return values

    def _buffer(self, number: Any) -> bytes:
        if number not in self._buffers:
            entry = self.entry("buffers", number)
            uri = entry.get("uri")
            found = self.uri(uri) if uri is not None else self._binary
            if found is None:
                name = "the file's own buffer" if uri is None else str(uri)[:80]
                refuse(f"{name}, named in the file, is not there", "keep it beside the file, or export a .glb file")
            data = found.read_bytes() if isinstance(found, Path) else found
            if entry.get("byteLength", 0) > len(data):
                refuse(f"the file ends early: buffer {number} should have {entry['byteLength']:,} bytes")
            self._buffers[number] = data
        return self._buffers[number]


def _whole(entry: dict[str, Any], key: str, default: int) -> int:
    value = entry.get(key, default)
    if type(value) is not int:
        refuse(f"it is damaged: {key} is {str(value)[:40]}, which is no whole number")
    return int(value)


def array(values: Any, count: int) -> NDArray[np.float64]:
    """(count,) numbers of a list in the document.

    Raises:
        MeshError: There are more or fewer.
    """
    found = np.asarray(values, np.float64)
    if found.shape != (count,):
        refuse(f"it is damaged: {count} numbers should stand where {str(values)[:60]} is")
    return found


def _floats(values: NDArray[Any], normalized: bool) -> NDArray[np.float64]:
    if not normalized or values.dtype.kind == "f":
        return values.astype(np.float64)
    return np.maximum(values.astype(np.float64) / np.iinfo(values.dtype).max, -1.0)
