"""Augmented Autoencoders: the paper's extended one on VGG16, and the original (Sundermeyer et al., ECCV 2018)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from codepose.networks.backbone import Backbone
from codepose.networks.vgg import Decoder, start_dark


class Autoencoder(Protocol):
    """What Step 1 trains and the two-network pipelines use."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, c, c) in [0, 1] -> latents (B, D)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, D) -> reconstructions (B, 3, c, c) in [0, 1]."""
        ...


class LatentHead(nn.Module):
    """The fully connected layers between a crop's feature map and the latent, both ways.

    Args:
        channels: Of the encoder's feature map.
        side: Of both feature maps.
        latent: Size of the latent.
        decoder_channels: Of the decoder's feature map.
    """

    def __init__(self, channels: int, side: int, latent: int, decoder_channels: int) -> None:
        super().__init__()
        self.shape = (decoder_channels, side, side)
        self.to_latent = nn.Linear(channels * side * side, latent)
        self.from_latent = nn.Linear(latent, decoder_channels * side * side)
        for layer in (self.to_latent, self.from_latent):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)

    def encode(self, features: Tensor) -> Tensor:
        latents: Tensor = self.to_latent(features.flatten(1))  # (B, D)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        return torch.relu(self.from_latent(latents)).reshape(-1, *self.shape)  # (B, C, s, s)


class ExtendedAutoencoder(nn.Module):
    """Section 3.1: VGG16 or another backbone, a latent, and the mirrored VGG16.

    Args:
        encoder, head, decoder: The parts; Step 2 takes them over.
    """

    def __init__(self, encoder: Backbone, head: LatentHead, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.decoder = decoder

    def encode(self, images: Tensor) -> Tensor:
        return self.head.encode(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        reconstructions: Tensor = self.decoder(self.head.decode(latents))
        return reconstructions

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents (B, D) and reconstructions (B, 3, c, c)."""
        latents = self.encode(images)
        return latents, self.decode(latents)


class OriginalAutoencoder(nn.Module):
    """The AAE of Sundermeyer et al.: four 5x5 convolutions of stride 2, an FC layer, and back."""

    def __init__(self, crop: int = 128, latent: int = 128, width: float = 1.0) -> None:
        super().__init__()
        filters = [max(4, round(f * width)) for f in (128, 256, 512, 512)]
        layers: list[nn.Module] = []
        channels = 3
        for out in filters:
            layers += [nn.Conv2d(channels, out, 5, stride=2, padding=2), nn.ReLU(inplace=True)]
            channels = out
        self.encoder = nn.Sequential(*layers)
        self.head = LatentHead(channels, crop // 2 ** len(filters), latent, channels)
        layers = []
        for out in [*filters[-2::-1], 3]:
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, out, 5, padding=2)]
            layers += [nn.ReLU(inplace=True)] if out != 3 else []
            channels = out
        self.decoder = nn.Sequential(*layers)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        start_dark(self.decoder[-1])

    def encode(self, images: Tensor) -> Tensor:
        return self.head.encode(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(self.head.decode(latents)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents (B, D) and reconstructions (B, 3, c, c)."""
        latents = self.encode(images)
        return latents, self.decode(latents)
