"""A training begins where another one ended, as far as the networks are alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from codepose.cli.main import main
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.runtime.checkpoint import load_state
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run, RunError, pretrained
from codepose.settings.data import ObjectSettings
from codepose.settings.files import load_preset
from codepose.settings.schema import Settings
from codepose.synthesis.world import World
from codepose.training.initial import begin_with, require_initial
from codepose.training.stages import train_detector, train_step1, train_step2


def with_network(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update={"network": settings.network.model_copy(update=changes)})


@pytest.fixture
def joint(tmp_path: Path, tiny_settings: Settings) -> tuple[Path, nn.Module]:
    """A run whose joint network is there."""
    run = Run.create(tmp_path / "before", tiny_settings)
    torch.manual_seed(1)
    network = build_joint(tiny_settings)
    run.save_weights("step2", network)
    return run.path, network


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_every_network_begins_with_its_parts(joint: tuple[Path, nn.Module], tiny_settings: Settings) -> None:
    path, trained = joint
    extended, detector, again = (b(tiny_settings) for b in (build_extended, build_detector, build_joint))
    for network in (extended, detector, again):
        begin_with(network, str(path))
    assert same(extended, trained.autoencoder)
    assert same(detector.encoder, trained.autoencoder.encoder)
    assert same(detector.heads, trained.heads)
    assert same(again, trained)


def test_what_does_not_fit_begins_at_random(joint: tuple[Path, nn.Module], tiny_settings: Settings) -> None:
    path, trained = joint
    two = (*tiny_settings.objects, ObjectSettings(mesh="hammer", label="other"))
    other = with_network(tiny_settings, latent=tiny_settings.network.latent + 1).model_copy(update={"objects": two})
    network, fresh = build_joint(other), build_joint(other)
    fresh.load_state_dict(network.state_dict())
    begin_with(network, str(path))
    assert same(network.autoencoder.encoder, trained.autoencoder.encoder)
    assert same(network.autoencoder.decoder, trained.autoencoder.decoder)
    assert same(network.heads.rpn, trained.heads.rpn)
    assert torch.equal(network.autoencoder.head.to_latent.weight, fresh.autoencoder.head.to_latent.weight)
    predictors = (n.heads.roi_heads.box_predictor for n in (network, fresh))
    assert same(*predictors)


def test_the_original_autoencoder_begins_at_random(joint: tuple[Path, nn.Module], tiny_settings: Settings) -> None:
    network = build_original(tiny_settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    begin_with(network, str(joint[0]))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_encoder_is_refused(joint: tuple[Path, nn.Module], tiny_settings: Settings) -> None:
    for change in ({"width": 2 * tiny_settings.network.width}, {"norm": "none"}):
        with pytest.raises(RunError, match=r"--network.width"):
            require_initial(with_network(tiny_settings, weights=str(joint[0]), **change))


def test_quick_begins_at_the_network_that_codepose_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it fits, whatever lies in the folder from which it is trained; the demo begins at random."""
    (tmp_path / "hammer").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = load_preset("quick")
    network = build_joint(settings)
    begin_with(network, settings.network.weights)
    base = load_state(pretrained()["base"] / "step2" / "weights.safetensors")
    assert all(torch.equal(value, base[key].to(value)) for key, value in network.state_dict().items())


def test_a_run_without_a_joint_network_is_refused(tmp_path: Path, tiny_settings: Settings) -> None:
    run = Run.create(tmp_path / "empty", tiny_settings)
    with pytest.raises(RunError, match="no joint network to begin with"):
        require_initial(with_network(tiny_settings, weights=str(run.path)))


def test_training_begins_there_and_a_resumed_one_does_not_begin_again(
    joint: tuple[Path, nn.Module], tmp_path: Path, tiny_settings: Settings, world: World
) -> None:
    """With a learning rate of nothing the end is the beginning."""
    path, trained = joint
    still = {
        name: getattr(tiny_settings, name).model_copy(
            update={"optimizer": getattr(tiny_settings, name).optimizer.model_copy(update={"lr": 1e-9})}
        )
        for name in ("step1", "step2", "detector")
    }
    settings = with_network(tiny_settings, weights=str(path)).model_copy(update=still)
    run, fabric = Run.create(tmp_path / "after", settings), make_fabric("cpu")
    extended = train_step1(run, world, fabric)
    joint_again, detector = train_step2(run, world, fabric, extended), train_detector(run, world, fabric)
    for one, other in ((extended, trained.autoencoder), (joint_again, trained), (detector.heads, trained.heads)):
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-6)
    (path / "step2" / "weights.safetensors").unlink()  # what is done needs no beginning
    assert same(train_step1(run, world, fabric), extended)
    assert main(["train", "--out", str(run.path), "--resume", "--device", "cpu"]) == 0
