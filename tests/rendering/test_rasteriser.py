"""The rasteriser against rays, closed forms and its own rules: near plane, common edges, threads, closed parts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import Delaunay
from torch import Tensor

from codepose import geometry
from codepose.parts.mesh import Mesh
from codepose.parts.shapes import hammer
from codepose.rendering import rasteriser
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.rendering.warp_runtime import cpu_pool
from tests.rendering.ray_caster import RayCaster


class Drawer:
    """A renderer on the device that is tested; scenes come from the CPU, and pictures go back there."""

    def __init__(self, place: torch.device, meshes: list[Mesh]) -> None:
        self.renderer, self._place = Renderer(meshes, place), place

    def render(self, scene: Instances, K: Tensor, size: tuple[int, int]) -> Buffers:
        there = Instances(*(getattr(scene, f.name).to(self._place) for f in fields(Instances)))
        out = self.renderer.render(there, K.to(self._place), size)
        return Buffers(*(getattr(out, f.name).cpu() for f in fields(Buffers)))


Make = Callable[[list[Mesh]], Drawer]


@pytest.fixture(name="make")
def _make(place: torch.device) -> Make:
    return partial(Drawer, place)


def mesh_of(vertices: Any, faces: Any) -> Mesh:
    solid = trimesh.Trimesh(vertices, faces, process=False)
    points = np.ascontiguousarray(solid.vertices, np.float32)
    colors = np.random.default_rng(1).random(points.shape).astype(np.float32)
    normals = np.ascontiguousarray(solid.vertex_normals, np.float32)
    return Mesh("test", points, np.asarray(faces, np.int32), normals, colors, 1.0, points, points[:2])


def solids() -> list[Mesh]:
    torus = trimesh.creation.torus(38.0, 12.0, major_sections=24, minor_sections=12)
    ball = trimesh.creation.icosphere(3, radius=45.0)
    return [mesh_of(torus.vertices, torus.faces), mesh_of(ball.vertices, ball.faces), hammer()]


def single(R: Tensor, t: Tensor, mesh: int = 0) -> Instances:
    return Instances.single(torch.full((len(R),), mesh), R, t)


def rotations(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return geometry.view_rotation(directions, 6.28 * torch.rand(count, generator=generator))


def crowd() -> tuple[Instances, Tensor]:
    """Twelve images of three instances each, every third in a layer."""
    generator, count = torch.Generator().manual_seed(2), 36
    order = torch.arange(count)
    t = torch.tensor([0.0, 0.0, 420.0]) + torch.randn(count, 3, generator=generator) * torch.tensor([40.0, 40.0, 60.0])
    layer = torch.where(order % 3 == 0, order // 3, -1)
    scale = 0.5 + torch.rand(count, generator=generator)
    K = geometry.camera_matrix(190.0, 50.3, 40.8, fy=180.0).expand(12, 3, 3)
    return Instances(order // 3, order % 3, rotations(count, 3), t, scale, layer), K


def assert_equal(a: Buffers, b: Buffers) -> None:
    for f in fields(Buffers):
        assert torch.equal(getattr(a, f.name), getattr(b, f.name)), f.name


def test_shows_what_rays_show(make: Make) -> None:
    meshes, (scene, K) = solids(), crowd()
    ours, rays = make(meshes).render(scene, K, (84, 100)), RayCaster(meshes).render(scene, K, (84, 100))
    same = ours.instance == rays.instance
    assert (~same).sum() <= 3  # centres that lie on an edge, to rounding
    hit = same & (rays.instance >= 0)
    assert hit.sum() > 16000
    x, y = torch.meshgrid(torch.arange(100) + 0.5, torch.arange(84) + 0.5, indexing="xy")
    toward = torch.stack(((x - 50.3) / 190.0, (y - 40.8) / 180.0, torch.ones_like(x)), -1)
    slope = -(rays.normal * torch.nn.functional.normalize(toward, dim=-1)).sum(-1)  # 0 where a ray grazes the surface
    off = (ours.depth - rays.depth).abs()
    assert (off * slope.clamp(0.0, 0.2) / 0.2)[hit].max() < 2e-3
    clear = hit & (slope > 0.05)
    assert (ours.normal - rays.normal).abs()[clear].max() < 2e-3
    assert (ours.color - rays.color).abs()[clear].max() < 2e-3
    alone = (ours.layers > 0) & (rays.layers > 0)
    assert ((ours.layers > 0) != (rays.layers > 0)).sum() <= 3
    assert (ours.layers - rays.layers).abs()[alone].median() < 1e-4


# the near plane


def test_a_floor_that_reaches_behind_the_camera_is_cut_at_the_near_plane(make: Make) -> None:
    """A floor 100 mm below the camera: its depth at row y is 100 f / (y - cy)."""
    far = 4000.0
    corners = [[-far, 100.0, -far], [far, 100.0, -far], [far, 100.0, far], [-far, 100.0, far]]
    floor = mesh_of(corners, [[0, 1, 2], [0, 2, 3]])
    K = geometry.camera_matrix(60.0, 32.0, 10.25)
    depth = make([floor]).render(single(torch.eye(3)[None], torch.zeros(1, 3)), K[None], (48, 64)).depth[0]
    exact = 100.0 * 60.0 / (torch.arange(48) + 0.5 - 10.25)
    shown = (exact > 0) & (exact < far)
    assert shown.sum() == 36
    torch.testing.assert_close(depth[shown], exact[shown, None].expand(-1, 64), rtol=1e-5, atol=0)
    assert not depth[~shown].any()


def test_from_inside_a_closed_part_its_inner_side_is_seen(make: Make) -> None:
    box = trimesh.creation.box(extents=(400.0, 300.0, 500.0))
    room = mesh_of(box.vertices, box.faces)
    assert room.closed
    K = geometry.camera_matrix(40.0, 32.0, 32.0)
    out = make([room]).render(single(torch.eye(3)[None], torch.zeros(1, 3)), K[None], (64, 64))
    assert out.depth[0, 32, 32] == pytest.approx(250.0, abs=1e-3)  # the wall ahead
    y, x = torch.meshgrid(torch.arange(64) + 0.5 - 32, torch.arange(64) + 0.5 - 32, indexing="ij")
    walls = torch.stack((200.0 * 40 / x.abs(), 150.0 * 40 / y.abs(), torch.full_like(x, 250.0)))
    torch.testing.assert_close(out.depth[0], walls.amin(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("z", "shown"), [(0.09, False), (0.11, True), (-5.0, False)])
def test_nothing_is_drawn_before_the_near_plane(z: float, shown: bool) -> None:
    wall = mesh_of([[-9, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]], [[0, 1, 2], [0, 2, 3]])
    K = geometry.camera_matrix(40.0, 4.0, 4.0)
    depth = Renderer([wall]).depth(single(torch.eye(3)[None], torch.tensor([[0.0, 0.0, z]])), K[None], (8, 8))
    assert bool((depth > 0).all()) is shown
    assert bool((depth > 0).any()) is shown


def test_a_face_is_cut_where_it_passes_the_near_plane(make: Make) -> None:
    """The plane z = x + 0.05 mm: along the ray (u, v, 1) its depth is 0.05 / (1 - u)."""
    slope = mesh_of([[-1, -9, -0.95], [5, -9, 5.05], [5, 9, 5.05], [-1, 9, -0.95]], [[0, 1, 2], [0, 2, 3]])
    K = geometry.camera_matrix(32.0, 32.0, 4.0)
    depth = make([slope]).render(single(torch.eye(3)[None], torch.zeros(1, 3)), K[None], (8, 64)).depth[0]
    exact = 0.05 / (1.0 - (torch.arange(64) + 0.5 - 32.0) / 32.0)
    assert (exact < 0.1).sum() == 48
    exact[exact < 0.1] = 0.0
    torch.testing.assert_close(depth, exact.expand(8, 64), rtol=1e-4, atol=0)


# common edges


def fan(make: Make, corners: Any, faces: Any) -> tuple[Drawer, Instances]:
    """Each triangle as a part of its own, at 64 mm, where with f = 64 a millimetre is a pixel."""
    corners = np.asarray(corners, np.float32)
    points = np.concatenate((corners, np.full((len(corners), 1), 64.0, np.float32)), 1)
    meshes = [mesh_of(points[list(face)], [[0, 1, 2]]) for face in faces]
    count = len(meshes)
    order, zero = torch.arange(count), torch.zeros(count, dtype=torch.long)
    R = torch.eye(3).expand(count, 3, 3)
    return make(meshes), Instances(zero, order, R, torch.zeros(count, 3), torch.ones(count), order)


PIXELS = geometry.camera_matrix(64.0, 0.0, 0.0)[None]
"""The camera in which a millimetre at 64 mm is a pixel: corner (2.5, 3.5) is the centre of pixel (2, 3)."""


def test_a_common_edge_through_pixel_centres_is_drawn_once(make: Make) -> None:
    """A 6 x 6 grid of squares whose corners are pixel centres, each cut along either diagonal."""
    corners = [(x + 0.5, y + 0.5) for y in range(0, 13, 2) for x in range(0, 13, 2)]
    faces = []
    for row in range(6):
        for column in range(6):
            a, b, c, d = (row * 7 + column + k for k in (0, 1, 8, 7))
            faces += [(a, b, c), (a, d, c)] if (row + column) % 2 else [(b, d, a), (d, b, c)]
    renderer, scene = fan(make, corners, faces)
    drawn = (renderer.render(scene, PIXELS, (16, 16)).layers > 0).sum(0)
    exact = torch.zeros(16, 16, dtype=torch.long)
    exact[:12, :12] = 1  # the grid's top and left edges belong to it, its bottom and right ones do not
    assert torch.equal(drawn, exact)


def test_no_gap_and_nothing_twice_between_triangles_at_odd_places(make: Make) -> None:
    points = np.random.default_rng(5).random((60, 2)) * 40.0 + 4.0
    hull = Delaunay(points)
    renderer, scene = fan(make, points, hull.simplices)
    out = renderer.render(scene, PIXELS, (48, 48))
    drawn = (out.layers > 0).sum(0)
    assert drawn.max() == 1
    centers = np.stack(np.meshgrid(np.arange(48) + 0.5, np.arange(48) + 0.5), -1).reshape(-1, 2)
    inside = torch.from_numpy(hull.find_simplex(centers) >= 0).view(48, 48)
    assert torch.equal(drawn == 1, inside)
    assert inside.sum() > 900


@pytest.mark.parametrize("faces", [[[0, 1, 2], [0, 2, 3]], [[2, 1, 0], [3, 2, 0]]])
def test_top_and_left_edges_belong_to_a_square(make: Make, faces: list[list[int]]) -> None:
    renderer, scene = fan(make, [(2.5, 3.5), (6.5, 3.5), (6.5, 5.5), (2.5, 5.5)], faces)
    rows, columns = (renderer.render(scene, PIXELS, (8, 8)).instance[0] >= 0).nonzero().unbind(1)
    assert sorted(set(rows.tolist())) == [3, 4]
    assert sorted(set(columns.tolist())) == [2, 3, 4, 5]
    assert len(rows) == 8


# closed parts


def test_closed_is_what_has_no_hole_and_no_face_inside_out() -> None:
    box, ball = trimesh.creation.box(extents=(9.0, 9.0, 9.0)), trimesh.creation.icosphere(1, radius=2.0)
    apart = trimesh.util.concatenate([box, ball.copy().apply_translation([20.0, 0.0, 0.0])])
    inside_out = box.copy()
    inside_out.invert()
    cavity = ball.copy()
    cavity.invert()
    hollow = trimesh.util.concatenate([box, cavity])
    turned = box.faces.copy()
    turned[3] = turned[3, ::-1]
    assert mesh_of(box.vertices, box.faces).closed
    assert mesh_of(apart.vertices, apart.faces).closed
    split = box.vertices[box.faces].reshape(-1, 3)  # as at creases: every face has corners of its own
    assert mesh_of(split, np.arange(36).reshape(12, 3)).closed
    assert not mesh_of(box.vertices, box.faces[1:]).closed
    assert not mesh_of(box.vertices, turned).closed
    assert not mesh_of(inside_out.vertices, inside_out.faces).closed
    assert not mesh_of(hollow.vertices, hollow.faces).closed


def test_leaving_out_what_faces_away_changes_no_bit(make: Make) -> None:
    meshes, (scene, K) = solids(), crowd()
    drawer, plain = make(meshes), make(meshes)
    assert drawer.renderer._rasteriser._closed.tolist() == [True, True, True]
    plain.renderer._rasteriser._closed = torch.zeros(3, dtype=torch.bool)
    assert_equal(drawer.render(scene, K, (84, 100)), plain.render(scene, K, (84, 100)))


def test_an_open_part_is_seen_from_behind(make: Make) -> None:
    ball = trimesh.creation.icosphere(3, radius=45.0)
    bowl = mesh_of(ball.vertices, ball.faces[ball.triangles_center[:, 2] > 0.0])  # its hollow towards the camera
    K = geometry.camera_matrix(200.0, 32.0, 32.0)
    out = make([bowl]).render(single(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 400.0]])), K[None], (64, 64))
    assert out.depth[0, 32, 32] == pytest.approx(445.0, abs=0.5)
    assert out.normal[0, 32, 32, 2] < -0.99


# launches


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("images", [1, 2, 12])
def test_neither_threads_nor_groups_change_a_bit(threads: int, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meshes, (scene, K) = solids(), crowd()
    scene, K = scene.select(scene.image < images), K[:images]
    plain = Renderer(meshes, threads=1).render(scene, K, (84, 100))
    monkeypatch.setattr(rasteriser, "_SMALL", 0)
    monkeypatch.setattr(rasteriser, "_GROUP", 3000)
    monkeypatch.setattr(rasteriser, "_BLOCK", 7)
    several = Renderer(meshes, threads=threads)
    shares = []
    draw = several._rasteriser._draw_share
    monkeypatch.setattr(several._rasteriser, "_draw_share", lambda *given: (shares.append(given), draw(*given)))
    assert_equal(several.render(scene, K, (84, 100)), plain)
    assert len(shares) == threads


def test_depth_is_that_of_the_whole_render() -> None:
    renderer, (scene, K) = Renderer(solids()), crowd()
    assert torch.equal(renderer.depth(scene, K, (84, 100)), renderer.render(scene, K, (84, 100)).depth)


def test_what_stands_alone_in_its_image_is_its_own_layer(make: Make) -> None:
    scene = single(rotations(3, 4), torch.tensor([[0.0, 0.0, 300.0]]).expand(3, 3), mesh=1)
    out = make(solids()).render(scene, geometry.camera_matrix(150.0, 32.0, 32.0).expand(3, 3, 3), (64, 64))
    assert (out.depth > 0).sum() > 3000
    assert torch.equal(out.layers, out.depth)


def test_two_renders_of_the_same_are_the_same_to_the_bit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a GPU draws group by group."""
    drawer, (scene, K) = make(solids()), crowd()
    first = drawer.render(scene, K, (84, 100))
    assert_equal(drawer.render(scene, K, (84, 100)), first)
    monkeypatch.setattr(drawer.renderer._rasteriser, "_group", 3000)
    assert_equal(drawer.render(scene, K, (84, 100)), first)


def test_a_thread_without_an_image_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images, and nearly all the work is in the last: the first thread gets them all."""
    t = torch.tensor([[0.0, 0.0, 4000.0]]).repeat(8, 1)
    t[7, 2] = 200.0
    scene, K = single(rotations(8, 6), t, mesh=1), geometry.camera_matrix(150.0, 32.0, 32.0).expand(8, 3, 3)
    monkeypatch.setattr(rasteriser, "_SMALL", 0)
    one, two = (Renderer(solids(), threads=n).render(scene, K, (64, 64)) for n in (1, 2))
    assert (one.depth > 0).flatten(1).any(1).all()
    assert_equal(one, two)


def test_a_forked_process_has_threads_of_its_own() -> None:
    assert cpu_pool(2).submit(int, "7").result() == 7
    child = os.fork()
    if child == 0:
        try:
            os._exit(cpu_pool(2).submit(int, "7").result(timeout=20))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
