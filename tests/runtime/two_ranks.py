"""What test_ranks.py runs on two processes, started as torchrun does; each leaves what it saw in rank-N.json.

A third one trains the same alone. They are forked from one that has imported everything: imports would take most of the
time.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_optimizer  # noqa: F401 - imported once, before the fork
import torch
import torch.utils.tensorboard
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch.optim.optimizer import register_optimizer_step_pre_hook

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import tiny  # its settings; GPUs are hidden by the environment that pytest hands on

from codepose.api import evaluate, train_stages
from codepose.cli.main import main
from codepose.estimation.methods import METHODS
from codepose.networks import joint
from codepose.networks.build import build_extended
from codepose.paper.jitter import JITTER
from codepose.runtime.devices import make_fabric
from codepose.runtime.ranks import Shares, everyones, rank, total, world_size
from codepose.runtime.run import Run, RunError
from codepose.settings.files import load_settings
from codepose.synthesis.world import World
from codepose.training import loop, plan, stages
from codepose.training.loop import fit
from codepose.training.meter import NonFiniteLossError
from codepose.training.plan import Stage
from codepose.training.stages import step1_stage, train_step1

# a network that has learned nothing has no better boxes, and the paper's weight of L_angle would not be noticed
joint.MIN_IOU, stages.LAMBDA_ANGLE = 0.05, 0.1


def watch_writing(folder: Path) -> list[str]:
    """Notes what this process opens for writing, makes, renames or removes under a folder."""
    seen: list[str] = []

    def hook(event: str, arguments: Any) -> None:
        path = str(arguments[0]) if arguments else ""
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        made = event == "os.mkdir" and not os.path.isdir(path)
        if (writes or made or event in ("os.rename", "os.remove")) and path.startswith(str(folder)):
            seen.append(f"{event} {path}")

    sys.addaudithook(hook)
    return seen


def stage_of(run: Run, world: World, **changes: Any) -> Stage:
    torch.manual_seed(run.settings.seed)
    stage = step1_stage(run.settings, world, build_extended(run.settings))
    return Stage(**{**stage.__dict__, **{name: change(stage) for name, change in changes.items()}})


def gathers() -> dict[str, Any]:
    """A loss over the gathered batch of five: its gradients, averaged by hand as DDP does."""
    shares = Shares(5)
    whole = torch.arange(10.0).view(5, 2)
    mine = whole[shares.own].clone().requires_grad_()
    gathered = shares.gather(mine)
    weights = torch.arange(1.0, 6.0)
    (gathered.square().sum(1) * weights).sum().backward()
    assert mine.grad is not None
    averaged = [g for part in everyones(mine.grad.tolist()) for g in part]
    mean = float(total(shares.mean(weights[shares.own].mean())[None]) / world_size())
    return {"sizes": shares.sizes, "gathered": gathered.tolist(), "gradient": averaged, "mean": mean}


def stop_by_one(out: Path, world: World) -> str:
    """Only the second rank is interrupted, in its third iteration."""
    calls: list[int] = []

    def loss(stage: Stage) -> Any:
        def interrupted(network: Any, batch: Any) -> Any:
            calls.append(1)
            if len(calls) == 3 and rank() == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return stage.loss(network, batch)

        return interrupted

    run = Run.create(out / "stopped", load_settings(out / "muon.yaml"))
    try:
        fit(stage_of(run, world, loss=loss), run, make_fabric("cpu"), seed=run.settings.seed)
    except KeyboardInterrupt:
        return f"stopped after {len(calls)}"
    return "went on"


def not_finite_on_one(out: Path, world: World) -> str:
    """Only the second rank's loss is NaN."""

    def loss(stage: Stage) -> Any:
        def broken(network: Any, batch: Any) -> Any:
            loss, terms = stage.loss(network, batch)
            return loss, terms | {"cos": terms["cos"] * (torch.nan if rank() == 1 else 1.0)}

        return broken

    run = Run.create(out / "nan", load_settings(out / "muon.yaml"))
    try:
        fit(stage_of(run, world, loss=loss), run, make_fabric("cpu"))
    except NonFiniteLossError as error:
        return str(error)
    return "went on"


