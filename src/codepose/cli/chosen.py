"""The settings that a command's options ask for: a preset or file, and the CAD files in the place of its objects."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from codepose.settings.data import BENCHES, Unit
from codepose.settings.files import DEFAULT_PRESET, PRESETS, load_preset, load_run_settings, load_settings
from codepose.settings.schema import Settings


def starting_settings(arguments: list[str]) -> Settings:
    """The preset, or file, that --preset names: its values are the options' defaults.

    A file that names no ``base`` changes ``photos``; its relative paths start at its folder. Where neither is named and
    a run is resumed, its own settings are the defaults.
    """
    peek = argparse.ArgumentParser(add_help=False)
    peek.add_argument("--preset")
    peek.add_argument("--resume", action="store_true")
    peek.add_argument("--out", type=Path)
    typed = peek.parse_known_args(arguments)[0]
    if typed.preset is None and typed.resume and typed.out and (typed.out / "config.yaml").is_file():
        return load_run_settings(typed.out / "config.yaml")
    name = typed.preset or DEFAULT_PRESET
    if name not in PRESETS and (Path(name).suffix in (".yaml", ".yml") or Path(name).exists()):
        return located(load_settings(name, base=load_preset(DEFAULT_PRESET)), Path(name).parent)
    return load_preset(name)


def located(settings: Settings, folder: Path) -> Settings:
    """Returns a copy whose relative paths, of meshes, symmetries and backgrounds, start at a folder."""
    from codepose.parts.shapes import BUILTIN

    def place(text: str, *names: str) -> str:
        return text if text in names else str((folder / Path(text).expanduser()).resolve())

    objects = tuple(
        one.model_copy(update={"mesh": place(one.mesh, *BUILTIN), "symmetries": place(one.symmetries, "auto", "none")})
        for one in settings.objects
    )
    photos = settings.data.backgrounds
    data = settings.data.model_copy(update={"backgrounds": None if photos is None else place(photos, BENCHES)})
    return settings.model_copy(update={"objects": objects, "data": data})


def with_meshes(
    settings: Settings, meshes: tuple[Path, ...], unit: Unit | None = None, body: str | None = None
) -> Settings:
    """Puts the given CAD files in the place of the preset's objects, with its first object's other settings.

    Every path becomes an absolute one.

    Args:
        settings: The preset's.
        meshes: None given = the preset's objects stay.
        unit: Of every object's file; None = as the settings say.
        body: Of every object's file; None = as the settings say.
    """
    template, objects = settings.objects[0], list(settings.objects)
    if meshes:
        objects = []
        for mesh in meshes:
            name = _unused(template.label or mesh.stem, [o.label for o in objects])
            objects.append(template.model_copy(update={"mesh": str(mesh), "label": name}))
    update: dict[str, object] = {key: value for key, value in {"unit": unit, "body": body}.items() if value is not None}
    objects = [one.model_copy(update=update) for one in objects]
    return located(settings.model_copy(update={"objects": tuple(objects)}), Path())


def _unused(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where others have it already."""
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)
