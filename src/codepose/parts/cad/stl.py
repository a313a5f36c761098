"""STL files, binary and text, with the two conventions for colours of faces (Magics', VisCAM's)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.surface import Surface, bytes_of, check_count, refuse
from codepose.parts.cad.text import decoded, numbers

_HEADER, _FACET = 84, 50  # bytes
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_OWN = 0x8000  # the bit of a face's attribute that tells its own colour from the part's
_VERTEX = re.compile(r"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)
_NAMES = re.compile(r"^[ \t]*(end)?solid\b.*$", re.IGNORECASE | re.MULTILINE)  # may hold any word


def read_stl(_: Path, data: bytes) -> list[Surface]:
    """The triangles of an STL file.

    Raises:
        MeshError: The file ends early, or holds more than its header says.
    """
    count = int.from_bytes(data[80:_HEADER], "little") if len(data) >= _HEADER else 0
    if len(data) == _HEADER + _FACET * count and count:
        return [_binary(data, count)]
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(b"solid") and b"\0" not in data:
        return [_text(decoded(data))]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return [_text(decoded(data))]
    held = max(len(data) - _HEADER, 0) // _FACET
    if held == 0:
        refuse("it is damaged, or no STL file")
    if held < count:
        refuse(f"the file ends early: its header counts {count:,} triangles, and {held:,} are there")
    if held > count:
        refuse(f"its header counts {count:,} triangles, and there is room for {held:,}")
    return [_binary(data, count)]


def _binary(data: bytes, count: int) -> Surface:
    check_count(count)
    records = np.frombuffer(data, _RECORD, count, _HEADER)
    triangles = records["corners"].astype(np.float64)
    attribute = records["attribute"].astype(np.int64)
    fives = (attribute[:, None] >> np.array([0, 5, 10])) & 31
    rgb = np.round(fives * 255 / 31).astype(np.uint8)
    own = attribute & _OWN > 0
    at = data[:80].find(b"COLOR=")
    if 0 <= at <= 70:
        plain = np.frombuffer(data, np.uint8, 3, at + 6)
        return _colored(triangles, np.where(own[:, None], plain, rgb))
    if own.any() and (own | (attribute == 0)).all():
        return _colored(triangles, np.where(own[:, None], rgb[:, ::-1], np.uint8(153)))
    return Surface(triangles)


def _colored(triangles: NDArray[np.float64], rgb: NDArray[np.uint8]) -> Surface:
    return Surface(triangles, "face", np.repeat(bytes_of(rgb)[:, None], 3, axis=1))


def _text(text: str) -> Surface:
    ended = text.rstrip().rpartition("\n")[2].strip().lower().startswith("endsolid")
    text = _NAMES.sub("", text)
    found = _VERTEX.findall(text)
    lowered = text.lower()
    ends = lowered.count("endfacet")
    facets = lowered.count("facet") - ends
    if not ended or ends != facets:
        refuse(f"the file ends early, after {ends:,} triangles")
    if len(found) != 3 * facets:
        refuse(f"it is damaged: {facets:,} triangles with {len(found):,} corners")
    check_count(facets)
    return Surface(numbers([value for corner in found for value in corner]).reshape(-1, 3, 3))
