"""Rotations, views, cameras and boxes against closed forms and plain twins in double precision."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codepose import geometry
from codepose.parts.shapes import hammer

DOUBLE = torch.float64
Z = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)
seeds = st.integers(0, 2**31)
light = settings(max_examples=40)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_vectors(count: int, seed: int) -> Tensor:
    v = torch.randn(count, 3, generator=generator(seed), dtype=DOUBLE)
    return v / v.norm(dim=1, keepdim=True)


def about(axis: Tensor, angle: float) -> Tensor:
    """The slow twin of every rotation: exp(angle [axis]x), (3, 3) double."""
    x, y, z = (axis.to(DOUBLE) / axis.to(DOUBLE).norm()).tolist()
    skew = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=DOUBLE)
    return torch.matrix_exp(angle * skew)


def random_rotations(count: int, seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator(seed), dtype=DOUBLE))
    q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    q[:, 0] *= torch.linalg.det(q)[:, None]
    return q


def assert_rotations(R: Tensor, atol: float) -> None:
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=R.dtype).expand_as(R), atol=atol, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(R.shape[:-2], dtype=R.dtype), atol=atol, rtol=0)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    return torch.atan2(torch.linalg.cross(a, b, dim=-1).norm(dim=-1), (a * b).sum(-1))


# geodesic_angle

ANGLES = [0.0, 1e-12, 1e-8, 1e-4, 0.5, math.pi / 2, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi]


@pytest.mark.parametrize("angle", ANGLES)
def test_geodesic_angle_of_a_known_turn(angle: float) -> None:
    for seed, (base, axis) in enumerate(zip(random_rotations(8, 1), unit_vectors(8, 2), strict=True)):
        # half a turn squared loses the sine's sign only; both factors are exact to 1e-15
        found = geometry.geodesic_angle(base, base @ about(axis, angle))
        assert abs(float(found) - angle) < 4e-15 * 4, (seed, angle)


def test_geodesic_angle_is_exact_at_both_ends_without_rounding() -> None:
    flips = torch.diag_embed(torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]))
    assert geometry.geodesic_angle(torch.eye(3), flips).tolist() == pytest.approx([math.pi] * 3, abs=1e-7)
    assert geometry.geodesic_angle(flips, flips).tolist() == [0.0, 0.0, 0.0]


def test_geodesic_angle_in_single_precision_beats_acos() -> None:
    R = random_rotations(64, 3)
    turned = torch.stack([r @ about(a, 1e-3) for r, a in zip(R, unit_vectors(64, 4), strict=True)])
    found = geometry.geodesic_angle(R.float(), turned.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((64,), 1e-3), atol=1e-6, rtol=0)


@given(seed=seeds)
@light
def test_geodesic_angle_is_a_bi_invariant_metric(seed: int) -> None:
    a, b, c, g = random_rotations(4, seed)
    d = geometry.geodesic_angle
    assert float(d(a, b)) == pytest.approx(float(d(b, a)), abs=1e-13)
    assert float(d(g @ a, g @ b)) == pytest.approx(float(d(a, b)), abs=1e-12)
    assert float(d(a @ g, b @ g)) == pytest.approx(float(d(a, b)), abs=1e-12)
    assert float(d(a, c)) <= float(d(a, b)) + float(d(b, c)) + 1e-12


def test_geodesic_angle_broadcasts() -> None:
    R = random_rotations(6, 5).view(2, 3, 3, 3)
    table = geometry.geodesic_angle(R[:, :, None], R.view(6, 3, 3))
    assert table.shape == (2, 3, 6)
    for i, j, k in itertools.product(range(2), range(3), range(6)):
        assert float(table[i, j, k]) == pytest.approx(float(geometry.geodesic_angle(R[i, j], R.view(6, 3, 3)[k])))


# view_rotation

SPECIAL = torch.tensor(
    [*itertools.product((-1.0, 0.0, 1.0), repeat=3)][:13] + [*itertools.product((-1.0, 0.0, 1.0), repeat=3)][14:],
    dtype=DOUBLE,
)


def view_directions(seed: int) -> Tensor:
    """Random directions, the axes, diagonals, and both sides of the helper's switch at |x| = 0.9."""
    special = SPECIAL / SPECIAL.norm(dim=1, keepdim=True)
    height = torch.tensor([0.9 - 1e-9, 0.9 + 1e-9, -0.9 - 1e-9, -0.9 + 1e-9], dtype=DOUBLE)
    switch = torch.stack((height, (1 - height**2).sqrt(), torch.zeros(4, dtype=DOUBLE)), 1)
    return torch.cat((unit_vectors(40, seed), special, switch))


