"""Lights, shading and per-image colour, blur and noise changes: the original AAE's domain randomisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose.rendering.renderer import Buffers, Instances, Renderer

if TYPE_CHECKING:
    from codepose.randomness import Draws
    from codepose.settings.data import AugmentationSettings

CHANGED = 0.5
"""Share of the images that each change of appearance is made to; each draws by itself."""
PER_CHANNEL = 0.3
"""Share of the images whose channels each change by an amount of their own."""
ADD = 0.1
"""Largest brightness added or taken away, of images in [0, 1]."""
MULTIPLY = (0.6, 1.4)
"""Range of the factor on the brightness."""


@dataclass(frozen=True)
class Lights:
    """One directional light an image, with Phong coefficients.

    Attributes:
        direction: (B, 3) unit vectors in the camera frame, from the scene towards the light.
        ambient, diffuse, specular, shininess: (B,).
    """

    direction: Tensor
    ambient: Tensor
    diffuse: Tensor
    specular: Tensor
    shininess: Tensor

    @classmethod
    def fixed(cls, count: int, device: torch.device) -> Lights:
        """The light of every target image: behind the camera, up and to the left."""
        direction = F.normalize(torch.tensor([-0.4, -0.6, -1.0], device=device), dim=0)
        ones = torch.ones(count, device=device)
        return cls(direction.expand(count, 3), 0.4 * ones, 0.8 * ones, 0.3 * ones, 16.0 * ones)

    @classmethod
    def draw(cls, draws: Draws, settings: AugmentationSettings) -> Lights:
        """Lights from anywhere on the camera's hemisphere."""
        direction = draws.direction("light")
        direction[:, 2] = -direction[:, 2].abs()
        terms = {
            name: draws.uniform(name, low=low, high=high)
            for name, (low, high) in (
                ("ambient", settings.ambient),
                ("diffuse", settings.diffuse),
                ("specular", settings.specular),
                ("shininess", (4.0, 48.0)),
            )
        }
        return cls(direction, **terms)


