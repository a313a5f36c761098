"""Crops of photos of random parts, made on one device: the judge's inputs and what it should say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.networks.pose_judge import SIDE, crop_cameras
from codepose.rendering.renderer import Buffers, Instances
from experiments.judge.develop import develop, uniform
from experiments.judge.parts import Parts, random_rotations

_BEFORE, _BEHIND = 3, 7
_EXTRA = _BEFORE + _BEHIND
"""Other parts in a crop, at most: some may hide the part, some lie behind it."""
_HEAPS, _SAME = 0.35, 0.3
"""Shares of crops that are full of things, and in which those are of the same kind as the part."""
_CELLS = 16
_FINE = 2
"""Samples a pixel along each axis."""


@dataclass(frozen=True)
class Scenes:
    """B crops, each of a crop camera whose principal point is the crop's middle.

    Attributes:
        photos: (B, 3, 128, 128) in [0, 1].
        part: (B,) long.
        R, t: (B, 3, 3), (B, 3) mm, the part's pose in the crop camera.
        focal: (B,) focal length over the crop's side.
        visible: (B,) share of the part's pixels that nothing hides.
        looks: Colours of the parts, to render them as they are.
    """

    photos: Tensor
    part: Tensor
    R: Tensor
    t: Tensor
    focal: Tensor
    visible: Tensor
    looks: Looks

    @property
    def K(self) -> Tensor:
        """(B, 3, 3) in pixels."""
        return crop_cameras(self.focal, SIDE)


@dataclass(frozen=True)
class Looks:
    """Colours of N instances: two colours, mixed by waves along the part, and how they throw light back.

    Attributes:
        first, second: (N, 3) RGB in [0, 1].
        waves: (N, 3, 3) wave vectors in 1 / part size.
        phases: (N, 3).
        edge: (N,) how sharply one colour ends; bias: (N,) how much of the second there is.
        metal: (N,) share of mirror; gloss: (N,) specular; shininess: (N,).
    """

    first: Tensor
    second: Tensor
    waves: Tensor
    phases: Tensor
    edge: Tensor
    bias: Tensor
    metal: Tensor
    gloss: Tensor
    shininess: Tensor

    @classmethod
    def draw(cls, count: int, device: torch.device) -> Looks:
        """Half of them of one colour, a third polished."""
        grey = torch.rand(count, 1, device=device) < 0.35
        colors = torch.rand(2, count, 3, device=device).pow(0.8)
        level = torch.rand(2, count, 1, device=device)
        colors = torch.where(grey, level + 0.08 * (colors - 0.5), colors).clamp(0.02, 0.98)
        plain = torch.rand(count, device=device) < 0.5
        near = (colors[0] + 0.08 * torch.randn(count, 3, device=device)).clamp(0.02, 0.98)
        waves = torch.randn(count, 3, 3, device=device) * uniform((count, 1, 1), 2.0, 25.0, device)
        polished = torch.rand(count, device=device) < 0.33
        return cls(
            colors[0],
            torch.where(plain[:, None], near, colors[1]),
            waves,
            uniform((count, 3), 0.0, 2 * math.pi, device),
            uniform(count, 1.0, 30.0, device),
            uniform(count, -0.6, 0.6, device),
            torch.where(polished, uniform(count, 0.3, 1.0, device), 0.0),
            uniform(count, 0.0, 0.8, device),
            torch.exp(uniform(count, math.log(4.0), math.log(200.0), device)),
        )

    def shared(self, same: Tensor, slots: int) -> Looks:
        """Gives all instances of some of the images (B,) the looks of the first."""
        first = torch.arange(len(same), device=same.device).repeat_interleave(slots) * slots
        chosen = same.repeat_interleave(slots)
        number = torch.where(chosen, first, torch.arange(len(first), device=same.device))
        return Looks(*(getattr(self, name)[number] for name in Looks.__dataclass_fields__))

    def albedo(self, instance: Tensor, points: Tensor) -> Tensor:
        """Returns colours (M, 3) of points (M, 3) of instances (M,), in units of the part's size."""
        angles = torch.einsum("mij,mj->mi", self.waves[instance], points) + self.phases[instance]
        mix = ((angles.sin().mean(1) + self.bias[instance]) * self.edge[instance]).sigmoid()[:, None]
        return self.first[instance] * (1.0 - mix) + self.second[instance] * mix


