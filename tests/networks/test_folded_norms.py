"""Batch norms folded into convolutions: the same features, and never those of earlier weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from codepose.networks.folded_norms import Folded, folded
from codepose.networks.timm_backbone import TimmBackbone

pytest.importorskip("timm")


@pytest.fixture
def backbone() -> TimmBackbone:
    torch.manual_seed(0)
    network = TimmBackbone("test_efficientnet", 0.125).eval()
    for layer in network.model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert isinstance(layer.running_mean, Tensor)
            assert isinstance(layer.running_var, Tensor)
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def test_features_stay_and_norms_go(backbone: TimmBackbone) -> None:
    images = torch.rand(2, 3, 64, 64)
    learning = backbone(images)  # with gradient: the network as it is
    with torch.no_grad():
        standing = backbone(images)
    torch.testing.assert_close(standing, learning)
    copied = backbone._folded._copy
    assert copied is not None
    assert (norms(copied), norms(backbone.model)) == (0, 9)
    assert not any(layer._forward_hooks for layer in copied.modules()), "what looked is gone"
    assert not any(p.requires_grad for p in copied.parameters())


def test_a_frozen_network_is_folded_in_training_too(backbone: TimmBackbone) -> None:
    backbone.train()
    backbone.model.requires_grad_(False)
    backbone(torch.rand(1, 3, 64, 64)).sum().backward()
    assert backbone._folded._copy is not None
    assert all(p.grad is not None for p in backbone.neck.parameters())


@pytest.mark.parametrize("change", ["weights", "statistics"])
def test_new_weights_are_folded_anew(backbone: TimmBackbone, change: str) -> None:
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images)
        state = copy.deepcopy(backbone.state_dict())
        for key, value in state.items():
            if key.startswith("model.") and key.endswith("running_mean" if change == "statistics" else "weight"):
                value += 0.1
        backbone.load_state_dict(state)
        after = backbone(images)
    with torch.enable_grad():
        torch.testing.assert_close(after, backbone(images).detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before)


def test_a_copy_of_a_network_folds_its_own_weights(backbone: TimmBackbone) -> None:
    with torch.no_grad():
        backbone(torch.rand(1, 3, 64, 64))
        twin = copy.deepcopy(backbone)
        assert twin._folded._copy is None


class _Chain(nn.Module):
    """A convolution and a batch norm, with something between or beside them."""

    def __init__(self, between: Callable[[Tensor], Tensor], beside: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.between, self.beside = between, beside

    def forward(self, x: Tensor) -> Tensor:
        given = self.conv(x)
        normed: Tensor = self.norm(self.between(given))
        return normed + self.beside * given


@pytest.mark.parametrize(
    ("between", "beside", "goes"),
    [(lambda x: x, 0.0, True), (torch.relu_, 0.0, False), (lambda x: x, 1.0, False), (lambda x: 2 * x, 0.0, False)],
    ids=["nothing", "in place", "read twice", "twice as large"],
)
def test_only_norms_right_behind_a_convolution_go(
    between: Callable[[Tensor], Tensor], beside: float, goes: bool
) -> None:
    torch.manual_seed(0)
    network, image = _Chain(between, beside).eval(), torch.randn(1, 3, 8, 8)
    assert network.norm.running_mean is not None
    network.norm.running_mean.fill_(0.7)
    found = folded(network, lambda one: [one(image)])
    assert norms(found) == (0 if goes else 1)
    torch.testing.assert_close(found(image), network(image))


def test_one_that_is_pickled_begins_anew() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(Folded()))._copy is None
