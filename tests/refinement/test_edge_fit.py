"""The last pixel: edges known by construction, and poses brought back to where a render was made."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor

from codepose import geometry
from codepose.refinement import edge_fit
from codepose.refinement.edge_fit import EdgeFit
from codepose.refinement.edge_lines import EdgeLines, edge_lines, peak, photo_gradients, read_between, strengths
from codepose.refinement.poses import Photos, Poses, Seen
from codepose.rendering.renderer import Instances
from codepose.rendering.shading import Lights, render_shaded
from codepose.synthesis.world import World

NOTHING: Any = None
SIDE = 512
MIDDLE = SIDE / 2
K = geometry.camera_matrix(800.0, MIDDLE, MIDDLE)


def _rendered_square(left: int, right: int, top: int, bottom: int) -> tuple[Tensor, Tensor, Tensor]:
    depth = torch.zeros(1, 48, 48)
    depth[:, top:bottom, left:right] = 500.0
    normal, color = torch.zeros(1, 48, 48, 3), torch.zeros(1, 48, 48, 3)
    normal[..., 2] = -(depth > 0).float()
    return depth, normal, color


def test_points_lie_on_the_edge_between_pixels_and_their_normals_across_it():
    """A square from x = 12 to 33, y = 15 to 36: not half a pixel beside it, as pixels' centres are."""
    found = edge_lines(*_rendered_square(12, 33, 15, 36))
    there = found.there[0] > 0
    points, normals = found.points[0][there], found.normals[0][there].abs()
    upright = (points[:, 1] > 18) & (points[:, 1] < 33)  # away from corners
    level = (points[:, 0] > 15) & (points[:, 0] < 30)
    assert upright.sum() > 20 < level.sum()
    off = torch.minimum((points[upright, 0] - 12).abs(), (points[upright, 0] - 33).abs())
    assert off.max() < 0.05
    off = torch.minimum((points[level, 1] - 15).abs(), (points[level, 1] - 36).abs())
    assert off.max() < 0.05
    assert torch.allclose(normals[upright], torch.tensor([1.0, 0.0]).expand(int(upright.sum()), 2), atol=1e-3)
    assert torch.allclose(normals[level], torch.tensor([0.0, 1.0]).expand(int(level.sum()), 2), atol=1e-3)
    assert (found.depth[0][there] - 500.0).abs().max() < 1e-3
    assert found.outline[0][there].all()
    out = found.points[0][there] + 2.0 * found.normals[0][there]
    beyond = (out[:, 0] < 12) | (out[:, 0] > 33) | (out[:, 1] < 15) | (out[:, 1] > 36)
    assert beyond.all(), "normals lead out of the part"


def test_a_border_between_colours_is_no_outline():
    """The left half red, the right green: points in the middle see the part on both sides."""
    depth, normal, color = _rendered_square(12, 33, 15, 36)
    color[:, 15:36, 12:22, 0] = 1.0
    color[:, 15:36, 22:33, 1] = 1.0
    found = edge_lines(depth, normal, color)
    inside = ((found.points[0] - torch.tensor([22.5, 25.5])).abs() < 7).all(1) & (found.there[0] > 0)
    assert inside.sum() > 5
    assert not found.outline[0][inside].any()
    assert (found.points[0][inside, 0] - 22.0).abs().max() < 0.05
    faint = edge_lines(depth, normal, 0.05 * color)
    inside = ((faint.points[0] - torch.tensor([22.5, 25.5])).abs() < 7).all(1) & (faint.there[0] > 0)
    assert inside.sum() == 0, "far weaker than the outline"
    assert edge_lines(*(torch.zeros_like(x) for x in _rendered_square(12, 33, 15, 36))).there.sum() == 0