def test_view_rotation_is_a_rotation_that_looks_from_the_direction() -> None:
    d = view_directions(6)
    turns = 2 * math.pi * torch.rand(len(d), generator=generator(7), dtype=DOUBLE)
    R = geometry.view_rotation(d, turns)
    assert_rotations(R, 1e-14)
    # the camera's centre in the object frame, for the object 700 mm down the optical axis
    center = -(R.mT @ (700 * Z)[:, None])[..., 0]
    torch.testing.assert_close(center, 700 * d, atol=1e-11, rtol=0)


@given(seed=seeds, first=st.floats(-7, 7), second=st.floats(-7, 7))
@light
def test_in_plane_angle_turns_about_the_optical_axis(seed: int, first: float, second: float) -> None:
    d = view_directions(seed)
    one = geometry.view_rotation(d, torch.full((len(d),), first, dtype=DOUBLE))
    both = geometry.view_rotation(d, torch.full((len(d),), first + second, dtype=DOUBLE))
    torch.testing.assert_close(both, about(Z, second) @ one, atol=1e-13, rtol=0)


def test_quarter_turn_moves_image_right_to_image_down() -> None:
    R = geometry.view_rotation(Z.expand(2, 3), torch.tensor([0.0, math.pi / 2], dtype=DOUBLE))
    point = R[0].mT @ torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)  # seen to the right of the centre
    torch.testing.assert_close(R[1] @ point, torch.tensor([0.0, 1.0, 0.0], dtype=DOUBLE), atol=1e-15, rtol=0)


# directions_in_cone


@pytest.mark.parametrize("cone", [1.0, 45.0, 90.0, 135.0, 180.0])
def test_directions_fill_the_cone_evenly(cone: float) -> None:
    count = 40_000
    uniforms = torch.rand(count, 2, generator=generator(8), dtype=DOUBLE)
    axis = unit_vectors(1, 9)[0]
    d = geometry.directions_in_cone(uniforms, axis, cone)
    torch.testing.assert_close(d.norm(dim=1), torch.ones(count, dtype=DOUBLE), atol=1e-12, rtol=0)
    height = d @ axis
    edge = math.cos(math.radians(cone))
    assert height.min() >= edge - 1e-12
    # Archimedes: the height is uniform on [edge, 1]; Kolmogorov-Smirnov at 1e-6
    rank = torch.arange(count, dtype=DOUBLE) / count
    cdf = (height.sort().values - edge) / (1 - edge)
    assert (cdf - rank).abs().max() < 2.7 / math.sqrt(count)
    sigma = (1 - edge) / math.sqrt(12 * count)
    assert abs(float(height.mean()) - (1 + edge) / 2) < 5 * sigma
    # and no side of the axis is preferred
    aside = d - height[:, None] * axis
    assert aside.mean(0).norm() < 5 * float(aside.norm(dim=1).square().mean().sqrt()) / math.sqrt(count)


