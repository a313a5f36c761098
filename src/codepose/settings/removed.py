"""Settings that there were once: a run that left them at their default is still what it was, and opens."""

from __future__ import annotations

from typing import Any

from codepose.settings.errors import ConfigError

_STAGES = ("step1", "original", "detector", "step2")
REMOVED: dict[str, Any] = {
    "data.augmentation.sharpen": 0.0,
    "data.augmentation.jpeg": 0.0,
    "data.augmentation.shadow": 0.0,
    "data.augmentation.metal": 0.0,
    "data.augmentation.probability": 0.5,
    "data.augmentation.per_channel": 0.3,
    "data.augmentation.add": 0.1,
    "data.augmentation.multiply": [0.6, 1.4],
    "data.augmentation.scale": [0.8, 1.2],
    "data.augmentation.shift": 0.15,
    "data.camera.far": 5000.0,
    "data.pad": 1.2,
    "network.aspect_ratios": [0.5, 1.0, 2.0],
    "network.box_gradient": "features",
    "network.feedback": "detection",
    "network.original_latent": 128,
    "losses.original_bootstrap_ratio": 4,
    "losses.pairing": "nearest",
    "codebook.batch": 64,
    "codebook.translation": "exact",
    **{f"{stage}.optimizer.step_epochs": 8.0 for stage in _STAGES},
    **{f"{stage}.optimizer.gamma": 1e-3 for stage in _STAGES},
}
"""Each one's dotted key, and the value that changes nothing."""


def without_removed(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns values of a file without settings that no longer exist.

    Raises:
        ConfigError: One of them has a value that codepose no longer knows; the text names it.
    """
    kept = values
    for key, default in REMOVED.items():
        found = _at(kept, key.split("."))
        if found is _NOTHING:
            continue
        if found != default:
            raise ConfigError(f"{source} cannot be used: {key}: there is no such setting any more, and it is {found!r}")
        kept = _less(kept, key.split("."))
    return kept


_NOTHING = object()


def _at(values: Any, path: list[str]) -> Any:
    """What stands at a path of keys."""
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return _NOTHING
        values = values[part]
    return values


def _less(values: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A copy without what stands at a path."""
    first, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    return {**values, first: _less(values[first], rest)}
