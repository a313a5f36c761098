"""1,000 odd camera files and cameras in words: refused by name, or the camera that stands there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from robustness.cameras import JSONS, LENS, K, corpus
from robustness.harness import Case, Limits, Outcome, rng_of
from robustness.mutators import ODD_NUMBERS, SAME, mutate_json, mutate_text
from robustness.photos import picture_of

pytestmark = pytest.mark.slow

KIND = "cameras"
_LARGEST = 1e7
"""Pixels; no focal length or principal point of any camera is larger."""


def test_odd_cameras(campaign: Callable[..., None], loaded: Path, seed: int) -> None:
    campaign(KIND, 1000, lambda number, folder: camera_case(number, folder, loaded, seed), Limits(5.0, 1500))


def camera_case(number: int, folder: Path, run: Path, seed: int) -> Case:
    """A camera in a file, or, every fourth, in words; for one photo."""
    rng = rng_of(KIND, seed, number)
    Image.fromarray(picture_of(64, 48)).save(folder / "photo.png")
    given, what, named, same = in_words(rng) if number % 4 == 3 else in_a_file(rng, folder)
    return Case(
        arguments=["predict", str(run), "photo.png", "--K", given, "--min-score", "0", "--no-refine", "--out", "out"],
        what=what,
        named=(named, "K", "photo.png", "fov"),
        check=lambda outcome: check(outcome, folder, same),
        refused=(1, 2) if given.strip().startswith("-") else (1,),
    )


def in_words(rng: np.random.Generator) -> tuple[str, str, str, bool]:
    """--K fx,fy,cx,cy or fov=..., with odd numbers in it."""
    odd = [
        str(rng.choice([*ODD_NUMBERS, "70.5", "70.5", " 70.5 ", "31", "1e5"])) for _ in range(int(rng.integers(1, 6)))
    ]
    words = ",".join(odd) if rng.random() < 0.7 else f"{rng.choice(['fov=', 'FOV=', 'fov =', 'fov:'])}{odd[0]}"
    return words, f"--K {words[:80]}", "--K", False


def in_a_file(rng: np.random.Generator, folder: Path) -> tuple[str, str, str, bool]:
    """A file of a format that is known, with something odd in it."""
    whole = corpus()
    name, text = whole[int(rng.integers(len(whole)))]
    if name in JSONS and rng.random() < 0.6:
        text, what, _ = mutate_json(JSONS[name], rng)
        content = text.encode()
    else:
        content, what = mutate_text(text, rng)
    file = folder / (
        name if rng.random() < 0.97 else f"{Path(name).stem}{rng.choice(['.json', '.txt', '.yaml', '.YML'])}"
    )
    file.write_bytes(content)
    return str(file), f"{name}: {what}", file.name, what in SAME and file.name == name


def check(outcome: Outcome, folder: Path, same: bool) -> str | None:
    """What is wrong with the camera that was read."""
    if outcome.status != 0:
        return "the same content, refused" if same else None
    found = json.loads((folder / "out" / "photo.json").read_text())
    text = json.dumps(found)
    if "NaN" in text or "Infinity" in text:
        return f"numbers that are not finite: {text[:200]}"
    values = np.array(found["K"])
    if same and not np.allclose(values.ravel(), K):
        return f"the same content, another K: {values.tolist()}"
    if same and "distortion" in found and not np.allclose(np.pad(found["distortion"], (0, 8))[:5], LENS):
        return f"the same content, another lens: {found['distortion']}"
    if not (0 < values[0, 0] < _LARGEST and 0 < values[1, 1] < _LARGEST and np.abs(values).max() < _LARGEST):
        return f"no camera is like this, but no word: {values.tolist()}"
    return None
