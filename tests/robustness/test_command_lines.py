"""1,000 random command lines over the real options, with values that are right, extreme or senseless.

No line asks for a real training: what decides how long one takes is drawn small, or so large that it must be refused.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel
from robustness.harness import Case, Limits, rng_of
from robustness.meshes import corpus as meshes
from robustness.mutators import ODD_NUMBERS
from robustness.photos import picture_of

from codepose.cli import options as o
from codepose.settings.files import to_yaml
from codepose.settings.schema import Settings

pytestmark = pytest.mark.slow

KIND = "lines"
Rng = np.random.Generator

_COMMANDS: dict[str, type] = {
    "mesh": o.MeshDoctor,
    "preview": o.Preview,
    "train": o.Train,
    "calibrate": o.Calibrate,
    "evaluate": o.Evaluate,
    "predict": o.Predict,
    "reproduce": o.Reproduce,
    "pack": o.Pack,
    "export": o.Export,
    "render": o.Render,
    "report": o.Report,
    "settings": o.ShowSettings,
    "demo": o.Demo,
}
_OFTEN = (8, 10, 16, 4, 8, 26, 4, 5, 3, 9, 3, 1, 3)
"""Shares of the commands, in their order, in percent."""
_ABSURD = ("99999999999", "9" * 30)
"""So large that it must be refused."""
_BUDGETS = {
    *("step1_images", "scene_images", "val_images", "test_images", "epochs", "textures", "time_limit", "validations"),
    *("images", "count", "seeds", "max_frames", "tiles", "batch", "photo_scale", "antialias"),
    *("companions", "clutter", "others", "look_alikes"),
}
"""What decides how long a line takes: small, or no number at all."""
_SIZES = {
    *("image_size", "crop", "latent", "width", "box_head", "proposals", "roi_samples", "level"),
    *("roi_sampling", "in_plane", "canvas", "candidates", "rounds", "faces", "max_faces"),
    *("codebook_level", "max_detections", "per_object"),
}
"""What decides how much memory it takes: small, or absurd."""
_NEVER = {"compile", "weights", "backgrounds"}
"""Minutes of compilation; files of half a gigabyte."""
_TEXTS = (
    "",
    " ",
    "x",
    "part",
    "a/b",
    "../x",
    "é",
    "-",
    "--",
    "%s",
    "\n",
    "a" * 300,
    "nan",
    "hammer",
    "none",
    "auto",
    "cpu",
)
_PATHS = (
    *("nowhere", "nowhere/deep/x.png", "photo.png", "part.ply", "folder", "", ".", "/proc/x", "/dev/null", "x" * 300),
    *("sheet.png", "sheet.jpg", "sheet.xyz", "out", "out.csv", "a\nb.png", "é.png", "run", "config.yaml", "hammer"),
)


def test_random_command_lines(
    campaign: Callable[..., None], small_run: Path, small_settings: Settings, seed: int
) -> None:
    campaign(KIND, 1000, lambda n, folder: line_case(n, folder, small_run, small_settings, seed), Limits(90.0, 3000))


def test_a_line_of_every_command_can_be_drawn() -> None:
    rng = rng_of(KIND, 0, 0)
    for name in _COMMANDS:
        for _ in range(20):
            assert all(isinstance(word, str) for word in line(name, rng))


def line_case(number: int, folder: Path, run: Path, settings: Settings, seed: int) -> Case:
    """One line, in a folder with a run, photos and parts."""
    rng = rng_of(KIND, seed, number)
    shutil.copytree(run, folder / "run", copy_function=os.link)
    (folder / "config.yaml").unlink(missing_ok=True)
    (folder / "tiny.yaml").write_text(to_yaml(settings))
    Image.fromarray(picture_of(64, 48)).save(folder / "photo.png")
    (folder / "folder").mkdir()
    Image.fromarray(picture_of(48, 64)).save(folder / "folder" / "one.jpg")
    for file, content in meshes()[0][1].items():
        (folder / file).write_bytes(content)
    name = str(rng.choice(list(_COMMANDS), p=np.array(_OFTEN) / sum(_OFTEN)))
    words = [name, *line(name, rng)]
    return Case(
        words, "codepose " + " ".join(repr(w)[:60] if not w or " " in w else w[:60] for w in words), refused=(1, 2)
    )


def line(name: str, rng: Rng) -> list[str]:
    """A command's words: what it needs, then a few options."""
    kind = _COMMANDS[name]
    words = needed(name, rng)
    own = [f for f in dataclasses.fields(kind) if f.name not in ("settings", "preset", "json")]
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [(f"--{f.name.replace('_', '-')}", f.name, hints[f.name]) for f in own if not positional(hints[f.name])]
    for _ in range(int(rng.choice([0, 1, 1, 2, 3])) if fields else 0):
        option, field, hint = fields[int(rng.integers(len(fields)))]
        if (name == "demo" and field != "out") or field in _NEVER or (field == "dry_run"):
            continue
        words += worded(option, field, hint, rng)
    if name in ("train", "preview", "render"):
        for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
            option, field, hint = _SETTINGS[int(rng.integers(len(_SETTINGS)))]
            words += worded(option, field, hint, rng)
    if rng.random() < 0.02:
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(["--help", "--no-such", "extra", "-x", "--"])))
    return words


