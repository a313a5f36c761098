"""Settings from presets and YAML files, with overrides by dotted key, and back to YAML."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from codepose.settings.errors import ConfigError
from codepose.settings.removed import without_removed
from codepose.settings.schema import Settings
from codepose.storage.checksums import EMPTY, MARK, DamagedError, require_whole, seal
from codepose.storage.replace import replacing

_PRESET_FILES = resources.files("codepose").joinpath("presets")
DEFAULT_PRESET = "photos"
"""What the commands take where no preset is named."""
PRESETS = tuple(sorted(p.name.removesuffix(".yaml") for p in _PRESET_FILES.iterdir() if p.name.endswith(".yaml")))

_LAST = "seed"
"""The last key of a run's settings."""


def _validated(values: dict[str, Any], source: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source} cannot be used: {complaint(error)}") from None


def complaint(error: ValidationError) -> str:
    """Says in one line what is wrong with settings."""
    lines = []
    for one in error.errors():
        key = ".".join(str(part) for part in one["loc"])
        words = one["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        words = "there is no such setting" if one["type"] == "extra_forbidden" else words
        lines.append(f"{key}: {words}" if key else words)
    return "; ".join(lines[:6] + ["..."] * (len(lines) > 6))


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lays values over others, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        below = base.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _laid_over(base: Settings, values: dict[str, Any], source: str) -> Settings:
    """What is given in part keeps the rest of the base's values: of a stage, and of the base's first object."""
    below = base.model_dump(mode="json")
    values, template = without_removed(values, source, below), below["objects"][0]
    if isinstance(values.get("objects"), list):
        objects = [_merged(template, o) if isinstance(o, dict) else o for o in values["objects"]]
        values = {**values, "objects": objects}
    return _validated(_merged(below, values), source)


def load_preset(name: str) -> Settings:
    """Returns the settings of a shipped preset.

    Raises:
        ConfigError: There is no such preset; the text lists those there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    text = _PRESET_FILES.joinpath(f"{name}.yaml").read_text()
    values = {"name": name, **(yaml.safe_load(text) or {})}
    base = load_preset(values.pop("base")) if "base" in values else Settings()
    return _laid_over(base, values, f"preset {name}")


def _mapping(path: Path) -> dict[str, Any]:
    """What a YAML file holds; an empty one nothing."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: no YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # signs that YAML forbids, a date that is none, too deep
        raise ConfigError(f"{path} is not valid YAML") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not a {type(values).__name__}")
    return values


def load_settings(path: str | Path, base: Settings | None = None) -> Settings:
    """Reads settings from a YAML file; keys it leaves out keep the values of the preset that its key ``base`` names.

    Args:
        path: The file.
        base: In place of a preset, where the file names none; None = the paper's defaults.

    Raises:
        ConfigError: The file is missing, is not YAML, or has an unknown key or a bad value.
    """
    path = Path(path)
    values = _mapping(path)
    if "base" in values:
        base = load_preset(str(values["base"]))
    if base is not None:
        values = {"name": path.stem, **{key: value for key, value in values.items() if key != "base"}}
    return _laid_over(base or Settings(), values, str(path))


def override(settings: Settings, changes: dict[str, Any]) -> Settings:
    """Returns a copy with some values replaced, each named by its dotted key: "step1.batch", "objects.0.mesh".

    Raises:
        ConfigError: A key does not exist or a value does not fit.
    """
    values = settings.model_dump(mode="json")
    for key, value in changes.items():
        *parents, last = key.split(".")
        node: Any = values
        for part in parents:
            if isinstance(node, list):
                node = dict(zip(map(str, range(len(node))), node, strict=True))
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ConfigError(f"there is no setting called {key!r}")
        node[last] = value
    return _validated(values, "the settings")


def to_yaml(settings: Settings) -> str:
    """Returns the settings, in full, as YAML that ``load_settings`` reads back to an equal object."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def save_run_settings(path: Path, settings: Settings) -> None:
    """Writes a run's settings, in full, in one step, with a checksum in the first line.

    Raises:
        StorageError: They cannot be written.
    """
    with replacing(path) as new:
        new.write_text(f"# {MARK} {EMPTY}\n{to_yaml(settings)}", encoding="utf-8")
        seal(new)


def load_run_settings(path: Path) -> Settings:
    """Reads a run's settings, which must be whole: nothing takes the place of what was lost.

    Raises:
        ConfigError: They cannot be read, or are not what was written.
    """
    try:
        require_whole(path)
        ended = path.read_bytes().endswith(b"\n")
    except DamagedError as error:
        raise ConfigError(f"{error}: restore it from a copy, or, if you changed it, delete its first line") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    values = _mapping(path)
    if not ended or _LAST not in values:  # of an earlier codepose's, without a checksum, its end tells
        raise ConfigError(f"{path} is {'cut off' if values else 'empty'}: restore it from a copy")
    return _laid_over(Settings(), values, str(path))
