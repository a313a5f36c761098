"""What a training is: its network, data, loss and settings, how long it takes, and which part of it moves when."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from codepose.settings.training import ALL_GROUPS, Phase, StageSettings

Loss = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
"""(network, batch) -> the total to minimise and the terms to log, all scalars."""


@dataclass(frozen=True)
class Validation:
    """What a look at the validation split found.

    Attributes:
        numbers: To log.
        warnings: In words; they count after the curriculum's ramp.
        picture: What the network makes of a few images, (3, H, W) in [0, 1]; None = it is not shown.
    """

    numbers: Mapping[str, float]
    warnings: Sequence[str] = ()
    picture: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """What the training loop needs to know of a stage.

    Attributes:
        name: Folder in the run.
        network: What is trained.
        groups: The parameters that learn, by the names that phases use; all others stay frozen.
        group: Number of consecutive items that stay together in a batch.
        pretrained: Groups that come from an earlier stage and may learn more slowly.
        items: Number of different training images; an epoch shows each once.
        batch: (item numbers (B,), difficulty) -> a batch on the device.
        loss: See ``Loss``.
        validate: Looks at the validation split, without gradient in eval mode, ``settings.validations`` times.
        settings: Batch size, epochs, optimiser, phases.
        curriculum: Share of the stage over which the difficulty rises.
    """

    name: str
    network: nn.Module
    groups: Mapping[str, list[nn.Parameter]]
    items: int
    batch: Callable[[Tensor, float], Any]
    loss: Loss
    settings: StageSettings
    curriculum: float = 0.0
    group: int = 1
    pretrained: tuple[str, ...] = ()
    validate: Callable[[nn.Module], Validation] | None = None


@dataclass
class Clock:
    """Progress of a stage: by its iterations or, under a time limit on a slow machine, by the time used."""

    total: int
    limit: float
    used: float = 0.0
    agreed: float | None = None  # with several ranks: the first one's time when they last compared
    _since: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds used, those before the last checkpoint among them."""
        return self.used + time.monotonic() - self._since

    def progress(self, step: int) -> float:
        """The share of the stage that is done after ``step`` iterations; 1 where its time is over."""
        by_steps = step / self.total
        if self.limit <= 0:
            return by_steps
        elapsed = self.elapsed() if self.agreed is None else self.agreed
        return min(1.0, max(by_steps, elapsed / self.limit))


def steps_per_epoch(stage: Stage) -> int:
    """Returns the iterations that show every image once.

    Images that fill no group are left out, and the last, smaller batch is dropped if there is a full one.
    """
    return max(1, stage.items // stage.group * stage.group // stage.settings.batch)


def batch_of(items: int, batch: int, group: int) -> int:
    """Returns the images of one iteration, all ranks together: ``batch``, or the whole groups of fewer items.

    Args:
        items: Number of different training images.
        batch: Images that the settings ask for.
        group: Consecutive images that stay together.
    """
    return min(batch, items // group * group)


def images_per_step(stage: Stage) -> int:
    """Returns the images of one iteration of a stage, all ranks together."""
    return batch_of(stage.items, stage.settings.batch, stage.group)


def total_steps(stage: Stage) -> int:
    """Returns the iterations of the whole stage."""
    return max(1, round(stage.settings.epochs * steps_per_epoch(stage)))


def phase_at(stage: Stage, progress: float) -> Phase:
    """Returns the phase of a stage when a share ``progress`` of it is done."""
    end, whole = 0.0, sum(phase.epochs for phase in stage.settings.phases)
    for phase in stage.settings.phases:
        end += phase.epochs / whole
        if progress < end - 1e-9:
            return phase
    return stage.settings.phases[-1] if stage.settings.phases else _WHOLE


_WHOLE = Phase(epochs=1.0, train=ALL_GROUPS)


def freeze(stage: Stage, phase: Phase) -> list[nn.Parameter]:
    """Freezes all groups of parameters but the phase's; returns the parameters that were frozen until now."""
    thawed: list[nn.Parameter] = []
    for name, parameters in stage.groups.items():
        for parameter in parameters:
            moves = name in phase.train
            if moves and not parameter.requires_grad:
                thawed.append(parameter)
            parameter.requires_grad_(moves)
            if not moves:
                parameter.grad = None
    return thawed
