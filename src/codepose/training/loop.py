"""The one training loop: setup, resume, fit, validate. Read it from top to bottom."""

from __future__ import annotations

import gc
import math
import time
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
from codepose.training.plan import Clock, Stage, freeze, images_per_step, phase_at, total_steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(stage: Stage, run: Run, fabric: Fabric, *, seed: int = 0, display: Display | None = None) -> None:
    """Trains a stage to its end, from its last checkpoint if there is one, and saves its weights.

    Raises:
        NonFiniteLossError: A term of the loss is NaN or infinite. The last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C; the iteration is finished and saved first. A second one does not wait for that.
    """
    trainer = _Trainer(stage, run, fabric, display or Display(stage.name), seed)
    try:
        with trainer.display, trainer.interrupt:
            while trainer.clock.progress(trainer.step) < 1.0:
                trainer.enter_phase()
                trainer.iterate()
                trainer.look()
            trainer.finish()
    except KeyboardInterrupt:
        if not trainer.whole or (world_size() > 1 and not trainer.stopping):  # the others are not stopping here
            trainer.display.note("stopped within an iteration; --resume goes on from the last checkpoint")
            raise
        if world_size() == 1:  # several ranks have just read it together
            trainer.meter.require_finite()
        trainer.save()
        barrier()
        trainer.display.note(f"stopped at iteration {trainer.step}; --resume goes on from here")
        raise
    finally:
        trainer.close()
    if rank() == 0:
        run.save_weights(stage.name, stage.network)
    barrier()
    trainer.agree()
    if trainer.interrupted:  # Ctrl-C came during the last validation: the next stage is not begun
        raise KeyboardInterrupt


LOG_EVERY = 20
"""Iterations from one line of the log to the next; fewer in stages that have fewer than the square of it."""


