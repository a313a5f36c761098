"""Edges and contours: directions known by construction, places known by rendering."""

from __future__ import annotations

import math

import pytest
import torch

from codepose import geometry
from codepose.refinement import edges as edges_of_renders
from codepose.refinement.contours import ContourMatcher, Reach, RenderedEdges, score
from codepose.refinement.edges import EdgePoints, at_a_time, edge_field, edge_points, render_planes
from codepose.rendering.renderer import Instances
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

FAR = (Reach(0.12, 0.20, 9), Reach(0.045, 0.075, 7), Reach(0.010, 0.015, 3))


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0])
@pytest.mark.parametrize("brighter", [1.0, -1.0])
def test_an_edge_has_its_direction_whichever_side_is_bright(angle: float, brighter: float):
    y, x = torch.meshgrid(*[torch.arange(41.0) - 20.0] * 2, indexing="ij")
    radians = math.radians(angle)
    ramp = 0.5 + 0.4 * brighter * torch.tanh((x * math.cos(radians) + y * math.sin(radians)) / 2)
    field = edge_field(ramp.expand(1, 3, -1, -1), 1.0)[0]
    middle, away = field[:, 20, 20], field[:, 3, 3] if angle not in (45.0, 135.0) else field[:, 3, 38]
    expected = torch.tensor([math.cos(2 * radians), math.sin(2 * radians)])
    assert torch.dot(middle, expected) > 0.97 * middle.norm()
    assert middle.norm() > 0.5 > 5 * away.norm()


def test_contour_points_lie_on_the_silhouette_and_are_the_same_each_time():
    depth = torch.zeros(2, 40, 40)
    depth[0, 10:30, 15:35] = 100.0
    normal = torch.zeros(2, 40, 40, 3)
    normal[..., 2] = -1.0
    color = torch.full((2, 40, 40, 3), 0.9)
    normal, color = (x * (depth > 0)[..., None] for x in (normal, color))
    order = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0))
    found = edge_points(depth, normal, color, order)
    points = found.points[0][found.directions[0].norm(dim=1) > 0]
    assert len(points) == int(found.length[0]) > 60
    x, y = points.T
    beside = torch.stack(((x - 15).abs(), (x - 35).abs(), (y - 10).abs(), (y - 30).abs())).amin(0)
    assert beside.max() <= 1.0
    assert found.directions[1].abs().sum() == 0.0, "an empty render has no contour"
    assert torch.equal(edge_points(depth, normal, color, order).points, found.points)


def test_a_border_between_two_colours_is_an_edge():
    depth = torch.zeros(1, 40, 40)
    depth[0, 5:35, 5:35] = 100.0
    normal, color = torch.zeros(1, 40, 40, 3), torch.zeros(1, 40, 40, 3)
    normal[..., 2] = -1.0
    color[0, :, 20:, 0] = 1.0
    normal, color = (x * (depth > 0)[..., None] for x in (normal, color))
    order = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))
    plain, painted = (edge_points(depth, normal, c, order) for c in (torch.zeros_like(color), color))
    inside, without = (
        ((found.points[0] - 20.0).abs().amax(1) < 12.0) & (found.directions[0].norm(dim=1) > 0)
        for found in (painted, plain)
    )
    assert without.sum() == 0
    assert inside.sum() > 30  # of 48, a sample
    assert (painted.points[0][inside, 0] - 20.0).abs().max() <= 1.0
    upright = painted.directions[0][inside]
    assert torch.allclose(upright, torch.tensor([1.0, 0.0]).expand_as(upright), atol=1e-3)


