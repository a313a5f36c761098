"""The one training loop: setup, resume, fit, validate. Read it from top to bottom."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from codepose.config import ALL_GROUPS, Phase, StageSettings
from codepose.networks.compilation import compile_convolutions
from codepose.networks.precision import autocast, uses_bf16
from codepose.synthesis.batches import split_batch
from codepose.synthesis.scenes import difficulty_at
from codepose.training.meter import Meter
from codepose.training.optimizers import build_optimizer, learning_rate
from codepose.training.progress import Display, rate_text
from codepose.training.ranks import Interrupt, Shares, barrier, everyones, rank, reseed, total, world_size
from codepose.training.run import MetricsLog, Run, RunError
from codepose.training.streams import DataStream

Loss = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
"""(network, batch) -> the total to minimise and the terms to log, all scalars."""


@dataclass(frozen=True)
class Stage:
    """Everything the loop needs to know of one training.

    Attributes:
        name: Folder in the run.
        network: What is trained.
        groups: All of the network's parameters by name of group, for phases.
        pretrained: Groups that come from an earlier stage and may learn more slowly.
        items: Number of different training images; an epoch shows each once.
        batch: (item numbers (B,), difficulty) -> a batch on the device.
        loss: See ``Loss``.
        validate: network -> numbers to log and warnings in words, run without gradient in eval mode,
            ``settings.validations`` times; warnings count after the curriculum's ramp.
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
    pretrained: tuple[str, ...] = ()
    validate: Callable[[nn.Module], tuple[dict[str, float], list[str]]] | None = None


@dataclass
class _Clock:
    """Where a stage stands: by its iterations, or, under a time limit on a slow machine, by the time used."""

    total: int
    limit: float
    used: float = 0.0
    agreed: float | None = None  # with several ranks: the first one's time when they last compared
    _since: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.used + time.monotonic() - self._since

    def progress(self, step: int) -> float:
        by_steps = step / self.total
        if self.limit <= 0:
            return by_steps
        elapsed = self.elapsed() if self.agreed is None else self.agreed
        return min(1.0, max(by_steps, elapsed / self.limit))