def shade(buffers: Buffers, image: Tensor, K: Tensor, lights: Lights, tint: Tensor) -> Tensor:
    """Shades the pixels that were hit, by Phong's model.

    Args:
        buffers: A render of B images.
        image: (N,) image of each instance.
        K: (B, 3, 3) the cameras it was rendered with.
        lights: B lights.
        tint: (N, 3) factor on each instance's colours.

    Returns:
        (B, 4, H, W): RGB in [0, 1] times coverage, and the coverage itself, 0 or 1.
    """
    count, height, width = buffers.depth.shape
    out = torch.zeros(count, height, width, 4, device=buffers.depth.device)
    hit = (buffers.instance.view(-1) >= 0).nonzero().squeeze(1)
    owner = buffers.instance.view(-1)[hit].long()
    b = image[owner]
    normal = buffers.normal.view(-1, 3)[hit]
    column, row = hit % width, (hit // width) % height
    rays = torch.stack(  # to the pixels
        (
            (column + 0.5 - K[b, 0, 2]) / K[b, 0, 0],
            (row + 0.5 - K[b, 1, 2]) / K[b, 1, 1],
            torch.ones_like(b, dtype=torch.float32),
        ),
        1,
    )
    light = lights.direction[b]
    facing = (normal * light).sum(1)
    mirrored = 2.0 * facing[:, None] * normal - light
    highlight = -(mirrored * F.normalize(rays, dim=1)).sum(1)
    lit = facing > 0
    # a power, by exp and log: torch's own rounds differently at different places of a tensor
    shine = (lights.shininess[b] * highlight.clamp_min(1e-6).log()).exp()
    glint = torch.where(lit, shine, 0.0) * lights.specular[b]
    matte = lights.ambient[b] + lights.diffuse[b] * facing.clamp_min(0.0)
    color = (buffers.color.view(-1, 3)[hit] * tint[owner] * matte[:, None] + glint[:, None]).clamp(0.0, 1.0)
    out.view(-1, 4)[hit] = torch.cat((color, torch.ones_like(color[:, :1])), 1)
    return out.permute(0, 3, 1, 2)


def render_shaded(
    renderer: Renderer,
    instances: Instances,
    K: Tensor,
    size: int,
    lights: Lights,
    tint: Tensor,
    antialias: int,
) -> tuple[Tensor, Buffers]:
    """Renders and shades square images.

    Args:
        renderer: Of the meshes.
        instances: What stands in the images.
        K: (B, 3, 3) their cameras, pixel centres at integer + 0.5.
        size: Their side in pixels.
        lights: One an image.
        tint: (N, 3) factor on each instance's colours.
        antialias: Rays a pixel along each axis.

    Returns:
        (B, 4, size, size) colour times coverage and coverage in [0, 1], and the buffers at
        ``antialias * size`` pixels (sample [::antialias] or reduce them as the use requires).
    """
    fine = K.clone()
    fine[:, :2] *= antialias
    buffers = renderer.render(instances, fine, (size * antialias, size * antialias))
    rgba = shade(buffers, instances.image, fine, lights, tint)
    return (F.avg_pool2d(rgba, antialias) if antialias > 1 else rgba), buffers


def augment(images: Tensor, draws: Draws, settings: AugmentationSettings, difficulty: float = 1.0) -> Tensor:
    """Changes colour, contrast, sharpness and noise of each image by its own amounts.

    Args:
        images: (B, 3, H, W) in [0, 1].
        draws: The items' random numbers.
        settings: Further ranges, and how often channels are inverted.
        difficulty: 0 leaves the images as they are, 1 uses the full ranges (curriculum).

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if difficulty <= 0.0:
        return images

    def amount(name: str, low: float, high: float, neutral: float) -> Tensor:
        """(B, 3, 1, 1): one value for all channels, or one each for a share of the images."""
        values = draws.uniform(name, 3, low=low, high=high)
        values = torch.where(draws.chance(name + "?channels", PER_CHANNEL)[:, None], values, values[:, :1])
        chosen = draws.chance(name + "?", CHANGED)[:, None]
        values = torch.where(chosen, neutral + (values - neutral) * difficulty, neutral)
        return values[:, :, None, None]

    invert = draws.chance("invert", settings.invert_channel * difficulty, 3)
    invert &= draws.chance("invert?", CHANGED)[:, None]
    gain = amount("multiply", *MULTIPLY, 1.0)
    contrast = amount("contrast", *settings.contrast, 1.0)
    added = amount("add", -ADD, ADD, 0.0)
    sign = torch.where(invert, -1.0, 1.0)[:, :, None, None]
    # add, invert and multiply clip as they would on 8-bit images; contrast last, about mid-grey
    images = (images + added).clamp_(0.0, 1.0)
    images.sub_(0.5).mul_(sign).add_(0.5).mul_(gain).clamp_(0.0, 1.0)
    images.sub_(0.5).mul_(contrast).add_(0.5).clamp_(0.0, 1.0)
    images = _blur(images, draws, settings, difficulty)
    return _noise(images, draws, settings.noise * difficulty)


def _blur(images: Tensor, draws: Draws, settings: AugmentationSettings, difficulty: float) -> Tensor:
    sigma = draws.uniform("blur", high=settings.blur_sigma * difficulty)
    chosen = (draws.chance("blur?", CHANGED) & (sigma > 0.2)).nonzero().squeeze(1)
    if len(chosen) == 0:
        return images
    side = 1 + 2 * max(3, math.ceil(2.5 * settings.blur_sigma))
    blurred = gaussian_blur2d(images[chosen], (side, side), sigma[chosen, None].expand(-1, 2))
    return images.index_copy(0, chosen, blurred)


_BANK = 1 << 22


def _noise(images: Tensor, draws: Draws, largest: float) -> Tensor:
    """Adds white noise, read from a fixed bank at a random place, so that no image depends on its batch."""
    if largest <= 0.0:
        return images
    sigma = draws.uniform("noise", high=largest)[:, None, None, None]
    bank, size = _noise_bank(images.device), images[0].numel()
    if size >= _BANK:
        bank = bank.repeat(2 + size // _BANK)
    places = draws.on_cpu().integer("noise place", len(bank) - size).tolist()
    noise = torch.stack([bank[place : place + size] for place in places])
    return noise.view_as(images).mul_(sigma).add_(images).clamp_(0.0, 1.0)


@cache
def _noise_bank(device: torch.device) -> Tensor:
    return torch.randn(_BANK, generator=torch.Generator().manual_seed(20180908)).to(device)
