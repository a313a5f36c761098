"""What camera and light do to a picture."""

from __future__ import annotations

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F


def uniform(shape: tuple[int, ...] | int, low: float, high: float, device: torch.device) -> Tensor:
    """Returns random numbers in [low, high)."""
    return torch.empty(shape, device=device).uniform_(low, high)


def develop(photos: Tensor) -> Tensor:
    """What camera and light do to images (B, 3, s, s): exposure, colour, blur, resolution, noise, 8 bits."""
    count, where = len(photos), photos.device
    line = torch.linspace(-1.0, 1.0, photos.shape[-1], device=where)
    slope = torch.randn(count, 2, 1, 1, device=where) * 0.15
    ramp = 1.0 + slope[:, :1] * line + slope[:, 1:] * line[:, None]
    gain = torch.exp(0.3 * torch.randn(count, 1, 1, 1, device=where))
    balance = torch.exp(0.1 * torch.randn(count, 3, 1, 1, device=where))
    photos = (photos * ramp.clamp_min(0.3) * gain * balance).clamp(1e-4, 1.0)
    photos = photos.pow(torch.exp(0.3 * torch.randn(count, 1, 1, 1, device=where)))
    grey = photos.mean(1, keepdim=True)
    color = uniform((count, 1, 1, 1), 0.3, 1.5, where)
    color = torch.where(torch.rand_like(color) < 0.08, 0.0, color)
    photos = grey + (photos - grey) * color
    middle = photos.mean((2, 3), keepdim=True)
    photos = middle + (photos - middle) * uniform((count, 1, 1, 1), 0.5, 1.4, where)
    photos = photos + 0.05 * torch.randn(count, 1, 1, 1, device=where)
    photos = _blurred(photos)
    sharpen = uniform((count, 1, 1, 1), -1.0, 1.2, where).clamp_min(0.0)
    photos = photos + sharpen * (photos - F.avg_pool2d(photos, 3, 1, 1, count_include_pad=False))
    noise = torch.randn_like(photos) * uniform((count, 1, 1, 1), 0.0, 0.05, where)
    coarse = F.interpolate(torch.randn(count, 3, 48, 48, device=where), photos.shape[-1], mode="bilinear")
    noise = noise + coarse * uniform((count, 1, 1, 1), 0.0, 0.03, where)
    return ((photos + noise).clamp(0.0, 1.0) * 255.0).round() / 255.0


def _blurred(photos: Tensor) -> Tensor:
    """Gaussian blur with a sigma of its own for each image, along each axis."""
    sigma = uniform((2, len(photos)), -1.0, 2.2, photos.device).clamp_min(0.15).T
    blurred: Tensor = gaussian_blur2d(photos, (11, 11), sigma, border_type="replicate")
    return blurred
