"""What a training needs at least, before anything is tried: sizes that no machine has are refused in one line."""

from __future__ import annotations

import torch

from codepose.networks.build import build_joint
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.storage.memory import main_memory

_COPIES = 3
"""Of each weight: itself, its gradient, and one moment of the optimiser at least, in float32."""


def least_memory(settings: Settings) -> dict[str, float]:
    """Returns bytes that a training needs at least, by the options that decide them.

    Weights, gradients and moments; of an iteration's images the two full-size feature maps of the decoder's last block,
    and of VGG16's first, in bf16; the backgrounds of two splits; the codebook. The true need is a few times as much.
    """
    network, data = settings.network, settings.data
    with torch.device("meta"):
        weights = sum(p.numel() for p in build_joint(settings).parameters())
    pixel = 2 * 2 * max(1, round(64 * network.width))
    scene_pixel = pixel if network.backbone == "vgg16" else 3 * 4
    views = (10 * 4**settings.codebook.level + 2) * settings.codebook.in_plane
    crops, scenes = min(settings.step1.batch, data.step1_images), min(settings.step2.batch, data.scene_images)
    return {
        "--network.latent, --network.width or --network.crop": 4.0 * _COPIES * weights,
        "--step1.batch or --network.crop": float(crops * network.crop**2 * pixel),
        "--step2.batch or --data.camera.image-size": float(scenes * data.camera.image_size**2 * scene_pixel),
        "--data.textures or --data.camera.image-size": 2.0 * data.textures * 3 * data.camera.image_size**2,
        "--codebook.level, --codebook.in-plane or --network.latent": 2.0 * views * network.latent,
    }


def require_memory(settings: Settings, nodes: int = 1) -> None:
    """Refuses sizes that cannot be trained on this machine, which has its main memory and that of its GPUs.

    Args:
        settings: The run's.
        nodes: Machines that share the work.

    Raises:
        ConfigError: They need more memory; the text names the options.
    """
    have = float(main_memory())
    have += sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    for options, need in least_memory(settings).items():
        if need / nodes > have:
            raise ConfigError(
                f"training needs at least {need / 2**30:,.0f} GB of memory, and this machine has {have / 2**30:,.0f}: "
                f"lower {options}"
            )
