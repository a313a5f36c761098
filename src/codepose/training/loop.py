"""The one training loop: resume, iterate, log, validate, save. Read it from top to bottom."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codepose.networks.compilation import compile_convolutions
from codepose.networks.precision import autocast, uses_bf16
from codepose.runtime.progress import Display, rate_text
from codepose.runtime.ranks import Interrupt, Shares, barrier, everyones, rank, reseed, total, world_size
from codepose.runtime.run import MetricsLog, Run, RunError
from codepose.settings.training import Phase
from codepose.training.cost import counted, peak_flops
from codepose.training.feed import Feed
from codepose.training.meter import Meter
from codepose.training.optimizers import build_optimizer, forget, learning_rate
from codepose.training.pictures import write_picture
from codepose.training.plan import Clock, Stage, Validation, freeze, images_per_step, phase_at, total_steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 20
"""Iterations from one line of the log to the next; fewer in stages that have fewer than the square of it."""


def fit(stage: Stage, run: Run, fabric: Fabric, *, seed: int = 0, display: Display | None = None) -> None:
    """Trains a stage to its end, from its last checkpoint if there is one, and saves its weights.

    Args:
        stage: What is trained, on what, by which loss.
        run: Where checkpoints, the log and the weights go.
        fabric: Device, precision and ranks.
        seed: Of the order of the images, and of random numbers in the loss.
        display: Where progress is shown; None = a new one.

    Raises:
        NonFiniteLossError: A term of the loss is NaN or infinite. The last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C; the iteration is finished and saved first. A second one does not wait for that.
    """
    state = begin(stage, run, fabric, seed, display or Display(stage.name))
    try:
        with state.display, state.interrupt:
            while (begun := state.progress()) < 1.0:
                enter_phase(state, begun)
                rate = set_learning_rate(state)
                batch, difficulty, waited = next_batch(state)
                terms = forward_and_backward(state, batch)
                state.meter.add(terms | {"gradient_norm": clip_gradients(state)}, waited)
                update_weights(state)
                if state.log_due or fabric.device.type == "cpu":  # a GPU would wait for it
                    agree(state)
                if state.log_due or state.step == state.clock.total:
                    log_means(state, rate, difficulty)
                if (validations := state.validations_due()) > state.validated:
                    validate(state, validations)
                if state.step % stage.settings.checkpoint_every == 0:
                    state.meter.require_finite()
                    save(state)
                if state.interrupted:
                    raise KeyboardInterrupt
            finish(state)
    except KeyboardInterrupt:
        save_interrupted(state)
        raise
    finally:
        close(state)
    if rank() == 0:
        run.save_weights(stage.name, stage.network)
    barrier()
    agree(state)
    if state.interrupted:  # Ctrl-C came during the last validation: the next stage is not begun
        raise KeyboardInterrupt


@dataclass
class State:
    """A stage that is trained: what its checkpoint holds, and what watches over it.

    Attributes:
        stage, run, fabric, seed, display: As ``fit`` was given them.
        optimizer: Of all parameters that learn in any phase.
        clock: Time used, and the share of the stage that is done.
        step: Iterations done.
        feed: The batches, from this iteration on.
        meter: Means of the loss terms since the last line of the log.
        log: Where numbers are written; None but on the first rank.
        log_every: Iterations from one line of the log to the next.
        validated: Validations done.
        phase: Which part of the network moves now.
        network, wrapped_optimizer: As Fabric wraps them for this phase.
        begun: Share of the stage that was done when the last iteration began.
        interrupt: Notes Ctrl-C.
        stopping: Whether any of several ranks is interrupted, as they last agreed.
        whole: False while a step changes the weights: they belong to no iteration then.
    """

    stage: Stage
    run: Run
    fabric: Fabric
    seed: int
    display: Display
    optimizer: torch.optim.Optimizer
    clock: Clock
    step: int
    feed: Feed
    meter: Meter
    log: MetricsLog | None
    log_every: int
    validated: int
    phase: Phase | None = None
    network: Any = None
    wrapped_optimizer: Any = None
    begun: float = 0.0
    interrupt: Interrupt = field(default_factory=Interrupt)
    stopping: bool = False
    whole: bool = True

    def progress(self) -> float:
        """The share of the stage that is done, in [0, 1] or beyond."""
        return self.clock.progress(self.step)

    def validations_due(self) -> int:
        """How many validations should have been done by now."""
        return int(self.progress() * self.stage.settings.validations)

    @property
    def log_due(self) -> bool:
        """Whether this iteration's line of the log is due."""
        return self.step % self.log_every == 0

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came; to any of several ranks, as they last agreed."""
        return self.stopping or (self.interrupt.came and world_size() == 1)


def begin(stage: Stage, run: Run, fabric: Fabric, seed: int, display: Display) -> State:
    """Puts a stage on its device, and takes up its last checkpoint if there is one.

    Raises:
        ValueError: There are fewer images in a batch than ranks.
        RunError: The checkpoint is not this stage's, or not every rank reads the same.
    """
    Shares(images_per_step(stage)).require_one_each(stage.name)
    stage.network.to(device=fabric.device).to(memory_format=torch.channels_last)
    if run.settings.compile:
        compile_convolutions(stage.network)
    factor = stage.settings.optimizer.pretrained_factor
    parts = [(p, factor if name in stage.pretrained else 1.0) for name, p in stage.groups.items()]
    optimizer = build_optimizer(parts, stage.settings.optimizer)
    clock = Clock(total_steps(stage), stage.settings.time_limit)
    step = _resume(stage, run, optimizer, clock)
    validated = int(clock.progress(step) * stage.settings.validations)
    if len(set(everyones(step))) > 1:
        raise RunError(f"{run.path} is not the same for every rank: put it on a disk that all machines share")
    dtype = torch.bfloat16 if uses_bf16(run.settings, fabric.device) else torch.float32
    state = State(
        stage,
        run,
        fabric,
        seed,
        display,
        optimizer,
        clock,
        step,
        log=MetricsLog(run, stage.name, step) if rank() == 0 else None,
        feed=Feed(stage, clock, seed, step, fabric.device),
        meter=Meter(images_per_step(stage), fabric.device, peak_flops(fabric.device, dtype)),
        log_every=min(LOG_EVERY, max(1, total_steps(stage) // LOG_EVERY)),
        validated=validated,
    )
    agree(state)
    return state


def _resume(stage: Stage, run: Run, optimizer: torch.optim.Optimizer, clock: Clock) -> int:
    """Takes up the last checkpoint; returns the iterations it has done, 0 where there is none."""
    checkpoint = run.load_checkpoint(stage.name)
    if checkpoint is None:
        return 0
    try:
        stage.network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        clock.used, step = float(checkpoint["used"]), int(checkpoint["step"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            f"the checkpoint of {stage.name!r} in {run.path} does not fit its config.yaml, or is another codepose's: "
            "restore both, or delete it: the stage then begins again"
        ) from None
    if checkpoint.get("train"):  # what stood still when it was written may move now
        freeze(stage, Phase(epochs=1.0, train=tuple(checkpoint["train"])))
    for parameter, values in optimizer.state.items():  # in the parameter's memory layout, which fused kernels assume
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    return step


def enter_phase(state: State, begun: float) -> None:
    """Begins an iteration: freezes what its phase keeps, and wraps the network anew when the phase changes.

    Distributed wrappers fix which parameters have gradients when they are made, and T2's phases (Section 4.2) change
    that.
    """
    state.begun = begun
    phase = phase_at(state.stage, begun)
    if phase is state.phase:
        return
    state.phase = phase
    forget(state.optimizer, freeze(state.stage, phase))
    state.network = None
    gc.collect()  # the wrapper of the phase before, and its hooks on the parameters
    state.network, state.wrapped_optimizer = state.fabric.setup(state.stage.network, state.optimizer)
    if hasattr(state.stage.network, "encode"):
        state.network.mark_forward_method("encode")  # losses call it, too: through the wrapper
    state.network.train()
    state.meter.flops = None


def set_learning_rate(state: State) -> float:
    """Sets the learning rates of an iteration; returns that of parameters that come from no earlier stage."""
    epoch = state.begun * state.stage.settings.epochs
    rate = learning_rate(state.stage.settings.optimizer, state.step, epoch, state.begun)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def next_batch(state: State) -> tuple[Any, float, float]:
    """Returns a batch, its difficulty in [0, 1], and the seconds until it was there."""
    start = time.monotonic()
    batch, difficulty = next(state.feed)
    return batch, difficulty, time.monotonic() - start


def forward_and_backward(state: State, batch: Any) -> dict[str, Tensor]:
    """Computes the loss and its gradients; returns the terms of the loss."""
    reseed(state.seed, state.step)
    if state.meter.flops is not None or state.run.settings.compile:
        return _learn(state, batch)
    terms, flops = counted(partial(_learn, state, batch))  # each phase trains other parts
    state.meter.flops = flops / Shares(images_per_step(state.stage)).sizes[rank()]
    return terms


def _learn(state: State, batch: Any) -> dict[str, Tensor]:
    with autocast(state.run.settings, state.fabric.device):
        loss, terms = state.stage.loss(state.network, batch)
    state.fabric.backward(loss)
    return terms


def clip_gradients(state: State) -> Tensor:
    """Shortens the gradient to the settings' ``clip``, if there is one; returns its norm before.

    A norm that is not finite is no error yet: the meter refuses it before anything is saved, and no GPU waits.
    """
    norm: Tensor | None = state.fabric.clip_gradients(
        state.network,
        state.wrapped_optimizer,
        max_norm=state.stage.settings.optimizer.clip or math.inf,
        error_if_nonfinite=False,
    )
    assert norm is not None
    return norm


def update_weights(state: State) -> None:
    """One step of the optimiser."""
    state.whole = False
    state.wrapped_optimizer.step()
    state.wrapped_optimizer.zero_grad()
    state.step += 1
    state.whole = True


def agree(state: State) -> None:
    """Gives all ranks the first one's clock, and stops them together if one of them is interrupted."""
    if world_size() > 1:
        reported = [float(state.interrupt.came), state.clock.elapsed() if rank() == 0 else 0.0]
        sums = total(torch.tensor(reported, dtype=torch.float64, device=state.fabric.device))
        state.stopping, state.clock.agreed = bool(sums[0] > 0), float(sums[1])


