"""``codepose settings``: those that a newcomer needs, or all, with their values in a preset and what they say."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from codepose.cli.chosen import starting_settings
from codepose.cli.options import ShowSettings
from codepose.runtime.outcome import Outcome
from codepose.settings.schema import Settings
from codepose.settings.training import Phase

FIRST = (
    "objects.0.view_cone_deg",
    "objects.0.symmetries",
    "data.camera.image_size",
    "data.camera.focal",
    "data.camera.box_side",
    "data.backgrounds",
    "data.augmentation.tint",
    "data.occlusion.companions",
    "data.occlusion.large",
    "network.backbone",
    "step1.time_limit",
    "step2.time_limit",
)
"""What differs from part to part and from camera to camera; a preset knows the rest."""


def show(options: ShowSettings) -> Outcome:
    """Prints settings as options of ``codepose train``."""
    settings = starting_settings(["--preset", options.preset])
    console, every = Console(highlight=False), dict(described(settings))
    shown = every if options.all else {key: every[key] for key in FIRST}
    for key, (value, text) in shown.items():
        console.out(option(key, value))
        if text:
            console.out(textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    "))
    if not options.all:
        console.out(f"\n{len(every) - len(FIRST)} more: codepose settings --all")
    return Outcome({key: {"value": _plain(value), "text": text} for key, (value, text) in shown.items()})


def described(settings: Settings) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yields each setting's dotted key, its value, and its docstring on one line."""
    yield from _described(settings, "")


def _described(part: BaseModel, before: str) -> Iterator[tuple[str, tuple[Any, str]]]:
    for name, value in part:
        key = f"{before}{name}"
        if isinstance(value, BaseModel):
            yield from _described(value, f"{key}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel) and not isinstance(value[0], Phase):
            yield from _described(value[0], f"{key}.0.")  # each of several has the same
        else:
            yield key, (value, _docstrings(type(part)).get(name, ""))


def option(key: str, value: Any) -> str:
    """Returns a setting as it is typed: --data.camera.focal 150, --network.no-frozen."""
    *parents, last = key.replace("_", "-").split(".")
    if isinstance(value, bool):
        return f"--{'.'.join([*parents, last if value else f'no-{last}'])}"
    return f"--{'.'.join([*parents, last])} {typed(value)}"


def typed(value: Any) -> str:
    """Returns a value as it is typed behind an option."""
    if isinstance(value, tuple):
        return " ".join(typed(one) for one in value) or "()"
    if isinstance(value, BaseModel):
        return str(value.model_dump(mode="json"))
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _plain(value: Any) -> Any:
    """A value as it stands in a YAML file of settings."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@cache
def _docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """The texts below a class's fields."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            words = ast.literal_eval(text.value)
            found[field.target.id] = " ".join(str(words).split())
    return found
