"""Pictures of untidy benches: things of everyday shape before a surface, lit and with soft shadows."""

from __future__ import annotations

import math

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.things import SIZE_MM, things
from codepose.rendering.renderer import Instances, Renderer
from codepose.rendering.shading import Lights, render_shaded
from codepose.synthesis.materials import grained, material
from codepose.synthesis.surfaces import surface

_KINDS = 48
"""How many things there are to choose from."""
_BARE = 0.25
"""Share of the pictures that show the material alone."""
_FEWEST, _MOST = 8, 50
"""Things in a picture."""
_SIZES = (0.04, 0.4)
"""Their sizes, in sides of the picture."""
_FOCAL = 1.5
"""Of the camera, in sides of the picture."""
_DISTANCE_MM = (800.0, 1200.0)
_ANTIALIAS = 2
_PHOTOGRAPHED = 0.5
"""Share of the grounds that are photographs of surfaces; the others are made by code."""


def benches(count: int, side: int, seed: list[int], split: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Returns pictures (count, 3, side, side) uint8, each the same of any side but for its finest grain.

    Args:
        count: How many.
        side: In pixels.
        seed: Numbers that choose the things and all pictures.
        split: 0 = training, 1 = validation, 2 = test: things, pictures and photographed surfaces of their own.
        device: Where they are rendered.
    """
    seed = [*seed, split]
    renderer = Renderer(things(_KINDS, seed), device)
    return torch.stack([_bench(renderer, side, split, np.random.default_rng([*seed, k])) for k in range(count)])


def _bench(renderer: Renderer, side: int, split: int, rng: np.random.Generator) -> Tensor:
    ground = surface(rng, side, split) if rng.random() < _PHOTOGRAPHED else material(rng, side)
    picture = ground.to(renderer.device)
    if rng.random() >= _BARE:
        picture = _heaped(renderer, picture, rng)
    return grained(picture.cpu(), rng).to(renderer.device)


def _heaped(renderer: Renderer, ground: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture (3, s, s) with things before it."""
    side = ground.shape[-1]
    K = geometry.camera_matrix(_FOCAL * side, side / 2, side / 2)[None].to(ground.device)
    instances, tint = _heap(rng, side, K[0])
    lights = _light(rng, ground.device)
    rgba, _ = render_shaded(renderer, instances, K, side, lights, tint, _ANTIALIAS)
    color, coverage = rgba[0, :3], rgba[0, 3:]
    return color + (1.0 - coverage) * _shaded(ground, coverage, lights.direction[0], rng)


def _heap(rng: np.random.Generator, side: int, K: Tensor) -> tuple[Instances, Tensor]:
    """Things anywhere in a picture of a camera K (3, 3), and their tints (n, 3)."""
    count = int(rng.integers(_FEWEST, _MOST + 1))

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape))).float().to(K.device)

    size = drawn(math.log(_SIZES[0]), math.log(_SIZES[1])).exp()
    depth = drawn(*_DISTANCE_MM)
    instances = Instances(
        torch.zeros(count, dtype=torch.long, device=K.device),
        torch.from_numpy(rng.integers(0, _KINDS, count)).to(K.device),
        torch.from_numpy(Rotation.random(count, rng=rng).as_matrix()).float().to(K.device),
        geometry.from_pixels(side * drawn(-0.05, 1.05, 2), depth, K),
        size * depth / (_FOCAL * SIZE_MM),
        torch.full((count,), -1, device=K.device),
    )
    return instances, drawn(0.6, 1.2, 1).expand(-1, 3)


def _light(rng: np.random.Generator, device: torch.device) -> Lights:
    """One light above the bench, from any side."""
    direction = torch.tensor([[*rng.uniform(-1.0, 1.0, 2), -0.7]], dtype=torch.float32, device=device)
    ranges = ((0.3, 0.6), (0.4, 0.9), (0.0, 0.5), (4.0, 48.0))  # ambient, diffuse, specular, shininess
    terms = [torch.tensor([rng.uniform(*one)], dtype=torch.float32, device=device) for one in ranges]
    return Lights(F.normalize(direction, dim=1), *terms)


def _shaded(ground: Tensor, coverage: Tensor, light: Tensor, rng: np.random.Generator) -> Tensor:
    """A ground (3, s, s) in the soft shadow of what covers it (1, s, s), away from the light (3,)."""
    sigma = ground.shape[-1] * rng.uniform(0.005, 0.03)
    across, down = (-2.0 * sigma * light[:2]).round().int().tolist()
    window = 2 * math.ceil(2.0 * sigma) + 1
    soft: Tensor = gaussian_blur2d(coverage.roll((down, across), (1, 2))[None], (window, window), (sigma, sigma))[0]
    return ground * (1.0 - rng.uniform(0.2, 0.7) * soft)
