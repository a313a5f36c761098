"""The tables in a PLY file: its elements with their properties, whatever they mean."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.surface import refuse
from codepose.parts.cad.text import decoded, numbers

_KINDS = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True, eq=False)
class List:
    """A property of which each row has several: (N,) how many, and all of them one after the other."""

    counts: NDArray[np.int64]
    values: NDArray[np.generic]


Table = dict[str, NDArray[np.generic] | List]


@dataclass(frozen=True)
class _Property:
    name: str
    kind: str
    counted_by: str = ""  # the kind of a list's length; "" = no list


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def lists(self) -> bool:
        return any(p.counted_by for p in self.properties)


def read_tables(data: bytes) -> tuple[dict[str, Table], list[str]]:
    """The elements of a PLY file by name, and the pictures that its comments name.

    Raises:
        MeshError: The header or a row is damaged, or the file ends early.
    """
    order, elements, pictures, start = _header(data)
    body = memoryview(data)[start:]
    if not order:
        return _text(elements, numbers(decoded(bytes(body)).split())), pictures
    tables, at = dict[str, Table](), 0
    for element in elements:
        tables[element.name], at = _binary(element, body, at, order)
    return tables, pictures


def _header(data: bytes) -> tuple[str, list[_Element], list[str], int]:
    """The order of bytes ("" = text), the elements, the pictures and where the body begins."""
    at = data.find(b"end_header", 0, _LONGEST_HEADER)
    if data.removeprefix(b"\xef\xbb\xbf")[:3] != b"ply" or at < 0:
        refuse("it is damaged, or no PLY file")
    start = at + len(b"end_header")
    start = start + 2 if data[start : start + 2] == b"\r\n" else start + 1
    order, elements, pictures = None, list[_Element](), list[str]()
    for line in decoded(data[:at]).split("\n"):
        words = line.split()
        if words[:1] == ["format"]:
            order = _ORDERS.get("".join(words[1:2]))
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal() and len(words[2]) < 19:
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1].properties.append(_property(words))
        elif words[:1] == ["comment"] and words[1:2] == ["TextureFile"]:
            pictures.append(line.split(None, 2)[2].strip())
        elif words[:1] in (["element"], ["property"]):
            refuse(f"it is damaged: its header has the line {line.strip()[:60]!r}")
    if order is None:
        refuse("its header does not tell text from binary")
    return order, elements, pictures, start


def _property(words: Sequence[str]) -> _Property:
    kinds = words[2:4] if words[1:2] == ["list"] else words[1:2]
    if len(words) != len(kinds) + (3 if len(kinds) == 2 else 2) or any(kind not in _KINDS for kind in kinds):
        refuse(f"it is damaged: its header has the line {' '.join(words)[:60]!r}")
    if len(kinds) == 2:
        return _Property(words[4], _KINDS[kinds[1]], _KINDS[kinds[0]])
    return _Property(words[2], _KINDS[kinds[0]])


def _early(element: _Element) -> None:
    refuse(f"the file ends early: its header counts {element.count:,} of element {element.name!r}")


def _text(elements: Sequence[_Element], values: NDArray[np.float64]) -> dict[str, Table]:
    tables, at = dict[str, Table](), 0
    for element in elements:
        width = len(element.properties)
        if element.count * width > len(values) - at:
            _early(element)
        if not element.lists:
            rows = values[at : at + element.count * width].reshape(element.count, width)
            tables[element.name] = {p.name: _as(rows[:, k], p.kind) for k, p in enumerate(element.properties)}
            at += rows.size
            continue
        table = _equal_rows(element, values, at)
        tables[element.name], at = table if table else _rows(element, values, at)
    return tables


def _equal_rows(element: _Element, values: NDArray[np.float64], at: int) -> tuple[Table, int] | None:
    """The rows of an element whose lists are all as long as those of its first row; None if they are not."""
    lengths, width = list[int](), 0
    for p in element.properties:
        if at + width >= len(values):
            return None
        lengths.append(_length(values[at + width]) if p.counted_by else 1)
        width += lengths[-1] + bool(p.counted_by)
    if element.count * width > len(values) - at:
        return None
    rows, table, column = values[at : at + element.count * width].reshape(element.count, width), Table(), 0
    for p, length in zip(element.properties, lengths, strict=True):
        if p.counted_by:
            if (rows[:, column] != length).any():
                return None
            flat = rows[:, column + 1 : column + 1 + length].reshape(-1)
            table[p.name] = List(np.full(element.count, length), _as(flat, p.kind))
        else:
            table[p.name] = _as(rows[:, column], p.kind)
        column += length + bool(p.counted_by)
    return table, at + rows.size


def _rows(element: _Element, values: NDArray[np.float64], at: int) -> tuple[Table, int]:
    """The rows of an element whose lists differ in length, one by one."""
    numbers_of: list[list[float]] = [[] for _ in element.properties]
    counts: list[list[int]] = [[] for _ in element.properties]
    words = values.tolist()
    for _ in range(element.count):
        for k, p in enumerate(element.properties):
            if at >= len(words):
                _early(element)
            length = _length(words[at]) if p.counted_by else 1
            at += bool(p.counted_by)
            if length > len(words) - at:
                _early(element)
            numbers_of[k] += words[at : at + length]
            counts[k].append(length)
            at += length
    return _table(element, numbers_of, counts), at


def _binary(element: _Element, body: memoryview, at: int, order: str) -> tuple[Table, int]:
    table = _equal_records(element, body, at, order)
    return table if table else _records(element, body, at, order)


def _equal_records(element: _Element, body: memoryview, at: int, order: str) -> tuple[Table, int] | None:
    """As `_equal_rows`, of a binary file."""
    fields, lengths, offset = list[tuple[str, str, int]](), list[int](), at
    for k, p in enumerate(element.properties):
        length = 1
        if p.counted_by:
            kind = np.dtype(order + p.counted_by)
            if element.count == 0 or offset + kind.itemsize > len(body):
                length = 0
            else:
                length = _length(np.frombuffer(body, kind, 1, offset)[0])
            fields.append((f"n{k}", order + p.counted_by, 1))
            offset += kind.itemsize
        if length * np.dtype(p.kind).itemsize > len(body):
            _early(element)
        fields.append((f"v{k}", order + p.kind, length))
        lengths.append(length)
        offset += length * np.dtype(p.kind).itemsize
    record = np.dtype([(name, kind, (size,)) for name, kind, size in fields])
    if element.count * record.itemsize > len(body) - at:
        if not element.lists:
            _early(element)
        return None
    rows, table = np.frombuffer(body, record, element.count, at), Table()
    for k, (p, length) in enumerate(zip(element.properties, lengths, strict=True)):
        if p.counted_by and (rows[f"n{k}"] != length).any():
            return None
        values = rows[f"v{k}"].reshape(-1).astype(p.kind)
        table[p.name] = List(np.full(element.count, length), values) if p.counted_by else values
    return table, at + rows.nbytes


def _records(element: _Element, body: memoryview, at: int, order: str) -> tuple[Table, int]:
    """As `_rows`, of a binary file."""
    sizes = [np.dtype(p.kind).itemsize for p in element.properties]
    counters = [np.dtype(p.counted_by).itemsize if p.counted_by else 0 for p in element.properties]
    if element.count * sum(c or s for c, s in zip(counters, sizes, strict=True)) > len(body) - at:
        _early(element)
    count_of = [struct.Struct(order + np.dtype(p.counted_by or "u1").char) for p in element.properties]
    pieces: list[list[memoryview]] = [[] for _ in element.properties]
    counts: list[list[int]] = [[] for _ in element.properties]
    for _ in range(element.count):
        for k in range(len(sizes)):
            length = 1
            if counters[k]:
                if at + counters[k] > len(body):
                    _early(element)
                length = _length(count_of[k].unpack_from(body, at)[0])
                at += counters[k]
            end = at + length * sizes[k]
            if end > len(body):
                _early(element)
            pieces[k].append(body[at:end])
            counts[k].append(length)
            at = end
    flat = [np.frombuffer(b"".join(own), order + p.kind) for own, p in zip(pieces, element.properties, strict=True)]
    return _table(element, flat, counts), at


def _table(element: _Element, values: Sequence[Any], counts: list[list[int]]) -> Table:
    table = Table()
    for p, own, count in zip(element.properties, values, counts, strict=True):
        column = _as(np.asarray(own), p.kind)
        table[p.name] = List(np.asarray(count, np.int64), column) if p.counted_by else column
    return table


def _length(value: float) -> int:
    """The length of a list, of which no face has a negative or broken one."""
    if not 0 <= value < 2**40 or value != int(value):
        refuse(f"it is damaged: a list of {value:g} numbers")
    return int(value)


def _as(values: NDArray[np.generic], kind: str) -> NDArray[np.generic]:
    """Numbers as the header's kind; of a text file decimals stay as exact as they are written."""
    wanted = np.dtype(kind)
    if wanted.kind == "f":
        return values.astype(np.float64)
    if values.dtype.kind == "f":
        return np.clip(np.nan_to_num(values.astype(np.float64)), -(2.0**53), 2.0**53).astype(np.int64).astype(kind)
    return values.astype(kind)
