"""Which parameters move when: phases, frozen blocks, and what was still for a while."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from codepose.networks.build import build_detector, build_extended, build_joint
from codepose.paper.jitter import jitter_stage
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run
from codepose.settings.training import ALL_GROUPS, OptimizerSettings, Phase, StageSettings
from codepose.synthesis.world import World
from codepose.training import stages
from codepose.training.loop import fit
from codepose.training.optimizers import build_optimizer, forget
from codepose.training.plan import Stage, freeze, phase_at, total_steps
from codepose.training.stages import detector_stage, joint_groups, step1_stage, step2_stage


def test_t2_moves_only_each_phases_groups(make_settings, world: World) -> None:
    """First epoch RPN and FC layers, second encoder and decoder, then everything (23)."""
    phases = (
        Phase(epochs=1, train=("rpn", "fc", "box_head")),
        Phase(epochs=1, train=("encoder", "decoder")),
        Phase(epochs=2),
    )
    settings = make_settings()
    step2 = settings.step2.model_copy(update={"epochs": 4.0, "phases": phases})
    settings = settings.model_copy(update={"step2": step2})
    network = build_joint(settings)
    stage = step2_stage(settings, world, network)
    assert total_steps(stage) == 16
    assert [phase_at(stage, s / 16) for s in (0, 3, 4, 7, 8, 15)] == [phases[i] for i in (0, 0, 1, 1, 2, 2)]
    groups = joint_groups(network)
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in network.parameters()}
    network.min_iou = 0.0
    for phase, moving in zip(phases, [{"rpn", "fc", "box_head"}, {"encoder", "decoder"}, set(groups)], strict=True):
        freeze(stage, phase)
        before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        optimizer.zero_grad()
        loss, _ = stage.loss(network.train(), stage.batch(torch.arange(2), 1.0))
        loss.backward()
        optimizer.step()
        changed = {
            name
            for name, group in groups.items()
            if any(not torch.equal(a, b) for a, b in zip(group, before[name], strict=True))
        }
        assert changed == moving


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "adabound"])
def test_what_stood_still_begins_anew(name: str) -> None:
    """Its momentum, of long ago, moves nothing; what moved all the time keeps its own."""
    parameters = {group: nn.Parameter(torch.ones(32, 32)) for group in ("encoder", "rpn")}
    groups = {group: [parameter] for group, parameter in parameters.items()}
    stage = Stage("step2", nn.Module(), groups, 1, lambda *_: None, lambda *_: (torch.zeros(()), {}), StageSettings())
    optimizer = build_optimizer([(p, 1.0) for p in groups.values()], OptimizerSettings(name=name, lr=0.1))

    def step(slope: float) -> dict[str, float]:
        for parameter in parameters.values():
            parameter.grad = slope * (1 + torch.eye(32)) if parameter.requires_grad else None
        before = {group: p.detach().clone() for group, p in parameters.items()}
        optimizer.step()
        return {group: float((p.detach() - before[group]).abs().max()) for group, p in parameters.items()}

    forget(optimizer, freeze(stage, Phase(epochs=1)))
    first = step(1.0)
    assert first["encoder"] == first["rpn"] > 0
    forget(optimizer, freeze(stage, Phase(epochs=1, train=("encoder",))))
    assert [step(1.0)["rpn"] for _ in range(5)] == [0.0] * 5
    forget(optimizer, freeze(stage, Phase(epochs=1)))
    assert optimizer.state[parameters["encoder"]]
    assert parameters["rpn"] not in optimizer.state
    moved = step(1.0)
    assert moved["rpn"] == pytest.approx(first["rpn"], rel=0.2)


def test_phases_divide_the_epochs(make_settings, world: World) -> None:
    phases = [{"epochs": 1.0, "train": ["rpn"]}, {"epochs": 3.0}]
    for epochs in (1.0, 8.0):
        settings = make_settings(**{"step2.epochs": epochs, "step2.phases": phases})
        stage = step2_stage(settings, world, build_joint(settings))
        trained = [phase_at(stage, progress).train for progress in (0.0, 0.24, 0.26, 0.99, 1.0)]
        assert trained == [("rpn",)] * 2 + [ALL_GROUPS] * 3


def test_frozen_blocks_stay_as_step_1_made_them(tmp_path: Path, make_settings, world: World) -> None:
    """In the joint network, and in the row that asks what its detections are worth."""
    settings = make_settings(**{"network.frozen_blocks": 2})
    torch.manual_seed(0)
    joint, jittered = build_joint(settings), build_extended(settings)
    networks = ((joint, joint.autoencoder), (jittered, jittered))
    for make, (network, autoencoder) in zip((step2_stage, jitter_stage), networks, strict=True):
        before = {k: v.clone() for k, v in autoencoder.encoder.state_dict().items()}
        fit(make(settings, world, network), Run.create(tmp_path / make.__name__, settings), make_fabric("cpu"))
        after = autoencoder.encoder.state_dict()
        moved = {name: not torch.equal(before[name], after[name]) for name in before}
        first = [name for name in moved if int(name.split(".")[1]) < 9]  # two blocks, each with its pooling, and a norm
        assert len(first) >= 8
        assert not any(moved[name] for name in first)
        assert all(moved[name] for name in moved if name not in first and name.endswith("weight"))
        assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("build", "make"),
    [
        (build_extended, step1_stage),
        (build_detector, detector_stage),
        (build_joint, step2_stage),
        (build_extended, jitter_stage),
    ],
)
def test_a_frozen_backbone_stays_in_every_stage(build, make, tmp_path: Path, make_settings, world: World) -> None:
    settings = make_settings(**{"network.frozen": True, "network.weights": "imagenet", "network.frozen_blocks": 0})
    torch.manual_seed(0)
    network = build(settings)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fit(make(settings, world, network), Run.create(tmp_path / "run", settings), make_fabric("cpu"))
    stayed = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    encoder = {key for key in before if key.removeprefix("autoencoder.").startswith("encoder.")}
    assert encoder <= stayed
    assert not any(key.endswith("weight") for key in stayed - encoder)


def test_no_two_stages_of_any_seeds_begin_alike(tmp_path: Path, make_settings) -> None:
    drawn = set()
    for seed in range(3):
        run = Run.create(tmp_path / str(seed), make_settings(seed=seed))
        for stage in ("step1", "original", "detector", "step2", "jitter"):
            stages._seed(run, stage)
            drawn.add(float(torch.rand(())))
    assert len(drawn) == 15
