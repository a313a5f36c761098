"""The renderer against closed forms and a plain Moeller-Trumbore twin in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.mesh import Mesh
from codepose.parts.shapes import hammer
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.rendering.shading import Lights, render_shaded, shade

Array = np.ndarray[Any, Any]


def mesh_of(vertices: Any, faces: Any, normals: Any = None, colors: Any = None) -> Mesh:
    """A mesh straight from its arrays, colours at random unless given."""
    vertices = np.asarray(vertices, np.float32)
    faces = np.asarray(faces, np.int32)
    if normals is None:
        normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    if colors is None:
        colors = np.random.default_rng(len(vertices)).random(vertices.shape)
    diameter = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    as32 = [np.ascontiguousarray(a, np.float32) for a in (normals, colors)]
    return Mesh("test", vertices, faces, *as32, diameter, vertices, vertices[:2])


def quad(corners: Any) -> Mesh:
    """A flat quadrilateral of one colour."""
    corners = np.asarray(corners, np.float64)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal = normal / np.linalg.norm(normal)
    return mesh_of(corners, [[0, 1, 2], [0, 2, 3]], np.tile(normal, (4, 1)), np.tile([0.2, 0.5, 0.8], (4, 1)))


@cache
def sphere() -> Mesh:
    solid = trimesh.creation.icosphere(subdivisions=4, radius=50.0)
    return mesh_of(solid.vertices, solid.faces, solid.vertices / 50.0)


def one(mesh: int, R: Tensor, t: Sequence[float]) -> Instances:
    return Instances.single(torch.tensor([mesh]), R[None].float(), torch.tensor([t]))


def instances(rows: Sequence[tuple[int, int, Tensor, Sequence[float], float, int]]) -> Instances:
    """Rows of (image, mesh, R, t, scale, layer)."""
    image, mesh, R, t, scale, layer = zip(*rows, strict=True)
    return Instances(
        torch.tensor(image),
        torch.tensor(mesh),
        torch.stack(R).float(),
        torch.tensor(t, dtype=torch.float32),
        torch.tensor(scale, dtype=torch.float32),
        torch.tensor(layer),
    )


def random_rotations(count: int, seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    q[:, 0] *= torch.linalg.det(q)[:, None]
    return q.float()


def pixel_rays(K: Tensor, height: int, width: int) -> Tensor:
    """(H, W, 3) double, z = 1, through the pixels' centres."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    K = K.double()
    return torch.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)), -1).double()


def equal(a: Buffers, b: Buffers) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Buffers))


# closed forms


def sphere_depth(rays: Tensor, center: Tensor, radius: float) -> Tensor:
    """Depth of a sphere's front, NaN where a ray misses it."""
    a, b = (rays**2).sum(-1), (rays * center).sum(-1)
    root: Tensor = (b**2 - a * ((center**2).sum() - radius**2)).sqrt()
    return (b - root) / a