class Photographer:
    """Makes crops.

    Args:
        parts: What it draws from.
        textures: (T, 3, h, h) in [0, 1], backgrounds and what metal mirrors.
    """

    def __init__(self, parts: Parts, textures: Tensor) -> None:
        self.parts = parts
        self.textures = textures
        self.device = parts.device
        small = F.interpolate(textures, (32, 32), mode="area")
        self._rooms = F.interpolate(small, (64, 64), mode="bilinear")

    @torch.no_grad()
    def shoot(self, count: int) -> Scenes:
        """Draws ``count`` crops."""
        parts, where = self.parts, self.device
        part = torch.randint(len(parts.points), (count,), device=where)
        diameter = parts.diameters[part]
        R = random_rotations(count, where)
        distance = diameter * torch.exp(uniform(count, math.log(1.8), math.log(25.0), where))
        t = torch.zeros(count, 3, device=where)
        t[:, 2] = distance
        box = parts.boxes(part, R, t)
        side = (box[:, 2:] - box[:, :2]).amax(1) * uniform(count, 1.12, 1.75, where)
        off = torch.randn(count, 2, device=where).clamp(-2, 2) * 0.05 * side[:, None]
        t[:, :2] = (off - (box[:, 2:] + box[:, :2]) / 2) * distance[:, None]
        focal = 1.0 / side
        K = crop_cameras(focal, SIDE * _FINE)
        same = torch.rand(count, device=where) < _SAME
        scene, alone, flat = self._arrange(part, R, t, diameter, side, same)
        size = (SIDE * _FINE, SIDE * _FINE)
        seen = parts.renderer.render(scene, K, size)
        own = parts.renderer.depth(alone, K, size)
        slots = 1 + _EXTRA
        looks = Looks.draw(count * slots, where).shared(same, slots)
        target = seen.instance >= 0
        slot = flat[seen.instance.clamp_min(0).long()]  # (B, H, W) number of the look
        is_part = target & (slot % slots == 0)
        visible = is_part.sum((1, 2)) / (own > 0).sum((1, 2)).clamp_min(1)
        photos = self._expose(seen, scene, slot, K, looks)
        first = torch.arange(count, device=where) * slots
        mine = Looks(*(getattr(looks, name)[first] for name in Looks.__dataclass_fields__))
        return Scenes(photos, part, R, t, focal, visible, mine)

    def _arrange(
        self, part: Tensor, R: Tensor, t: Tensor, diameter: Tensor, side: Tensor, same: Tensor
    ) -> tuple[Instances, Instances, Tensor]:
        """Returns all instances, the parts alone, and the slot number of each instance."""
        count, where = len(part), self.device
        image = torch.arange(count, device=where)
        shape = (count, _EXTRA)
        other = torch.randint(len(self.parts.points), shape, device=where)
        other = torch.where(same[:, None], part[:, None], other)
        before = torch.arange(_EXTRA, device=where) < _BEFORE
        depth = torch.where(before, uniform(shape, 0.55, 0.95, where), uniform(shape, 1.03, 1.8, where))
        z = t[:, 2:] * depth
        size = torch.where(before, uniform(shape, 0.25, 0.9, where), uniform(shape, 0.4, 1.8, where))
        size = torch.where(same[:, None], uniform(shape, 0.9, 1.1, where) / depth, size)
        angle = uniform(shape, 0.0, 2 * math.pi, where)
        far = torch.where(before, uniform(shape, 0.15, 0.75, where), uniform(shape, 0.1, 0.8, where))
        place = torch.stack((angle.cos(), angle.sin()), -1) * (far * side[:, None])[..., None]
        place = place + (t[:, :2] / t[:, 2:])[:, None]
        heap = torch.where(torch.rand(count, 1, device=where) < _HEAPS, 0.85, 0.3)
        shown = torch.rand(shape, device=where) < torch.where(before, 0.28, heap)
        # what stands nearer is made as large as it looks beside the part
        scale = size * depth * (diameter[:, None] / self.parts.diameters[other])
        safe = z > 0.7 * self.parts.diameters[other] * scale
        every = torch.cat((torch.ones(count, 1, dtype=torch.bool, device=where), shown & safe), 1)

        def joined(first: Tensor, rest: Tensor) -> Tensor:
            return torch.cat((first[:, None], rest), 1)[every]

        turns = random_rotations(count * _EXTRA, where).view(count, _EXTRA, 3, 3)
        instances = Instances(
            image[:, None].expand(-1, 1 + _EXTRA)[every],
            joined(part, other),
            joined(R, turns),
            joined(t, torch.cat((place * z[..., None], z[..., None]), -1)),
            joined(torch.ones_like(side), scale),
            torch.full((int(every.sum()),), -1, device=where),
        )
        flat = (torch.arange(count * (1 + _EXTRA), device=where).view(count, -1))[every]
        alone = Instances(image, part, R, t, torch.ones_like(side), torch.full_like(image, -1))
        return instances, alone, flat

    def _expose(self, seen: Buffers, scene: Instances, slot: Tensor, K: Tensor, looks: Looks) -> Tensor:
        count, height, width = seen.depth.shape
        hit = (seen.instance.view(-1) >= 0).nonzero().squeeze(1)
        owner = seen.instance.view(-1)[hit].long()
        b = scene.image[owner]
        pixels = pixels_of(hit, width, height)
        rays = geometry.from_pixels(pixels, torch.ones_like(pixels[:, 0]), K[b])
        points = rays * seen.depth.view(-1)[hit][:, None]
        size = self.parts.diameters[scene.mesh[owner]] * scene.scale[owner]
        local = torch.einsum("mji,mj->mi", scene.R[owner], points - scene.t[owner]) / size[:, None]
        look = slot.view(-1)[hit]
        lit = _lit(seen.normal.view(-1, 3)[hit], rays, looks, look, looks.albedo(look, local), b, self._light(count))
        image = torch.zeros(count * height * width, 4, device=self.device)
        image[hit] = torch.cat((lit, torch.ones_like(lit[:, :1])), 1)
        rgba = image.view(count, height, width, 4).permute(0, 3, 1, 2)
        rgba = F.avg_pool2d(rgba, _FINE)
        back = self._backgrounds(count)
        shadow = self._shadows(rgba[:, 3:])
        photo = rgba[:, :3] + (1.0 - rgba[:, 3:]) * back * shadow
        return develop(photo)

    def _light(self, count: int) -> Light:
        return Light.draw(count, self._rooms)

    def _backgrounds(self, count: int) -> Tensor:
        where = self.device
        two = []
        for _ in range(2):
            pick = torch.randint(len(self.textures), (count,), device=where)
            angle = uniform(count, 0.0, 2 * math.pi, where)
            zoom = torch.exp(uniform(count, math.log(0.12), math.log(1.0), where))
            theta = torch.zeros(count, 2, 3, device=where)
            theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * zoom
            theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * zoom, angle.sin() * zoom
            theta[:, :, 2] = uniform((count, 2), -1.0, 1.0, where)
            grid = F.affine_grid(theta, [count, 3, SIDE, SIDE], align_corners=False)
            found = F.grid_sample(self.textures[pick], grid, padding_mode="reflection", align_corners=False)
            flat = torch.rand(count, 3, 1, 1, device=where)
            plain = uniform((count, 1, 1, 1), 0.0, 1.0, where).pow(2.0)
            found = found * (1.0 - plain) + plain * flat
            found = self._printed(found, grid)
            gain = torch.exp(0.4 * torch.randn(count, 1, 1, 1, device=where))
            two.append((found * gain).clamp(0.0, 1.0))
        # a table's edge, a line on a board: one plane ends and another begins
        angle, place = uniform(count, 0.0, 2 * math.pi, where), uniform(count, -1.6, 1.6, where)
        line = torch.linspace(-1.0, 1.0, SIDE, device=where)
        across = angle.cos()[:, None, None] * line[None, None] + angle.sin()[:, None, None] * line[None, :, None]
        mask = ((across - place[:, None, None]) * 60.0).sigmoid()[:, None]
        return two[0] * mask + two[1] * (1.0 - mask)

    def _printed(self, found: Tensor, grid: Tensor) -> Tensor:
        """Prints boards, stripes, markers and coloured blocks over a third of the backgrounds."""
        count, where = len(found), self.device
        cells = torch.rand(count, 3, _CELLS, _CELLS, device=where)
        kind = torch.rand(count, 1, 1, 1, device=where)
        line = torch.arange(_CELLS, device=where)
        board = ((line[:, None] + line) % 2).float().expand(count, 3, -1, -1)
        stripes = (cells[:, :1, :1] > 0.5).float().expand_as(cells)
        marks = (cells[:, :1] > 0.5).float().expand_as(cells)
        pattern = torch.where(kind < 0.25, marks, cells)
        pattern = torch.where(kind < 0.17, stripes, pattern)
        pattern = torch.where(kind < 0.1, board, pattern)
        low, high = uniform((count, 3, 1, 1), 0.0, 0.4, where), uniform((count, 3, 1, 1), 0.5, 1.0, where)
        pattern = low + (high - low) * pattern
        shown = F.grid_sample(pattern, grid, mode="nearest", padding_mode="reflection", align_corners=False)
        strength = torch.where(kind < 0.33, uniform((count, 1, 1, 1), 0.3, 1.0, where), 0.0)
        return found * (1.0 - strength) + shown * strength

    def _shadows(self, alpha: Tensor) -> Tensor:
        count, where = len(alpha), self.device
        soft = F.avg_pool2d(alpha, 9, 1, 4)
        soft = F.avg_pool2d(soft, 9, 1, 4)
        theta = torch.eye(2, 3, device=where).repeat(count, 1, 1)
        theta[:, :, 2] = torch.randn(count, 2, device=where) * 0.15
        grid = F.affine_grid(theta, [count, 1, SIDE, SIDE], align_corners=False)
        strength = uniform((count, 1, 1, 1), -0.5, 0.8, where).clamp_min(0.0)
        return 1.0 - strength * F.grid_sample(soft, grid, align_corners=False)


