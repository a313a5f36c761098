"""Geometry's values worked out on paper, and the same for any leading dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codepose import geometry

K = torch.tensor([[100.0, 0.0, 50.0], [0.0, 200.0, 40.0], [0.0, 0.0, 1.0]])


def test_where_a_point_lies_in_the_image() -> None:
    points = torch.tensor([[0.2, -0.1, 0.5], [300.0, 40.0, 1000.0]])
    torch.testing.assert_close(geometry.to_pixels(points, K), torch.tensor([[90.0, 0.0], [80.0, 48.0]]))
    back = geometry.from_pixels(torch.tensor([[90.0, 0.0], [80.0, 48.0]]), torch.tensor([0.5, 1000.0]), K)
    torch.testing.assert_close(back, points)


def test_a_point_in_or_behind_the_cameras_plane_lies_far_out_of_sight() -> None:
    points = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, -5.0]])
    torch.testing.assert_close(geometry.to_pixels(points, K), torch.tensor([[1e8, -2e8]]).expand(2, 2))


def test_a_resized_images_camera() -> None:
    twice = torch.tensor([[200.0, 0.0, 100.0], [0.0, 400.0, 80.0], [0.0, 0.0, 1.0]])
    assert torch.equal(geometry.scaled_camera(K, 2.0), twice)
    across = geometry.scaled_camera(K.expand(3, 3, 3), torch.tensor([2.0, 0.5]))
    assert torch.equal(across[1], torch.tensor([[200.0, 0.0, 100.0], [0.0, 100.0, 20.0], [0.0, 0.0, 1.0]]))


def test_the_frame_of_a_view_is_always_the_same() -> None:
    """Codebooks are kept: the helper direction is x, or y where the camera looks along x."""
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [-0.96, 0.28, 0.0]])
    expected = torch.tensor(
        [
            [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]],
            [[0.0, 1.0, 0.0], [0.8, 0.0, -0.6], [-0.6, 0.0, -0.8]],
            [[0.0, 0.8, -0.6], [1.0, 0.0, 0.0], [0.0, -0.6, -0.8]],
            [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]],
            [[0.0, 0.0, -1.0], [0.28, 0.96, 0.0], [0.96, -0.28, 0.0]],
        ]
    )
    found = geometry.view_rotation(directions, torch.zeros(5))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # a quarter turn in the plane: what was right is down, what was down is left
    turned = geometry.view_rotation(directions, torch.full((5,), math.pi / 2))
    rows = torch.stack((-expected[:, 1], expected[:, 0], expected[:, 2]), 1)
    torch.testing.assert_close(turned, rows, atol=1e-6, rtol=0)


def test_where_uniforms_lie_in_a_cone() -> None:
    """Half of a hemisphere's height, a quarter of the way around: 60 degrees off the axis, towards y."""
    found = geometry.directions_in_cone(torch.tensor([0.5, 0.25]), torch.tensor([0.0, 0.0, 1.0]), 90.0)
    torch.testing.assert_close(found, torch.tensor([0.0, math.sqrt(0.75), 0.5]), atol=1e-6, rtol=0)
    tilted = geometry.directions_in_cone(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.0, 0.0]), 90.0)
    torch.testing.assert_close(tilted, torch.tensor([0.5, math.sqrt(0.75), 0.0]), atol=1e-6, rtol=0)


def test_directions_have_their_numbers_precision() -> None:
    found = geometry.directions_in_cone(torch.rand(3, 2, dtype=torch.float64), torch.tensor([0.6, 0.0, 0.8]), 90.0)
    assert found.dtype == torch.float64


def test_half_a_turn_between_opposite_directions() -> None:
    """About an axis perpendicular to them, found from the coordinate that is smallest."""
    a = torch.tensor([[0.0, 0.0, 2.0], [0.6, 0.8, 0.0], [0.8, 0.0, 0.6]])
    R = geometry.rotation_between(a, -a)
    assert R.dtype == torch.float32
    torch.testing.assert_close((R @ a[..., None])[..., 0], -a)
    torch.testing.assert_close(R.diagonal(dim1=1, dim2=2).sum(1), torch.full((3,), -1.0))  # half a turn
    torch.testing.assert_close(R @ R, torch.eye(3).expand(3, 3, 3))
    mixed = geometry.rotation_between(a[0], a.double())
    assert mixed.dtype == torch.float64
    assert mixed.shape == (3, 3, 3)


@pytest.mark.parametrize("angle", [90.0, 120.0, 179.0, 179.9])
def test_obtuse_rotations_between_directions_are_about_their_cross_product(angle: float) -> None:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    found = geometry.rotation_between(torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([c, s, 0.0]).double())
    expected = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_cone_of_views_takes_an_axis_of_any_length() -> None:
    axis = torch.tensor([0.0, 3.0, 4.0])
    for opposite in (False, True):
        inside = geometry.codebook_rotations(2, 3, axis, 30.0, opposite=opposite)
        assert torch.equal(inside, geometry.codebook_rotations(2, 3, axis.double() / 5, 30.0, opposite=opposite))
        looks = -inside[::3, 2]
        cosines = looks @ axis / 5
        reach = math.cos(math.radians(30.0) + geometry._grid_step(geometry.view_sphere(2)))
        expected = geometry.view_sphere(2) @ axis / 5
        kept = (expected.abs() if opposite else expected) >= reach
        assert len(looks) == int(kept.sum())
        assert float((cosines.abs() if opposite else cosines).min()) >= reach