def log_means(state: State, rate: float, difficulty: float) -> None:
    """Logs and shows the means since the last line of the log, with the last iteration's rate and difficulty."""
    record = state.meter.read(state.step)
    _write(state, record | {"lr": rate, "difficulty": difficulty, "elapsed_s": state.clock.elapsed()})
    state.display.update(state.progress(), rate_text(state.meter.means, state.meter.images_per_s))


def validate(state: State, count: int) -> None:
    """Validates on a part of the validation split; logs numbers and warnings, and writes the picture.

    Warnings count after the curriculum's ramp. Then ``count`` validations are done.
    """
    state.validated = count
    found = _validated(state.stage) if rank() == 0 else Validation({})
    if found.picture is not None:
        write_picture(state.run.picture(state.stage.name), found.picture)
    _write(state, {"step": state.step, **{f"val_{name}": value for name, value in found.numbers.items()}})
    for warning in found.warnings if state.begun > state.stage.curriculum else ():
        state.display.note(f"warning: {warning}")
        _write(state, {"step": state.step, "warning": warning})


def _validated(stage: Stage) -> Validation:
    if stage.validate is None:
        return Validation({})
    stage.network.eval()
    with torch.no_grad():
        found = stage.validate(stage.network)
    stage.network.train()
    return found


def _write(state: State, record: Mapping[str, Any]) -> None:
    if state.log is not None:
        state.log.write(dict(record))