def test_parts_of_one_colour_have_the_edges_that_they_have_with_colour_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the colour, and whether another part in the batch has another."""
    depth = torch.zeros(2, 40, 40)
    depth[:, 8:30, 12:33] = 100.0
    normal = torch.nn.functional.normalize(torch.randn(2, 40, 40, 3, generator=torch.Generator().manual_seed(1)), dim=3)
    color = torch.tensor([[0.9, 0.2, 0.4], [0.1, 0.1, 0.1]])[:, None, None].expand(2, 40, 40, 3)
    normal, color = (x * (depth > 0)[..., None] for x in (normal, color))
    order = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0))
    short = edge_points(depth, normal, color, order)
    assert render_planes(depth, normal, color).shape == (2, 4, 40, 40)
    spotted = color.clone()
    spotted[1, 20, 20] += 0.004  # a step of a photo's 255
    assert render_planes(depth, normal, spotted).shape == (2, 7, 40, 40)
    monkeypatch.setattr(edges_of_renders, "_SAME_COLOR", -1.0)
    assert render_planes(depth, normal, color).shape == (2, 7, 40, 40)
    whole = edge_points(depth, normal, color, order)
    for name in ("points", "directions", "depth", "length"):
        torch.testing.assert_close(getattr(short, name), getattr(whole, name))


def test_edges_of_poses_are_picked_and_joined_as_the_poses_are() -> None:
    def numbered(first: int, detections: int, count: int) -> RenderedEdges:
        number = first + torch.arange(float(detections * count))
        wide = number[:, None, None].expand(-1, 5, 2)
        points = EdgePoints(wide, 10 * wide, 20 * wide[..., 0], 30 * number)
        shift = number[:, None].expand(-1, 3)
        return RenderedEdges(points, 2 * number, 3 * shift, 4 * shift, 5 * shift[..., None].expand(-1, 3, 3), 60.0)

    def same(found: RenderedEdges, numbers: list[float]) -> None:
        n = torch.tensor(numbers)
        values = (found.edges.points[:, 4, 1], found.share / 2, found.t[:, 2] / 3, found.boxed[:, 1] / 4)
        more = (found.edges.directions[:, 0, 0] / 10, found.edges.depth[:, 2] / 20, found.edges.length / 30)
        assert all(torch.equal(value, n) for value in (*values, *more, found.K[:, 2, 2] / 5))
        assert found.box == 60.0

    one, other = numbered(0, 2, 3), numbered(100, 2, 2)
    same(one.picked(torch.tensor([[2, 0], [1, 1]])), [2.0, 0.0, 4.0, 4.0])
    same(one.joined(other, 2), [0.0, 1.0, 2.0, 100.0, 101.0, 3.0, 4.0, 5.0, 102.0, 103.0])


def test_the_score_by_hand():
    """sqrt(4) x 0.3, less a hundredth for 0.06 of the box's side, and one for a tenth of the log size, squared."""
    one = torch.tensor(0.3)
    found = score(one, torch.tensor(4.0), torch.tensor([0.06, 0.0]), torch.tensor(0.1))
    assert float(found) == pytest.approx(0.6 - 0.02)
    assert float(score(one, torch.tensor(1.0), torch.tensor([0.0, 0.12]), torch.tensor(0.0))) == pytest.approx(0.26)


def test_a_moved_pose_is_held_against_its_box():
    """The part is 5 pixels right of where its box puts it, and 10 % nearer; moved, it is 6, and e^0.1 larger."""
    nothing = torch.zeros(1, 1)
    edges = EdgePoints(nothing[..., None], nothing[..., None], nothing, nothing[0])
    t, boxed = torch.tensor([[10.0, 0.0, 1000.0]]), torch.tensor([[0.0, 0.0, 1100.0]])
    K = geometry.camera_matrix(500.0, 32.0, 30.0)[None]
    rendered = RenderedEdges(edges, torch.tensor([4.0]), t, boxed, K, 50.0)
    shifts, scales = torch.tensor([[[1.0, -3.0]]]), torch.tensor([[0.1]])
    value = rendered.worth(torch.tensor([[0.3]]), shifts, scales)
    grown = math.log(1.1) + 0.1
    expected = 0.6 * math.exp(0.05) - 0.01 * ((0.12**2 + 0.06**2) / 0.06**2 + (grown / 0.1) ** 2)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    z = 1000.0 * math.exp(-0.1)
    torch.testing.assert_close(
        rendered.translations(shifts, scales)[0, 0], torch.tensor([6 * z / 500, -3 * z / 500, z])
    )