@pytest.mark.parametrize("cone", [150.0, 175.0, 180.0, 200.0])
def test_a_cone_wider_than_the_sphere_is_the_sphere(cone: float) -> None:
    """At the coarsest level a grid step is 63 degrees."""
    assert len(geometry.codebook_rotations(0, 1, torch.tensor([0.0, 0.0, 1.0]), cone)) == 12


def test_in_plane_angles_begin_at_0_and_leave_out_the_full_turn() -> None:
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]])
    found = geometry.turned_views(directions, 4)
    for i, direction in enumerate(directions):
        for k in range(4):
            expected = geometry.view_rotation(direction, torch.tensor(k * math.pi / 2))
            torch.testing.assert_close(found[4 * i + k], expected, atol=1e-6, rtol=0)


# boxes


def test_boxes_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 8.0, 4.0]])
    expected = torch.tensor([[-10.0, 10.0, 50.0, 70.0], [-2.0, -4.0, 10.0, 8.0]])
    assert torch.equal(geometry.padded_square(boxes, 1.5), expected)


def test_sampling_grid_by_hand() -> None:
    """Two samples along a window, at a quarter and three quarters of it; -1 ... 1 is an image of 40 x 20 pixels."""
    grid = geometry.sampling_grid(torch.tensor([[0.0, 0.0, 40.0, 20.0], [10.0, -10.0, 30.0, 10.0]]), 2, (40.0, 20.0))
    expected = torch.tensor(
        [
            [[[-0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, 0.5]]],
            [[[-0.25, -1.5], [0.25, -1.5]], [[-0.25, -0.5], [0.25, -0.5]]],
        ]
    )
    torch.testing.assert_close(grid, expected)


def test_crop_camera_by_hand() -> None:
    found = geometry.crop_camera(K, torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 10.0, 10.0]]), 10)
    expected = torch.tensor(
        [
            [[50.0, 0.0, 20.0], [0.0, 50.0, 5.0], [0.0, 0.0, 1.0]],
            [[100.0, 0.0, 50.0], [0.0, 200.0, 40.0], [0.0, 0.0, 1.0]],
        ]
    )
    torch.testing.assert_close(found, expected)


def test_translation_from_a_box_by_hand() -> None:
    """Seen 500 mm away as 20 x 40 pixels, 10 to the right of the axis: 50 mm. Half as large it is 1000 mm away."""
    ref = torch.tensor([[50.0, 20.0, 70.0, 60.0]])
    box = torch.tensor([[70.0, 50.0, 80.0, 70.0]])  # middle (75, 60): 250 mm right of the axis, 100 mm below
    found = geometry.translation_from_box(box, K, ref, K, torch.tensor([500.0]))
    torch.testing.assert_close(found, torch.tensor([[200.0, 100.0, 1000.0]]))


def test_a_box_without_size_is_far_away_not_nowhere() -> None:
    boxes = torch.full((1, 4), 30.0)
    found = geometry.translation_from_box(boxes, K, torch.tensor([[40.0, 30.0, 60.0, 50.0]]), K, torch.tensor([500.0]))
    assert torch.isfinite(found).all()
    assert float(found[0, 2]) > 1e9


CUBE = torch.tensor([[x, y, z] for x in (-50.0, 50.0) for y in (-50.0, 50.0) for z in (-50.0, 50.0)])


@pytest.mark.parametrize("batched", [False, True])
def test_a_fitted_translation_projects_to_the_box(batched: bool) -> None:
    """From 30 % too near and as much aside, with fx and fy that differ."""
    true = torch.tensor([[120.0, -90.0, 600.0], [0.0, 0.0, 400.0], [-200.0, 60.0, 900.0]]).double()
    R_view = geometry.view_rotation(torch.tensor([[0.0, 0.6, 0.8], [0.48, 0.6, 0.64], [1.0, 0.0, 0.0]]).double(),
                                    torch.tensor([0.3, 1.0, 2.0]).double())  # fmt: skip
    hull, camera = CUBE.double(), K.double()
    boxes = geometry.projected_box(hull, geometry.offaxis_rotation(true) @ R_view, true, camera)
    start = true * 0.7 + torch.tensor([30.0, -20.0, 0.0])
    hulls = hull.expand(3, 8, 3) if batched else hull
    gaps = [
        (geometry.fit_translation(hulls, R_view, boxes, camera, start, steps) - true).norm(dim=1) / true.norm(dim=1)
        for steps in (0, 1, 2, 3, 6)
    ]
    assert float(gaps[0].min()) > 0.25
    assert float(gaps[4].max()) < 1e-4
    torch.testing.assert_close(
        geometry.fit_translation(hulls, R_view, boxes, camera, start),
        geometry.fit_translation(hulls, R_view, boxes, camera, start, 6),
    )
    for before, after in itertools.pairwise(gaps):
        assert (after < 0.4 * before + 1e-9).all()