def save(state: State) -> None:
    """Writes the checkpoint, which fits any number of ranks."""
    if rank() != 0:
        return
    checkpoint = {
        "network": state.stage.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "used": state.clock.elapsed(),
        "step": state.step,
        "train": [] if state.phase is None else list(state.phase.train),
    }
    state.run.save_checkpoint(state.stage.name, checkpoint)


def save_interrupted(state: State) -> None:
    """Saves a stage that Ctrl-C stopped, unless it was stopped in the middle of a step."""
    if not state.whole or (world_size() > 1 and not state.stopping):  # the others are not stopping here
        state.display.note("stopped within an iteration; --resume goes on from the last checkpoint")
        return
    if world_size() == 1:  # several ranks have just read it together
        state.meter.require_finite()
    save(state)
    barrier()
    state.display.note(f"stopped at iteration {state.step}; --resume goes on from here")


def finish(state: State) -> None:
    """Validates a last time if that is still to be done, and unfreezes all parameters."""
    state.meter.require_finite()
    if state.validated < state.stage.settings.validations:  # the time ran out between two looks
        validate(state, state.stage.settings.validations)
    state.display.update(1.0, rate_text(state.meter.means, state.meter.images_per_s))
    for parameter in state.stage.network.parameters():
        parameter.requires_grad_(True)


def close(state: State) -> None:
    """Stops the data thread and closes the log."""
    state.feed.close()
    if state.log is not None:
        state.log.close()