class _Trainer:
    """The state of a running stage: what a checkpoint holds, and what watches over it."""

    def __init__(self, stage: Stage, run: Run, fabric: Fabric, display: Display, seed: int) -> None:
        self.stage, self.run, self.fabric, self.display, self.seed = stage, run, fabric, display, seed
        Shares(images_per_step(stage)).require_one_each(stage.name)
        stage.network.to(device=fabric.device).to(memory_format=torch.channels_last)
        if run.settings.compile:
            compile_convolutions(stage.network)
        factor = stage.settings.optimizer.pretrained_factor
        parts = [(p, factor if name in stage.pretrained else 1.0) for name, p in stage.groups.items()]
        dtype = torch.bfloat16 if uses_bf16(run.settings, fabric.device) else torch.float32
        self.optimizer = build_optimizer(parts, stage.settings.optimizer)
        self.clock = Clock(total_steps(stage), stage.settings.time_limit)
        self.log_every = min(LOG_EVERY, max(1, total_steps(stage) // LOG_EVERY))
        self.step = _resume(stage, run, self.optimizer, self.clock)
        self.validated = int(self.clock.progress(self.step) * stage.settings.validations)
        if len(set(everyones(self.step))) > 1:
            raise RunError(f"{run.path} is not the same for every rank: put it on a disk that all machines share")
        self.log = MetricsLog(run, stage.name, self.step) if rank() == 0 else None
        self.feed = Feed(stage, self.clock, seed, self.step, fabric.device)
        self.meter = Meter(images_per_step(stage), fabric.device, peak_flops(fabric.device, dtype))
        self.phase: Phase | None = None
        self.network: Any = None
        self.rate = self.difficulty = self.begun = 0.0
        self.interrupt, self.stopping = Interrupt(), False
        self.whole = True  # False while a step changes the weights: they belong to no iteration then
        self.agree()

    def enter_phase(self) -> None:
        """Freezes what the current phase keeps, and wraps the network anew when the phase changes.

        Distributed wrappers fix which parameters have gradients when they are made, and T2's phases change that.
        """
        phase = phase_at(self.stage, self.clock.progress(self.step))
        if phase is not self.phase:
            self.phase = phase
            forget(self.optimizer, freeze(self.stage, phase))
            self.network = None
            gc.collect()  # the wrapper of the phase before, and its hooks on the parameters
            self.network, self.wrapped_optimizer = self.fabric.setup(self.stage.network, self.optimizer)
            if hasattr(self.stage.network, "encode"):
                self.network.mark_forward_method("encode")  # losses call it, too: through the wrapper
            self.network.train()
            self.meter.flops = None

    def learn(self, batch: Any) -> dict[str, Tensor]:
        """Runs the forward and backward pass; returns the terms of the loss."""
        with autocast(self.run.settings, self.fabric.device):
            loss, terms = self.stage.loss(self.network, batch)
        self.fabric.backward(loss)
        return terms

    def iterate(self) -> None:
        """One step of the optimiser."""
        settings = self.stage.settings.optimizer
        self.begun = self.clock.progress(self.step)
        self.rate = learning_rate(settings, self.step, self.begun * self.stage.settings.epochs, self.begun)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["factor"]
        start = time.monotonic()
        batch, self.difficulty = next(self.feed)
        wait = time.monotonic() - start
        reseed(self.seed, self.step)
        if self.meter.flops is None and not self.run.settings.compile:  # each phase trains other parts
            terms, flops = counted(partial(self.learn, batch))
            self.meter.flops = flops / Shares(images_per_step(self.stage)).sizes[rank()]
        else:
            terms = self.learn(batch)
        # the meter refuses a norm that is not finite before anything is saved; a GPU is not waited for
        norm = self.fabric.clip_gradients(
            self.network, self.wrapped_optimizer, max_norm=settings.clip or math.inf, error_if_nonfinite=False
        )
        assert norm is not None
        self.meter.add(terms | {"gradient_norm": norm}, wait)
        self.whole = False
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        self.step += 1
        self.whole = True
        if self.fabric.device.type == "cpu" or self.step % self.log_every == 0:  # else a GPU would wait
            self.agree()

    def agree(self) -> None:
        """Gives all ranks the first one's clock, and stops them together if one of them is interrupted."""
        if world_size() > 1:
            own = [float(self.interrupt.came), self.clock.elapsed() if rank() == 0 else 0.0]
            sums = total(torch.tensor(own, dtype=torch.float64, device=self.fabric.device))
            self.stopping, self.clock.agreed = bool(sums[0] > 0), float(sums[1])

    def look(self) -> None:
        """Logs, validates and saves when it is time to."""
        settings, progress = self.stage.settings, self.clock.progress(self.step)
        if self.step % self.log_every == 0 or self.step == self.clock.total:
            record = self.meter.read(self.step)
            record |= {"lr": self.rate, "difficulty": self.difficulty, "elapsed_s": self.clock.elapsed()}
            self.write(record)
            self.display.update(progress, rate_text(self.meter.means, self.meter.images_per_s))
        if int(progress * settings.validations) > self.validated:
            self.validate(progress)
        if self.step % settings.checkpoint_every == 0:
            self.meter.require_finite()
            self.save()
        if self.interrupted:
            raise KeyboardInterrupt

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came; to any of several ranks, as they last agreed."""
        return self.stopping or (self.interrupt.came and world_size() == 1)

    def validate(self, progress: float) -> None:
        """Validates on a part of the validation split, and logs numbers and warnings."""
        self.validated = int(progress * self.stage.settings.validations)
        numbers, warnings = _validated(self.stage) if rank() == 0 else ({}, [])
        self.write({"step": self.step, **numbers})
        for warning in warnings if self.begun > self.stage.curriculum else []:
            self.display.note(f"warning: {warning}")
            self.write({"step": self.step, "warning": warning})

    def write(self, record: dict[str, Any]) -> None:
        """Logs a record."""
        if self.log is not None:
            self.log.write(record)

    def save(self) -> None:
        """Writes the checkpoint, which fits any number of ranks."""
        if rank() != 0:
            return
        state = {
            "network": self.stage.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "used": self.clock.elapsed(),
            "step": self.step,
            "train": [] if self.phase is None else list(self.phase.train),
        }
        self.run.save_checkpoint(self.stage.name, state)

    def finish(self) -> None:
        """Validates a last time if that is still to be done, and unfreezes all parameters."""
        self.meter.require_finite()
        if self.validated < self.stage.settings.validations:  # the time ran out between two looks
            self.validate(1.0)
        self.display.update(1.0, rate_text(self.meter.means, self.meter.images_per_s))
        for parameter in self.stage.network.parameters():
            parameter.requires_grad_(True)

    def close(self) -> None:
        """Stops the data thread and closes the logs."""
        self.feed.close()
        if self.log is not None:
            self.log.close()


def _resume(stage: Stage, run: Run, optimizer: torch.optim.Optimizer, clock: Clock) -> int:
    state = run.load_checkpoint(stage.name)
    if state is None:
        return 0
    try:
        stage.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        clock.used, step = float(state["used"]), int(state["step"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            f"the checkpoint of {stage.name!r} in {run.path} does not fit its config.yaml, or is another codepose's: "
            "restore both, or delete it: the stage then begins again"
        ) from None
    if state.get("train"):  # what stood still when it was written may move now
        freeze(stage, Phase(epochs=1.0, train=tuple(state["train"])))
    for parameter, values in optimizer.state.items():  # in the parameter's memory layout, which fused kernels assume
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    return step


def _validated(stage: Stage) -> tuple[dict[str, float], list[str]]:
    if stage.validate is None:
        return {}, []
    stage.network.eval()
    with torch.no_grad():
        numbers, warnings = stage.validate(stage.network)
    stage.network.train()
    return {f"val_{name}": value for name, value in numbers.items()}, warnings
