"""Parts lie on planes and throw shadows on them: where geometry says, on the background alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import trimesh
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.mesh import mesh_from_trimesh
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances
from codepose.settings.data import ObjectSettings
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.synthesis.resting import resting_directions
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.shadows import lit, plane_below
from codepose.synthesis.world import World

COUNT = 40


@cache
def small(**changes: object) -> Settings:
    names = {name.replace("__", "."): value for name, value in changes.items()}
    size = {"data.camera.image_size": 128, "data.camera.focal": 75.0, "network.crop": 32}
    return override(load_preset("quick"), size | names)


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("cad") / "ball.ply"
    trimesh.creation.icosphere(subdivisions=3, radius=50.0).export(path)
    return World(small().model_copy(update={"objects": (ObjectSettings(mesh=str(path)),)}))


def posed(distance: float) -> tuple[Draws, torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = Draws(3, "test", torch.arange(COUNT))
    R = geometry.view_rotation(draws.direction("view"), draws.uniform("in-plane", high=6.283))
    z = draws.uniform("z", low=distance, high=1.5 * distance)
    t = torch.cat((draws.uniform("xy", 2, low=-0.4, high=0.4) * z[:, None], z[:, None]), 1)
    return draws, torch.zeros(COUNT, dtype=torch.long), R, t


def test_a_brick_lies_on_its_six_sides() -> None:
    brick = mesh_from_trimesh(trimesh.creation.box(extents=(100.0, 60.0, 20.0)), "brick")
    up, likely = resting_directions(brick)
    assert len(up) == 6
    np.testing.assert_allclose(np.abs(up).max(axis=1), 1.0, atol=1e-6)
    assert np.abs(up[:2, 2]).min() > 0.99, "most often on its largest sides"
    assert np.abs(up[4:, 0]).min() > 0.99
    assert likely.sum() == pytest.approx(1.0)


def test_a_flat_part_lies_on_either_side() -> None:
    corners = np.array([[0, 0, 0], [50, 0, 0], [50, 50, 0], [0, 50, 0]], float)
    up, likely = resting_directions(mesh_from_trimesh(trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]]), "sheet"))
    np.testing.assert_allclose(np.sort(up[:, 2]), [-1.0, 1.0], atol=1e-6)
    np.testing.assert_array_equal(likely, [0.5, 0.5])


def test_the_plane_is_below_the_part_and_seen_from_above() -> None:
    world = World(small())
    draws, objects, R, t = posed(700.0)
    normal, offset = plane_below(world, objects, R, t, draws)
    points = torch.from_numpy(world.objects[0].mesh.vertices)
    heights = ((points @ R.mT + t[:, None]) * normal[:, None]).sum(-1) - offset[:, None]
    assert heights.amin(1).abs().max() < 0.1
    assert (normal * t).sum(1).max() < 0.0, "the camera is above"
    assert (offset < 0.0).all()
    lying = (heights < 1.0).sum(1)
    assert (lying >= 3).float().mean() > 0.9, "on a side, not on a corner"


def test_each_of_several_parts_stands_on_its_own_plane(ball: World) -> None:
    """Below its own lowest point, on one of its own sides, however many of these the others have."""
    world = World(small().model_copy(update={"objects": (*small().objects, *ball.settings.objects)}))
    draws, _, R, t = posed(700.0)
    objects = torch.arange(COUNT) % 2
    normal, offset = plane_below(world, objects, R, t, draws)
    for k, alone in enumerate((World(small()), ball)):
        mine = objects == k
        first = torch.zeros_like(objects[mine])
        expected = plane_below(alone, first, R[mine], t[mine], draws.select(mine))
        torch.testing.assert_close((normal[mine], offset[mine]), expected, atol=1e-3, rtol=1e-5)


def test_a_balls_shadow_lies_around_the_point_where_it_touches(ball: World) -> None:
    """With the light straight above the plane, it is a disc of the ball's own radius."""
    draws, objects, R, t = posed(500.0)
    normal, offset = plane_below(ball, objects, R, t, draws)
    touching = t - 50.0 * normal
    assert ((touching * normal).sum(1) - offset).abs().max() < 1.5
    K = ball.K.expand(COUNT, 3, 3)
    kept = lit(ball, Instances.single(objects, R, t), objects, R, t, K, 128, normal, draws)[:, 0]
    middles = torch.arange(128) + 0.5
    x, y = torch.meshgrid(middles, middles, indexing="xy")
    rays = torch.stack(((x - 64.0) / 75.0, (y - 64.0) / 75.0, torch.ones_like(x)), -1)
    distance = offset[:, None, None] / (rays * normal[:, None, None]).sum(-1)
    points = rays * distance[..., None]
    away = (points - touching[:, None, None]).norm(dim=-1)
    inside, outside = (away < 35.0) & (distance > 0), (away > 100.0) | (distance < 0)
    assert inside.sum() > 100
    assert kept[inside].max() < 0.8
    assert kept[outside].min() > 0.999
    assert kept.min() > 0.05


