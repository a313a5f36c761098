"""How a stage begins and ends: its seed, its first weights, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.paper.jitter import train_jitter
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.settings.training import OptimizerSettings
from codepose.synthesis.world import World
from codepose.training import stages
from codepose.training.loop import fit
from codepose.training.plan import Stage
from codepose.training.stages import step2_stage

BUILD: dict[str, Callable[[Settings], nn.Module]] = {
    "step1": build_extended,
    "original": build_original,
    "detector": build_detector,
    "step2": build_joint,
    "jitter": build_extended,
}
TITLES = {
    "step1": "Step 1: extended AAE",
    "original": "Baseline: original AAE",
    "detector": "Baseline: Faster R-CNN",
    "step2": "Step 2: joint network",
    "jitter": "Baseline: jittered boxes",
}


def seeded(name: str, settings: Settings) -> nn.Module:
    """The network of a stage of a run of seed 3: each stage begins with random numbers of its own."""
    torch.manual_seed(5 * 3 + list(BUILD).index(name))
    return BUILD[name](settings)


@pytest.mark.parametrize("name", list(BUILD))
def test_a_stage_begins_where_it_should_and_is_trained_once(
    name: str, make_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """What Step 1 taught replaces what it would begin with; a stage that is done is loaded, and not begun again."""
    settings = make_settings(**{"seed": 3, "network.weights": "somewhere"})
    run, fitted, begun = Run.create(tmp_path / "run", settings), [], []

    def fit(stage: Stage, own: Run, fabric: Any, *, seed: int, display: Any) -> None:
        assert own is run
        assert fabric.device == torch.device("cpu")
        fitted.append((stage.name, seed, display.title))
        start.update({key: value.clone() for key, value in stage.network.state_dict().items()})
        with torch.no_grad():
            next(stage.network.parameters()).add_(1.0)
        own.save_weights(stage.name, stage.network.train())

    start: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(stages, "fit", fit)
    monkeypatch.setattr(stages, "begin_with", lambda network, weights: begun.append((type(network), weights)))
    torch.manual_seed(99)
    step1 = (build_extended(settings),) if name in ("step2", "jitter") else ()
    train = train_jitter if name == "jitter" else getattr(stages, f"train_{name}")
    network = train(run, world, make_fabric("cpu"), *step1)
    expected = seeded(name, settings)
    assert fitted == [(name, 3, TITLES[name])]
    assert begun == [(type(expected), "somewhere")]
    for pretrained in step1:
        getattr(expected, "autoencoder", expected).load_state_dict(pretrained.state_dict())
    assert start.keys() == expected.state_dict().keys()
    assert all(torch.equal(start[key], value) for key, value in expected.state_dict().items())
    assert not network.training
    again = train(run, world, make_fabric("cpu"), *step1)
    assert (len(fitted), len(begun)) == (1, 1)
    assert not again.training
    changed = next(network.parameters())
    assert torch.equal(next(again.parameters()), changed)
    assert changed.dim() == 4
    assert next(again.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_a_stage_that_has_a_checkpoint_does_not_ask_for_its_first_weights(
    make_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    run = Run.create(tmp_path / "run", make_settings(**{"network.weights": "somewhere"}))
    monkeypatch.setattr(stages, "fit", lambda *_, **__: None)
    monkeypatch.setattr(stages, "begin_with", lambda *_: pytest.fail("it has begun already"))
    monkeypatch.setattr(Run, "begun", lambda _, name: name == "step1")
    stages.train_step1(run, world, make_fabric("cpu"))


def test_what_step_1_taught_learns_as_slowly_as_asked_for(make_settings: Any, tmp_path: Path, world: World) -> None:
    """One step of plain gradient descent: encoder, decoder and FC layers move a quarter as far, the heads as far."""
    moved = []
    for factor in (1.0, 0.25):
        settings = make_settings(**{"data.scene_images": 2})
        optimizer = OptimizerSettings(name="sgd", lr=1e-3, pretrained_factor=factor)
        step2 = settings.step2.model_copy(update={"optimizer": optimizer, "phases": (), "validations": 1})
        settings = settings.model_copy(update={"step2": step2})
        torch.manual_seed(0)
        network = build_joint(settings)
        network.min_iou = 0.0
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        run = Run.create(tmp_path / str(factor), settings)
        stage = replace(step2_stage(settings, world, network), validate=None)
        fit(stage, run, make_fabric("cpu"), seed=1)
        moved.append({name: value.detach() - before[name] for name, value in network.named_parameters()})
    for part, factor in (("autoencoder.encoder", 0.25), ("autoencoder.head", 0.25), ("heads.rpn", 1.0)):
        names = [name for name in moved[0] if name.startswith(part) and moved[0][name].abs().max() > 1e-6]
        assert names, part
        for name in names:
            torch.testing.assert_close(moved[1][name], factor * moved[0][name], rtol=0.02, atol=1e-7)
