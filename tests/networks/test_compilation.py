"""Encoders and decoders are one graph each, and compiled networks are the same networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codepose.config import Settings
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.networks.compilation import compile_convolutions


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
    images = torch.rand(2, 3, 32, 32)
    gradients = []
    for network in (plain, compiled):
        encoder: nn.Module = network.get_submodule(parts[0])
        encoder(images).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
