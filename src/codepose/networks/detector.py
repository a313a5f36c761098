"""What detection heads are to the rest of codepose, and the independent detector of the two-network pipelines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from codepose.networks.backbone import Backbone
from codepose.networks.boxes import Targets

Boxes = dict[str, Tensor]
"""One image's detections: 'boxes' (n, 4) xyxy pixels, 'labels' (n,) from 1, and 'scores' (n,)."""


class Proposals(NamedTuple):
    """Where objects may be, in B images.

    Attributes:
        boxes: (B, P, 4) xyxy pixels, best first; never a ground-truth box.
        valid: (B, P) bool, which of them exist: an image may have fewer than P.
    """

    boxes: Tensor
    valid: Tensor


class DetectionHeads(nn.Module, ABC):
    """Finds boxes on a backbone's feature map. The paper's are ``faster_rcnn.FasterRCNN``."""

    @abstractmethod
    def losses(self, features: Tensor, size: tuple[int, int], targets: Targets) -> tuple[dict[str, Tensor], Proposals]:
        """Returns L_faster's terms (Eq. 5), and the proposals of which Step 2 feeds back the best.

        Args:
            features: (B, C, h, w).
            size: (H, W) of the images.
            targets: Ground truth.
        """

    @abstractmethod
    def refine(self, features: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """Brings proposals nearer to their objects: the feedback of Section 3.2.

        Args:
            features: (B, C, h, w).
            boxes: (B, n, 4) proposals.
            labels: (B, n) the class whose box is wanted; 0 = background.
            size: (H, W) of the images.

        Returns:
            (B, n, 4) boxes inside the image, with gradient to the heads.
        """

    @abstractmethod
    def detect(self, features: Tensor, size: tuple[int, int], iou: float | None = None) -> list[Boxes]:
        """Returns each image's detections, best first, for features (B, C, h, w) of images of (H, W).

        Of two boxes of one object that overlap by more than ``iou`` the better one is kept; None = as the heads were
        made.
        """

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Returns all parameters by the names that a stage's phases use: 'rpn' and 'box_head'."""


class Detector(nn.Module):
    """A detector of its own, as the two-network pipelines have it."""

    def __init__(self, encoder: Backbone, heads: DetectionHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Returns the terms of L_faster (Eq. 5) for images (B, 3, H, W) in [0, 1]."""
        return self.heads.losses(self.encoder(images), image_size(images), targets)[0]

    def detect(self, images: Tensor, iou: float | None = None) -> list[Boxes]:
        """Returns each image's detections, best first; ``iou`` as the heads take it."""
        return self.heads.detect(self.encoder(images), image_size(images), iou)


def image_size(images: Tensor) -> tuple[int, int]:
    """Returns (H, W) of images (B, 3, H, W)."""
    return int(images.shape[2]), int(images.shape[3])