def test_one_step_of_the_fit_goes_at_most_twice_as_far_or_half() -> None:
    box = torch.tensor([[49.0, 38.0, 51.0, 42.0]])  # the cube seen at some 5 m, on the axis
    near, far = (torch.tensor([[0.0, 0.0, z]]) for z in (1200.0, 20000.0))
    eye = torch.eye(3)[None]
    torch.testing.assert_close(geometry.fit_translation(CUBE, eye, box, K, near, 1), 2 * near, atol=1e-2, rtol=0)
    torch.testing.assert_close(geometry.fit_translation(CUBE, eye, box, K, far, 1), far / 2, atol=1e-2, rtol=0)
    # 100 mm of a front face 4,950 mm away are 2 pixels of the box's width, 4 of its height: 5 m + 50 mm in all
    settled = geometry.fit_translation(CUBE, eye, box, K, near)
    torch.testing.assert_close(settled, torch.tensor([[0.0, 0.0, 5050.0]]), atol=1.0, rtol=0)


@pytest.mark.parametrize(("factor", "settles"), [(4.8, True), (1 / 4.8, True), (5.2, False), (1 / 5.2, False)])
def test_a_fit_changes_the_guess_at_most_five_times(factor: float, settles: bool) -> None:
    true = torch.tensor([[0.0, 0.0, 5000.0]])
    box = geometry.projected_box(CUBE, torch.eye(3)[None], true, K)
    start = true / factor
    found = geometry.fit_translation(CUBE, torch.eye(3)[None], box, K, start, 12)
    torch.testing.assert_close(found, true if settles else start, atol=1.0, rtol=0)


def test_whether_a_fit_settles_is_asked_of_each_part() -> None:
    true = torch.tensor([[0.0, 0.0, 5000.0], [0.0, 0.0, 5000.0]])
    start = true / torch.tensor([[4.8], [5.2]])
    eye = torch.eye(3).expand(2, 3, 3)
    found = geometry.fit_translation(CUBE, eye, geometry.projected_box(CUBE, eye, true, K), K, start, 12)
    torch.testing.assert_close(found, torch.stack((true[0], start[1])), atol=1.0, rtol=0)


# leading dimensions


def rotations(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return geometry.rotation_between(torch.randn(*shape, 3), torch.randn(*shape, 3))


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[tuple[int, ...]], tuple[Tensor, ...]]]] = {
    "to_pixels": (geometry.to_pixels, lambda s: (torch.rand(*s, 3) + 1, torch.rand(*s, 3, 3) + 1)),
    "from_pixels": (geometry.from_pixels, lambda s: (torch.rand(*s, 2), torch.rand(*s), torch.rand(*s, 3, 3) + 1)),
    "geodesic_angle": (geometry.geodesic_angle, lambda s: (rotations(*s), rotations(*s).mT)),
    "view_rotation": (
        geometry.view_rotation,
        lambda s: (torch.nn.functional.normalize(torch.randn(*s, 3), dim=-1), torch.rand(*s)),
    ),
    "directions_in_cone": (
        lambda u: geometry.directions_in_cone(u, torch.tensor([0.6, 0.0, 0.8]), 50.0),
        lambda s: (torch.rand(*s, 2),),
    ),
    "rotation_between": (geometry.rotation_between, lambda s: (torch.randn(*s, 3), torch.randn(*s, 3))),
    "opposite": (lambda a: geometry.rotation_between(a, -a), lambda s: (torch.randn(*s, 3),)),
    "cross_matrix": (geometry.cross_matrix, lambda s: (torch.randn(*s, 3),)),
    "offaxis_rotation": (geometry.offaxis_rotation, lambda s: (torch.rand(*s, 3) + 1,)),
    "box_center": (geometry.box_center, lambda s: (torch.rand(*s, 4),)),
    "box_size": (geometry.box_size, lambda s: (torch.rand(*s, 4),)),
    "padded_square": (lambda b: geometry.padded_square(b, 1.2), lambda s: (torch.rand(*s, 4),)),
    "to_opencv": (geometry.to_opencv, lambda s: (torch.rand(*s, 3, 3),)),
    "from_opencv": (geometry.from_opencv, lambda s: (torch.rand(*s, 3, 3),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_leading_dimensions_are_a_loop(name: str) -> None:
    function, arguments = FUNCTIONS[name]
    torch.manual_seed(1)
    for shape in ((3, 4), (3, 3, 2), (4, 3, 3)):
        given = arguments(shape)
        whole = function(*given)
        assert whole.shape[: len(shape)] == shape
        flat = [x.flatten(0, len(shape) - 1) for x in given]
        one_by_one = torch.stack([function(*(x[i] for x in flat)) for i in range(len(flat[0]))])
        torch.testing.assert_close(whole.flatten(0, len(shape) - 1), one_by_one, atol=1e-5, rtol=1e-5)
