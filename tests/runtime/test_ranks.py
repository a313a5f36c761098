"""Two processes train as one: same losses and end as a single one; they write, stop, fail and resume together."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from codepose.cli.main import main
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import load_codebooks, load_pipeline
from codepose.evaluation.benchmark import evaluate
from codepose.networks import joint
from codepose.networks.build import build_detector, build_extended
from codepose.runtime.checkpoint import load_state
from codepose.runtime.devices import make_fabric
from codepose.runtime.ranks import Shares, layout, reseed
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.files import override, to_yaml
from codepose.settings.schema import Settings
from codepose.synthesis.batches import split_batch
from codepose.synthesis.world import World
from codepose.training import stages
from codepose.training.feed import Feed
from codepose.training.loop import fit
from codepose.training.plan import Clock, Stage, total_steps
from codepose.training.stages import detector_stage, step1_stage, train_step1

WORKER = Path(__file__).with_name("two_ranks.py")
LOSSES = {"losses.lambda_cos": 0.1, "losses.lambda_match": 0.1}
SGD = {"name": "sgd", "lr": 1e-5, "warmup": 0, "schedule": "constant", "clip": 5.0}
"""So slow that the weights stay where they are: a whole curve is one of the same weights, not of chaos."""


@pytest.fixture(autouse=True, scope="module")
def _as_the_worker() -> Iterator[None]:
    """The same weight of L_angle and the same least overlap as in two_ranks.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "LAMBDA_ANGLE", 0.1)
        patch.setattr(joint, "MIN_IOU", 0.05)
        yield


@pytest.fixture(scope="module")
def plain(make_settings) -> Settings:
    """Step 1, and Step 2 with T2, with odd batches; on such small scenes every anchor and every box is a sample."""
    phases = [
        {"epochs": 1, "train": ["rpn", "fc", "box_head"]},
        {"epochs": 1, "train": ["encoder", "decoder"]},
        {"epochs": 2},
    ]
    changes = {f"{stage}.optimizer": SGD for stage in ("step1", "original")} | LOSSES
    # the ranks' own averages pull weights apart, and a common length of gradients would be another one
    changes |= {f"{stage}.optimizer": SGD | {"lr": 1e-7, "clip": 0.0} for stage in ("step2", "detector")}
    changes |= {"original.batch": 5, "original.epochs": 1.0, "detector.batch": 3, "detector.epochs": 2.0}
    changes |= {"data.step1_images": 15, "step1.batch": 5, "step1.epochs": 2.0}
    changes |= {"data.scene_images": 6, "step2.batch": 3, "step2.epochs": 4.0, "step2.phases": phases}
    changes |= {"losses.step2_lambda_cos": 0.1, "losses.step2_lambda_match": 0.1}
    changes |= {"data.camera.image_size": 64, "data.camera.focal": 40.0, "data.test_images": 10}
    changes |= {"data.occlusion.companions": 2}
    return make_settings(**changes, **{"detection.score": 0.0})


ONE_STEP = {"data.step1_images": 5, "step1.epochs": 1.0, "step1.optimizer.lr": 0.1}


def optimised(make_settings, name: str) -> Settings:
    slow = {"step1.optimizer.name": name, "step1.optimizer.lr": 1e-5, "step1.optimizer.warmup": 0}
    return make_settings(**LOSSES, **slow, **{"step1.epochs": 1.5})


