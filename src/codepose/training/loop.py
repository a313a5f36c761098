"""The one training loop: setup, resume, fit, validate. Read it from top to bottom."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from codepose.config import ALL_GROUPS, Phase, StageSettings
from codepose.networks.precision import autocast
from codepose.synthesis.scenes import difficulty_at
from codepose.training.optimizers import build_optimizer, learning_rate
from codepose.training.progress import Display, rate_text
from codepose.training.run import MetricsLog, Run


class NonFiniteLossError(FloatingPointError):
    """A term of the loss became NaN or infinite; the text names it."""


class Loss(Protocol):
    """Computes a stage's loss on a batch."""

    def __call__(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the total to minimise, a scalar, and the terms to log, scalars."""
        ...


@dataclass(frozen=True)
class Stage:
    """Everything the loop needs to know of one training.

    Attributes:
        name: Folder in the run.
        network: What is trained.
        groups: The network's parameters by name of group, for phases.
        items: Number of different training images; an epoch shows each once.
        batch: (item numbers (B,), difficulty) -> a batch on the device.
        loss: See ``Loss``.
        validate: network -> numbers to log, run without gradient in eval mode; every tenth of the stage.
        check: (network, batch) -> warnings in words, looked at every tenth after the curriculum's ramp.
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
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    check: Callable[[nn.Module, Any], list[str]] | None = None


@dataclass
class _Clock:
    """Where a stage stands: by its iterations, or, under a time limit on a slow machine, by the time used."""

    total: int
    limit: float
    used: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.used + time.monotonic() - self._since

    def progress(self, step: int) -> float:
        by_steps = step / self.total
        return by_steps if self.limit <= 0 else min(1.0, max(by_steps, self.elapsed() / self.limit))


def steps_per_epoch(stage: Stage) -> int:
    """Returns the iterations that show every image once; the last, smaller batch is dropped if there is a full one."""
    return max(1, stage.items // stage.settings.batch)


def total_steps(stage: Stage) -> int:
    """Returns the iterations of the whole stage."""
    return max(1, round(stage.settings.epochs * steps_per_epoch(stage)))


def fit(stage: Stage, run: Run, fabric: Fabric, *, seed: int = 0, display: Display | None = None) -> None:
    """Trains a stage to its end, from its last checkpoint if there is one, and saves its weights.

    Raises:
        NonFiniteLossError: A term of the loss is NaN or infinite. The last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C; the state of that moment is saved first.
    """
    display = display or Display(stage.name)
    torch.manual_seed(seed)
    stage.network.to(fabric.device, memory_format=torch.channels_last)
    optimizer = build_optimizer(stage.network.parameters(), stage.settings.optimizer)
    clock = _Clock(total_steps(stage), stage.settings.time_limit)
    step = _resume(stage, run, optimizer, clock)
    log = MetricsLog(run, stage.name, step)

    def save() -> None:
        run.save_checkpoint(stage.name, _state(stage, optimizer, clock, step))

    feed = _Feed(stage, clock, seed, step, threaded=fabric.device.type == "cuda")
    meter = _Meter(stage, fabric.device)
    phase: Phase | None = None
    try:
        with display:
            while (progress := clock.progress(step)) < 1.0:
                current = phase_at(stage, step)
                if current is not phase:
                    phase = current
                    # a fresh wrap: distributed wrappers fix which parameters have gradients when they are made
                    freeze(stage, phase)
                    network, wrapped = fabric.setup(stage.network, optimizer)
                    network.train()
                rate = learning_rate(stage.settings.optimizer, step, step / steps_per_epoch(stage), progress)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                wait = time.monotonic()
                batch, difficulty = next(feed)
                wait = time.monotonic() - wait
                with autocast(run.settings, fabric.device):
                    loss, terms = stage.loss(network, batch)
                meter.add(terms, wait)
                fabric.backward(loss)
                if stage.settings.optimizer.clip > 0:
                    fabric.clip_gradients(network, wrapped, max_norm=stage.settings.optimizer.clip)
                wrapped.step()
                wrapped.zero_grad()
                step += 1
                if step % stage.settings.log_every == 0 or step == clock.total:
                    record = meter.read(step)
                    log.write({**record, "lr": rate, "difficulty": difficulty, "elapsed_s": clock.elapsed()})
                    display.update(clock.progress(step), rate_text(meter.means, meter.images_per_s))
                if int(clock.progress(step) * 10) > int(progress * 10):
                    log.write({"step": step, **_validated(stage)})
                    if stage.check is not None and progress > stage.curriculum:
                        for warning in stage.check(stage.network, batch):
                            display.note(f"warning: {warning}")
                            log.write({"step": step, "warning": warning})
                if step % stage.settings.checkpoint_every == 0:
                    meter.require_finite()
                    save()
            meter.require_finite()
            display.update(1.0, rate_text(meter.means, meter.images_per_s))
    except KeyboardInterrupt:
        save()
        display.note(f"stopped at iteration {step}; --resume goes on from here")
        raise
    finally:
        feed.close()
        log.close()
    for parameter in stage.network.parameters():
        parameter.requires_grad_(True)
    run.save_weights(stage.name, stage.network)


def phase_at(stage: Stage, step: int) -> Phase:
    """Returns the phase an iteration belongs to (23)."""
    end = 0.0
    for phase in stage.settings.phases:
        end += phase.epochs * steps_per_epoch(stage)
        if step < round(end):
            return phase
    return stage.settings.phases[-1] if stage.settings.phases else _WHOLE


_WHOLE = Phase(epochs=1.0, train=ALL_GROUPS)


def freeze(stage: Stage, phase: Phase) -> None:
    """Lets only the phase's groups of parameters move."""
    for name, parameters in stage.groups.items():
        for parameter in parameters:
            parameter.requires_grad_(name in phase.train)
            if name not in phase.train:
                parameter.grad = None


def _resume(stage: Stage, run: Run, optimizer: torch.optim.Optimizer, clock: _Clock) -> int:
    state = run.load_checkpoint(stage.name)
    if state is None:
        return 0
    stage.network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    clock.used = state["used"]
    return int(state["step"])


def _state(stage: Stage, optimizer: torch.optim.Optimizer, clock: _Clock, step: int) -> dict[str, Any]:
    return {
        "network": stage.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "used": clock.elapsed(),
        "step": step,
    }


def _validated(stage: Stage) -> dict[str, float]:
    if stage.validate is None:
        return {}
    random_state = torch.get_rng_state()
    stage.network.eval()
    with torch.no_grad():
        numbers = stage.validate(stage.network)
    stage.network.train()
    torch.set_rng_state(random_state)
    return {f"val_{name}": value for name, value in numbers.items()}


class _Meter:
    """Running means of the loss terms since the last reading, without a synchronisation in between on a GPU."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self._batch = stage.settings.batch
        self._eager = device.type == "cpu"
        self._sums: dict[str, Tensor] = {}
        self._count, self._wait, self._start = 0, 0.0, time.monotonic()
        self.means: dict[str, float] = {}
        self.images_per_s = 0.0

    def add(self, terms: dict[str, Tensor], wait: float) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._count += 1
        self._wait += wait
        if self._eager:
            self.require_finite()

    def require_finite(self) -> None:
        """A sum is finite only if every term was."""
        for name, value in self._sums.items():
            if not math.isfinite(float(value)):
                raise NonFiniteLossError(
                    f"the loss term {name!r} is {float(value)}: lower the learning rate, or set precision to float32"
                )

    def read(self, step: int) -> dict[str, float]:
        self.require_finite()
        seconds = max(time.monotonic() - self._start, 1e-9)
        self.means = {name: float(value) / self._count for name, value in self._sums.items()}
        self.images_per_s = self._count * self._batch / seconds
        record = {"step": step, **self.means, "images_per_s": self.images_per_s, "data_wait": self._wait / seconds}
        self._sums, self._count, self._wait, self._start = {}, 0, 0.0, time.monotonic()
        return record


class _Feed(Iterator[tuple[Any, float]]):
    """Makes the batches, in an order that is a function of (seed, epoch): a resumed stage sees the same ones.

    On a GPU a thread makes them while the network trains on earlier ones. On a CPU they are made in between, on all
    cores: a thread beside the network's own would only take its cores away (see docs/results.md).
    """

    def __init__(self, stage: Stage, clock: _Clock, seed: int, step: int, threaded: bool, ahead: int = 2) -> None:
        self._stage, self._clock, self._seed, self._step = stage, clock, seed, step
        self._queue: queue.Queue[tuple[Any, float] | BaseException] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._work, daemon=True, name=f"{stage.name}-data")
            self._thread.start()

    def _indices(self) -> Tensor:
        per_epoch, size = steps_per_epoch(self._stage), self._stage.settings.batch
        epoch, place = divmod(self._step, per_epoch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(self._stage.items, generator=generator)
        return order[place * size : (place + 1) * size]

    @torch.no_grad()
    def _make(self) -> tuple[Any, float]:
        difficulty = difficulty_at(self._clock.progress(self._step), self._stage.curriculum)
        batch = self._stage.batch(self._indices(), difficulty)
        self._step += 1
        return batch, difficulty

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                self._put(self._make())
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: tuple[Any, float] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def __next__(self) -> tuple[Any, float]:
        if self._thread is None:
            return self._make()
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        if self._thread is None:
            return
        self._stopped.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=30.0)