def test_a_cone_of_180_is_the_sphere_whatever_the_axis() -> None:
    d = geometry.directions_in_cone(
        torch.rand(40_000, 2, generator=generator(10), dtype=DOUBLE), unit_vectors(1, 11)[0], 180.0
    )
    torch.testing.assert_close(d.mean(0), torch.zeros(3, dtype=DOUBLE), atol=5 / math.sqrt(3 * 40_000), rtol=0)
    torch.testing.assert_close(d.T @ d / len(d), torch.eye(3, dtype=DOUBLE) / 3, atol=0.01, rtol=0)


@pytest.mark.parametrize("axis", [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
def test_cone_ends(axis: list[float]) -> None:
    along = torch.tensor(axis)
    d = geometry.directions_in_cone(torch.tensor([[0.0, 0.3], [1.0 - 2.0**-24, 0.3]]), along, 30.0)
    torch.testing.assert_close(d[0], along, atol=1e-6, rtol=0)
    assert math.degrees(float(angle_between(d[1], along))) == pytest.approx(30.0, abs=1e-3)


def test_directions_in_cone_stays_on_the_device_it_is_given() -> None:
    """The meta device stands in for CUDA: mixing it with the CPU raises in the same way."""
    axis = torch.tensor([0.0, 0.0, 1.0], device="meta")
    assert geometry.directions_in_cone(torch.rand(4, 2, device="meta"), axis, 45.0).device.type == "meta"


# rotation_between


@given(seed=seeds)
@light
def test_rotation_between_is_the_smallest(seed: int) -> None:
    a, b = unit_vectors(2, seed)
    R = geometry.rotation_between(2.5 * a, 0.1 * b)  # lengths do not matter
    assert_rotations(R, 1e-11)
    torch.testing.assert_close(R @ a, b, atol=1e-11, rtol=0)
    angle = float(angle_between(a, b))
    assert float(geometry.geodesic_angle(torch.eye(3, dtype=DOUBLE), R)) == pytest.approx(angle, abs=1e-10)
    torch.testing.assert_close(R, about(torch.linalg.cross(a, b), angle), atol=1e-10, rtol=0)


def test_rotation_between_equal_directions_is_the_identity() -> None:
    a = unit_vectors(20, 12)
    torch.testing.assert_close(
        geometry.rotation_between(a, a), torch.eye(3, dtype=DOUBLE).expand(20, 3, 3), atol=1e-15, rtol=0
    )


def test_rotation_between_opposite_directions_is_half_a_turn() -> None:
    # the view sphere's vertices include the axes' and the golden ratio's special directions
    a = torch.cat((geometry.view_sphere(2).to(DOUBLE), torch.eye(3, dtype=DOUBLE), -torch.eye(3, dtype=DOUBLE)))
    golden = (1 + math.sqrt(5)) / 2
    a = torch.cat((a, torch.tensor([[golden / 2, 0.5, 0.5 / golden], [-0.5 / golden, 0.5, -golden / 2]], dtype=DOUBLE)))
    R = geometry.rotation_between(a, -a)
    torch.testing.assert_close((R @ a[..., None])[..., 0], -a, atol=1e-12, rtol=0)
    assert_rotations(R, 1e-12)


@pytest.mark.parametrize("short_of_pi", [1e-1, 1e-2, 3e-3, 2e-3, 1.5e-3, 1e-3, 1e-4, 1e-6])
def test_rotation_between_almost_opposite_directions_in_single_precision(short_of_pi: float) -> None:
    for phase in (0.0, 1.0, 2.0, 4.0):
        tilt = math.sin(short_of_pi)
        b = torch.tensor([tilt * math.cos(phase), tilt * math.sin(phase), -math.cos(short_of_pi)])
        R = geometry.rotation_between(Z.float(), b)
        assert_rotations(R, 2e-6)
        torch.testing.assert_close(R @ Z.float(), b, atol=1e-4, rtol=0)


def test_cross_matrix_is_the_cross_product() -> None:
    v, w = unit_vectors(30, 13), unit_vectors(30, 14)
    torch.testing.assert_close((geometry.cross_matrix(v) @ w[..., None])[..., 0], torch.linalg.cross(v, w))


# offaxis_rotation


def implied_jacobian(W: Tensor, t: Tensor) -> Tensor:
    """(2, 3): how the image moves, in focal lengths, with a point of the view frame at t; by differences."""
    step = 1e-4 * float(t.norm())
    columns = []
    for axis in torch.eye(3, dtype=DOUBLE):
        ahead, behind = t + step * (W @ axis), t - step * (W @ axis)
        columns.append((ahead[:2] / ahead[2] - behind[:2] / behind[2]) / (2 * step))
    return torch.stack(columns, 1)


def aae_rotation(t: Tensor) -> Tensor:
    tx, ty, tz = t.tolist()
    about_y = about(torch.tensor([0.0, 1.0, 0.0]), math.atan(tx / math.hypot(tz, ty)))
    return about_y @ about(torch.tensor([1.0, 0.0, 0.0]), -math.atan(ty / tz))


@given(x=st.floats(-1.2, 1.2), y=st.floats(-1.2, 1.2), z=st.floats(100, 3000))
@light
def test_offaxis_rotation_leaves_no_in_plane_error(x: float, y: float, z: float) -> None:
    t = torch.tensor([x * z, y * z, z], dtype=DOUBLE)
    W = geometry.offaxis_rotation(t)
    assert_rotations(W, 1e-12)
    J = implied_jacobian(W, t) * z
    assert abs(float(J[0, 1] - J[1, 0])) < 1e-6
    torch.testing.assert_close(J[:, 2], torch.zeros(2, dtype=DOUBLE), atol=1e-6, rtol=0)  # along the ray: no motion
    assert torch.linalg.eigvalsh((J[:, :2] + J[:, :2].T) / 2).min() > 0  # symmetric *and* positive: not half a turn


def test_the_aae_product_has_the_in_plane_error_that_ours_lacks() -> None:
    t = torch.tensor([400.0, 500.0, 700.0], dtype=DOUBLE)
    J = implied_jacobian(aae_rotation(t), t) * 700
    assert abs(float(J[0, 1] - J[1, 0])) > 0.05


def test_offaxis_rotation_agrees_with_the_aae_to_first_order() -> None:
    gaps = []
    for reach in (0.08, 0.04, 0.02, 0.01):
        directions = [(math.cos(p), math.sin(p)) for p in np.linspace(0, 2 * math.pi, 24, endpoint=False)]
        ts = [torch.tensor([800 * reach * c, 800 * reach * s, 800.0], dtype=DOUBLE) for c, s in directions]
        found = [geometry.geodesic_angle(geometry.offaxis_rotation(t), aae_rotation(t)) for t in ts]
        gaps.append(float(torch.stack(found).max()))
        assert gaps[-1] < 0.3 * reach**2
    ratios = [a / b for a, b in itertools.pairwise(gaps)]
    assert min(ratios) > 3.9  # second order: halving the angle quarters the difference


def test_offaxis_rotation_on_the_axis_is_the_identity() -> None:
    assert torch.equal(geometry.offaxis_rotation(torch.tensor([0.0, 0.0, 812.5])), torch.eye(3))


# the codebook's views


@cache
def full_codebook() -> Tensor:
    return geometry.codebook_rotations(4, 36, torch.tensor([0.0, 0.0, 1.0])).view(2562, 36, 3, 3)


def test_view_sphere_has_unit_distinct_vertices() -> None:
    for level, count in ((0, 12), (2, 162), (4, 2562)):
        sphere = geometry.view_sphere(level)
        assert sphere.shape == (count, 3)
        torch.testing.assert_close(sphere.norm(dim=1), torch.ones(count))
    gaps = torch.cdist(sphere, sphere).fill_diagonal_(9.0).amin(1)
    assert math.radians(3.0) < gaps.min() <= gaps.max() < math.radians(5.0)


def test_codebook_has_92232_views_none_of_them_twice() -> None:
    grid = full_codebook()
    assert grid.shape[0] * grid.shape[1] == 92_232
    assert_rotations(grid.reshape(-1, 3, 3), 2e-6)
    # views outermost: every one of the 36 looks from the same direction, every direction is another
    looks = -grid[:, :, 2]
    assert torch.equal(looks, looks[:, :1].expand_as(looks))
    torch.testing.assert_close(looks[:, 0], geometry.view_sphere(4))
    # in-plane innermost: ten degrees from each to the next, and from the last round to the first
    steps = geometry.geodesic_angle(grid, grid.roll(-1, 1))
    torch.testing.assert_close(steps, torch.full_like(steps, math.radians(10.0)), atol=3e-6, rtol=0)


def test_no_two_rotations_of_a_small_codebook_are_near_each_other() -> None:
    R = geometry.codebook_rotations(1, 8, torch.tensor([0.0, 1.0, 0.0])).double()
    table = geometry.geodesic_angle(R[:, None], R[None]).fill_diagonal_(9.0)
    assert table.shape == (42 * 8, 42 * 8)
    assert table.min() > math.radians(20.0)  # neighbouring directions are 31 degrees or more apart


def test_a_part_that_reaches_behind_a_near_camera_still_gets_a_place() -> None:
    """A long part in a large box: turned to point at the camera it would have to stand in it."""
    rod = torch.tensor([[x, y, z] for x in (-150.0, 150.0) for y in (-10.0, 10.0) for z in (-10.0, 10.0)])
    K = geometry.camera_matrix(193.0, 128.0, 128.0)
    R = geometry.codebook_rotations(1, 4, torch.tensor([0.0, 0.0, 1.0]))
    center = torch.tensor([128.0, 110.0])
    for side in (120.0, 160.0, 200.0):
        half = torch.tensor([side / 2, 0.35 * side])
        boxes = torch.cat((center - half, center + half)).expand(len(R), 4)
        start = torch.tensor([0.0, -20.0, 193.0 * 300.0 / side]).expand(len(R), 3)
        t = geometry.fit_translation(rod, R, boxes, K, start)
        assert torch.isfinite(t).all()
        assert t[:, 2].min() > 5.0


def test_a_fit_that_would_run_away_stays_at_the_first_guess() -> None:
    """In the corners of a camera that sees 170 degrees each step doubles the distance."""
    rod = torch.tensor([[x, y, z] for x in (-150.0, 150.0) for y in (-10.0, 10.0) for z in (-10.0, 10.0)])
    K = geometry.camera_matrix(11.2, 128.0, 128.0)
    R = geometry.codebook_rotations(1, 4, torch.tensor([0.0, 0.0, 1.0]))
    boxes = torch.tensor([[5.0, 5.0, 40.0, 20.0]]).expand(len(R), 4)
    start = torch.tensor([-900.0, -1000.0, 100.0]).expand(len(R), 3)
    t = geometry.fit_translation(rod, R, boxes, K, start)
    changed = t.norm(dim=1) / start.norm(dim=1)
    assert torch.isfinite(t).all()
    assert 1 / geometry.FARTHEST_FIT <= changed.min() <= changed.max() <= geometry.FARTHEST_FIT
    assert (t == start).all(1).any()


@pytest.mark.parametrize("level", [0, 2, 4])
def test_the_grids_step_is_the_largest_distance_to_a_neighbour(level: int) -> None:
    directions = geometry.view_sphere(level)
    angles = (directions.double() @ directions.double().T).fill_diagonal_(-1.0).clamp(-1, 1).acos()
    assert geometry._grid_step(directions) == pytest.approx(float(angles.min(dim=1).values.max()), abs=1e-3)


@pytest.mark.parametrize(("level", "cone"), [(1, 30.0), (2, 45.0), (3, 45.0), (3, 100.0), (4, 20.0)])
def test_every_view_of_a_cone_has_the_neighbours_it_would_have_on_the_sphere(level: int, cone: float) -> None:
    axis = unit_vectors(1, 15)[0].float()
    inside = -geometry.codebook_rotations(level, 1, axis, cone)[:, 2]
    sphere = geometry.view_sphere(level)
    assert len(inside) < len(sphere)
    edges = torch.cdist(sphere, sphere).fill_diagonal_(9.0)
    spacing = 2 * math.asin(float(edges.amin(1).max()) / 2)
    assert angle_between(inside, axis.expand_as(inside)).max() <= math.radians(cone) + spacing + 1e-5
    uniforms = torch.rand(4000, 2, generator=generator(16))
    uniforms[:1000, 0] = 1.0 - 2.0**-24  # the rim
    views = geometry.directions_in_cone(uniforms, axis, cone)
    near, nearest = torch.cdist(views, inside), torch.cdist(views, sphere)
    torch.testing.assert_close(near.amin(1), nearest.amin(1), atol=1e-6, rtol=0)
    assert 2 * math.asin(float(near.amin(1).max()) / 2) < 0.75 * spacing


def test_the_opposite_cone_is_the_same_cone_around_the_opposite_axis() -> None:
    axis = unit_vectors(1, 15)[0].float()
    both = geometry.codebook_rotations(3, 2, axis, 30.0, opposite=True)
    ends = [geometry.codebook_rotations(3, 2, end, 30.0) for end in (axis, -axis)]
    assert len(both) == len(ends[0]) + len(ends[1])
    table = geometry.geodesic_angle(torch.cat(ends)[:, None].double(), both[None].double())
    assert float(table.amin(1).max()) < 1e-3


def test_every_rotation_of_the_cone_is_near_a_codebook_entry() -> None:
    axis = torch.tensor([0.0, 0.0, 1.0])
    book = geometry.codebook_rotations(3, 36, axis, 30.0)
    uniforms = torch.rand(200, 3, generator=generator(17))
    R = geometry.view_rotation(geometry.directions_in_cone(uniforms[:, :2], axis, 30.0), 6.283 * uniforms[:, 2])
    trace = R.reshape(-1, 9) @ book.reshape(-1, 9).T
    nearest = geometry.geodesic_angle(R, book[trace.argmax(1)])
    sphere = geometry.view_sphere(3)
    spacing = float(torch.cdist(sphere, sphere).fill_diagonal_(9.0).amin(1).max())
    assert nearest.max() < 0.75 * spacing + math.radians(5.0)


# cameras and boxes


def test_camera_matrix() -> None:
    assert geometry.camera_matrix(300.0, 256.0, 250.0).tolist() == [[300, 0, 256], [0, 300, 250], [0, 0, 1]]
    assert geometry.camera_matrix(300.0, 256.0, 250.0, fy=310.0)[1, 1] == 310.0


def plain_projection(points: np.ndarray, R: np.ndarray, t: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(P, 2) pixels, one point at a time."""
    rows = []
    for p in points:
        x, y, z = R @ p + t
        rows.append((K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]))
    return np.array(rows)


def test_projected_box_of_the_hull_is_the_box_of_every_vertex() -> None:
    mesh = hammer()
    assert len(mesh.hull) < len(mesh.vertices) / 2
    R = random_rotations(12, 18).float()
    t = torch.tensor([[-200.0, 150.0, 700.0]]) + 100 * torch.randn(12, 3, generator=generator(19))
    K = torch.stack([geometry.camera_matrix(300.0 + 20 * i, 256.0, 240.0 - i, fy=310.0) for i in range(12)])
    boxes = geometry.projected_box(torch.from_numpy(mesh.hull), R, t, K)
    for i in range(12):
        every = plain_projection(mesh.vertices.astype(float), *(x[i].double().numpy() for x in (R, t, K)))
        expected = np.concatenate((every.min(0), every.max(0)))
        np.testing.assert_allclose(boxes[i].numpy(), expected, atol=2e-3)
    shared = geometry.projected_box(torch.from_numpy(mesh.hull), R[:1], t[:1], K[0])  # one K for the batch
    torch.testing.assert_close(shared, boxes[:1])


def test_project_gives_depth_along_the_optical_axis() -> None:
    R, t = about(Z, math.pi / 2)[None], torch.tensor([[10.0, 0.0, 500.0]], dtype=DOUBLE)
    K = geometry.camera_matrix(100.0, 50.0, 40.0).double()
    pixels, depth = geometry.project(torch.tensor([[20.0, 5.0, 125.0]], dtype=DOUBLE), R, t, K)
    torch.testing.assert_close(pixels, torch.tensor([[[50.0 + 100 * 5 / 625, 40.0 + 100 * 20 / 625]]], dtype=DOUBLE))
    assert float(depth) == pytest.approx(625.0)


coordinate = st.floats(-500, 500)
length = st.floats(1, 300)


@given(x=coordinate, y=coordinate, w=length, h=length, u=coordinate, v=coordinate, size=st.integers(1, 256))
@light
def test_crop_camera_moves_a_pixel_as_the_crop_does(
    x: float, y: float, w: float, h: float, u: float, v: float, size: int
) -> None:
    K = geometry.camera_matrix(300.0, 256.0, 250.0, fy=280.0).double()
    window = torch.tensor([[x, y, x + w, y + h]], dtype=DOUBLE)
    ray = torch.linalg.solve(K, torch.tensor([u, v, 1.0], dtype=DOUBLE))
    cropped = geometry.crop_camera(K, window, size)
    assert cropped.shape == (1, 3, 3)
    image = cropped[0] @ (640.0 * ray)
    expected = [(u - x) / w * size, (v - y) / h * size]
    assert (image[:2] / image[2]).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-7)


@given(x=coordinate, y=coordinate, w=length, h=length, pad=st.floats(0.5, 3))
@light
def test_padded_square(x: float, y: float, w: float, h: float, pad: float) -> None:
    box = torch.tensor([[x, y, x + w, y + h]], dtype=DOUBLE)
    square = geometry.padded_square(box, pad)
    torch.testing.assert_close(geometry.box_size(square), torch.full((1, 2), pad * max(w, h), dtype=DOUBLE))
    torch.testing.assert_close(geometry.box_center(square), torch.tensor([[x + w / 2, y + h / 2]], dtype=DOUBLE))


def test_box_size_and_center() -> None:
    boxes = torch.tensor([[[1.0, 2.0, 5.0, 12.0]]])
    assert geometry.box_size(boxes).tolist() == [[[4.0, 10.0]]]
    assert geometry.box_center(boxes).tolist() == [[[3.0, 7.0]]]


# translation_from_box


def flat_plate() -> Tensor:
    """A lopsided polygon in z = 0 whose box is not centred on its origin."""
    corners = [[-30, -80, 0], [70, -20, 0], [40, 90, 0], [-55, 10, 0]]
    return torch.tensor(corners, dtype=DOUBLE)


@given(
    x=st.floats(-300, 300),
    y=st.floats(-300, 300),
    z=st.floats(300, 3000),
    focal=st.floats(100, 2000),
    fy=st.floats(100, 2000),
    turn=st.floats(0, 6.3),
)
@light
def test_translation_of_a_plate_that_faces_the_camera_is_exact(
    x: float, y: float, z: float, focal: float, fy: float, turn: float
) -> None:
    """All its points are equally far: projective distance approximates nothing, on the axis or off it."""
    R, z_ref = about(Z, turn)[None], torch.tensor([850.0], dtype=DOUBLE)
    ref_K = geometry.camera_matrix(300.0, 64.0, 60.0, fy=300.0 * fy / focal).double()
    K = geometry.camera_matrix(focal, 256.0, 200.0, fy=fy).double()
    t = torch.tensor([[x, y, z]], dtype=DOUBLE)
    ref_boxes = geometry.projected_box(flat_plate(), R, z_ref[:, None] * Z, ref_K)
    boxes = geometry.projected_box(flat_plate(), R, t, K)
    found = geometry.translation_from_box(boxes, K, ref_boxes, ref_K, z_ref)
    torch.testing.assert_close(found, t, atol=1e-6, rtol=1e-9)


def hammer_views(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    hull = torch.from_numpy(hammer().hull).double()
    R, z_ref = random_rotations(count, seed), torch.full((count,), 843.75, dtype=DOUBLE)
    ref_K = geometry.camera_matrix(300.0, 256.0, 256.0).double()
    return hull, R, z_ref, ref_K, geometry.projected_box(hull, R, z_ref[:, None] * Z, ref_K)


def test_translation_of_a_part_at_the_reference_distance_is_exact_with_any_focal() -> None:
    hull, R, z_ref, ref_K, ref_boxes = hammer_views(20, 30)
    for K in (ref_K, geometry.camera_matrix(612.0, 320.0, 240.0).double()):
        t = z_ref[:, None] * Z
        found = geometry.translation_from_box(geometry.projected_box(hull, R, t, K), K, ref_boxes, ref_K, z_ref)
        torch.testing.assert_close(found, t, atol=1e-9, rtol=0)


def test_translation_of_a_solid_part_on_the_axis_at_another_distance() -> None:
    """Whichever points span the boxes, none is further from the origin than the part's radius."""
    hull, R, z_ref, ref_K, ref_boxes = hammer_views(21, 60)
    K = geometry.camera_matrix(500.0, 300.0, 260.0).double()
    radius = float(hull.norm(dim=1).max())
    for z in (650.0, 1100.0, 2000.0):
        t = (z * Z).expand(60, 3)
        found = geometry.translation_from_box(geometry.projected_box(hull, R, t, K), K, ref_boxes, ref_K, z_ref)
        ends = sorted(843.75 * (z + side) / (843.75 + side) for side in (-radius, radius))
        assert ends[0] <= found[:, 2].min() <= found[:, 2].max() <= ends[1]
        assert (found[:, 2] - z).abs().median() < 0.012 * z
        assert found[:, :2].norm(dim=1).max() < (ends[1] - ends[0]) / 2


def test_translation_off_the_axis_is_within_a_few_percent() -> None:
    hull, R, z_ref, ref_K, ref_boxes = hammer_views(22, 300)
    place = torch.rand(300, 2, generator=generator(23), dtype=DOUBLE) - 0.5  # up to 27 degrees off, as in the scenes
    z = 700 + 400 * torch.rand(300, generator=generator(24), dtype=DOUBLE)
    t = torch.cat((place * z[:, None], z[:, None]), 1)
    boxes = geometry.projected_box(hull, geometry.offaxis_rotation(t) @ R, t, ref_K)
    found = geometry.translation_from_box(boxes, ref_K, ref_boxes, ref_K, z_ref)
    error = (found - t).norm(dim=1) / t.norm(dim=1)
    assert error.max() < 0.2
    assert error.median() < 0.04


# OpenCV's pixel convention


def test_opencv_convention_shifts_the_principal_point_by_half_a_pixel_and_back() -> None:
    K = torch.stack([geometry.camera_matrix(300.0, 256.0, 250.0), geometry.camera_matrix(612.5, 320.5, 240.5)])
    kept = K.clone()
    theirs = geometry.to_opencv(K)
    assert torch.equal(geometry.from_opencv(theirs), K)
    assert torch.equal(geometry.to_opencv(geometry.from_opencv(K[0])), K[0])
    assert torch.equal(K, kept)
    # the centre of the pixel in column 10, row 7
    ray = torch.linalg.solve(K, torch.tensor([10.5, 7.5, 1.0]))
    torch.testing.assert_close(
        (theirs @ ray[..., None])[..., 0], torch.tensor([10.0, 7.0, 1.0]).expand(2, 3), atol=1e-4, rtol=0
    )