def test_a_light_from_below_throws_no_shadow(ball: World) -> None:
    draws, objects, R, t = posed(500.0)
    normal, _ = plane_below(ball, objects, R, t, draws)
    K = ball.K.expand(COUNT, 3, 3)
    assert (lit(ball, Instances.single(objects, R, t), objects, R, t, K, 128, -normal, draws) == 1.0).all()


def test_a_slanting_light_moves_the_shadow_away_from_it(ball: World) -> None:
    draws, objects, R, t = posed(500.0)
    normal, _ = plane_below(ball, objects, R, t, draws)
    side = F.normalize(torch.linalg.cross(normal, torch.tensor([0.0, 0.0, 1.0]).expand_as(normal)), dim=1)
    K = ball.K.expand(COUNT, 3, 3)
    for sign in (1.0, -1.0):
        light = F.normalize(normal + sign * side, dim=1)
        dark = 1.0 - lit(ball, Instances.single(objects, R, t), objects, R, t, K, 128, light, draws)[:, 0]
        weight = dark.sum((1, 2))
        middles = torch.arange(128) + 0.5
        u = (dark.sum(1) * middles).sum(1) / weight
        v = (dark.sum(2) * middles).sum(1) / weight
        shadow = torch.stack((u, v), 1) - geometry.to_pixels(t - 50.0 * normal, ball.K)
        expected = geometry.to_pixels(t - 50.0 * normal - 50.0 * sign * side, ball.K)
        expected = expected - geometry.to_pixels(t - 50.0 * normal, ball.K)
        whole = weight > 0.5 * weight.median()  # others are cut off by the image's edge
        assert ((shadow * expected).sum(1) > 0)[whole].float().mean() > 0.9


def test_shadows_fall_on_the_background_alone_and_not_by_the_batch() -> None:
    plain, shaded = (
        SceneSource(World(small(data__augmentation__probability=0.0, data__augmentation__shadow=share)), "test")
        for share in (0.0, 1.0)
    )
    index = torch.arange(6)
    a, b = plain.scenes(index, depth=True), shaded.scenes(index, depth=True)
    changed = (a.images - b.images).abs().amax(1) > 0.02
    assert changed.any(2).any(1).sum() >= 3
    assert a.depth is not None
    far = a.depth >= plain.world.far - 1.0
    near_edge = F.max_pool2d((~far).float()[:, None], 3, 1, 1)[:, 0] > 0
    assert not (changed & ~far & ~(F.max_pool2d(far.float()[:, None], 3, 1, 1)[:, 0] > 0)).any()
    assert (changed & ~near_edge).any()
    assert (b.images <= a.images + 0.02).all()
    alone = shaded.scenes(index[3:4])
    torch.testing.assert_close(alone.images[0], b.images[3])
    crops = shaded.crops(index).inputs
    torch.testing.assert_close(shaded.crops(index[2:3]).inputs[0], crops[2])
    assert not torch.equal(crops, plain.crops(index).inputs)
