"""Training: runs, overfits, repeats bit for bit, resumes bit for bit, survives kill -9, names what goes wrong."""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from codepose.networks.build import build_extended, build_joint
from codepose.networks.losses import mse
from codepose.runtime.checkpoint import load_state
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run, RunError
from codepose.settings.files import to_yaml
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training import loop, plan
from codepose.training.cost import counted, peak_flops
from codepose.training.feed import Feed
from codepose.training.loop import fit
from codepose.training.meter import Meter, NonFiniteLossError
from codepose.training.plan import Stage, steps_per_epoch
from codepose.training.stages import step1_stage, step2_stage, train_detector, train_original, train_step1, train_step2


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return load_state(run.path / stage / "weights.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def train_all(path: Path, settings: Settings, world: World) -> Run:
    run = Run.create(path, settings)
    fabric = make_fabric("cpu")
    extended = train_step1(run, world, fabric)
    train_step2(run, world, fabric, extended)
    train_detector(run, world, fabric)
    train_original(run, world, fabric)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings, world: World) -> Run:
    return train_all(tmp_path_factory.mktemp("runs") / "first", tiny_settings, world)


def test_every_stage_runs_and_logs_its_terms(trained: Run) -> None:
    expected = {
        "step1": {"mse", "angle", "cos", "val_mse"},
        "original": {"mse", "val_mse"},
        "detector": {"rpn_objectness", "rpn_box", "head_class", "head_box", "val_mean_iou"},
        "step2": {"rpn_objectness", "rpn_box", "head_class", "head_box", "mse", "fed_back_iou", "skipped"},
    }
    for stage, names in expected.items():
        assert trained.has(stage)
        assert not (trained.path / stage / "checkpoint.safetensors").exists()
        logged = set().union(*trained.metrics(stage))
        assert names <= logged
        assert any((trained.path / stage / "tensorboard").iterdir())
        records = [r for r in trained.metrics(stage) if "mse" in r or "head_box" in r]
        assert [r["step"] for r in records] == list(range(1, 5))
        flops = {f"{1e9 * r['gflop_per_s'] / r['images_per_s']:.6g}" for r in records}  # of an image, by phase
        assert len(flops) == max(1, len(getattr(trained.settings, stage).phases))
        peaks = [r["gflop_per_s"] / r["share_of_peak"] for r in records]
        assert peaks == pytest.approx([peaks[0]] * 4)


def test_two_runs_are_bit_equal(trained: Run, tmp_path: Path, world: World) -> None:
    again = train_all(tmp_path / "again", trained.settings, world)
    for stage in ("step1", "original", "detector", "step2"):
        assert_same(weights(trained, stage), weights(again, stage))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C works as in a terminal, also where these tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("name", "signalled"), [("step1", False), ("step1", True), ("step2", False), ("step2", True)])
