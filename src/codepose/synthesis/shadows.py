"""The shadow of a part, and of what holds or hides it, on a plane on which the part lies.

By a shadow map (Williams, 1978): the things are rendered as the light sees them; what of the plane lies behind their
silhouette gets less light. The plane itself is not drawn: the background is taken for its surface.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances
from codepose.synthesis.world import World

_SIDE = 64  # pixels of a shadow map
_SPAN = 3.0  # diameters that it covers
_FAR = 20.0  # diameters between the light and the part: its rays are nearly parallel
_SOFTEST = 3.0  # largest standard deviation in pixels of a shadow's edge, a seventh of the diameter
_DARK = (0.3, 0.9)  # share of the light that a shadow takes away
_SLOPE = 0.2  # least cosine between the plane's normal and the way to the camera


def plane_below(world: World, objects: Tensor, R: Tensor, t: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Returns the planes on which the objects lie still, seen from above: n (B, 3), d (B,) in mm.

    Of the ways to lie that show the camera the plane's upper side, the likelier ones come up more often; where there
    is none, the plane is any that does.

    Returns:
        Points X of the plane have n X = d in the camera's frame, points of the object n X >= d.
    """
    toward = -F.normalize(t, dim=1)
    normal = draws.direction("plane")
    normal = normal * torch.where((normal * toward).sum(1, keepdim=True) < 0.0, -1.0, 1.0)
    normal = F.normalize(normal + _SLOPE * toward, dim=1)
    up, likely = (values[objects] for values in world.rests)
    ways = up @ R.mT  # (B, k, 3)
    reached = (likely * ((ways * toward[:, None]).sum(-1) > _SLOPE)).cumsum(1)
    chosen = (reached < draws.uniform("plane rest")[:, None] * reached[:, -1:]).sum(1).clamp_max(up.shape[1] - 1)
    rests = ways.gather(1, chosen[:, None, None].expand(-1, 1, 3))[:, 0]
    normal = torch.where(reached[:, -1:] > 0.0, rests, normal)
    lowest = world.renderer.lowest(objects, (normal[:, None] @ R)[:, 0])
    return normal, lowest + (normal * t).sum(1)


def lit(
    world: World,
    instances: Instances,
    objects: Tensor,
    R: Tensor,
    t: Tensor,
    K: Tensor,
    side: int,
    light: Tensor,
    draws: Draws,
) -> Tensor:
    """Returns how much of the light (B, 1, side, side) in [0, 1] reaches the plane behind each pixel.

    Args:
        world: Meshes and renderer.
        instances: Everything in the B images.
        objects: (B,) the objects that stand on the planes.
        R: (B, 3, 3) their poses.
        t: (B, 3) in mm.
        K: (B, 3, 3) cameras.
        side: Of the images, in pixels.
        light: (B, 3) unit vectors towards the lights; one from below the plane throws no shadow.
        draws: The images' random numbers.
    """
    normal, offset = plane_below(world, objects, R, t, draws)
    diameter = world.diameters[objects]
    to_light = geometry.rotation_between(-light, light.new_tensor([0.0, 0.0, 1.0]))  # (B, 3, 3), it looks along +z
    seen = _map(world, instances, to_light, t, diameter, draws)
    middles = torch.arange(side, device=t.device) + 0.5
    pixels = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1)  # (side, side, 2)
    rays = geometry.from_pixels(pixels, torch.ones(len(t), side, side).to(t), K[:, None, None])  # (B, side, side, 3)
    distance = offset[:, None, None] / (rays * normal[:, None, None]).sum(-1)
    points = (rays * distance[..., None] - t[:, None, None]) @ to_light.mT[:, None]  # the light's frame, from the part
    grid = points[..., :2] / (0.5 * _SPAN * diameter)[:, None, None, None]
    shade = F.grid_sample(seen, grid, padding_mode="zeros", align_corners=False)
    there = (distance > 0.0) & ((normal * light).sum(1) > 0.1)[:, None, None]
    dark = draws.uniform("shadow darkness", low=_DARK[0], high=_DARK[1])[:, None, None, None]
    return 1.0 - dark * shade * there[:, None]


def _map(world: World, instances: Instances, to_light: Tensor, t: Tensor, diameter: Tensor, draws: Draws) -> Tensor:
    """What the lights see, (B, 1, s, s): 1 = something, with edges as soft as the light is large."""
    image = instances.image
    moved = ((instances.t - t[image])[:, None] @ to_light.mT[image])[:, 0]
    moved[:, 2] += _FAR * diameter[image]
    seen = replace(instances, R=to_light[image] @ instances.R, t=moved, layer=torch.full_like(image, -1))
    K = geometry.camera_matrix(_SIDE * _FAR / _SPAN, _SIDE / 2, _SIDE / 2).to(t).expand(len(t), 3, 3)
    hit = (world.renderer.depth(seen, K, (_SIDE, _SIDE)) > 0).float()[:, None]
    soft = draws.uniform("shadow softness", low=0.3, high=_SOFTEST)
    blurred: Tensor = gaussian_blur2d(hit, (17, 17), soft[:, None].expand(-1, 2))
    return blurred
