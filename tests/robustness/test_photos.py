"""10,000 damaged photos: each is refused by name, or gives a pose of what it holds; its neighbours never suffer."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from robustness.harness import Case, Limits, Outcome, rng_of
from robustness.mutators import mend_png, mutate_bytes
from robustness.photos import corpus, picture_of

pytestmark = pytest.mark.slow

KIND = "photos"
SUFFIXES = (".jpg", ".png", ".tif", ".bmp", ".webp")


def test_damaged_photos(campaign: Callable[..., None], loaded: Path, seed: int) -> None:
    campaign(KIND, 10_000, lambda number, folder: photo_case(number, folder, loaded, seed), Limits(15.0, 1500))


def photo_case(number: int, folder: Path, run: Path, seed: int) -> Case:
    """A damaged photo, beside a good one where the number is a multiple of 4."""
    rng = rng_of(KIND, seed, number)
    whole = corpus()
    name, content = whole[int(rng.integers(len(whole)))]
    damaged, what = damage(content, rng)
    suffix = Path(name).suffix if rng.random() < 0.95 else SUFFIXES[int(rng.integers(len(SUFFIXES)))]
    photo = folder / f"a-{Path(name).stem}{suffix}"
    photo.write_bytes(damaged)
    sources = [str(photo)]
    if number % 4 == 0:
        Image.fromarray(picture_of(40, 30)).save(folder / "z.png")
        sources.append(str(folder / "z.png"))
    return Case(
        arguments=["predict", str(run), *sources, "--K", "fov=60", "--min-score", "0", "--no-refine", "--out", "out"],
        what=f"{name}: {what}",
        named=(photo.name,),
        check=lambda outcome: check(outcome, folder, photo, content, damaged),
    )


def damage(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Bytes changed; of PNGs, often with checksums that hold."""
    if content.startswith(b"\x89PNG") and rng.random() < 0.3:
        return mend_png(content, rng)
    damaged, what = mutate_bytes(content, rng)
    if content.startswith(b"\x89PNG") and rng.random() < 0.3:
        return resealed(damaged), f"{what}, with its checksums written anew"
    return damaged, what


def check(outcome: Outcome, folder: Path, photo: Path, content: bytes, damaged: bytes) -> str | None:
    """What is wrong with what was written."""
    out = folder / "out"
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    found = {Path(line["file"]).name: line for line in lines}
    if (folder / "z.png").exists() and "z.png" not in found:
        return "the photo behind it is lost"
    written = {name for name in (f"{photo.stem}.json", f"{photo.stem}.overlay.png") if (out / name).exists()}
    if outcome.status == 1:
        return f"refused, but there are {written or 'predictions'}" if written or photo.name in found else None
    if len(written) != 2 or photo.name not in found:
        return f"status 0, but of its results there are only {written}"
    line = found[photo.name]
    if (words := insane(line, out / f"{photo.stem}.overlay.png")) is not None:
        return words
    before, after = decoded(content), decoded(damaged)
    same = before is not None and after is not None and np.array_equal(before, after)
    if same and without_time(line) != expected(folder, content, photo.suffix):
        return "the same pixels, another result"
    if not same and damaged.startswith(b"\x89PNG") and not sealed(damaged):
        return "a PNG whose checksums do not hold is read as other pixels, without a word"
    return None


def insane(line: dict[str, object], overlay: Path) -> str | None:
    """What no prediction may hold."""
    text = json.dumps(line)
    if "NaN" in text or "Infinity" in text:
        return f"numbers that are not finite: {text[:200]}"
    width, height = int(str(line["width"])), int(str(line["height"]))
    factor = -(-max(width, height) // 2560)  # a larger photo is drawn on at a half, a third and so on of its size
    with Image.open(overlay) as picture:
        if picture.size != (-(-width // factor), -(-height // factor)):
            return f"an overlay of {picture.size} for a photo of {line['width']} x {line['height']}"
    return None


def decoded(content: bytes) -> NDArray[np.uint8] | None:
    """The pixels as Pillow reads them; None = it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as opened:
                if opened.width * opened.height > 10_000_000:
                    return None
                upright = ImageOps.exif_transpose(opened)
                return np.asarray(upright if upright.mode[0] in "IF" else upright.convert("RGBA"))
        except Exception:  # Pillow raises whatever a damaged file makes it raise
            return None


_EXPECTED: dict[tuple[bytes, str], object] = {}


def expected(folder: Path, content: bytes, suffix: str) -> object:
    """What is predicted on the whole photo; each is asked once."""
    from robustness.harness import call

    if (content, suffix) not in _EXPECTED:
        other = folder / "whole"
        other.mkdir()
        (other / f"whole{suffix}").write_bytes(content)
        words = [str(other / f"whole{suffix}"), "--K", "fov=60", "--min-score", "0", "--no-refine"]
        call(["predict", str(_RUN[0]), *words, "--out", str(other / "out")], other)
        _EXPECTED[content, suffix] = without_time(json.loads((other / "out" / "whole.json").read_text()))
    return _EXPECTED[content, suffix]


def without_time(line: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in line.items() if key not in ("time_ms", "file")}


def chunks(content: bytes) -> list[tuple[int, int]]:
    """Begin and length of a PNG's chunks up to its last one, as far as they can be followed."""
    at, found = 8, []
    while at + 12 <= len(content) and (not found or content[found[-1][0] + 4 : found[-1][0] + 8] != b"IEND"):
        (length,) = struct.unpack_from(">I", content, at)
        if at + 12 + length > len(content):
            break
        found.append((at, length))
        at += 12 + length
    return found


def sealed(content: bytes) -> bool:
    """Whether a PNG's critical chunks carry the right checksums, up to its end."""
    found = chunks(content)
    for at, length in found:
        (crc,) = struct.unpack_from(">I", content, at + 8 + length)
        critical = not content[at + 4] & 0x20
        if critical and crc != zlib.crc32(content[at + 4 : at + 8 + length]):
            return False
    return bool(found) and content[found[-1][0] + 4 : found[-1][0] + 8] == b"IEND"


def resealed(content: bytes) -> bytes:
    """The same PNG with right checksums."""
    data = bytearray(content)
    for at, length in chunks(content):
        struct.pack_into(">I", data, at + 8 + length, zlib.crc32(content[at + 4 : at + 8 + length]))
    return bytes(data)


_RUN: list[Path] = []


@pytest.fixture(autouse=True)
def _run(loaded: Path) -> None:
    _RUN[:] = [loaded]