def needed(name: str, rng: Rng) -> list[str]:
    """What a line of this command begins with; now and then something is wrong with it."""
    odd = rng.random() < 0.08
    run = str(rng.choice(_PATHS)) if odd else "run"
    mesh = [str(rng.choice(_PATHS))] if odd else [["hammer"], ["part.ply"], []][int(rng.integers(3))]
    photo = str(rng.choice(_PATHS)) if odd else str(rng.choice(["photo.png", "folder", "folder/*.jpg"]))
    return {
        "mesh": [*(mesh or ["part.ply"])],
        "preview": [*mesh, "--preset", "tiny.yaml", "--count", "1"],
        "train": [*mesh, "--preset", "tiny.yaml", "--out", "new"],
        "calibrate": [run, "--images", "2"],
        "evaluate": [run, "--images", "2"],
        "predict": [run, photo, "--K", "fov=60"],
        "reproduce": ["--dry-run"],
        "pack": [run, "packed"],
        "export": [
            run if rng.random() < 0.2 else str(rng.choice(_PATHS[:12])),
            "part.onnx",
        ],  # it takes most of a minute
        "render": [*mesh, "--preset", "tiny.yaml", "--bop", "bop", "--images", "2"],
        "report": [run],
        "settings": [],
        "demo": [str(rng.choice(["--no-such", "extra", "--device mps", "--device", "--help", "--out part.ply"]))],
    }[name]


def positional(hint: Any) -> bool:
    return any("Positional" in str(extra) for extra in getattr(hint, "__metadata__", ()))


def worded(option: str, field: str, hint: Any, rng: Rng) -> list[str]:
    """An option with its value, as a user types it."""
    base = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    options = [h for h in get_args(base) if h is not type(None)] if is_union(base) else [base]
    base = options[0]
    base = getattr(base, "__origin__", base) if hasattr(base, "__metadata__") else base
    if base is bool:
        parent, _, last = option.removeprefix("--").rpartition(".")
        return [option if rng.random() < 0.5 else "--" + (f"{parent}." if parent else "") + f"no-{last}"]
    if get_origin(base) is tuple:
        inner = get_args(base)
        count = int(rng.integers(0, 4)) if inner[-1] is ... or rng.random() < 0.1 else len(inner)
        return [option, *(value(field, inner[0], rng) for _ in range(count))]
    return [option, value(field, base, rng)]


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (typing.Union, types.UnionType)


def value(field: str, hint: Any, rng: Rng) -> str:
    """One word: right, extreme or senseless."""
    hint = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    if rng.random() < 0.1:
        return str(rng.choice([*_TEXTS, "None"]))
    if get_origin(hint) is Literal:
        return str(rng.choice([str(v) for v in get_args(hint)]))
    if hint is Path:
        return str(rng.choice(_PATHS))
    if hint is int:
        return number(field, rng, ["0", "1", "2", "3", "4", "8"])
    if hint is float:
        return number(field, rng, ["0", "0.1", "0.5", "1", "2.5", "16", "30", "1e-3"])
    if field == "K":
        return str(
            rng.choice(["fov=60", "70,70,32,24", "1e20,1,1,1", "0,0,0,0", "nan,1,1,1", "fov=180", "photo.png", "x"])
        )
    return str(rng.choice(_TEXTS))


def number(field: str, rng: Rng, usual: list[str]) -> str:
    """A number as text."""
    if field in ("devices", "nodes"):  # a line with two waits for another machine
        return str(rng.choice(["1", "0", "-1", "nan", "x", "1.5"]))
    if field in _BUDGETS:
        return str(rng.choice([*usual[:3], "0", "-1", "nan", "x", "1e-9"]))
    if field in _SIZES:
        return str(rng.choice([*usual, "0", "-1", "16", "32", "nan", *_ABSURD]))
    odd = [n for n in ODD_NUMBERS if len(n) < 100]
    return str(rng.choice(usual if rng.random() < 0.5 else odd))


def settings_options(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, Any]]:
    """Every setting as an option: its name, its last part, its type."""
    found = []
    for name, info in model.model_fields.items():
        option, hint = f"{prefix}{name.replace('_', '-')}", info.annotation
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            found += settings_options(hint, f"{option}.")
        elif name == "objects":
            found += settings_options(get_args(hint)[0], f"{option}.0.")
        elif name not in (*_NEVER, "phases", "mesh"):
            found.append((f"--{option}", name, hint))
    return found


_SETTINGS = settings_options(Settings)
