"""Lights, shading and per-image colour, blur and noise changes: the original AAE's domain randomisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose.randomness import Draws
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.settings.data import AugmentationSettings

_LAMPS = 6


@dataclass(frozen=True)
class Room:
    """What polished metal mirrors: dim walls and some lamps, each a Gaussian of the direction.

    Attributes:
        share: (B,) how much of an image's surfaces is mirror, in [0, 1]; the rest is as ``Lights`` says.
        walls: (B,) brightness.
        lamps: (B, L, 3) unit vectors in the camera frame, towards the lamps.
        sharpness: (B, L) of exp(sharpness (cosine - 1)): 4 = a window, 400 = a bulb.
        brightness: (B, L).
    """

    share: Tensor
    walls: Tensor
    lamps: Tensor
    sharpness: Tensor
    brightness: Tensor

    @classmethod
    def draw(cls, draws: Draws, metal: float) -> Room | None:
        """Rooms, of which a share ``metal`` of the images sees something; None = none of them."""
        if metal <= 0.0:
            return None
        share = draws.uniform("metal share", low=0.5)
        lamps = torch.stack([draws.direction(f"lamp {k}") for k in range(_LAMPS)], 1)
        spread = draws.uniform("lamp sharpness", _LAMPS, low=math.log(4.0), high=math.log(400.0))
        return cls(
            share=torch.where(draws.chance("metal", metal), share, 0.0),
            walls=draws.uniform("walls", high=0.6),
            lamps=lamps,
            sharpness=spread.exp(),
            brightness=draws.uniform("lamp brightness", _LAMPS, high=1.5),
        )

    def seen(self, image: Tensor, direction: Tensor) -> Tensor:
        """Brightness (N,) in unit directions (N, 3) of images (N,)."""
        cosine = (self.lamps[image] * direction[:, None]).sum(-1)  # (N, L)
        return self.walls[image] + (self.brightness[image] * (self.sharpness[image] * (cosine - 1.0)).exp()).sum(1)


@dataclass(frozen=True)
class Lights:
    """One directional light an image, with Phong coefficients.

    Attributes:
        direction: (B, 3) unit vectors in the camera frame, from the scene towards the light.
        ambient, diffuse, specular, shininess: (B,).
        room: What metal mirrors; None = nothing is metal.
    """

    direction: Tensor
    ambient: Tensor
    diffuse: Tensor
    specular: Tensor
    shininess: Tensor
    room: Room | None = None

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
        return cls(direction, **terms, room=Room.draw(draws, settings.metal))


def shade(buffers: Buffers, image: Tensor, K: Tensor, lights: Lights, tint: Tensor) -> Tensor:
    """Shades the pixels that were hit, by Phong's model, and as mirrors where the lights have a room.

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
    own = buffers.color.view(-1, 3)[hit] * tint[owner]
    color = own * matte[:, None] + glint[:, None]
    if lights.room is not None:
        toward = F.normalize(rays, dim=1)
        bounced = toward - 2.0 * (toward * normal).sum(1, keepdim=True) * normal
        mirror = lights.room.share[b][:, None]
        hue = own / own.amax(1, keepdim=True).clamp_min(1e-3)  # polished, it throws back nearly all light
        color = (1.0 - mirror) * color + mirror * hue * lights.room.seen(b, bounced)[:, None]
    color = color.clamp(0.0, 1.0)
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
    """Renders and shades square images with ``antialias`` rays a pixel along each axis.

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
    """Changes colour, contrast, sharpness and noise of each image, and how it was stored, by its own amounts.

    Args:
        images: (B, 3, H, W) in [0, 1].
        draws: The items' random numbers.
        settings: Ranges and probabilities.
        difficulty: 0 leaves the images as they are, 1 uses the full ranges (curriculum).

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if difficulty <= 0.0:
        return images

    def amount(name: str, low: float, high: float, neutral: float) -> Tensor:
        """(B, 3, 1, 1): one value for all channels, or one each for a share of the images."""
        values = draws.uniform(name, 3, low=low, high=high)
        values = torch.where(draws.chance(name + "?channels", settings.per_channel)[:, None], values, values[:, :1])
        chosen = draws.chance(name + "?", settings.probability)[:, None]
        values = torch.where(chosen, neutral + (values - neutral) * difficulty, neutral)
        return values[:, :, None, None]

    invert = draws.chance("invert", settings.invert_channel * difficulty, 3)
    invert &= draws.chance("invert?", settings.probability)[:, None]
    gain = amount("multiply", *settings.multiply, 1.0)
    contrast = amount("contrast", *settings.contrast, 1.0)
    added = amount("add", -settings.add, settings.add, 0.0)
    sign = torch.where(invert, -1.0, 1.0)[:, :, None, None]
    # add, invert and multiply clip as they would on 8-bit images; contrast last, about mid-grey
    images = (images + added).clamp_(0.0, 1.0)
    images.sub_(0.5).mul_(sign).add_(0.5).mul_(gain).clamp_(0.0, 1.0)
    images.sub_(0.5).mul_(contrast).add_(0.5).clamp_(0.0, 1.0)
    images = _blur(images, draws, settings, difficulty)
    images = _noise(images, draws, settings.noise * difficulty)
    # what a camera does with what its sensor saw
    images = _sharpen(images, draws, settings.sharpen * difficulty)
    return _jpeg(images, draws, settings.jpeg * difficulty)


def _blur(images: Tensor, draws: Draws, settings: AugmentationSettings, difficulty: float) -> Tensor:
    sigma = draws.uniform("blur", high=settings.blur_sigma * difficulty)
    chosen = (draws.chance("blur?", settings.probability) & (sigma > 0.2)).nonzero().squeeze(1)
    if len(chosen) == 0:
        return images
    side = 1 + 2 * max(3, math.ceil(2.5 * settings.blur_sigma))
    blurred = gaussian_blur2d(images[chosen], (side, side), sigma[chosen, None].expand(-1, 2))
    return images.index_copy(0, chosen, blurred)


def _sharpen(images: Tensor, draws: Draws, largest: float) -> Tensor:
    """Unsharp masking, as most cameras do it."""
    if largest <= 0.0:
        return images
    strength = draws.uniform("sharpen", high=largest)[:, None, None, None]
    soft: Tensor = gaussian_blur2d(images, (5, 5), (1.0, 1.0))
    return (images + strength * (images - soft)).clamp_(0.0, 1.0)


def _jpeg(images: Tensor, draws: Draws, share: float) -> Tensor:
    """JPEG's blocks and smeared colours, on the device."""
    chosen = draws.chance("jpeg?", share).nonzero().squeeze(1)
    if len(chosen) == 0:
        return images
    quality = draws.uniform("jpeg quality", low=30.0, high=95.0)[chosen]
    return images.index_copy(0, chosen, jpeg_codec_differentiable(images[chosen], quality))


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
