"""Optimisers by name, and learning rates as a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from codepose.settings.training import MOMENTUM, OptimizerSettings
from codepose.training.muon import Muon

FINAL_LR = 0.1
"""AdaBound's final learning rate."""
_GAMMA = 1e-3
"""AdaBound's convergence speed."""
_STEP_EPOCHS = 8.0
"""After so many epochs each, the schedule 'steps' divides the learning rate by 10."""


def build_optimizer(
    groups: Iterable[tuple[list[nn.Parameter], float]], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Returns the optimiser the settings name.

    Args:
        groups: Parameters, and the factor on their learning rate; it is kept in each group's "factor".
        settings: Name and constants.
    """
    parameters: list[dict[str, Any]] = [
        {"params": list(p), "lr": settings.lr * factor, "factor": factor} for p, factor in groups
    ]
    lr, decay = settings.lr, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM["sgd"], weight_decay=decay, fused=True)
    if settings.name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, fused=True)
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)
    if settings.name == "muon":
        return Muon(parameters, weight_decay=decay, momentum=MOMENTUM["muon"])

    from pytorch_optimizer import AdaBound  # takes seconds to import

    for group in parameters:  # its bounds are final_lr over the rate it began with
        group["final_lr"] = FINAL_LR * group["factor"]
    adabound: torch.optim.Optimizer = AdaBound(parameters, lr=lr, gamma=_GAMMA, weight_decay=decay)
    return adabound


def forget(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Resets the optimiser's state of parameters that were frozen: their momentum is out of date."""
    begun = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        stateful = [parameter for parameter in group["params"] if id(parameter) in begun]
        for parameter in stateful:
            optimizer.state.pop(parameter, None)
        if stateful and "step" in group:  # AdaBound counts a whole group's
            group["step"] = 0


_WARMUP = 0.1
"""Share of a stage after which no warm-up lasts: a time limit may leave few iterations."""


def learning_rate(settings: OptimizerSettings, step: int, epoch: float, progress: float) -> float:
    """Returns the learning rate of an iteration.

    Args:
        settings: Schedule and base rate.
        step: Iterations done, for the warm-up.
        epoch: Epochs done, for 'steps'.
        progress: Share of the stage done, in [0, 1], for 'cosine' and the end of the warm-up.
    """
    rate = settings.lr
    if settings.schedule == "steps":
        rate *= 0.1 ** math.floor(epoch / _STEP_EPOCHS + 1e-9)
    elif settings.schedule == "cosine":
        rate *= 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    warm = max((step + 1) / settings.warmup, progress / _WARMUP) if settings.warmup > 0 else 1.0
    return rate * min(1.0, warm)