def off_by(scenes: SceneBatch, shift: float, scale: float) -> torch.Tensor:
    """The true boxes, moved by a share of their side and resized."""
    center, size = geometry.box_center(scenes.boxes), geometry.box_size(scenes.boxes)
    center = center + torch.tensor([shift, -0.5 * shift]) * size.amax(1, keepdim=True)
    return torch.cat((center - size * scale / 2, center + size * scale / 2), 1)


@pytest.fixture(scope="module")
def clean(make_settings) -> tuple[World, SceneBatch]:
    """Scenes at the quick preset's own resolution, nothing in front of the part."""
    size = {"data.camera.image_size": 256, "data.camera.focal": 150.0, "data.camera.box_side": [44.0, 72.0]}
    world = World(make_settings(**size, **{"data.occlusion.unoccluded": 1.0, "data.occlusion.clutter": 0}))
    return world, SceneSource(world, "val").scenes(torch.arange(12), 0.5)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.06, 1.1), (-0.05, 0.9)])
def test_the_contour_finds_place_and_distance_again(clean: tuple[World, SceneBatch], shift: float, scale: float):
    world, scenes = clean
    boxes = off_by(scenes, shift, scale)
    start = scenes.t_cam_obj.clone()
    start[:, 2] /= scale
    ray = (geometry.box_center(boxes) - scenes.K[:2, 2]) / scenes.K.diagonal()[:2]
    start[:, :2] = ray * start[:, 2:]
    matcher = ContourMatcher(world, scenes.images, torch.arange(12), boxes, scenes.objects, scenes.K, side=96)
    t, score = matcher.fit(scenes.R_view[:, None], start[:, None], start[:, None], FAR)
    before = (start[:, 2] / scenes.t_cam_obj[:, 2]).log().abs()
    after = (t[:, 0, 2] / scenes.t_cam_obj[:, 2]).log().abs()
    assert after.median() < 0.025, after
    assert (after < 0.04).float().mean() > 0.7, after
    if scale != 1.0:
        assert after.median() < 0.3 * before.median()
    aside, was = ((x[:, :2] - scenes.t_cam_obj[:, :2]).norm(dim=1).median() for x in (t[:, 0], start))
    assert aside < max(6.0, 0.4 * was), (aside, was)  # a pixel is 6 mm here
    assert score.median() > 0.3


def test_a_letterbox_is_no_edge(clean: tuple[World, SceneBatch]):
    """A photo of 256 x 192, all grey, padded to a square; a box at its lower edge, one at its lower right corner."""
    world, scenes = clean
    images = torch.zeros(1, 3, 256, 256)
    images[..., :192, :] = 0.5
    boxes, zeros = torch.tensor([[80.0, 130.0, 150.0, 190.0], [200.0, 130.0, 255.0, 191.0]]), torch.zeros(2).long()
    where = (images, zeros, boxes, scenes.objects[zeros], scenes.K)
    edges = [
        ContourMatcher(world, *where, side=96, extent=extent).field.directions.norm(dim=1).amax((1, 2))
        for extent in (None, torch.tensor([256.0, 192.0]))
    ]
    assert edges[0].min() > 0.5
    assert edges[1].max() < 1e-3


def test_a_wrong_view_matches_worse(clean: tuple[World, SceneBatch]):
    world, scenes = clean
    matcher = ContourMatcher(world, scenes.images, torch.arange(12), scenes.boxes, scenes.objects, scenes.K, side=96)
    views = torch.stack((scenes.R_view, scenes.R_view.roll(1, 0), scenes.R_view.roll(2, 0)), 1)
    t = scenes.t_cam_obj[:, None].expand(-1, 3, -1)
    _, score = matcher.fit(views, t, t, FAR)
    assert (score.argmax(1) == 0).float().mean() > 0.8