def test_depth_and_normals_of_a_sphere() -> None:
    mesh, center = sphere(), torch.tensor([37.0, -22.0, 410.0], dtype=torch.float64)
    corners = mesh.vertices[mesh.faces].astype(float)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inner = float((np.einsum("fd,fd->f", across, corners[:, 0]) / np.linalg.norm(across, axis=1)).min())
    assert 49.5 < inner < 50.0
    K = geometry.camera_matrix(300.0, 61.0, 66.5, fy=290.0)
    out = Renderer([mesh]).render(one(0, random_rotations(1, 1)[0], center.tolist()), K[None], (128, 120))
    depth, rays = out.depth[0].double(), pixel_rays(K, 128, 120)
    near, far = sphere_depth(rays, center, 50.0), sphere_depth(rays, center, inner)
    hit = depth > 0
    # the tessellation lies between the sphere through its vertices and the one that touches its faces
    assert not (hit & near.isnan()).any()
    assert not (~hit & ~far.isnan()).any()
    both = hit & ~far.isnan()
    assert both.sum() > 3000
    assert (depth - near)[both].min() > -1e-3
    assert (far - depth)[both].min() > -1e-3
    assert torch.equal(hit, out.instance[0] == 0)
    assert torch.equal(out.instance[0][~hit], torch.full_like(out.instance[0][~hit], -1))
    # normals: unit, towards the camera, the sphere's own within the size of a face
    normal = out.normal[0].double()
    torch.testing.assert_close(
        normal[hit].norm(dim=1), torch.ones(int(hit.sum()), dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert (normal * rays).sum(-1)[hit].max() <= 1e-6
    exact = F.normalize(rays * depth[..., None] - center, dim=-1)
    inside = ~sphere_depth(rays, center, 48.0).isnan()
    assert angle_between(normal, exact)[inside].max() < math.radians(0.5)
    assert not out.normal[0][~hit].any()
    assert not out.color[0][~hit].any()


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    return torch.atan2(torch.linalg.cross(a, b, dim=-1).norm(dim=-1), (a * b).sum(-1))


def test_normals_at_the_rim_point_outwards() -> None:
    """An interpolated normal that leans away from the camera at the silhouette may not come out reversed."""
    solid = trimesh.creation.icosphere(subdivisions=2, radius=50.0)
    mesh, center = mesh_of(solid.vertices, solid.faces, solid.vertices / 50.0), torch.tensor([0.0, 0.0, 300.0])
    K = geometry.camera_matrix(600.0, 128.0, 128.0)
    views = Instances.single(torch.zeros(2, dtype=torch.long), random_rotations(2, 2), center.expand(2, 3))
    out = Renderer([mesh]).render(views, K.expand(2, 3, 3), (256, 256))
    rays, hit = pixel_rays(K, 256, 256).float(), out.depth > 0
    outwards = F.normalize(rays * out.depth[..., None] - center, dim=-1)
    assert (out.normal * outwards).sum(-1)[hit].min() > math.cos(math.radians(12.0))
    assert (out.normal * rays).sum(-1)[hit].max() < 1e-5


def test_depth_of_tilted_planes_is_exact() -> None:
    count, half = 12, 400.0
    plane = quad([[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]])
    g = torch.Generator().manual_seed(3)
    # tilted by up to 60 degrees from the optical axis
    d = geometry.directions_in_cone(torch.rand(count, 2, generator=g), torch.tensor([0.0, 0.0, -1.0]), 60.0)
    R = geometry.rotation_between(torch.tensor([0.0, 0.0, 1.0]), d)
    t = torch.tensor([[20.0, -10.0, 600.0]]) + 30 * torch.randn(count, 3, generator=g)
    K = geometry.camera_matrix(250.0, 33.0, 30.5).expand(count, 3, 3)
    renderer = Renderer([plane])
    out = renderer.render(Instances.single(torch.zeros(count, dtype=torch.long), R, t), K, (60, 64))
    assert (out.depth > 0).all()
    n = R.double()[:, :, 2]
    exact = (n * t).sum(1)[:, None, None] / torch.einsum("hwd,bd->bhw", pixel_rays(K[0], 60, 64), n)
    assert (out.depth - exact).abs().max() < 1e-3
    toward = torch.where((n * t).sum(1, keepdim=True) > 0, -n, n).float()
    torch.testing.assert_close(out.normal, toward[:, None, None].expand_as(out.normal), atol=1e-5, rtol=0)


# the slow twin


def cast_plainly(meshes: Sequence[Mesh], scene: Instances, K: Tensor, height: int, width: int) -> dict[str, Array]:
    """One image: every ray against every triangle (Moeller & Trumbore, 1997), in double precision."""
    rays = pixel_rays(K, height, width).numpy().reshape(-1, 3)
    depth, ids = np.full(len(rays), np.inf), np.full(len(rays), -1)
    normal, color, slope = np.zeros((len(rays), 3)), np.zeros((len(rays), 3)), np.ones(len(rays))
    for i in range(len(scene.mesh)):
        mesh, R = meshes[int(scene.mesh[i])], scene.R[i].double().numpy()
        placed = float(scene.scale[i]) * mesh.vertices.astype(float) @ R.T + scene.t[i].double().numpy()
        for face in mesh.faces:
            a, b, c = placed[face]
            p = np.cross(rays, c - a)
            det = p @ (b - a)
            with np.errstate(divide="ignore", invalid="ignore"):
                u = p @ -a / det
                q = np.cross(-a, b - a)
                v, z = rays @ q / det, (c - a) @ q / det
            nearer = (u >= 0) & (v >= 0) & (u + v <= 1) & (z > 0) & (z < depth)
            weights = np.stack((1 - u - v, u, v), 1)[nearer]
            depth[nearer], ids[nearer] = z[nearer], i
            color[nearer] = weights @ mesh.colors[face]
            slope[nearer] = (np.abs(det) / np.linalg.norm(np.cross(b - a, c - a)))[nearer]
            smooth = weights @ mesh.normals[face].astype(float) @ R.T
            normal[nearer] = smooth / np.linalg.norm(smooth, axis=1, keepdims=True)
    depth[ids < 0] = 0.0
    shape = (height, width)
    return {
        "depth": depth.reshape(shape),
        "instance": ids.reshape(shape),
        "normal": normal.reshape(*shape, 3),
        "color": color.reshape(*shape, 3),
        "slope": slope.reshape(shape),  # 1 where a ray meets a face head on, 0 where it grazes it
    }


def small_solids() -> list[Mesh]:
    torus = trimesh.creation.torus(38.0, 12.0, major_sections=14, minor_sections=8)
    box = trimesh.creation.box(extents=(80.0, 55.0, 40.0))
    return [mesh_of(s.vertices, s.faces) for s in (torus, box)]


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_agrees_with_the_plain_twin(seed: int) -> None:
    meshes, R = small_solids(), random_rotations(3, seed)
    scene = instances(
        [
            (0, 0, R[0], [-8.0, 5.0, 300.0], 1.3, -1),
            (0, 1, R[1], [10.0, -6.0, 340.0], 0.9, 0),
            (0, 0, R[2], [30.0, 20.0, 280.0], 0.4, -1),
        ]
    )
    K = geometry.camera_matrix(160.0, 30.3, 24.6, fy=150.0)
    out = Renderer(meshes).render(scene, K[None], (48, 64))
    plain = cast_plainly(meshes, scene, K, 48, 64)
    assert (np.bincount(plain["instance"].ravel() + 1, minlength=4) > 40).all()  # all seen, and the background
    np.testing.assert_array_equal(out.instance[0].numpy(), plain["instance"])
    # 1e-3 mm, and in proportion more where the ray grazes the face
    off = np.abs(out.depth[0].numpy() - plain["depth"])
    assert (off * np.minimum(1.0, plain["slope"] / 0.1)).max() < 1e-3
    np.testing.assert_allclose(out.color[0].numpy(), plain["color"], atol=5e-4)
    rays = pixel_rays(K, 48, 64).numpy()
    clearly = (plain["normal"] * rays).sum(-1) < -1e-3  # leaning towards the camera
    assert clearly.sum() > 0.9 * (plain["instance"] >= 0).sum()
    np.testing.assert_allclose(out.normal[0].numpy()[clearly], plain["normal"][clearly], atol=3e-4)


def test_scale_is_about_the_instances_origin() -> None:
    """A part twice the size, twice as far, looks the same."""
    R = random_rotations(1, 7)[0]
    K = geometry.camera_matrix(160.0, 30.3, 24.6)[None]
    renderer = Renderer(small_solids())
    near = renderer.render(instances([(0, 0, R, [5.0, -3.0, 200.0], 1.0, -1)]), K, (48, 64))
    far = renderer.render(instances([(0, 0, R, [10.0, -6.0, 400.0], 2.0, -1)]), K, (48, 64))
    assert torch.equal(near.instance, far.instance)
    torch.testing.assert_close(2 * near.depth, far.depth, atol=1e-3, rtol=0)
    torch.testing.assert_close(near.color, far.color, atol=1e-4, rtol=0)


def test_layers_give_the_depth_of_an_occluded_instance_as_if_alone() -> None:
    R = random_rotations(3, 8)
    K = geometry.camera_matrix(160.0, 32.0, 24.0)[None]
    renderer = Renderer(small_solids())
    rows = [
        (0, 1, R[0], [0.0, 0.0, 250.0], 1.0, 1),
        (0, 0, R[1], [4.0, 2.0, 380.0], 1.0, 0),
        (0, 1, R[2], [-20.0, 8.0, 300.0], 0.7, -1),
    ]
    out = renderer.render(instances(rows), K, (48, 64))
    assert out.layers.shape == (2, 48, 64)
    for i, layer in ((0, 1), (1, 0)):
        alone = renderer.render(instances([(*rows[i][:5], -1)]), K, (48, 64))
        assert torch.equal(out.layers[layer], alone.depth[0])
        mine = out.instance[0] == i
        assert torch.equal(out.layers[layer][mine], out.depth[0][mine])
    hidden = (out.layers[0] > 0) & (out.instance[0] != 1)
    assert hidden.sum() > 100
    assert (out.depth[0] < out.layers[0])[hidden].all()
    # and drawing into layers changes nothing else
    without = renderer.render(replace(instances(rows), layer=torch.full((3,), -1)), K, (48, 64))
    assert torch.equal(without.depth, out.depth)
    assert torch.equal(without.instance, out.instance)
    assert without.layers.shape == (0, 48, 64)


# pixels


def square_at(x0: float, y0: float, x1: float, y1: float, K: Tensor, z: float = 500.0) -> Mesh:
    """A quad at depth z that covers [x0, x1] x [y0, y1] of the image."""
    f, c = K.diagonal()[:2].tolist(), K[:2, 2].tolist()
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return quad([((x - c[0]) / f[0] * z, (y - c[1]) / f[1] * z, z) for x, y in corners])


@pytest.mark.parametrize(
    ("window", "pixels"),
    [
        ((5.02, 3.02, 5.98, 3.98), [(3, 5)]),  # one pixel, all of it
        ((5.45, 3.45, 5.55, 3.55), [(3, 5)]),  # its centre is enough
        ((5.55, 3.02, 6.45, 3.98), []),  # between two centres there is nothing
        ((4.6, 3.6, 6.4, 4.4), []),
        ((4.45, 3.45, 6.55, 3.55), [(3, 4), (3, 5), (3, 6)]),
        ((0.45, 0.45, 0.55, 0.55), [(0, 0)]),
        ((11.45, 8.45, 11.55, 8.55), [(8, 11)]),
    ],
)
def test_pixel_centres_are_at_integer_plus_a_half(
    window: tuple[float, float, float, float], pixels: list[tuple[int, int]]
) -> None:
    K = geometry.camera_matrix(70.0, 6.3, 4.1, fy=80.0)
    out = Renderer([square_at(*window, K)]).render(one(0, torch.eye(3), [0.0, 0.0, 0.0]), K[None], (9, 12))
    assert [tuple(p) for p in (out.instance[0] == 0).nonzero().tolist()] == pixels
    assert out.depth[out.depth > 0].tolist() == pytest.approx([500.0] * len(pixels), abs=1e-3)


def test_projected_boxes_are_those_of_the_scaled_vertices() -> None:
    meshes, R = small_solids(), random_rotations(3, 9)
    rows = [(0, 1, R[0], [9.0, 4.0, 250.0], 1.4, 0), (1, 0, R[1], [4.0, 2.0, 380.0], 0.6, -1)]
    rows.append((1, 1, R[2], [-50.0, 2.0, 280.0], 1.0, -1))
    K = torch.stack([geometry.camera_matrix(160.0, 32.0, 24.0), geometry.camera_matrix(90.0, 12.0, 20.0)])
    boxes = Renderer(meshes).projected_boxes(instances(rows), K)
    for box, (image, mesh, rotation, t, scale, _) in zip(boxes, rows, strict=True):
        camera = scale * meshes[mesh].vertices @ rotation.numpy().T + np.array(t)
        pixels = camera @ K[image].numpy().T
        pixels = pixels[:, :2] / pixels[:, 2:]
        np.testing.assert_allclose(box.numpy(), [*pixels.min(0), *pixels.max(0)], atol=1e-3)


def test_the_reach_of_meshes_with_hulls_of_any_size() -> None:
    meshes, R = small_solids(), random_rotations(2, 11)
    renderer, which = Renderer(meshes), torch.arange(len(meshes))
    assert len({len(mesh.hull) for mesh in meshes}) > 1
    found = renderer.lowest(which, R[0, 2].expand(len(meshes), 3))
    expected = [float((mesh.vertices @ R[0, 2].numpy()).min()) for mesh in meshes]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    assert [len(renderer.hull(k)) for k in which.tolist()] == [len(mesh.hull) for mesh in meshes]


def test_a_part_of_a_larger_image_is_the_same_part() -> None:
    """Instances that stick out of the image on every side, or miss it, are cut and nothing else."""
    meshes, R = small_solids(), random_rotations(4, 10)
    rows = [
        (0, 0, R[0], [-55.0, 5.0, 300.0], 1.3, 0),
        (0, 1, R[1], [60.0, -40.0, 340.0], 1.5, -1),
        (0, 1, R[2], [0.0, 55.0, 280.0], 1.2, -1),
        (0, 1, R[3], [900.0, 0.0, 400.0], 1.0, -1),  # nowhere near
    ]
    whole = geometry.camera_matrix(160.0, 64.0, 48.5)
    part = geometry.camera_matrix(160.0, 64.0 - 40, 48.5 - 30)
    renderer = Renderer(meshes)
    big, small = (
        renderer.render(instances(rows), whole[None], (96, 128)),
        renderer.render(instances(rows), part[None], (36, 48)),
    )
    cut = {f.name: getattr(big, f.name)[:, 30:66, 40:88] for f in fields(Buffers)}
    assert {-1, 0, 1, 2} <= set(cut["instance"].unique().tolist())
    edges = (small.instance[0, 0], small.instance[0, -1], small.instance[0, :, 0], small.instance[0, :, -1])
    assert sum((edge >= 0).any().item() for edge in edges) >= 3
    assert equal(small, Buffers(**cut))


# batches and threads


def busy_batch() -> tuple[Renderer, Instances, Tensor]:
    """Five images: two instances, one, none, three, and one outside the image."""
    R = random_rotations(7, 11)
    rows = [
        (0, 0, R[0], [-8.0, 5.0, 300.0], 1.3, 0),
        (0, 1, R[1], [10.0, -6.0, 340.0], 0.9, -1),
        (1, 2, R[2], [0.0, 0.0, 500.0], 1.0, 1),
        (3, 2, R[3], [10.0, 20.0, 400.0], 1.0, 2),
        (3, 0, R[4], [-10.0, 20.0, 300.0], 0.5, -1),
        (3, 1, R[5], [20.0, -60.0, 350.0], 1.5, -1),
        (4, 1, R[6], [2000.0, 0.0, 350.0], 1.0, 3),
    ]
    K = torch.stack([geometry.camera_matrix(150.0 + 10 * i, 48.0 + i, 40.0) for i in range(5)])
    return Renderer([*small_solids(), hammer()], threads=1), instances(rows), K


def test_a_batch_is_its_images_one_by_one() -> None:
    renderer, scene, K = busy_batch()
    batch = renderer.render(scene, K, (80, 96))
    for image in range(5):
        mine = scene.image == image
        own = scene.select(mine)
        first = int(mine.nonzero()[0]) if mine.any() else 0
        layer = torch.where(own.layer >= 0, 0, -1)
        alone = renderer.render(replace(own, image=own.image * 0, layer=layer), K[image : image + 1], (80, 96))
        assert torch.equal(batch.depth[image], alone.depth[0])
        shifted = torch.where(alone.instance[0] >= 0, alone.instance[0] + first, -1)
        assert torch.equal(batch.instance[image], shifted)
        assert torch.equal(batch.normal[image], alone.normal[0])
        assert torch.equal(batch.color[image], alone.color[0])
        for theirs in own.layer[own.layer >= 0].tolist():
            assert torch.equal(batch.layers[theirs], alone.layers[0])
    seen = (batch.instance >= 0).flatten(1).any(1).tolist()
    assert seen == [True, True, False, True, False]


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_no_bit(threads: int) -> None:
    renderer, scene, K = busy_batch()
    K = K * torch.tensor([2.0, 2.0, 1.0])[:, None]
    single = renderer.render(scene, K, (160, 192))
    assert (single.depth > 0).sum() > 8192  # enough rays for the pool to be used
    several = Renderer([*small_solids(), hammer()], threads=threads).render(scene, K, (160, 192))
    assert equal(single, several)


def test_no_instances_give_empty_images() -> None:
    renderer, scene, K = busy_batch()
    out = renderer.render(scene.select(torch.zeros(7, dtype=torch.bool)), K, (6, 8))
    assert not out.depth.any()
    assert not out.color.any()
    assert (out.instance == -1).all()
    assert out.depth.shape == (5, 6, 8)
    assert out.layers.shape == (0, 6, 8)


def test_merge_sorts_by_image_and_keeps_the_order_within() -> None:
    _, scene, _ = busy_batch()
    odd = torch.tensor([False, True] * 3 + [False])
    joined = Instances.merge([scene.select(odd), scene.select(~odd)])
    assert joined.image.tolist() == sorted(scene.image.tolist())
    rows = [(1, 0), (2,), (3, 5, 4), (6,)]
    expected = [i for image in rows for i in image]
    for f in fields(Instances):
        assert torch.equal(getattr(joined, f.name), getattr(scene, f.name)[expected]), f.name


# shading


def flat_lights(count: int, ambient: float = 1.0) -> Lights:
    direction = torch.tensor([[0.0, 0.0, -1.0]]).expand(count, 3)
    zero = torch.zeros(count)
    return Lights(direction, zero + ambient, zero, zero, zero + 16.0)


@pytest.mark.parametrize(
    ("antialias", "edge", "expected"), [(1, 5.4, 0.0), (1, 5.6, 1.0), (2, 5.5, 0.5), (4, 5.25, 0.25)]
)
def test_antialias_is_the_covered_share_of_a_pixel(antialias: int, edge: float, expected: float) -> None:
    K = geometry.camera_matrix(70.0, 6.3, 4.1)
    renderer = Renderer([square_at(-20.0, 2.0, edge, 30.0, K)])
    rgba, buffers = render_shaded(
        renderer, one(0, torch.eye(3), [0.0] * 3), K[None], 12, flat_lights(1), torch.ones(1, 3), antialias
    )
    assert rgba.shape == (1, 4, 12, 12)
    assert buffers.depth.shape == (1, 12 * antialias, 12 * antialias)
    row = torch.tensor([1.0] * 5 + [expected] + [0.0] * 6)
    exact = torch.cat((torch.zeros(2, 12), row.expand(10, 12)))
    torch.testing.assert_close(rgba[0, 3], exact, atol=1e-6, rtol=0)
    colors = torch.tensor([0.2, 0.5, 0.8])[:, None, None]
    torch.testing.assert_close(rgba[0, :3], colors * exact, atol=1e-5, rtol=0)  # colour times coverage


def test_antialiased_coverage_of_a_sphere_is_its_area() -> None:
    K = geometry.camera_matrix(300.0, 16.2, 15.9)
    coverage = []
    for antialias in (1, 4):
        rgba, _ = render_shaded(
            Renderer([sphere()]),
            one(0, torch.eye(3), [0.0, 0.0, 1200.0]),
            K[None],
            32,
            flat_lights(1),
            torch.ones(1, 3),
            antialias,
        )
        coverage.append(rgba[0, 3])
    tangent = 50.0 / math.sqrt(1200.0**2 - 50.0**2)
    assert float(coverage[1].sum()) == pytest.approx(math.pi * (300.0 * tangent) ** 2, rel=0.01)
    assert set(coverage[0].unique().tolist()) == {0.0, 1.0}
    assert len(coverage[1].unique()) > 4


def test_shading_is_phongs_pixel_by_pixel() -> None:
    renderer, scene, K = busy_batch()
    g = torch.Generator().manual_seed(12)
    lights = Lights(
        F.normalize(torch.randn(5, 3, generator=g) - torch.tensor([0.0, 0.0, 2.0]), dim=1),
        0.1 + 0.2 * torch.rand(5, generator=g),
        0.3 + 0.4 * torch.rand(5, generator=g),
        0.2 + 0.2 * torch.rand(5, generator=g),
        4.0 + 20 * torch.rand(5, generator=g),
    )
    tint = 0.5 + 0.7 * torch.rand(7, 3, generator=g)
    buffers = renderer.render(scene, K, (40, 48))
    rgba = shade(buffers, scene.image, K, lights, tint)
    glints = 0
    for b in range(5):
        rays = F.normalize(pixel_rays(K[b], 40, 48), dim=-1)
        light = lights.direction[b].double()
        for row in range(0, 40, 3):
            for column in range(0, 48, 3):
                owner = int(buffers.instance[b, row, column])
                if owner < 0:
                    assert not rgba[b, :, row, column].any()
                    continue
                n = buffers.normal[b, row, column].double()
                cosine = float(n @ light)
                color = buffers.color[b, row, column].double() * tint[owner]
                color = color * (lights.ambient[b] + lights.diffuse[b] * max(cosine, 0.0))
                shine = float((2 * cosine * n - light) @ -rays[row, column])
                if cosine > 0 and shine > 1e-6:
                    color = color + lights.specular[b] * shine ** float(lights.shininess[b])
                    glints += shine > 0.8
                expected = [*color.clamp(0, 1).tolist(), 1.0]
                assert rgba[b, :, row, column].tolist() == pytest.approx(expected, abs=2e-5)
    assert glints > 5
