"""VGG16's shapes, its mirror, and torchvision's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from codepose.networks.autoencoder import LatentHead, OriginalAutoencoder
from codepose.networks.vgg import Decoder, Encoder, load_imagenet
from codepose.settings.errors import ConfigError


@pytest.mark.parametrize("norm", ["none", "block"])
def test_shapes_go_down_by_sixteen_and_back(norm: str) -> None:
    encoder, decoder = Encoder(0.125, norm), Decoder(0.125, norm)
    features = encoder(torch.rand(2, 3, 64, 96))
    assert features.shape == (2, 64, 4, 6)
    out = decoder(features).detach()
    assert out.shape == (2, 3, 64, 96)
    assert 0.0 <= float(out.min()) <= float(out.max()) <= 1.0


def test_full_width_encoder_is_torchvisions_vgg16_without_pool5() -> None:
    with torch.device("meta"):
        ours, theirs = Encoder(), vgg16()
    mine = {k: v.shape for k, v in ours.state_dict().items()}
    reference = {k: v.shape for k, v in theirs.state_dict().items() if k.startswith("features")}
    assert mine == reference
    kinds = [type(layer) for layer in ours.features]
    assert kinds == [type(layer) for layer in theirs.features[:-1]]


def test_images_are_normalised_by_imagenets_mean_and_deviation() -> None:
    """Colours in [0, 1]: those of ImageNet's average picture are zeros to the first layer."""
    torch.manual_seed(0)
    encoder, images = Encoder(0.125), torch.rand(2, 3, 32, 48)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / deviation[:, None, None]
    expected = encoder.features(normalised)
    torch.testing.assert_close(encoder(images), expected)
    assert (encoder.features(images) - expected).norm() > 0.25 * expected.norm()
    assert encoder(mean[:, None, None].expand(1, 3, 16, 16)).abs().max() == 0.0


def test_decoder_mirrors_the_encoder() -> None:
    """Thirteen convolutions each way, with the channel pairs turned round, and four upsamplings."""
    encoder, decoder = Encoder(0.25), Decoder(0.25)
    down = [(c.in_channels, c.out_channels) for c in encoder.modules() if isinstance(c, nn.Conv2d)]
    up = [(c.in_channels, c.out_channels) for c in decoder.modules() if isinstance(c, nn.Conv2d)]
    assert len(down) == 13
    assert up == [(out, into) for into, out in reversed(down)]
    assert sum(isinstance(m, nn.Upsample) for m in decoder.modules()) == 4


def small_imagenet_file(folder: Path) -> Path:
    """A file with VGG16's names and shapes: every tensor repeats one number, so it takes kilobytes."""
    with torch.device("meta"):
        state = vgg16().state_dict()
    path = folder / "vgg16.pth"
    torch.save({k: torch.full((1,), float(i)).expand(v.shape) for i, (k, v) in enumerate(state.items())}, path)
    assert path.stat().st_size < 100_000
    return path


def test_imagenet_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    encoder = Encoder()
    load_imagenet(encoder, small_imagenet_file(tmp_path))
    for i, value in enumerate(encoder.state_dict().values()):
        assert (value == float(i)).all()


def test_missing_imagenet_file_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*--network\.weights none"):
        load_imagenet(Encoder(0.125), tmp_path / "nowhere.pth")


def test_a_damaged_imagenet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    whole = small_imagenet_file(tmp_path).read_bytes()
    number, text, names = (tmp_path / name for name in ("number", "text", "names"))
    torch.save(3, number)
    torch.save(["features.0.weight"], names)
    text.write_text("<html>")
    for content in (b"", whole[:100], whole[: len(whole) // 2], *(p.read_bytes() for p in (number, text, names))):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"vgg16.pth is damaged or holds no weights: delete it and download"):
            load_imagenet(Encoder(0.125), path)
    torch.save({"features.0.weight": 3}, path)
    with pytest.raises(ConfigError, match="does not fit"):
        load_imagenet(Encoder(0.125), path)


def test_imagenet_weights_need_full_width(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--network\.width 1 --network\.norm none"):
        load_imagenet(Encoder(0.125), small_imagenet_file(tmp_path))


def test_original_autoencoder_has_the_published_size() -> None:
    """29.7 M parameters (the AAE's own count)."""
    network = OriginalAutoencoder()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(29.7e6, rel=0.02)
    latents, images = OriginalAutoencoder(64, 32, 0.125)(torch.rand(2, 3, 64, 64))
    assert latents.shape == (2, 32)
    assert images.shape == (2, 3, 64, 64)


def test_latent_head_maps_the_paper_sizes() -> None:
    """32,768 -> latent -> 32,768 (12)."""
    with torch.device("meta"):
        head = LatentHead(512, 8, 4096, 512)
    assert head.to_latent.weight.shape == (4096, 32768)
    assert head.from_latent.weight.shape == (32768, 4096)


@pytest.mark.parametrize("width", [0.1, 0.3, 0.4, 0.6, 0.8, 1.0])
def test_every_width_can_be_normalised(width: float) -> None:
    """19 channels have no four groups of one size."""
    features = Encoder(width, "block")(torch.rand(1, 3, 32, 32))
    images = Decoder(width, "block")(features)
    assert images.shape == (1, 3, 32, 32)
    assert images.isfinite().all()