def test_the_score_grows_with_the_root_of_the_outline(clean: tuple[World, SceneBatch]):
    """Of two contours that match equally well the longer one scores more; a matched filter's share of the noise."""
    world, scenes = clean
    matcher = ContourMatcher(world, scenes.images, torch.arange(12), scenes.boxes, scenes.objects, scenes.K, side=96)
    t = scenes.t_cam_obj[:, None]
    point = (Reach(0.0, 0.0, 1),)
    _, right = matcher.fit(scenes.R_view[:, None], t, t, point)
    again, _ = matcher.fit(scenes.R_view[:, None], t, t, point)
    assert torch.allclose(again, t, rtol=1e-4)
    assert torch.allclose(matcher.scores(matcher.rendered(scenes.R_view[:, None], t, t)), right, atol=1e-5)
    pairs = torch.stack((scenes.R_view, scenes.R_view.roll(1, 0)), 1)
    both = matcher.scores(matcher.rendered(pairs, t.expand(-1, 2, -1), t.expand(-1, 2, -1)))
    assert torch.allclose(both[:, :1], right, atol=1e-5)
    assert both.shape == (12, 2)
    lengths = matcher._draw(scenes.R_view, scenes.t_cam_obj, matcher._K).length
    end_on = scenes.R_view.clone()  # the hammer seen along its handle: a short outline
    end_on[:] = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    short = matcher._draw(end_on, scenes.t_cam_obj, matcher._K).length
    _, wrong = matcher.fit(end_on[:, None], t, t, point)
    assert short.float().mean() < 0.7 * lengths.float().mean()
    assert (right > wrong).all()
    assert torch.allclose(matcher._length, lengths.float()), "shares of the first contours drawn"
    matcher._length = lengths.float() / 4
    _, longer = matcher.fit(scenes.R_view[:, None], t, t, point)
    assert torch.allclose(longer, 2 * right, rtol=1e-4)


def test_a_render_is_the_same_in_whatever_batch(clean: tuple[World, SceneBatch]):
    """A CPU renders only the pixels around the parts: how many these are depends on the others in the batch."""
    world, scenes = clean
    matcher = ContourMatcher(world, scenes.images, torch.arange(12), scenes.boxes, scenes.objects, scenes.K, side=96)
    near = scenes.t_cam_obj * torch.linspace(0.6, 1.4, 12)[:, None]
    together = matcher._draw(scenes.R_view, near, matcher._K)
    for i in range(12):
        one = matcher._render(scenes.objects[i, None], scenes.R_cam_obj[i, None], near[i, None], matcher._K[i, None])
        assert torch.equal(one.length[0], together.length[i])
        found = one.directions[0].norm(dim=1) > 0  # the rest fills up
        assert found.sum() > 100
        assert torch.equal(one.points[0][found], together.points[i][found])
        assert torch.allclose(one.directions[0], together.directions[i], atol=1e-4)
    whole = world.renderer.render(Instances.single(scenes.objects, scenes.R_cam_obj, near), matcher._K, (96, 96))
    every = edge_points(whole.depth, whole.normal, whole.color, matcher._order.expand(12, -1, -1))  # as on a GPU
    assert torch.equal(every.length, together.length)
    used = every.directions.norm(dim=2) > 0
    assert torch.equal(every.points[used], together.points[used])


def test_as_many_windows_are_looked_at_together_as_have_a_quarter_of_a_million_pixels() -> None:
    assert [at_a_time(side, gpu=False) for side in (96, 192, 512, 513)] == [28, 7, 1, 1]
    assert at_a_time(192, gpu=True) == 512