def steps_per_epoch(stage: Stage) -> int:
    """Returns the iterations that show every image once; the last, smaller batch is dropped if there is a full one."""
    return max(1, stage.items // stage.settings.batch)


def images_per_step(stage: Stage) -> int:
    """Returns the images of one iteration, all ranks together."""
    return min(stage.settings.batch, stage.items)


def total_steps(stage: Stage) -> int:
    """Returns the iterations of the whole stage."""
    return max(1, round(stage.settings.epochs * steps_per_epoch(stage)))


def fit(stage: Stage, run: Run, fabric: Fabric, *, seed: int = 0, display: Display | None = None) -> None:
    """Trains a stage to its end, from its last checkpoint if there is one, and saves its weights.

    Raises:
        NonFiniteLossError: A term of the loss is NaN or infinite. The last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C; the state of that moment is saved first.
    """
    torch.manual_seed(seed)
    trainer = _Trainer(stage, run, fabric, display or Display(stage.name), seed)
    try:
        with trainer.display, trainer.interrupt:
            while trainer.clock.progress(trainer.step) < 1.0:
                trainer.enter_phase()
                trainer.iterate()
                trainer.look()
            trainer.finish()
    except KeyboardInterrupt:
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
        self.optimizer = build_optimizer(parts, stage.settings.optimizer, dtype)
        self.clock = _Clock(total_steps(stage), stage.settings.time_limit)
        self.step = _resume(stage, run, self.optimizer, self.clock, fabric.device)
        if len(set(everyones(self.step))) > 1:
            raise RunError(f"{run.path} is not the same for every rank: put it on a disk that all machines share")
        self.log = MetricsLog(run, stage.name, self.step) if rank() == 0 else None
        self.feed = _Feed(stage, self.clock, seed, self.step, fabric.device)
        self.meter = Meter(images_per_step(stage), fabric.device)
        self.phase: Phase | None = None
        self.network: Any = None
        self.rate = self.difficulty = self.begun = 0.0
        self.interrupt, self.stopping = Interrupt(), False
        self.agree()

    def enter_phase(self) -> None:
        """Freezes what the current phase keeps, and wraps the network anew when the phase changes.

        Distributed wrappers fix which parameters have gradients when they are made (23).
        """
        phase = phase_at(self.stage, self.clock.progress(self.step))
        if phase is not self.phase:
            self.phase = phase
            freeze(self.stage, phase)
            self.network = None
            gc.collect()  # the wrapper of the phase before, and its hooks on the parameters
            self.network, self.wrapped_optimizer = self.fabric.setup(self.stage.network, self.optimizer)
            if hasattr(self.stage.network, "encode"):
                self.network.mark_forward_method("encode")  # losses call it, too: through the wrapper
            self.network.train()

    def iterate(self) -> None:
        """One step of the optimiser."""
        settings = self.stage.settings.optimizer
        self.begun = self.clock.progress(self.step)
        self.rate = learning_rate(settings, self.step, self.step / steps_per_epoch(self.stage), self.begun)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["factor"]
        start = time.monotonic()
        batch, self.difficulty = next(self.feed)
        wait = time.monotonic() - start
        reseed(self.seed, self.step)
        with autocast(self.run.settings, self.fabric.device):
            loss, terms = self.stage.loss(self.network, batch)
        self.fabric.backward(loss)
        if settings.clip > 0:
            # the meter refuses a norm that is not finite before anything is saved; a GPU is not waited for
            norm = self.fabric.clip_gradients(
                self.network, self.wrapped_optimizer, max_norm=settings.clip, error_if_nonfinite=False
            )
            assert norm is not None
            terms = terms | {"gradient_norm": norm}
        self.meter.add(terms, wait)
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        self.step += 1
        if self.fabric.device.type == "cpu" or self.step % self.stage.settings.log_every == 0:  # else a GPU would wait
            self.agree()

    def agree(self) -> None:
        """Several ranks go by the first one's clock, and stop together if one of them is interrupted."""
        if world_size() > 1:
            mine = [float(self.interrupt.came), self.clock.elapsed() if rank() == 0 else 0.0]
            sums = total(torch.tensor(mine, dtype=torch.float64, device=self.fabric.device))
            self.stopping, self.clock.agreed = bool(sums[0] > 0), float(sums[1])

    def look(self) -> None:
        """Logs, validates and saves when it is time to."""
        settings, progress = self.stage.settings, self.clock.progress(self.step)
        if self.step % settings.log_every == 0 or self.step == self.clock.total:
            record = self.meter.read(self.step)
            record |= {"lr": self.rate, "difficulty": self.difficulty, "elapsed_s": self.clock.elapsed()}
            self.write(record)
            self.display.update(progress, rate_text(self.meter.means, self.meter.images_per_s))
        if int(progress * settings.validations) > int(self.begun * settings.validations):
            numbers, warnings = _validated(self.stage, self.fabric.device) if rank() == 0 else ({}, [])
            self.write({"step": self.step, **numbers})
            for warning in warnings if self.begun > self.stage.curriculum else []:
                self.display.note(f"warning: {warning}")
                self.write({"step": self.step, "warning": warning})
        if self.step % settings.checkpoint_every == 0:
            self.meter.require_finite()
            self.save()
        if self.stopping:
            raise KeyboardInterrupt

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
            **_random_state(self.fabric.device),
        }
        self.run.save_checkpoint(self.stage.name, state)

    def finish(self) -> None:
        """Leaves the network whole."""
        self.meter.require_finite()
        self.display.update(1.0, rate_text(self.meter.means, self.meter.images_per_s))
        for parameter in self.stage.network.parameters():
            parameter.requires_grad_(True)

    def close(self) -> None:
        """Stops the data thread and closes the logs."""
        self.feed.close()
        if self.log is not None:
            self.log.close()


