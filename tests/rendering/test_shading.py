"""Polished metal, on a sphere, on which every mirrored direction is known; what cameras do to pictures."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import torch
import trimesh
from PIL import Image
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.mesh import mesh_from_trimesh
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances, Renderer
from codepose.rendering.shading import Lights, Room, augment, render_shaded
from codepose.settings.data import AugmentationSettings

SIDE, FOCAL, RADIUS, FAR = 65, 4000.0, 10.0, 1400.0


def ball() -> Renderer:
    shape = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    mesh = mesh_from_trimesh(shape, "ball")
    colors = np.tile(np.float32([0.25, 0.5, 0.5]), (len(mesh.vertices), 1))
    return Renderer([dataclasses.replace(mesh, colors=colors)])


def room(lamp: list[float], *, share: float = 1.0, walls: float = 0.1) -> Room:
    direction = F.normalize(torch.tensor(lamp), dim=0).view(1, 1, 3)
    one = torch.ones(1)
    return Room(share * one, walls * one, direction, 30.0 * one[:, None], 0.8 * one[:, None])


def picture(lights: Lights) -> torch.Tensor:
    K = geometry.camera_matrix(FOCAL, SIDE / 2, SIDE / 2)[None]
    one = Instances.single(torch.zeros(1, dtype=torch.long), torch.eye(3)[None], torch.tensor([[0.0, 0.0, FAR]]))
    rgba, _ = render_shaded(ball(), one, K, SIDE, lights, torch.ones(1, 3), 1)
    return rgba[0]


def test_a_mirror_ball_shows_the_lamp_where_the_normal_halves_the_angle() -> None:
    lamp = [0.6, -0.5, -0.9]
    dark = Lights.fixed(1, torch.device("cpu"))
    shown = picture(Lights(dark.direction, dark.ambient, dark.diffuse, dark.specular, dark.shininess, room(lamp)))
    middle = SIDE / 2
    # towards the camera is -z: the normal there lies halfway between that and the lamp
    half = F.normalize(F.normalize(torch.tensor(lamp), dim=0) + torch.tensor([0.0, 0.0, -1.0]), dim=0)
    where = middle + half[:2] * RADIUS * FOCAL / FAR
    brightest = int(shown[1].argmax())
    found = torch.tensor([brightest % SIDE + 0.5, brightest // SIDE + 0.5])
    assert float((found - where).norm()) < 1.6
    # the colour's hue, thrown back whole: 0.5 of the channel's largest; lamp and walls add up there, walls elsewhere
    assert abs(float(shown[1].max()) - 0.9) < 0.03
    covered = shown[3] > 0
    assert abs(float(shown[1][covered].min()) - 0.1) < 1e-3
    torch.testing.assert_close(shown[0][covered], 0.5 * shown[1][covered])


def test_the_share_mixes_mirror_and_phong() -> None:
    matte = Lights.fixed(1, torch.device("cpu"))
    terms = (matte.direction, matte.ambient, matte.diffuse, matte.specular, matte.shininess)
    lamp = [0.3, 0.2, -1.0]
    plain, mirror, half = (picture(Lights(*terms, room(lamp, share=share, walls=0.05))) for share in (0.0, 1.0, 0.5))
    torch.testing.assert_close(plain, picture(matte))
    unclipped = (plain < 1).all(0) & (mirror < 1).all(0)
    torch.testing.assert_close(half[:, unclipped], ((plain + mirror) / 2)[:, unclipped])


def test_a_share_of_the_images_is_metal_and_none_by_default() -> None:
    draws = Draws(0, "x", torch.arange(2000))
    assert Lights.draw(draws, AugmentationSettings()).room is None
    drawn = Lights.draw(draws, AugmentationSettings(metal=0.3)).room
    assert drawn is not None
    metal = drawn.share > 0
    assert abs(float(metal.float().mean()) - 0.3) < 0.04
    assert float(drawn.share[metal].min()) >= 0.5
    assert float(drawn.lamps.norm(dim=-1).sub(1).abs().max()) < 1e-5
    assert math.isclose(float(drawn.sharpness.min()), 4.0, rel_tol=0.05)
    assert math.isclose(float(drawn.sharpness.max()), 400.0, rel_tol=0.05)


STILL = {"probability": 0.0, "invert_channel": 0.0, "blur_sigma": 0.0, "noise": 0.0}
"""Nothing changes an image."""


def test_sharpening_leaves_halos_along_edges_and_flat_places_alone() -> None:
    images = torch.full((3, 3, 32, 32), 0.3)
    images[..., 16:] = 0.6
    draws = Draws(0, "x", torch.arange(3))
    torch.testing.assert_close(augment(images, draws, AugmentationSettings(**STILL)), images)
    sharp = augment(images, draws, AugmentationSettings(sharpen=1.0, **STILL))
    taps = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2)
    crossing = taps[3:].sum() / taps.sum()  # of the Gaussian's weight, beyond an edge that lies one half pixel away
    halo = draws.uniform("sharpen") * 0.3 * crossing
    torch.testing.assert_close(sharp[:, 0, 5, 16], 0.6 + halo)
    torch.testing.assert_close(sharp[:, 0, 5, 15], 0.3 - halo)
    torch.testing.assert_close(sharp[..., :12], images[..., :12])


def test_jpeg_is_what_a_jpeg_file_does() -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((72, 64), Image.Resampling.BICUBIC))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()[None].expand(6, -1, -1, -1) / 255
    draws = Draws(0, "x", torch.arange(6))
    settings = AugmentationSettings(jpeg=1.0, **STILL)
    stored = augment(images, draws, settings)
    for one, quality in zip(stored, draws.uniform("jpeg quality", low=30.0, high=95.0).tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=round(quality), subsampling=2)
        true = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255
        assert float((one - true).abs().mean()) < 0.5 * float((images[0] - true).abs().mean())
    alone = augment(images[:1], draws.select(torch.tensor([4])), settings)
    torch.testing.assert_close(alone[0], stored[4])
    some = augment(images, draws, AugmentationSettings(jpeg=0.5, **STILL))
    changed = (some - images).abs().amax((1, 2, 3)) > 1e-3
    assert torch.equal(changed, draws.chance("jpeg?", 0.5))
    assert 0 < int(changed.sum()) < 6