def test_each_render_has_points_of_its_own():
    """A bright border does not hide another part's faint ones; and windows need not be square."""
    depth, normal, color = (values[:, 8:] for values in _rendered_square(12, 33, 15, 36))
    bright = torch.zeros_like(color)
    bright[:, 7:28, 12:22] = 1.0
    faint = 0.0 * depth, normal, 0.05 * bright
    found = edge_lines(*(torch.cat((one, other)) for one, other in zip((depth, normal, bright), faint, strict=True)))
    for row, planes in enumerate(((depth, normal, bright), faint)):
        alone = edge_lines(*planes)
        assert torch.equal(found.there[row], alone.there[0])
        assert torch.allclose(found.points[row], alone.points[0], atol=1e-4)
    points = found.points[0][found.there[0] > 0]
    assert (points.amin(0) - torch.tensor([12.0, 7.0])).abs().max() < 0.3
    assert (points.amax(0) - torch.tensor([33.0, 28.0])).abs().max() < 0.3


def test_planes_are_read_between_pixels_and_go_on_beyond_the_border():
    """Of three columns and two rows: pixel x ends at x + 1, its own value lies in its middle."""
    planes = torch.tensor([[[[0.0, 10.0, 20.0], [100.0, 110.0, 120.0]]]])
    at = torch.tensor([[[0.5, 0.5], [2.5, 1.5], [1.25, 0.5], [2.0, 1.0], [-4.0, 0.5], [9.0, 9.0]]])
    expected = [0.0, 120.0, 7.5, 65.0, 0.0, 120.0]
    assert read_between(planes, at)[0, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert read_between(planes, at[:, :, None])[0, 0, :, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_parabola_peaks_where_it_does():
    """y = 5 - (x - 0.3)^2 at -1, 0 and 1; and never beyond half a step."""
    before, here, after = (torch.tensor(5.0 - (x - 0.3) ** 2) for x in (-1.0, 0.0, 1.0))
    assert float(peak(before, here, after)) == pytest.approx(0.3, abs=1e-5)
    assert float(peak(after, here, before)) == pytest.approx(-0.3, abs=1e-5)
    assert float(peak(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(9.0))) == 0.5


def test_an_edge_counts_across_its_normal_only():
    """A step of 0.4 across x = 20: as strong as its blurred slope along x, nothing along y, in between between."""
    step = torch.zeros(1, 3, 40, 40)
    step[..., 20:] = 0.4
    gradients = photo_gradients(step)
    angles = torch.tensor([0.0, math.pi, math.pi / 2, math.pi / 4])
    normals = torch.stack((angles.cos(), angles.sin()), -1)[None]
    at = torch.tensor([20.0, 20.5]).expand(1, 4, 1, 2)
    found = strengths(gradients, at, normals)[0, :, 0]
    full = math.sqrt(3.0) * float(gradients[0, 0, 20, 19:21].mean())
    assert found.tolist() == pytest.approx([full, full, 0.0, full * math.cos(math.pi / 4) ** 3], abs=1e-5)


def test_points_move_as_the_projection_says(world: World):
    """The derivative by finite differences, of a turn and of a shift."""
    g = torch.Generator().manual_seed(0)
    places, t = 30.0 * torch.randn(2, 5, 3, generator=g), torch.tensor([[20.0, -30.0, 600.0], [-50.0, 10.0, 400.0]])
    normals = torch.nn.functional.normalize(torch.randn(2, 5, 2, generator=g), dim=2)
    cameras = K.expand(2, 3, 3)
    change = edge_fit._change(places, t, normals, cameras)
    here = geometry.to_pixels(places + t[:, None], cameras[:, None])
    for axis in range(6):
        small = torch.zeros(6)
        small[axis] = 1e-3 if axis < 3 else 0.1
        turn = axis_angle_to_rotation_matrix(small[None, :3])[0]
        there = geometry.to_pixels(places @ turn.mT + (t + small[3:])[:, None], cameras[:, None])
        expected = ((there - here) * normals).sum(-1) / small.sum()
        assert torch.allclose(change[..., axis], expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def posed(world: World) -> tuple[Seen, Poses]:
    """Three lit renders of the hammer before grey, and their poses."""
    views = torch.nn.functional.normalize(torch.tensor([[0.9, 0.2, 0.3], [0.2, 0.9, 0.4], [-0.8, 0.4, -0.4]]), dim=1)
    t = torch.tensor([[60.0, -40.0, 750.0], [-50.0, 30.0, 700.0], [10.0, 20.0, 800.0]])
    R_view = torch.stack([geometry.view_rotation(view, torch.tensor(1.0)) for view in views])
    objects = torch.zeros(3).long()
    instances = Instances.single(objects, geometry.offaxis_rotation(t) @ R_view, t)
    rgba, _ = render_shaded(
        world.renderer, instances, K.expand(3, 3, 3), SIDE, Lights.fixed(3, t.device), torch.ones(3, 3), 3
    )
    images = rgba[:, :3] + (1.0 - rgba[:, 3:]) * 0.6
    boxes = world.boxes(objects, instances.R, t, K)
    extent = torch.tensor([float(SIDE), float(SIDE)])
    seen = Seen(images, torch.arange(3), boxes, objects, K, torch.zeros(3, 3, 4, 4), extent)
    return seen, Poses.start(R_view[:, None], t[:, None], torch.zeros(3, 1))


def _off(poses: Poses, degrees: float, far: float, beside_mm: float) -> Poses:
    """Poses turned about an oblique axis, farther away and beside."""
    turn = axis_angle_to_rotation_matrix(torch.tensor([[0.6, -0.64, 0.48]]) * math.radians(degrees))
    t = poses.t * (1.0 + far) + torch.tensor([beside_mm, -beside_mm, 0.0])
    return replace(poses, R_view=geometry.offaxis_rotation(t).mT @ turn @ poses.R, t=t)


def _errors(poses: Poses, truth: Poses) -> tuple[Tensor, Tensor]:
    """Degrees and mm, (N, k)."""
    return geometry.geodesic_angle(poses.R, truth.R).rad2deg(), (poses.t - truth.t).norm(dim=-1)


def test_poses_come_back_to_where_the_pictures_were_made(world: World, posed: tuple[Seen, Poses]):
    seen, truth = posed
    start = _off(truth, 3.0, 0.02, 1.5)
    degrees, mm = _errors(EdgeFit(world)(seen, start), truth)
    before_degrees, before_mm = _errors(start, truth)
    assert before_degrees.min() > 2.9
    assert before_mm.min() > 13.0
    assert degrees.max() < 1.6
    assert degrees.mean() < 1.2
    assert mm.max() < 5.0
    assert mm.mean() < 3.0


def test_the_truth_stays(world: World, posed: tuple[Seen, Poses]):
    degrees, mm = _errors(EdgeFit(world)(*posed), posed[1])
    assert degrees.max() < 1.2
    assert mm.max() < 6.5


def test_several_poses_of_a_detection_keep_their_order_and_their_scores(world: World, posed: tuple[Seen, Poses]):
    seen, truth = posed
    start = _off(truth, 3.0, 0.02, 1.5).joined(truth)
    start = replace(
        start, score=torch.tensor([[1.0, 5.0]]).expand(3, 2), judged=torch.tensor([[2.0, 0.5]]).expand(3, 2)
    )
    found = EdgeFit(world)(seen, start)
    alone = EdgeFit(world)(seen, truth)
    assert torch.allclose(found.t[:, 1:], alone.t, atol=1e-2)
    assert torch.equal(found.score, start.score)
    assert torch.equal(found.judged, start.judged)


def test_a_finer_photo_is_looked_at_where_there_is_one(world: World, posed: tuple[Seen, Poses]):
    """The network's image is black: only the photo, twice as large, shows the part."""
    seen, truth = posed
    half = replace(
        seen,
        images=torch.zeros(3, 3, SIDE // 2, SIDE // 2),
        boxes=seen.boxes / 2,
        K=geometry.scaled_camera(K, 0.5),
        extent=seen.extent / 2,
        photos=Photos(seen.images, torch.tensor([2.0, 2.0])),
    )
    start = _off(truth, 3.0, 0.02, 1.5)
    found, expected = EdgeFit(world)(half, start), EdgeFit(world)(seen, start)
    assert torch.allclose(found.t, expected.t, atol=1e-2)
    assert (EdgeFit(world)(replace(half, photos=None), start).t - start.t).abs().max() < 1e-3


def test_where_nothing_is_seen_poses_stay(world: World, posed: tuple[Seen, Poses]):
    seen, truth = posed
    flat = EdgeFit(world)(replace(seen, images=torch.full_like(seen.images, 0.5)), truth)
    assert torch.allclose(flat.t, truth.t, atol=1e-3)
    assert torch.allclose(flat.R, truth.R, atol=1e-5)
    behind = replace(truth, t=torch.tensor([0.0, 0.0, -500.0]).expand(3, 1, 3))
    found = EdgeFit(world)(seen, behind)
    assert torch.equal(found.t, behind.t)
    assert torch.isfinite(found.R_view).all()


def test_noise_moves_a_pose_less_than_a_boxs_error(world: World, posed: tuple[Seen, Poses]):
    """Edges that do not lie together count little: the prior holds."""
    seen, truth = posed
    noise = torch.rand(seen.images.shape, generator=torch.Generator().manual_seed(0))
    degrees, mm = _errors(EdgeFit(world)(replace(seen, images=noise), truth), truth)
    assert degrees.max() < 5.0
    assert mm.max() < 0.03 * 800.0


def test_a_solution_by_hand():
    """Two points that see a shift along x only: a point off by 0.4 px, and what the prior keeps of it.

    Noise 0.4^2 + 0.2^2 = 0.2, 30 points of it = 150; a usual shift of 0.01 x 100 mm = 1 mm moves 0.5 px, so
    the data counts 150 x 0.25 = 37.5 beside the prior's 1: 37.5 / 38.5 of 0.8 mm.
    """
    R, t = torch.eye(3)[None], torch.tensor([[0.0, 0.0, 500.0]])
    change = torch.zeros(1, 2, 6)
    change[..., 3] = 0.5
    found_R, found_t = edge_fit._solved(
        (R, t), (R, t), change, torch.full((1, 2), 0.4), torch.tensor([[0.5, 0.25]]), torch.tensor([100.0])
    )
    assert torch.allclose(found_R, R)
    assert found_t[0].tolist() == pytest.approx([0.8 * 37.5 / 38.5, 0.0, 500.0], abs=1e-4)
    again_R, again_t = edge_fit._solved(
        (R, found_t), (R, t), change, torch.zeros(1, 2), torch.tensor([[0.5, 0.25]]), torch.tensor([100.0])
    )
    # noise 0.04, 30 points = 750 x 0.25 = 187.5: the prior pulls back by what it is gone over 188.5
    assert float(again_t[0, 0]) == pytest.approx(float(found_t[0, 0]) * (1 - 1 / 188.5), abs=1e-4)
    assert torch.allclose(again_R, R)


@pytest.mark.parametrize(("axis", "usual"), [(0, 0.0698), (1, 0.0698), (2, 0.0698), (4, 1.0), (5, 12.5)])
def test_each_direction_has_its_usual_change(axis: int, usual: float):
    """4 degrees, 0.01 x 100 mm and 0.025 x 500 mm: two points are off by 0.04 px, as much as that moves them.

    Noise 0.04^2 + 0.2^2 = 0.0416, 30 / 0.0416 x 0.04^2 = 1.1538 beside the prior's 1: they go 1.1538 / 2.1538 of it.
    """
    R, t = torch.eye(3)[None], torch.tensor([[0.0, 0.0, 500.0]])
    change = torch.zeros(1, 2, 6)
    change[..., axis] = 0.04 / usual
    found_R, found_t = edge_fit._solved(
        (R, t), (R, t), change, torch.full((1, 2), 0.04), torch.ones(1, 2), torch.tensor([100.0])
    )
    gone = torch.cat((torch.stack((found_R[0, 2, 1], found_R[0, 0, 2], found_R[0, 1, 0])), found_t[0] - t[0]))
    assert float(gone[axis]) == pytest.approx(usual * 1.1538 / 2.1538, rel=2e-3)
    gone[axis] = 0.0
    assert gone.abs().max() < 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_prior_of_a_turn_by_hand(axis: int):
    """A turn of 2 degrees, half of what is usual: without edges the next step takes all of it back."""
    first = torch.eye(3)[None]
    R = axis_angle_to_rotation_matrix(math.radians(2.0) * torch.eye(3)[axis, None])
    t = torch.tensor([[0.0, 0.0, 500.0]])
    nothing = torch.zeros(1, 2, 6), torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([100.0])
    found_R, found_t = edge_fit._solved((R, t), (first, t), *nothing)
    assert torch.allclose(found_R, first, atol=1e-4)
    assert torch.equal(found_t, t)


def test_normals_turn_with_the_part():
    """By 0.1 about the viewing axis, with a little of another turn: x goes towards y, which points down."""
    turn = axis_angle_to_rotation_matrix(torch.tensor([[0.05, -0.02, 0.1]]))
    found = edge_fit._in_plane(turn, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    expected = torch.tensor([[[math.cos(0.1), math.sin(0.1)], [-math.sin(0.1), math.cos(0.1)]]])
    assert torch.allclose(found, expected, atol=1e-3)


def test_the_photos_edge_is_found_along_the_normal():
    """A step at x = 20: points 1.3 px left and 0.7 right of it; a flat photo counts nothing."""
    step = torch.zeros(1, 3, 40, 40)
    step[..., 20:] = 0.4
    lines = EdgeLines(
        torch.tensor([[[18.7, 20.2], [20.7, 19.6], [18.7, 20.2]]]),
        torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]]),
        torch.full((1, 3), 500.0),
        torch.tensor([[1.0, 1.0, 0.0]]),
        torch.zeros(1, 3).bool(),
    )
    even = torch.full((1, 1, 40, 40), 0.5)
    offsets, weights = edge_fit._edges_along(photo_gradients(step), even, lines, 2.0)
    assert offsets[0].tolist() == pytest.approx([1.3, 0.7, 1.3], abs=0.1)
    assert (weights[0, :2] > 0.5).all()
    assert weights[0, 2] == 0.0, "there is no such point"
    assert edge_fit._edges_along(photo_gradients(0.0 * step), even, lines, 2.0)[1].abs().max() == 0.0


def test_what_an_edge_counts_by_hand():
    """Half where it is as strong as a faint one; exp(-0.5) of that where it lies as far as points look.

    An outline counts as much while colours say nothing.
    """
    step = torch.zeros(1, 3, 40, 40)
    step[..., 20] = 0.5  # the edge lies in the middle of a pixel
    step[..., 21:] = 1.0
    gradients = photo_gradients(step)
    gradients *= 0.03 / (math.sqrt(3.0) * gradients[0, 0, 20, 20])
    lines = EdgeLines(
        torch.tensor([[[20.5, 20.5], [17.5, 20.5], [17.5, 20.5]]]),
        torch.tensor([1.0, 0.0]).expand(1, 3, 2),
        torch.full((1, 3), 500.0),
        torch.ones(1, 3),
        torch.tensor([[False, False, True]]),
    )
    offsets, weights = edge_fit._edges_along(gradients, torch.full((1, 1, 40, 40), 0.5), lines, 3.0)
    assert offsets[0].tolist() == pytest.approx([0.0, 3.0, 3.0], abs=1e-3)
    assert weights[0].tolist() == pytest.approx([0.5, 0.5 * math.exp(-0.5), 0.5 * math.exp(-0.5)], abs=1e-3)


def test_points_find_their_edges_inside_the_window():
    """Beside the box there is room for as far as they look at first."""
    assert edge_fit._REACHES[0] < edge_fit.COARSE * (1.0 - 1.0 / edge_fit._PAD) / 2.0


def test_points_and_normals_move_with_the_pose_until_the_next_render(monkeypatch: pytest.MonkeyPatch):
    """Each solution turns by 0.1 about the viewing axis and moves 10 mm to the right: as much in 500 mm as 16 px."""
    turn = axis_angle_to_rotation_matrix(torch.tensor([[0.0, 0.0, 0.1]]))
    shift = torch.tensor([10.0, 0.0, 0.0])
    asked, renders = [], []

    def rendered(self: EdgeFit, objects: Tensor, R: Tensor, t: Tensor, K: Tensor, side: int) -> edge_fit._Body:
        renders.append((R, t))
        lines = EdgeLines(NOTHING, torch.tensor([[[1.0, 0.0]]]), NOTHING, torch.ones(1, 1), torch.zeros(1, 1).bool())
        return edge_fit._Body(lines, torch.tensor([[[50.0, 0.0, 0.0]]]), torch.zeros(1, side, side).bool(), R)

    def along(gradients: Tensor, ours: Tensor, lines: EdgeLines, reach: float) -> tuple[Tensor, Tensor]:
        asked.append((lines.points[0, 0], lines.normals[0, 0], reach))
        return torch.zeros(1, 1), torch.zeros(1, 1)

    monkeypatch.setattr(EdgeFit, "_rendered", rendered)
    monkeypatch.setattr(edge_fit, "_edges_along", along)
    monkeypatch.setattr(edge_fit, "_solved", lambda pose, *_: (turn @ pose[0], pose[1] + shift))
    world: Any = SimpleNamespace(diameters=torch.tensor([100.0]))
    boxes, t = torch.tensor([[206.0, 206.0, 306.0, 306.0]]), torch.tensor([[0.0, 0.0, 500.0]])
    first = torch.zeros(1, dtype=torch.long)
    extent = torch.tensor([float(SIDE), float(SIDE)])
    seen = Seen(torch.zeros(1, 3, SIDE, SIDE), first, boxes, first, K[None], torch.zeros(1, 3, 4, 4), extent)
    _, t = EdgeFit(world)._fitted(seen, boxes, torch.eye(3)[None], t, 130)  # a pixel of the window is one of the photo
    assert [reach for _, _, reach in asked] == [4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.5, 1.5, 1.0, 1.0]
    assert [float(t[0, 0]) for _, t in renders] == [0.0, 20.0, 40.0, 60.0, 80.0]
    assert float(t[0, 0]) == 100.0
    for k, (point, normal, _) in enumerate(asked):
        angle = 0.1 * (k % 2)
        expected = torch.tensor([65.0 + 1.6 * (10.0 * k + 50.0 * math.cos(angle)), 65.0 + 80.0 * math.sin(angle)])
        assert torch.allclose(point, expected, atol=1e-3)
        assert torch.allclose(normal, torch.tensor([math.cos(angle), math.sin(angle)]), atol=1e-5)


def test_where_a_pose_ends_its_view_is_seen_along_the_new_ray(
    world: World, posed: tuple[Seen, Poses], monkeypatch: pytest.MonkeyPatch
):
    seen, truth = posed
    aside = torch.tensor([90.0, 0.0, 0.0])
    monkeypatch.setattr(EdgeFit, "_fitted", lambda self, seen, boxes, R, t, side: (R, t + aside))
    found = EdgeFit(world)(seen, truth)
    assert torch.allclose(found.R, truth.R, atol=1e-5)
    assert torch.allclose(found.t, truth.t + aside)
    assert not torch.allclose(found.R_view, truth.R_view, atol=0.05)


def test_an_outline_goes_where_the_colours_change_and_a_crease_to_the_nearest_edge():
    """A weak edge at x = 23 ends the part's colours; a stronger one lies inside, at x = 18, nearer to the point."""
    step = torch.zeros(1, 3, 40, 40)
    step[..., 18:23] = 0.5
    step[..., 23:] = 0.3
    ours = torch.full((1, 1, 40, 40), 0.9)
    ours[..., 23:] = 0.1
    found = []
    for outline in (True, False):
        lines = EdgeLines(
            torch.tensor([[[18.6, 20.0]]]),
            torch.tensor([[[1.0, 0.0]]]),
            torch.full((1, 1), 500.0),
            torch.ones(1, 1),
            torch.tensor([[outline]]),
        )
        found.append(float(edge_fit._edges_along(photo_gradients(step), ours, lines, 4.0)[0]))
    assert found == [pytest.approx(4.4, abs=0.2), pytest.approx(-0.6, abs=0.2)]
