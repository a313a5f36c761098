"""Polished metal: what it mirrors, checked on a sphere, on which every mirrored direction is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import trimesh
from torch.nn import functional as F

from codepose import geometry
from codepose.config_data import AugmentationSettings
from codepose.synthesis.appearance import Lights, Room, render_shaded
from codepose.synthesis.draws import Draws
from codepose.synthesis.mesh import mesh_from_trimesh
from codepose.synthesis.renderer import Instances, Renderer

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