@dataclass(frozen=True)
class Light:
    """Two lamps, a sky and a ground, and a room that metal mirrors, for each of B images."""

    lamps: Tensor  # (B, 2, 3) unit vectors towards them
    power: Tensor  # (B, 2, 3)
    up: Tensor  # (B, 3)
    sky: Tensor  # (B, 3)
    ground: Tensor
    rooms: Tensor  # (B, 3, 64, 64)

    @classmethod
    def draw(cls, count: int, rooms: Tensor) -> Light:
        where = rooms.device
        lamps = F.normalize(torch.randn(count, 2, 3, device=where), dim=-1)
        lamps[..., 2] = -lamps[..., 2].abs()
        lamps = F.normalize(lamps + torch.tensor([0.0, -0.4, 0.0], device=where), dim=-1)
        tone = 1.0 + 0.15 * torch.randn(count, 2, 3, device=where)
        power = tone * uniform((count, 2, 1), 0.0, 0.9, where)
        up = F.normalize(torch.randn(count, 3, device=where) + torch.tensor([0.0, -1.0, -0.5], device=where), dim=-1)
        sky = uniform((count, 1), 0.15, 0.8, where) * (1.0 + 0.1 * torch.randn(count, 3, device=where))
        ground = sky * uniform((count, 1), 0.2, 1.0, where)
        own = rooms[torch.randint(len(rooms), (count,), device=where)]
        own = (own - own.mean((1, 2, 3), keepdim=True)) * uniform((count, 1, 1, 1), 0.5, 3.0, where)
        spots = torch.zeros_like(own[:, :1])
        line = torch.linspace(-1.0, 1.0, own.shape[-1], device=where)
        for _ in range(4):
            x, y = uniform((2, count, 1, 1), -0.9, 0.9, where)
            wide = torch.exp(uniform((count, 1, 1), math.log(0.03), math.log(0.5), where))
            blob = torch.exp(-((line[None, None] - x) ** 2 + (line[None, :, None] - y) ** 2) / wide**2)
            spots += (blob * uniform((count, 1, 1), 0.0, 1.2, where))[:, None]
        rooms = own + uniform((count, 1, 1, 1), 0.1, 0.7, where) + spots
        return cls(lamps, power, up, sky, ground, rooms.clamp_min(0.0))