def test_stopping_and_resuming_equals_an_uninterrupted_run(
    trained: Run, tmp_path: Path, world: World, name: str, signalled: bool, ctrl_c: None
) -> None:
    """Ctrl-C lets the iteration end; what is raised in the middle of one, before it changed anything, leaves it out."""
    run, fabric = Run.create(tmp_path / "stopped", trained.settings), make_fabric("cpu")

    def stage() -> Stage:
        if name == "step1":
            torch.manual_seed(trained.settings.seed)
            return step1_stage(trained.settings, world, build_extended(trained.settings))
        extended = build_extended(trained.settings)
        trained.load_weights("step1", extended)
        torch.manual_seed(trained.settings.seed + 3)
        network = build_joint(trained.settings)
        network.autoencoder.load_state_dict(extended.state_dict())
        return step2_stage(trained.settings, world, network)

    first, calls = stage(), []

    def interrupted(network, batch):
        calls.append(1)
        if len(calls) == 3:
            if not signalled:
                first.loss(network, batch)  # draws random numbers
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)
        return first.loss(network, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(Stage(**{**first.__dict__, "loss": interrupted}), run, fabric, seed=trained.settings.seed)
    assert run.load_checkpoint(name)["step"] == (3 if signalled else 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    torch.manual_seed(987)  # whatever happened in between must not matter
    fit(stage(), run, fabric, seed=trained.settings.seed)
    assert_same(weights(trained, name), weights(run, name))
    assert [r["step"] for r in run.metrics(name) if "mse" in r] == [1, 2, 3, 4]


def test_ctrl_c_at_the_very_end_keeps_the_weights_and_stops(
    trained: Run, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, ctrl_c: None
) -> None:
    """The stage is done, but what comes after it is not wanted."""
    run, settings = Run.create(tmp_path / "late", trained.settings), trained.settings
    finish = loop.finish

    def interrupted(state: loop.State) -> None:
        signal.raise_signal(signal.SIGINT)
        finish(state)

    monkeypatch.setattr(loop, "finish", interrupted)
    torch.manual_seed(settings.seed)
    with pytest.raises(KeyboardInterrupt):
        fit(step1_stage(settings, world, build_extended(settings)), run, make_fabric("cpu"), seed=settings.seed)
    assert_same(weights(trained, "step1"), weights(run, "step1"))


def test_a_second_ctrl_c_within_a_step_keeps_the_checkpoint_before(
    trained: Run, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some weights have moved, some have not: such a state is not saved."""
    run, settings = Run.create(tmp_path / "torn", trained.settings), trained.settings
    stage = step1_stage(settings, world, build_extended(settings))
    changed: list[int] = []

    class Torn(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def, override]
            changed.append(1)
            if len(changed) == 4:
                raise KeyboardInterrupt
            return super().step(closure)

    every = settings.step1.model_copy(update={"checkpoint_every": 2})
    monkeypatch.setattr(
        "codepose.training.loop.build_optimizer",
        lambda parts, _: Torn([{"params": p, "lr": 1e-3, "factor": factor} for p, factor in parts]),
    )
    with pytest.raises(KeyboardInterrupt):
        fit(Stage(**{**stage.__dict__, "settings": every}), run, make_fabric("cpu"), seed=settings.seed)
    assert run.load_checkpoint("step1")["step"] == 2


def test_kill_9_loses_at_most_the_last_interval(make_settings, tmp_path: Path) -> None:
    settings = make_settings(**{"data.step1_images": 4000, "step1.checkpoint_every": 2})
    config = tmp_path / "settings.yaml"
    config.write_text(to_yaml(settings))
    code = (
        "from codepose.settings.files import load_settings; from codepose.runtime.run import Run\n"
        "from codepose.api import train_stages; from codepose.training import loop; loop.LOG_EVERY = 1\n"
        f"run = Run.create({str(tmp_path / 'run')!r}, load_settings({str(config)!r}), resume=True)\n"
        "train_stages(run, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "step1" / "metrics.jsonl"

    def steps() -> int:
        return sum('"mse"' in line for line in log.read_text().splitlines()) if log.exists() else 0

    while steps() < 7 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = steps()
    assert done >= 7, "the training did not start"
    state = Run.open(tmp_path / "run").load_checkpoint("step1")
    assert done - 2 <= state["step"] <= done + 2
    for line in log.read_text().splitlines()[:-1]:
        json.loads(line)


def test_four_images_can_be_overfitted(make_settings) -> None:
    """Step 1 on four clean crops: the squared error falls to a quarter of a black output's."""
    settings = make_settings(**{"network.crop": 64, "network.latent": 64, "network.width": 0.25})
    torch.manual_seed(0)
    network = build_extended(settings)
    crops = SceneSource(World(settings), "train").crops(torch.arange(4), difficulty=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    enough = 0.25 * float(crops.targets.square().mean())
    for _ in range(200):
        _, out = network(crops.inputs)
        if float(mse(out.detach(), crops.targets).mean()) < enough:
            return
        loss = mse(out, crops.targets, 4).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail("four images were not learned")


def test_a_non_finite_loss_stops_and_names_its_term(tiny_settings: Settings, world: World, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", tiny_settings)
    stage = step1_stage(tiny_settings, world, build_extended(tiny_settings))

    def loss(network, batch):
        total, terms = stage.loss(network, batch)
        return total, terms | {"angle": terms["angle"] * torch.nan}

    with pytest.raises(NonFiniteLossError, match="'angle' is nan"):
        fit(Stage(**{**stage.__dict__, "loss": loss}), run, make_fabric("cpu"))
    assert not run.has("step1")


@pytest.mark.parametrize("eager", [True, False])
def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(
    make_settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager: bool
) -> None:
    """The loss is finite, its gradient is not, a checkpoint is due: also where terms are read late, as on a GPU."""
    settings = make_settings(**{"step1.optimizer.clip": 1.0, "step1.checkpoint_every": 1})
    monkeypatch.setattr(loop, "total_steps", lambda _: 1000)  # so that no line of the log is due
    run = Run.create(tmp_path / "run", settings)
    stage = step1_stage(settings, world, build_extended(settings))
    meter_init, steps = Meter.__init__, []

    def init(self: Meter, *args: object) -> None:
        meter_init(self, *args)
        self._eager = eager

    monkeypatch.setattr(Meter, "__init__", init)

    def loss(network, batch):
        total, terms = stage.loss(network, batch)
        steps.append(total)
        if len(steps) == 2:
            weight = next(network.parameters()).flatten()[0]
            total = total + (weight - weight.detach()).abs().sqrt()  # 0, with an infinite slope
        return total, terms

    with pytest.raises(NonFiniteLossError, match="gradient_norm"):
        fit(Stage(**{**stage.__dict__, "loss": loss}), run, make_fabric("cpu"))
    assert len(steps) == 2
    kept = run.load_checkpoint("step1")
    assert kept["step"] == 1
    assert all(bool(value.isfinite().all()) for value in kept["network"].values())


def test_a_time_limit_shortens_the_schedule(
    make_settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(**{"data.step1_images": 4_000_000, "step1.time_limit": 100.0})
    seconds = itertools.count()  # a clock that ticks when it is read: a busy machine changes nothing
    monkeypatch.setattr(plan.Clock, "elapsed", lambda _: float(next(seconds)))
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    run = Run.create(tmp_path / "run", settings)
    fit(step1_stage(settings, world, build_extended(settings)), run, make_fabric("cpu"))
    assert run.has("step1")
    rates = [r["lr"] for r in run.metrics("step1") if "lr" in r]
    assert 3 < len(rates) < 100
    assert rates[-1] < 0.3 * max(rates), "the cosine must have come down"
    looks = [r["step"] for r in run.metrics("step1") if "val_mse" in r]
    assert len(looks) == settings.step1.validations, "wherever between two readings of the clock they fall due"


def test_run_folders_refuse_what_would_mix_two_runs(tiny_settings: Settings, make_settings, tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run.create(path, tiny_settings)
    with pytest.raises(RunError, match="--resume"):
        Run.create(path, tiny_settings)
    with pytest.raises(RunError, match="other settings"):
        Run.create(path, make_settings(**{"seed": 5}), resume=True)
    with pytest.raises(RunError, match="no run folder"):
        Run.open(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path / "mine", tiny_settings)
    with pytest.raises(RunError, match="--resume"):
        Run.open(path).load_weights("step2", build_joint(tiny_settings))


def test_a_term_is_averaged_over_the_iterations_that_have_it() -> None:
    meter = Meter(4, torch.device("cpu"))
    for terms in ({"mse": 1.0}, {"mse": 2.0, "cos": -0.5}, {"mse": 3.0, "cos": -0.7}):
        meter.add({name: torch.tensor(value) for name, value in terms.items()}, 0.0)
    record = meter.read(3)
    assert (record["mse"], record["cos"]) == (pytest.approx(2.0), pytest.approx(-0.6))
    meter.add({"mse": torch.tensor(5.0)}, 0.0)
    assert "cos" not in meter.read(4)


def test_the_meter_says_what_share_of_the_peak_is_reached() -> None:
    meter = Meter(4, torch.device("cpu"), peak=2e9)
    assert not {"gflop_per_s", "share_of_peak"} & set(meter.read(1))
    meter.flops = 5e8
    meter.add({"mse": torch.tensor(1.0)}, 0.0)
    record = meter.read(2)
    assert record["gflop_per_s"] == pytest.approx(0.5 * record["images_per_s"])
    assert record["share_of_peak"] == pytest.approx(record["gflop_per_s"] / 2.0)


def test_operations_are_counted_and_the_peak_is_that_of_matrix_products() -> None:
    a, b = torch.rand(3, 5, requires_grad=True), torch.rand(5, 7)
    product, flops = counted(lambda: (a @ b).sum().backward())
    assert product is None
    assert flops == 2 * (2 * 3 * 5 * 7)  # b needs no gradient
    torch.testing.assert_close(a.grad, b.detach().sum(1).expand(3, 5))
    assert 1e9 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


def test_a_batch_of_few_images_holds_whole_groups_only(make_settings, world: World, tmp_path: Path) -> None:
    settings = make_settings(**{"data.step1_images": 6, "step1.batch": 8, "losses.look_alikes": 3, "step2.batch": 4})
    stage, shown = step1_stage(settings, world, build_extended(settings)), []
    make = stage.batch

    def spied(items: torch.Tensor, difficulty: float):
        shown.append(len(items))
        return make(items, difficulty)

    fit(dataclasses.replace(stage, batch=spied), Run.create(tmp_path / "run", settings), make_fabric("cpu"))
    assert plan.images_per_step(stage) == 4
    assert shown[0] == 16  # four batches are made in one go


def test_items_of_a_group_stay_together(make_settings, world: World, tmp_path: Path, monkeypatch) -> None:
    """18 items in groups of four, batches of eight: each epoch shows every whole group once, in another order."""
    settings = make_settings(
        **{"data.step1_images": 18, "step1.batch": 8, "step1.epochs": 3.0, "step2.batch": 4, "losses.look_alikes": 3}
    )
    stage = step1_stage(settings, world, build_extended(settings))
    assert steps_per_epoch(stage) == 2
    shown: list[list[int]] = []
    make = stage.batch

    def spied(items: torch.Tensor, difficulty: float):
        shown.extend(part.tolist() for part in items.split(8))
        return make(items, difficulty)

    fit(dataclasses.replace(stage, batch=spied), Run.create(tmp_path / "run", settings), make_fabric("cpu"))
    shown = shown[:6]  # several batches are made in one go
    for batch in shown:
        assert [i % 4 for i in batch] == [0, 1, 2, 3] * 2
        assert [i // 4 for i in batch] == [batch[0] // 4] * 4 + [batch[4] // 4] * 4
    epochs = [shown[k] + shown[k + 1] for k in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("seed", [20261126161500, 2**62])
def test_a_time_stamp_may_be_the_seed(seed: int) -> None:
    feed = object.__new__(Feed)
    feed._seed, feed._stage = seed, SimpleNamespace(group=2, items=10)  # type: ignore[assignment]
    orders = [feed._ordered(epoch).tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == list(range(10))
