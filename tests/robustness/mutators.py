"""Damage as it happens, and as nobody would think of: to bytes, to numbers in text, to JSON."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator

ESCAPE = "surrogateescape"
"""Decoding with it, and encoding again, keeps what is no UTF-8."""
ODD_NUMBERS = (
    *("nan", "inf", "-inf", "1e400", "-1e400", "1e308", "-1e308", "1e39", "1e-400", "1e-30", "-0", "0", "-1", "1e20"),
    *("9" * 400, "9" * 5000, "0x10", "1_000", "1,5", "1.2.3", "--1", "+-1", "1e", ".", "", "null", "true", "½", "１２"),
    *("18446744073709551616", "-2147483649", "2147483648", "4294967295", "0.1", "65536", "1000000"),
)
"""Numbers as texts that readers stumble over."""
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "nan", [], {}, [[]], [None], {"a": 1}, [1, [2, [3]]], "\ud800"),
    *(0, -1, 1, 2**31, 2**63, 10**400, 1e308, -1e308, 1e39, 1e-320, 0.5, float("nan"), float("inf"), float("-inf")),
)
"""Values of JSON files where others are looked for."""


def flip_bits(data: bytearray, rng: Rng) -> str:
    """Turns 1 to 8 bits over."""
    for _ in range(count := int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return f"{count} bits turned over"


def set_bytes(data: bytearray, rng: Rng) -> str:
    """Writes up to 8 random or extreme bytes."""
    for _ in range(count := int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] = int(rng.choice([0, 255, 127, 128, int(rng.integers(256))]))
    return f"{count} bytes replaced"


def header_extreme(data: bytearray, rng: Rng) -> str:
    """Puts an extreme integer into the first bytes, where formats keep their sizes."""
    width = int(rng.choice([1, 2, 4, 8]))
    values = (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (4 * width))
    value = int(values[int(rng.integers(len(values)))])
    at = int(rng.integers(max(1, min(len(data) - width, 160))))
    order = "big" if rng.random() < 0.5 else "little"
    data[at : at + width] = value.to_bytes(width, order)
    return f"{value} as {width} bytes at {at}"


def truncate(data: bytearray, rng: Rng) -> str:
    """Cuts the end off."""
    at = int(rng.integers(len(data))) if rng.random() < 0.8 else max(0, len(data) - int(rng.integers(1, 20)))
    del data[at:]
    return f"cut at {at}"


def delete_chunk(data: bytearray, rng: Rng) -> str:
    """Takes a piece out."""
    at, size = _piece(data, rng)
    del data[at : at + size]
    return f"{size} bytes taken out at {at}"


def double_chunk(data: bytearray, rng: Rng) -> str:
    """Writes a piece twice."""
    at, size = _piece(data, rng)
    data[at:at] = data[at : at + size]
    return f"{size} bytes doubled at {at}"


def swap_chunks(data: bytearray, rng: Rng) -> str:
    """Exchanges two pieces."""
    (a, size), (b, _) = _piece(data, rng), _piece(data, rng)
    first, second = bytes(data[a : a + size]), bytes(data[b : b + size])
    data[a : a + len(second)], data[b : b + len(first)] = second, first
    return f"{size} bytes exchanged between {a} and {b}"


def blank_chunk(data: bytearray, rng: Rng) -> str:
    """Overwrites a piece with zeros, as a disk does."""
    at, size = _piece(data, rng)
    data[at : at + size] = bytes(len(data[at : at + size]))
    return f"{size} zeros at {at}"


def insert_noise(data: bytearray, rng: Rng) -> str:
    """Puts random bytes in."""
    at, size = _piece(data, rng)
    data[at:at] = rng.bytes(size)
    return f"{size} random bytes put in at {at}"


def append_noise(data: bytearray, rng: Rng) -> str:
    """Puts random bytes behind."""
    size = int(rng.integers(1, 2000))
    data += rng.bytes(size)
    return f"{size} random bytes behind"


def _piece(data: bytearray, rng: Rng) -> tuple[int, int]:
    size = int(rng.integers(1, max(2, min(len(data) // 2, 4096))))
    return int(rng.integers(max(1, len(data)))), size


Mutator = Callable[[bytearray, Rng], str]
BYTES: tuple[Mutator, ...] = (
    *(flip_bits, flip_bits, set_bytes, header_extreme, header_extreme, header_extreme, truncate, truncate),
    *(delete_chunk, double_chunk, swap_chunks, blank_chunk, insert_noise, append_noise),
)


def mutate_bytes(content: bytes, rng: Rng, mutators: Sequence[Mutator] = BYTES) -> tuple[bytes, str]:
    """One to three of the mutators, one after the other; returns the bytes and what was done to them."""
    data, done = bytearray(content), []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if len(data) > 1:
            mutator = mutators[int(rng.integers(len(mutators)))]
            done.append(mutator(data, rng))
    return bytes(data), ", ".join(done)


def mend_png(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """Changes a PNG's header and writes the right checksum, so that the change is believed."""
    import zlib

    data = bytearray(content)
    at = content.find(b"IHDR")
    if at < 0 or len(content) < at + 21:
        return content, "unchanged"
    which = int(rng.integers(5))
    if which < 2:
        value = int(rng.choice([0, 1, 7, 12000, 13000, 30000, 65535, 2**20, 2**31 - 1, 2**31]))
        struct.pack_into(">I", data, at + 4 + 4 * which, value)
        words = f"a side of {value}"
    else:
        offset, values = ((12, (1, 2, 4, 8, 16, 3)), (13, (0, 2, 3, 4, 6, 5)), (16, (0, 1, 2)))[which - 2]
        data[at + offset] = int(rng.choice(values))
        words = f"IHDR byte {offset} = {data[at + offset]}"
    struct.pack_into(">I", data, at + 17, zlib.crc32(data[at : at + 17]))
    return bytes(data), words


