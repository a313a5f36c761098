"""The joint network and the two-network pipelines behind one interface: images to boxes, boxes to latents."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codepose.geometry import padded_square
from codepose.networks.autoencoder import Autoencoder
from codepose.networks.detector import Boxes, Detector, image_size
from codepose.networks.joint import JointNetwork
from codepose.networks.precision import autocast
from codepose.networks.roi import roi_pool
from codepose.settings.crop import ROI_PAD
from codepose.settings.schema import Settings


class Pipeline(Protocol):
    """What the codebook, the estimator and the evaluation need of a method.

    ``prepare`` does what an image needs once (the joint network's only encoder pass); the rest reads its result.
    """

    settings: Settings
    device: torch.device
    canvas: int
    """Side in pixels of the images from which the codebook's views are encoded."""
    codes_from_features: bool
    """Whether ``latents`` reads what ``prepare`` has encoded, so that a further box costs little."""

    def prepare(self, images: Tensor) -> Any:
        """(B, 3, H, W) in [0, 1] -> whatever the other calls read."""
        ...

    def select(self, prepared: Any, index: int) -> Any:
        """What ``prepare`` made of one image of the batch, as a batch of one."""
        ...

    def pixels(self, prepared: Any) -> Tensor:
        """The images themselves, (B, 3, H, W)."""
        ...

    def detect(self, prepared: Any, iou: float | None = None) -> list[Boxes]:
        """Each image's detections, best first; ``iou`` as ``DetectionHeads.detect`` has it."""
        ...

    def latents(self, prepared: Any, boxes: Tensor, images: Tensor) -> Tensor:
        """Latents (N, D) float32 of unpadded boxes (N, 4) in images (N,) of the batch."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstructions (N, 3, c, c) float32 in [0, 1]."""
        ...

    def modules(self) -> list[nn.Module]:
        """The networks on which the latents depend."""
        ...

    def networks(self) -> list[nn.Module]:
        """All networks."""
        ...


class JointPipeline:
    """The paper's: one encoder pass gives boxes and latents."""

    def __init__(self, network: JointNetwork, settings: Settings, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.settings = settings
        self.device = device
        self.canvas = settings.view_canvas
        self.codes_from_features = True

    @torch.no_grad()
    def prepare(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.settings, self.device):
            return images, self.network.encoder(images)

    def select(self, prepared: tuple[Tensor, Tensor], index: int) -> tuple[Tensor, Tensor]:
        images, features = prepared
        return images[index : index + 1], features[index : index + 1]

    def pixels(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        return prepared[0]

    @torch.no_grad()
    def detect(self, prepared: tuple[Tensor, Tensor], iou: float | None = None) -> list[Boxes]:
        images, features = prepared
        with autocast(self.settings, self.device):
            return self.network.heads.detect(features, image_size(images), iou)

    @torch.no_grad()
    def latents(self, prepared: tuple[Tensor, Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        with autocast(self.settings, self.device):
            return self.network.latents(prepared[1], boxes, images).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        with autocast(self.settings, self.device):
            return self.network.autoencoder.decode(latents).float()

    def modules(self) -> list[nn.Module]:
        return [self.network.autoencoder]

    def networks(self) -> list[nn.Module]:
        return [self.network]


class TwoStagePipeline:
    """The baselines: the detector's box, cut out and resized, goes into a separate autoencoder."""

    def __init__(
        self, detector: Detector | None, autoencoder: Autoencoder, settings: Settings, device: torch.device
    ) -> None:
        assert isinstance(autoencoder, nn.Module)
        self.detector = None if detector is None else detector.to(device).eval()
        self.autoencoder = autoencoder
        self._modules: list[nn.Module] = [autoencoder.to(device).eval()]
        self.settings = settings
        self.device = device
        self.canvas = settings.network.crop
        self.codes_from_features = False

    def prepare(self, images: Tensor) -> Tensor:
        return images

    def select(self, prepared: Tensor, index: int) -> Tensor:
        return prepared[index : index + 1]

    def pixels(self, prepared: Tensor) -> Tensor:
        return prepared

    @torch.no_grad()
    def detect(self, prepared: Tensor, iou: float | None = None) -> list[Boxes]:
        if self.detector is None:
            raise ValueError("this pipeline has no detector: give it boxes")
        with autocast(self.settings, self.device):
            return self.detector.detect(prepared.contiguous(memory_format=torch.channels_last), iou)

    @torch.no_grad()
    def latents(self, prepared: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        squares = padded_square(boxes, ROI_PAD)
        crops = roi_pool(prepared, squares, images, self.settings.network.crop, stride=1)
        with autocast(self.settings, self.device):
            return self.autoencoder.encode(crops.contiguous(memory_format=torch.channels_last)).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        with autocast(self.settings, self.device):
            return self.autoencoder.decode(latents).float()

    def modules(self) -> list[nn.Module]:
        return self._modules

    def networks(self) -> list[nn.Module]:
        return [*self._modules, *([] if self.detector is None else [self.detector])]