def phase_at(stage: Stage, progress: float) -> Phase:
    """Returns the phase (23) in which a stage is when a share ``progress`` of it is done."""
    end = 0.0
    for phase in stage.settings.phases:
        end += phase.epochs / stage.settings.epochs
        if progress < end - 1e-9:
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


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """That of the CPU's generator, and of a GPU's, which samples RoIs."""
    state = {"rng": torch.get_rng_state()}
    return state | {"device_rng": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Goes back to it; a checkpoint from a CPU says nothing of a GPU's generator."""
    torch.set_rng_state(state["rng"])
    if device.type == "cuda" and "device_rng" in state:
        torch.cuda.set_rng_state(state["device_rng"], device)


def _resume(stage: Stage, run: Run, optimizer: torch.optim.Optimizer, clock: _Clock, device: torch.device) -> int:
    state = run.load_checkpoint(stage.name)
    if state is None:
        return 0
    stage.network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    for parameter, values in optimizer.state.items():  # in the parameter's memory layout, which fused kernels assume
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    _set_random_state(state, device)
    clock.used = state["used"]
    return int(state["step"])


def _validated(stage: Stage, device: torch.device) -> tuple[dict[str, float], list[str]]:
    if stage.validate is None:
        return {}, []
    random_state = _random_state(device)
    stage.network.eval()
    with torch.no_grad():
        numbers, warnings = stage.validate(stage.network)
    stage.network.train()
    _set_random_state(random_state, device)
    return {f"val_{name}": value for name, value in numbers.items()}, warnings


_TOGETHER = 128
"""Images made in one go on a CPU, at most."""


class _Feed(Iterator[tuple[Any, float]]):
    """Makes the batches, in an order that is a function of (seed, epoch): a resumed stage sees the same ones.

    On a GPU a thread makes them, on a stream of its own, while the network trains on earlier ones. On a CPU they are
    made in between, on all cores: a thread beside the network's own would only take its cores away (see
    docs/results.md).
    """

    def __init__(self, stage: Stage, clock: _Clock, seed: int, step: int, device: torch.device, ahead: int = 2) -> None:
        self._stage, self._clock, self._seed, self._step = stage, clock, seed, step
        self._queue: queue.Queue[tuple[Any, float, torch.cuda.Event] | BaseException] = queue.Queue(ahead)
        self._ready: list[tuple[Any, float]] = []
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if device.type == "cuda":
            self._stream = DataStream(device)
            self._thread = threading.Thread(target=self._work, daemon=True, name=f"{stage.name}-data")
            self._thread.start()

    def _indices(self, step: int) -> Tensor:
        per_epoch, size = steps_per_epoch(self._stage), self._stage.settings.batch
        epoch, place = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(self._stage.items, generator=generator)
        whole = order[place * size : (place + 1) * size]
        return whole[Shares(len(whole)).own]

    @torch.no_grad()
    def _make(self) -> tuple[Any, float]:
        """The next batch; several are made in one go, always the same ones together, so that a resumed stage repeats
        them: much of the time is spent once a call, whatever its size."""
        if not self._ready:
            together = 1 if self._thread is not None else max(1, min(4, _TOGETHER // self._stage.settings.batch))
            first = self._step - self._step % together
            items = [self._indices(step) for step in range(first, first + together)]
            difficulty = difficulty_at(self._clock.progress(first), self._stage.curriculum)
            made = split_batch(self._stage.batch(torch.cat(items), difficulty), [len(i) for i in items])
            self._ready = [(batch, difficulty) for batch in made[self._step - first :]]
        self._step += 1
        return self._ready.pop(0)

    def _work(self) -> None:
        try:
            with self._stream.current():
                while not self._stopped.is_set():
                    self._put((*self._make(), self._stream.mark()))
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: tuple[Any, float, torch.cuda.Event] | BaseException) -> None:
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
        batch, difficulty, made = item
        self._stream.hand_over(batch, made)
        return batch, difficulty

    def close(self) -> None:
        if self._thread is None:
            return
        self._stopped.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=30.0)
