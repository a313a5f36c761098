"""Settings that there were once: a run that left them at their default is still what it was, and opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codepose.settings.errors import ConfigError
from codepose.settings.training import MOMENTUM

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
    "refinement.agreement": 0.2,
    "refinement.apart_deg": 12.0,
    "refinement.edge_views": 16,
    "refinement.hypotheses": 8,
    "refinement.similarity": 0.5,
    "refinement.step_deg": 8.0,
    "losses.lambda_angle": 1e-6,
    "losses.min_iou": 0.3,
    **{f"{stage}.optimizer.final_lr": 0.1 for stage in _STAGES},
    **{f"{stage}.optimizer.step_epochs": 8.0 for stage in _STAGES},
    **{f"{stage}.optimizer.gamma": 1e-3 for stage in _STAGES},
}
"""Each one's dotted key, and the value that changes nothing."""

_Others = Callable[[str], Any]


def _momentum_of(stage: str) -> Callable[[Any, _Others], bool]:
    def same(found: Any, others: _Others) -> bool:
        return all(found == value for name, value in MOMENTUM.items() if others(f"{stage}.optimizer.name") == name)

    return same


DEPENDENT: dict[str, Callable[[Any, _Others], bool]] = {
    "refinement.keep": lambda found, others: found == 4 or others("refinement.rounds") in (0, 1, 2),
    **{f"{stage}.log_every": lambda found, others: True for stage in _STAGES},
    **{f"{stage}.optimizer.momentum": _momentum_of(stage) for stage in _STAGES},
}
"""Those whose values change nothing where this is true of them and of other settings."""


def without_removed(values: dict[str, Any], source: str, base: dict[str, Any]) -> dict[str, Any]:
    """Returns values of a file without settings that no longer exist.

    Args:
        values: The file's.
        source: What the file is called.
        base: All settings' values, which hold where the file says nothing.

    Raises:
        ConfigError: One of them has a value that codepose no longer knows; the text names it.
    """

    def others(key: str) -> Any:
        found = _at(values, key.split("."))
        return _at(base, key.split(".")) if found is _NOTHING else found

    kept = values
    for key in (*REMOVED, *DEPENDENT):
        found = _at(kept, key.split("."))
        if found is _NOTHING:
            continue
        if not (found == REMOVED[key] if key in REMOVED else DEPENDENT[key](found, others)):
            raise ConfigError(f"{source} cannot be used: {key}: there is no such setting any more, and it is {found!r}")
        kept = _without(kept, key.split("."))
    return kept


_NOTHING = object()


def _at(values: Any, path: list[str]) -> Any:
    """What stands at a path of keys."""
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return _NOTHING
        values = values[part]
    return values


def _without(values: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A copy without what stands at a path."""
    first, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    return {**values, first: _without(values[first], rest)}