def interrupted(run: Run, world: World, after: int) -> None:
    """Trains Step 1 in this process alone until Ctrl-C."""
    torch.manual_seed(run.settings.seed)
    stage, calls = step1_stage(run.settings, world, build_extended(run.settings)), []

    def loss(network, batch):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return stage.loss(network, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(Stage(**{**stage.__dict__, "loss": loss}), run, make_fabric("cpu"), seed=run.settings.seed)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_settings, plain: Settings, world: World) -> Path:
    """The folder in which two ranks did what two_ranks.py says."""
    out = tmp_path_factory.mktemp("ranks") / "out"
    (out / "photos").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "b.png", "c.bmp"):
        noise = np.random.default_rng(len(name) + ord(name[0])).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((128, 96), Image.Resampling.BICUBIC).save(out / "photos" / name)
    (out / "plain.yaml").write_text(to_yaml(plain))
    (out / "step.yaml").write_text(to_yaml(override(plain, ONE_STEP)))
    (out / "muon.yaml").write_text(to_yaml(optimised(make_settings, "muon")))
    interrupted(Run.create(out / "resumed", optimised(make_settings, "adabound")), world, after=2)
    done = subprocess.run([sys.executable, str(WORKER), str(out)], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    (out.parent / "said.txt").write_text(done.stdout + done.stderr)
    return out


@pytest.fixture(scope="module")
def saw(two: Path) -> list[dict[str, Any]]:
    return [json.loads((two.parent / f"rank-{r}.json").read_text()) for r in (0, 1)]


@pytest.fixture(scope="module")
def one(two: Path) -> Run:
    """What a single process made of the same settings."""
    return Run.open(two / "one")


def curve(run: Run, stage: str) -> list[dict[str, float]]:
    skipped = {"elapsed_s", "images_per_s", "data_wait", "gflop_per_s", "share_of_peak"}
    return [{k: v for k, v in r.items() if k not in skipped} for r in run.metrics(stage) if "lr" in r]


def largest_difference(a: Run, b: Run, stage: str, *names: str) -> float:
    """Of the logged terms, relative to each term's size."""
    first, second = curve(a, stage), curve(b, stage)
    assert [r["step"] for r in first] == [r["step"] for r in second]
    assert all(r.keys() == s.keys() for r, s in zip(first, second, strict=True))
    pairs = [(r[k], s[k]) for r, s in zip(first, second, strict=True) for k in names or r]
    return max(abs(x - y) / max(abs(x), 1e-3) for x, y in pairs)


def test_seeds_may_be_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codepose.runtime.ranks.world_size", lambda: 2)
    monkeypatch.setattr("codepose.runtime.ranks.rank", lambda: 1)
    drawn = []
    for seed, step in ((20261123, 0), (20261123, 1), (20261124, 0), (20261123, 0)):
        reseed(seed, step)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


STEPS = {"step1": 6, "step2": 8, "detector": 4, "original": 3, "jitter": 8}
"""Of each stage, in the order in which they are trained."""


@pytest.fixture(scope="module")
def gradients(two: Path) -> dict[str, list[tuple[list[torch.Tensor], list[torch.Tensor]]]]:
    """Each step's, of one process and of two, by stage; of each group of parameters."""
    pairs = list(zip(*(torch.load(two / name / "gradients.pt") for name in ("one", "two")), strict=True))
    ends = list(itertools.accumulate(STEPS.values()))
    assert len(pairs) == ends[-1]
    return {stage: pairs[end - STEPS[stage] : end] for stage, end in zip(STEPS, ends, strict=True)}


def furthest(pairs: list[tuple[list[torch.Tensor], list[torch.Tensor]]], group: int = 0) -> float:
    """The largest distance of two gradients of a group that learns, relative to their length."""
    both = [(one[group], two[group]) for one, two in pairs]
    assert all(a.shape == b.shape for a, b in both)
    return max(float((a - b).norm() / a.norm()) for a, b in both if len(a))


@pytest.mark.parametrize("stage", ["step1", "original"])
def test_the_autoencoders_have_the_gradients_of_one_process(two: Path, one: Run, gradients, stage: str) -> None:
    """The pairs of L_angle and of the match are those of the whole batch; five images are three and two.

    Other sizes of batches round otherwise. Where a ReLU then is on at one side alone, a gradient is 1e-4 off.
    """
    assert [r["step"] for r in curve(one, stage)] == list(range(1, STEPS[stage] + 1))
    assert stage != "step1" or {"mse", "angle", "cos", "match"} <= curve(one, stage)[0].keys()
    assert furthest(gradients[stage]) < 1e-3
    assert largest_difference(one, Run.open(two / "two"), stage) < 1e-4


def test_a_large_step_leads_to_the_weights_of_one_process(two: Path) -> None:
    """As far as 0.1 times a gradient longer than 2."""
    runs = [Run.open(two / f"{name}-step") for name in ("one", "two")]
    assert curve(runs[0], "step1")[0]["gradient_norm"] > 2.0
    mine, theirs = (load_state(run.path / "step1" / "weights.safetensors") for run in runs)
    assert max(float((mine[key] - theirs[key]).abs().max()) for key in mine) < 1e-6


def test_step_2_has_the_gradients_of_one_process(two: Path, one: Run, gradients) -> None:
    """L_mse, L_cos and the match are the whole batch's; torchvision averages the box head's over a rank's samples."""
    run = Run.open(two / "two")
    assert len(curve(one, "step2")) == STEPS["step2"]
    whole = ("mse", "cos", "match", "fed_back_iou", "skipped", "rpn_objectness", "lr")
    assert largest_difference(one, run, "step2", *whole) < 1e-3
    assert largest_difference(one, run, "step2", "rpn_box", "head_class", "head_box") < 0.15
    for group in (1, 2):  # decoder and FC; a pixel more or less among the worst, or above zero, makes a thousandth
        learning = [pair for pair in gradients["step2"] if len(pair[0][group])]
        assert furthest(learning[:1], group) < 1e-4, "before anything has moved"
        assert furthest(learning, group) < 0.01


def test_the_detector_has_the_losses_of_one_process(two: Path, one: Run) -> None:
    run = Run.open(two / "two")
    assert largest_difference(one, run, "detector", "rpn_objectness", "lr") < 1e-4
    assert largest_difference(one, run, "detector", "rpn_box", "head_class", "head_box") < 0.15


def test_the_detectors_gradient_is_the_mean_of_the_ranks(
    two: Path, plain: Settings, gradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images are two and one, each part with averages of its own."""
    run = Run.open(two / "two")
    stages._seed(run, "detector")
    network = build_detector(plain).to(memory_format=torch.channels_last)
    stage = detector_stage(plain, World(plain), network.train())
    feed = Feed(stage, Clock(total_steps(stage), stage.settings.time_limit), plain.seed, 0, torch.device("cpu"))
    whole, _ = next(feed)
    for number, part in enumerate(split_batch(whole, [2, 1])):
        monkeypatch.setattr("codepose.runtime.ranks.rank", lambda number=number: number)
        reseed(plain.seed, 0)  # the box head's samples are drawn
        loss, _ = stage.loss(network, part)
        (loss * len(part.index) / 3).backward()
    mine = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    (theirs,) = gradients["detector"][0][1]
    assert float((mine - theirs).norm() / mine.norm()) < 1e-4


def test_jittered_boxes_have_their_own_random_numbers(two: Path, one: Run) -> None:
    """Each rank jitters its own: there only the error's size is the same."""
    assert largest_difference(one, Run.open(two / "two"), "jitter", "lr") == 0.0
    assert 0.0 < largest_difference(one, Run.open(two / "two"), "jitter", "mse") < 0.3


def test_every_rank_ends_with_the_same_weights(saw: list[dict[str, Any]]) -> None:
    """Also after T2, whose phases freeze and unfreeze: the wrapper must be made anew for each of them."""
    whole = {"two/step1", "two/step2", "two/detector", "two/original", "two/jitter"}
    assert set(saw[0]["kept"]) == whole | {"two-step/step1", "limited/step1", "resumed/step1"}
    assert saw[0]["kept"] == saw[1]["kept"]


def test_only_the_first_rank_writes_and_speaks(two: Path, saw: list[dict[str, Any]]) -> None:
    photos = {"photos", "predicted"}  # each rank leaves its own photos' overlays
    assert [w for w in saw[1]["wrote"] if Path(w.split(" ", 1)[1]).relative_to(two).parts[0] not in photos] == []
    assert saw[1]["wrote"] != []
    said = (two.parent / "said.txt").read_text()
    assert said.count("trained: ") == 1
    assert said.count("already holds a run: type --resume") == 1


def test_errors_reach_every_rank(saw: list[dict[str, Any]]) -> None:
    for seen in saw:
        assert (seen["ranks"], seen["train"], seen["again"]) == (2, 0, 1)
        assert "already holds a run" in seen["create"]
        assert "cannot be divided among 2 devices" in seen["few"]
        assert seen["nan"].startswith("the loss term 'cos' is nan")


def test_the_ranks_stop_together(two: Path, saw: list[dict[str, Any]]) -> None:
    """One is interrupted; the clock of one runs out."""
    assert [seen["stop"] for seen in saw] == ["stopped after 3", "stopped after 3"]
    assert Run.open(two / "stopped").load_checkpoint("step1")["step"] == 3
    assert saw[0]["limit"] == saw[1]["limit"]
    assert 2 < saw[0]["limit"] < 12, "the first rank's clock counts: 100 s are ten of its ticks"


def test_gathering_has_the_whole_batchs_gradient(saw: list[dict[str, Any]]) -> None:
    """d/dx of sum_i w_i |x_i|^2 is 2 w_i x_i; DDP halves the sum over two ranks."""
    whole = torch.arange(10.0).view(5, 2)
    gradient = 2.0 * torch.arange(1.0, 6.0)[:, None] * whole
    for seen in saw:
        assert seen["gathers"]["sizes"] == [3, 2]
        assert seen["gathers"]["gathered"] == whole.tolist()
        assert torch.equal(torch.tensor(seen["gathers"]["gradient"]) / 2.0, gradient)
        assert seen["gathers"]["mean"] == 3.0, "the mean of 1 ... 5, though 2 and 4.5 are the parts' means"


@pytest.mark.parametrize(("name", "optimizer"), [("resumed", "adabound"), ("stopped", "muon")])
def test_resuming_with_another_number_of_ranks(
    two: Path, make_settings, world: World, tmp_path: Path, name: str, optimizer: str
) -> None:
    """From one to two in the worker, from two to one here."""
    whole = Run.create(tmp_path / "whole", optimised(make_settings, optimizer))
    train_step1(whole, world, make_fabric("cpu"))
    run = Run.open(two / name)
    train_step1(run, world, make_fabric("cpu"))  # finished already if it was resumed there
    assert run.has("step1")
    assert len(curve(run, "step1")) == 6
    assert largest_difference(whole, run, "step1", "mse", "cos", "lr") < 1e-4
    stages._seed(whole, "step1")
    begun = build_extended(whole.settings).state_dict()
    mine, theirs = (load_state(one.path / "step1" / "weights.safetensors") for one in (whole, run))
    moved, apart = (torch.cat([(mine[k] - other[k]).flatten() for k in begun]).norm() for other in (begun, theirs))
    assert float(apart / moved) < 0.05, "the optimiser went on with what it knew"


def test_evaluation_is_that_of_one_process(two: Path, saw: list[dict[str, Any]]) -> None:
    """Ten scenes, eight at a time: one rank has eight of them."""
    run = Run.open(two / "two")
    assert [seen["rows"] for seen in saw] == [10, 10]
    world = World(run.settings)
    pipeline = load_pipeline(run, "joint", world.device)
    estimator = PoseEstimator(pipeline, load_codebooks(run, "joint", pipeline, world))
    alone = evaluate(world, {"joint": estimator}, images=10)
    assert (run.path / "evaluation" / "per_image.csv").read_text() == alone.csv()
    assert (run.path / "report.html").is_file()


def test_bulk_prediction_is_that_of_one_process(two: Path, saw: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [seen["predict"] for seen in saw] == [0, 0]
    camera = ["--K", "75,75,63.5,47.5", "--min-score", "0", "--no-refine"]
    alone = tmp_path / "alone"
    arguments = [*camera, "--out", str(alone), "--bop", str(tmp_path / "bop.csv")]
    assert main(["predict", str(two / "two"), str(two / "photos"), *arguments]) == 0
    assert {p.name for p in alone.iterdir()} == {p.name for p in (two / "predicted").iterdir()}
    lines = [
        [json.loads(line) | {"time_ms": 0} for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for folder in (alone, two / "predicted")
    ]
    assert len(lines[0]) == 4
    assert lines[0] == lines[1]
    tables = [path.read_text().splitlines() for path in (tmp_path / "bop.csv", two / "bop.csv")]
    assert len(tables[0]) > 4
    assert [line.rsplit(",", 1)[0] for line in tables[0]] == [line.rsplit(",", 1)[0] for line in tables[1]]


@pytest.mark.slow
def test_the_option_devices_starts_the_processes(tmp_path: Path, plain: Settings) -> None:
    (tmp_path / "plain.yaml").write_text(to_yaml(plain))
    command = [sys.executable, "-m", "codepose", "train", "--preset", str(tmp_path / "plain.yaml"), "--device", "cpu"]
    command += ["--devices", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stderr
    assert "Starting with 2 processes" in done.stderr
    assert done.stdout.count("trained: ") == 1
    assert Run.open(tmp_path / "run").has("step2")


def test_shares_of_one_process_are_everything() -> None:
    values = torch.rand(5, 2)
    assert Shares(5).own == slice(0, 5)
    assert Shares(5).gather(values) is values
    assert Shares(5).mean(values) is values


def test_launchers_say_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout(1, 1) == (1, 1)
    assert layout(8, 2) == (8, 2)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "32")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "4")
    assert layout(1, 1) == (8, 4)
    assert layout(8, 4) == (8, 4)
    with pytest.raises(ConfigError, match="leave --devices 4"):
        layout(4, 4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun may run inside srun
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert layout(1, 1) == (2, 1)


def test_one_device_cannot_be_several() -> None:
    with pytest.raises(ConfigError, match="one device, not 2"):
        make_fabric("cpu:0", devices=2)
    with pytest.raises(ConfigError, match="CUDA"):
        make_fabric("cuda", devices=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"^there is no device {device}: PyTorch sees 0 GPUs"):
        make_fabric(device)
