"""Encoders and decoders are one graph each, and compiled networks are the same networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.networks.compilation import compile_convolutions
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.synthesis.world import World
from codepose.training.stages import train_step1


@pytest.mark.parametrize("norm", ["none", "block"])
@pytest.mark.parametrize("original", [False, True])
def test_nothing_breaks_the_graph(tiny_settings: Settings, norm: str, original: bool) -> None:
    changed = tiny_settings.network.model_copy(update={"norm": norm})
    settings = tiny_settings.model_copy(update={"network": changed})
    network = build_original(settings) if original else build_extended(settings)
    images = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        features = network.encoder(images)
        for part, argument in ((network.encoder, images), (network.decoder, features)):
            found = torch._dynamo.explain(part)(argument)
            assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.parametrize("build", [build_extended, build_original, build_detector, build_joint])
def test_compiled_networks_keep_their_weights_names_and_gradients(tiny_settings: Settings, build) -> None:
    plain, compiled = build(tiny_settings), build(tiny_settings)
    compiled.load_state_dict(plain.state_dict())
    compile_convolutions(compiled, backend="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    parts = [name for name, part in compiled.named_modules() if part._compiled_call_impl is not None]
    assert len(parts) == (1 if build is build_detector else 2)
    gradients = []
    for network in (plain, compiled):
        torch.manual_seed(0)
        for name in parts:
            part: nn.Module = network.get_submodule(name)
            channels = next(p.shape[1] for p in part.parameters())
            part(torch.rand(2, channels, 32, 32)).square().sum().backward()
        gradients.append([p.grad for name in parts for p in network.get_submodule(name).parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_every_set_of_frozen_layers_is_compiled(tiny_settings: Settings) -> None:
    """Torch stops at eight graphs of one layer's code, without an error, unless it is told to go on."""
    graphs = 0

    def counting(module: torch.fx.GraphModule, _: object) -> object:
        nonlocal graphs
        graphs += 1
        return module

    torch._dynamo.reset()
    network = build_extended(tiny_settings)
    compile_convolutions(network, backend=counting)
    for count, parameter in enumerate(list(network.encoder.parameters())[:12], start=1):
        network.encoder(torch.rand(2, 3, 32, 32))
        assert graphs == count
        parameter.requires_grad_(False)
    torch._dynamo.reset()


@pytest.mark.parametrize("wanted", [False, True])
def test_training_compiles_where_the_settings_say_so(
    tiny_settings: Settings, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        "codepose.training.loop.compile_convolutions", lambda network: compiled.append(type(network).__name__)
    )
    settings = override(tiny_settings, {"compile": wanted, "data.step1_images": 2, "step1.batch": 2})
    run = Run.create(tmp_path / "run", settings)
    train_step1(run, World(settings), make_fabric("cpu"))
    assert compiled == (["ExtendedAutoencoder"] if wanted else [])