def mutate_text(text: str, rng: Rng) -> tuple[bytes, str]:
    """Another encoding, other line ends, an odd number in a number's place, lines lost or doubled."""
    import re

    which = int(rng.integers(9))
    if which <= 3:
        numbers = list(re.finditer(r"(?<![\w.])[-+]?\d+(\.\d*)?(e[-+]?\d+)?(?![\w.])", text))
        if numbers:
            found = numbers[int(rng.integers(len(numbers)))]
            odd = ODD_NUMBERS[int(rng.integers(len(ODD_NUMBERS)))]
            return (text[: found.start()] + odd + text[found.end() :]).encode(
                "utf-8", ESCAPE
            ), f"{found[0]} became {odd[:40]!r}"
    lines = text.splitlines(keepends=True)
    at = int(rng.integers(max(1, len(lines))))
    if which == 4:
        return "".join(lines[:at] + lines[at + 1 :]).encode("utf-8", ESCAPE), f"line {at} lost"
    if which == 5:
        return "".join(lines[:at] + lines[at : at + 1] + lines[at:]).encode("utf-8", ESCAPE), f"line {at} doubled"
    if which == 6:
        junk = (
            "\x00\x00",
            "# é\n",
            "\t\t\n",
            "\n\n",
            "{",
            "]",
            '"',
            "&a *a",
            "!!python/object:os.system\n",
            "%YAML:1.0\n",
        )
        piece = junk[int(rng.integers(len(junk)))]
        return "".join([*lines[:at], piece, *lines[at:]]).encode("utf-8", ESCAPE), f"{piece!r} before line {at}"
    if which == 7:
        return mutate_bytes(text.encode("utf-8", ESCAPE), rng)
    return same_text(text, rng)


def same_text(text: str, rng: Rng) -> tuple[bytes, str]:
    """The same content written in another way, as editors and other systems do."""
    which = int(rng.integers(4))
    if which == 0:
        return b"\xef\xbb\xbf" + text.encode("utf-8", ESCAPE), "with a BOM"
    if which == 1:
        return text.replace("\n", "\r\n").encode("utf-8", ESCAPE), "with CRLF"
    if which == 2:
        return (b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode("utf-8", ESCAPE)), "with BOM and CRLF"
    return (text + "\n\n").encode("utf-8", ESCAPE), "with empty lines behind"


SAME = ("with a BOM", "with CRLF", "with BOM and CRLF", "with empty lines behind")
"""What ``same_text`` says of itself."""


def mutate_json(values: Any, rng: Rng) -> tuple[str, str, tuple[Any, ...]]:
    """Changes one place in nested values; returns the JSON text, what was done, and the place."""
    values = copy.deepcopy(values)
    places = list(_places(values))
    if not places:
        return json.dumps(values), "unchanged", ()
    place = places[int(rng.integers(len(places)))]
    parent = values
    for key in place[:-1]:
        parent = parent[key]
    key, path = place[-1], ".".join(map(str, place))
    which = int(rng.integers(6))
    if which == 0:
        del parent[key]
        words = f"{path} dropped"
    elif which == 1 and isinstance(parent, dict):
        parent[str(key) + "_"] = parent.pop(key)
        words = f"{path} renamed"
    elif which == 2:
        parent[key] = [copy.deepcopy(parent[key])]
        words = f"{path} nested"
    else:
        odd = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
        parent[key] = copy.deepcopy(odd)
        words = f"{path} = {str(odd)[:40]!r}" if not isinstance(odd, str) else f"{path} = {odd!r}"
    return dumps(values), words, place


def dumps(values: Any) -> str:
    """JSON as Python writes it, but with integers of any length."""
    import sys

    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(values)
    finally:
        sys.set_int_max_str_digits(before)


def _places(values: Any, path: tuple[Any, ...] = ()) -> Any:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))