def time_limit(out: Path, world: World) -> int:
    """Each rank's clock says something else; returns the iterations."""
    ticks = iter(range(10_000))
    plain = plan.Clock.elapsed
    plan.Clock.elapsed = lambda _: next(ticks) * (10.0 if rank() == 0 else 0.1)  # type: ignore[method-assign]
    settings = tiny(**{"data.step1_images": 400, "step1.time_limit": 100.0, "step1.validations": 1})
    run = Run.create(out / "limited", settings)
    calls: list[int] = []
    try:
        fit(
            stage_of(run, world, loss=lambda s: lambda n, b: (calls.append(1), s.loss(n, b))[1]),
            run,
            make_fabric("cpu"),
        )
    finally:
        plan.Clock.elapsed = plain  # type: ignore[method-assign]
    return len(calls)


def watch_gradients() -> list[list[torch.Tensor]]:
    """Notes the gradient of each step of any optimiser: of each group of parameters, those that learn in a row."""
    seen: list[list[torch.Tensor]] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = [[p.grad.flatten() for p in g["params"] if p.grad is not None] for g in optimizer.param_groups]
        seen.append([torch.cat(gradients) if gradients else torch.zeros(0) for gradients in groups])

    register_optimizer_step_pre_hook(note)
    return seen


def large_step(out: Path, name: str) -> None:
    settings = load_settings(out / "step.yaml")
    train_step1(Run.create(out / f"{name}-step", settings), World(settings), make_fabric("cpu"))


def train_both(out: Path) -> list[int]:
    """Every stage, by two ranks."""
    seen = watch_gradients()
    arguments = ["train", "--preset", str(out / "plain.yaml"), "--out", str(out / "two"), "--device", "cpu"]
    arguments += ["--methods", *METHODS]
    codes = [main(arguments)]
    train_stages(Run.open(out / "two"), [JITTER], device="cpu")
    if rank() == 0:
        torch.save(seen, out / "two" / "gradients.pt")
    return [*codes, main(arguments)]  # the folder holds a run: refused, on both


def train_alone(out: Path) -> None:
    """The same by one process."""
    seen = watch_gradients()
    run = Run.create(out / "one", load_settings(out / "plain.yaml"))
    with open(os.devnull, "w") as nobody, redirect_stdout(nobody), redirect_stderr(nobody):
        train_stages(run, METHODS, device="cpu")
        train_stages(run, [JITTER], device="cpu")
        torch.save(seen, run.path / "gradients.pt")
        large_step(out, "one")


def work(out: Path) -> dict[str, Any]:
    fabric = make_fabric("cpu")
    wrote = watch_writing(out) if rank() == 1 else []
    saw: dict[str, Any] = {"ranks": world_size(), "gathers": gathers()}
    kept: dict[str, str] = {}
    finish = loop.finish

    def noted(state: loop.State) -> None:
        finish(state)
        values = b"".join(v.numpy().tobytes() for v in state.stage.network.state_dict().values())
        kept[f"{state.run.path.name}/{state.stage.name}"] = hashlib.sha256(values).hexdigest()

    loop.finish = noted
    saw["train"], saw["again"] = train_both(out)
    large_step(out, "two")
    world = World(load_settings(out / "muon.yaml"))
    saw["stop"] = stop_by_one(out, world)
    saw["nan"] = not_finite_on_one(out, world)
    saw["limit"] = time_limit(out, world)
    run = Run.open(out / "resumed")
    train_step1(run, world, fabric)
    try:
        Run.create(out / "few", tiny(**{"step1.batch": 1}))
        train_step1(Run.open(out / "few"), world, fabric)
    except ValueError as error:
        saw["few"] = str(error)
    try:
        Run.create(out / "two", tiny())
    except RunError as error:
        saw["create"] = str(error)
    saw["rows"] = len(evaluate(Run.open(out / "two"), ("joint",), device="cpu").results.index)
    place = ["--K", "75,75,63.5,47.5", "--min-score", "0", "--no-refine", "--out", str(out / "predicted")]
    saw["predict"] = main(["predict", str(out / "two"), str(out / "photos"), *place, "--bop", str(out / "bop.csv")])
    saw["kept"] = kept
    saw["wrote"] = wrote
    return saw


def start(number: int, out: Path, port: int) -> None:
    """One of the two, with the environment that torchrun gives it; or the one that is alone."""
    if number == 2:
        train_alone(out)
        return
    names = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 1, "RANK": number, "LOCAL_RANK": number}
    names |= {"GROUP_RANK": 0, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"}
    (out.parent / f"rank-{number}.json").write_text(json.dumps(work(out)))


if __name__ == "__main__":
    torch.multiprocessing.start_processes(
        start, args=(Path(sys.argv[1]), find_free_network_port()), nprocs=3, start_method="fork"
    )