def pixels_of(hit: Tensor, width: int, height: int) -> Tensor:
    """Centres (M, 2) of pixels of flat numbers (M,) of images."""
    return torch.stack((hit % width, (hit // width) % height), 1) + 0.5


def _lit(normal: Tensor, rays: Tensor, looks: Looks, look: Tensor, albedo: Tensor, b: Tensor, light: Light) -> Tensor:
    """Colours (M, 3) of surface points."""
    height = (normal * light.up[b]).sum(1, keepdim=True) * 0.5 + 0.5
    matte = light.ground[b] + (light.sky[b] - light.ground[b]) * height
    toward = F.normalize(rays, dim=1)
    bounced = toward - 2.0 * (toward * normal).sum(1, keepdim=True) * normal
    glint = torch.zeros_like(albedo)
    for k in range(light.lamps.shape[1]):
        lamp, power = light.lamps[b, k], light.power[b, k]
        facing = (normal * lamp).sum(1, keepdim=True)
        matte = matte + power * facing.clamp_min(0.0)
        cosine = (bounced * lamp).sum(1).clamp_min(1e-6)
        shine = (looks.shininess[look] * cosine.log()).exp() * looks.gloss[look]
        glint = glint + torch.where(facing > 0, shine[:, None], 0.0) * power
    # the sphere of directions laid flat: the middle mirrors what stands behind the camera
    flat = bounced[:, :2] / (2.0 * (1.0 - bounced[:, 2:]).clamp_min(1e-4)).sqrt()
    room = _read(light.rooms, b, flat)
    hue = albedo / albedo.amax(1, keepdim=True).clamp_min(1e-3)
    metal = looks.metal[look][:, None]
    glaze = 0.06 * looks.gloss[look][:, None] * room
    return ((1.0 - metal) * (albedo * matte + glint + glaze) + metal * hue * (room + glint)).clamp(0.0, 1.3)


def _read(images: Tensor, b: Tensor, place: Tensor) -> Tensor:
    """Bilinear colours (M, 3) of images (B, 3, h, h) of numbers (M,) at places (M, 2) in [-1, 1]."""
    side = images.shape[-1]
    at = ((place.clamp(-1.0, 1.0) + 1.0) * 0.5 * (side - 1)).clamp(0.0, side - 1.001)
    low = at.long()
    part = at - low
    flat = images.permute(0, 2, 3, 1).reshape(-1, 3)
    base = b * side * side + low[:, 1] * side + low[:, 0]
    wx, wy = part[:, :1], part[:, 1:]
    top = flat[base] * (1 - wx) + flat[base + 1] * wx
    bottom = flat[base + side] * (1 - wx) + flat[base + side + 1] * wx
    return top * (1 - wy) + bottom * wy
