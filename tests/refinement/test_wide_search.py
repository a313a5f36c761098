"""Views found by the photo's edges alone, where the true view is known; their points against a render's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.refinement import view_edges, wide_search
from codepose.refinement.contours import edges_around, score
from codepose.refinement.poses import Poses, Seen
from codepose.refinement.view_edges import ViewEdges
from codepose.refinement.wide_search import WideSearch
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

SCENES = 8


@pytest.fixture(scope="module")
def clean(make_settings) -> tuple[World, SceneBatch]:
    """Scenes at the quick preset's resolution, nothing in front of the part."""
    size = {"data.camera.image_size": 256, "data.camera.focal": 150.0, "data.camera.box_side": [44.0, 72.0]}
    world = World(make_settings(**size, **{"data.occlusion.unoccluded": 1.0, "data.occlusion.clutter": 0}))
    return world, SceneSource(world, "val").scenes(torch.arange(SCENES), 0.5)


@pytest.fixture(scope="module")
def views(clean: tuple[World, SceneBatch]) -> ViewEdges:
    return ViewEdges.draw(clean[0], 0)


def test_edge_points_of_a_view_lie_on_the_parts_surface_and_turn_with_it(views: ViewEdges, clean) -> None:
    world, _ = clean
    model = world.objects[0]
    assert len(views.rotations) == 77, "within 30 degrees and a step"
    ends, points = torch.from_numpy(model.mesh.vertices).float(), views.points.flatten(0, 1)
    across = model.axis == 0.0  # its thickness is hardly seen
    assert (points.amax(0) - ends.amax(0))[across].abs().max() < 8.0, "mm: all of the part is drawn, where it is"
    assert (points.amin(0) - ends.amin(0))[across].abs().max() < 8.0
    assert (views.length > model.mesh.diameter).all()


def test_edges_are_as_long_from_twice_as_far_away(world: World) -> None:
    """They are in mm, not in pixels of windows that follow the part."""
    order = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    far: Any = SimpleNamespace(boxes=world.boxes, renderer=world.renderer, K=world.K)
    far.reference_translations = lambda objects: 2.0 * world.reference_translations(objects)
    R = geometry.codebook_rotations(1, 1, world.objects[0].axis, 30.0)
    (near_points, _, near_length), (points, _, length) = (view_edges._view_edges(w, 0, R, order) for w in (world, far))
    torch.testing.assert_close(length, near_length, rtol=0.1, atol=0.0)
    torch.testing.assert_close(points.amax(1), near_points.amax(1), rtol=0.0, atol=12.0)


def test_views_are_drawn_from_all_directions_of_their_object(monkeypatch: pytest.MonkeyPatch) -> None:
    axis, asked = torch.tensor([1.0, 0.0, 0.0]), []
    models = [SimpleNamespace(axis=axis, cone_deg=20.0, opposite=False)] * 2
    models.append(SimpleNamespace(axis=axis, cone_deg=30.0, opposite=True))
    world: Any = SimpleNamespace(objects=models, device=torch.device("cpu"))

    def drawn(world: Any, index: int, R: torch.Tensor, order: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked.append((index, len(R)))
        return torch.zeros(len(R), 96, 3), torch.zeros(len(R), 96, 2), R[:, 0, 0]

    with monkeypatch.context() as patched:
        patched.setattr(view_edges, "_view_edges", drawn)
        found = ViewEdges.draw(world, 2)
    expected = geometry.codebook_rotations(3, 1, axis, 30.0, opposite=True)
    torch.testing.assert_close(found.rotations, expected)
    assert torch.equal(found.length, found.rotations[:, 0, 0])
    assert {index for index, _ in asked} == {2}
    assert max(count for _, count in asked) <= 64

    def placed(objects: torch.Tensor) -> torch.Tensor:
        assert objects.tolist() == [2, 2, 2, 2]
        raise RuntimeError("far enough")

    world.reference_translations = placed
    with pytest.raises(RuntimeError, match="far enough"):
        view_edges._view_edges(world, 2, expected[:4], torch.zeros(64, 64))


def test_the_nearest_view_and_the_turn_in_the_plane(views: ViewEdges) -> None:
    angle = torch.tensor([0.3, -2.0, 3.0])
    turn = torch.eye(3).repeat(3, 1, 1)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 1, 0] = angle.sin()
    turn[:, 0, 1] = -angle.sin()
    view, found = views.nearest(turn @ views.rotations[[5, 30, 70]])
    assert view.tolist() == [5, 30, 70]
    torch.testing.assert_close(found, angle, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [0.0, 0.04])
def test_the_true_view_is_among_the_first_of_hundreds(
    clean: tuple[World, SceneBatch], shift: float, book_of: Callable[[World, torch.Tensor], Codebook]
) -> None:
    """Its network would know nothing: all codes are the same."""
    world, scenes = clean
    grid = geometry.codebook_rotations(2, 24, world.objects[0].axis, 30.0)
    book = book_of(world, torch.cat((grid, scenes.R_view)))
    moved = shift * geometry.box_size(scenes.boxes).amax(1, keepdim=True).repeat(1, 4)
    order = torch.arange(SCENES)
    extent = scenes.K.new_tensor([256.0, 256.0])
    seen = Seen(scenes.images, order, scenes.boxes + moved, scenes.objects, scenes.K, scenes.targets, extent)
    picked, places = WideSearch(world)(seen, book, 8, 12.0)
    assert picked.shape == (SCENES, 8)
    assert places.shape == (SCENES, 8, 3)
    right = (geometry.geodesic_angle(book.rotations[picked[:, 0]], scenes.R_view).rad2deg() < 15.0).nonzero()[:, 0]
    beside = geometry.to_pixels(places[right, 0], scenes.K) - geometry.to_pixels(scenes.t_cam_obj[right], scenes.K)
    sides = geometry.box_size(scenes.boxes[right]).amax(1)
    assert (beside.norm(dim=1) / sides).median() < 0.035, "where the edges lie, not the shifted box"
    off = geometry.geodesic_angle(book.rotations[picked], scenes.R_view[:, None]).rad2deg()
    assert (off.amin(1) < 20.0).sum() >= SCENES - 1, off.amin(1)
    assert (off[:, 0] < 20.0).sum() >= 5, "of them the best"
    apart = geometry.geodesic_angle(book.rotations[picked[:, :1]], book.rotations[picked[:, 1:]]).rad2deg()
    assert apart.min() > 11.9


def test_a_level_keeps_the_best_place_and_size_of_each_pose(clean: tuple[World, SceneBatch], views: ViewEdges) -> None:
    """The views' points are turned and put into the camera's frame pose by pose, and looked up one by one."""
    _, scenes = clean
    level = wide_search._Level(keep=0, side=48, points=40, blur=0.9, shift=0.06, places=3, scale=0.08)
    rows, extent = torch.arange(2), scenes.K.new_tensor([256.0, 150.0])
    seen = Seen(scenes.images, rows, scenes.boxes[:2], scenes.objects[:2], scenes.K, scenes.targets[:2], extent)
    view, angle = torch.tensor([3, 20, 41, 60, 7, 3]), torch.tensor([0.3, -2.0, 3.0, 0.0, 1.0, -0.5])
    spin = axis_angle_to_rotation_matrix(torch.nn.functional.pad(angle[:, None], (2, 0)))
    boxed = scenes.t_cam_obj[:2, None] * torch.tensor([[0.95], [1.0], [1.05]])
    start = Poses.start((spin @ views.rotations[view]).view(2, 3, 3, 3), boxed, torch.zeros(2, 3))
    start = replace(start, t=boxed + torch.tensor([12.0, -9.0, 30.0]))
    found = wide_search._lay(views, view, angle, seen, start, level)
    field, K = edges_around(scenes.images, rows, seen.boxes, scenes.K, 48, extent, blur=level.blur, samples=2)
    assert found.R_view is start.R_view
    for row in range(2):
        for k in range(3):
            m, values, places = 3 * row + k, [], []
            points = views.points[view[m], :40] @ (geometry.offaxis_rotation(start.t[row, k]) @ start.R_view[row, k]).T
            directions = views.directions[view[m], :40]
            for right, down, size in itertools.product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)):
                z = start.t[row, k, 2] * math.exp(-0.08 * size)
                move = 0.06 * 48 / 1.6 * torch.tensor([right, down])
                place = geometry.from_pixels(geometry.to_pixels(start.t[row, k], K[row]) + move, z, K[row])
                every = (points + place)[None].expand(2, -1, -1)
                there = K[:, None], torch.zeros(2, 1, 3), 2.0 * angle[m].expand(2, 1)
                votes = field.votes(every, directions[None].expand(2, -1, -1), *there)[row, 0]
                grown = (boxed[row, k, 2] / z).log()
                length = views.length[view[m]] / views.length.mean() * grown.exp()
                off = (geometry.to_pixels(place, K[row]) - geometry.to_pixels(boxed[row, k], K[row])) / (48 / 1.6)
                values.append(float(score(votes / (directions != 0).any(1).sum(), length, off, grown)))
                places.append(place)
            best = int(np.argmax(values))
            assert float(found.score[row, k]) == pytest.approx(values[best], abs=1e-4)
            torch.testing.assert_close(found.t[row, k], places[best], rtol=1e-4, atol=1e-2)
    assert torch.equal(found.contour, found.score)
    assert torch.equal(found.boxed, start.boxed)


def test_each_object_has_views_of_its_own(views: ViewEdges, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn when they are first asked for, and once."""
    drawn: list[int] = []
    monkeypatch.setattr(ViewEdges, "draw", lambda world, index: drawn.append(index) or views)
    world: Any = SimpleNamespace(device=torch.device("cpu"))
    search = WideSearch(world)
    laid: Any = RuntimeError("far enough")
    monkeypatch.setattr(wide_search, "_lay", lambda *_: (_ for _ in ()).throw(laid))
    ones = torch.ones(2)
    book: Any = SimpleNamespace(codes=ones, rotations=views.rotations[:2], placed=lambda *_: torch.ones(2, 3))
    book.to = lambda _: book
    for index in (0, 1, 1, 0):
        seen: Any = SimpleNamespace(boxes=torch.ones(1, 4), objects=torch.tensor([index]), K=torch.eye(3))
        seen.to = lambda _, seen=seen: seen
        with pytest.raises(RuntimeError, match="far enough"):
            search(seen, book, 1, 12.0)
    assert drawn == [0, 1]


def test_views_are_placed_by_their_boxes_off_the_axis_too(
    clean: tuple[World, SceneBatch], book_of: Callable[[World, torch.Tensor], Codebook]
) -> None:
    """A third of the distance aside, where the original's formula is several per cent short."""
    world, scenes = clean
    book = book_of(world, scenes.R_view)
    t = torch.tensor([0.35, -0.3, 1.0]) * scenes.t_cam_obj[:, 2:]
    boxes = world.boxes(scenes.objects, geometry.offaxis_rotation(t) @ scenes.R_view, t)
    placed = book.placed(torch.arange(SCENES), boxes, world.K)
    off = (placed - t).norm(dim=1) / t.norm(dim=1)
    plain = geometry.translation_from_box(boxes, world.K, book.boxes, book.K, t.new_full((SCENES,), book.z_ref))
    assert off.max() < 0.07, off
    assert off.median() < ((plain - t).norm(dim=1) / t.norm(dim=1)).median()


def test_cosines_are_those_of_the_views_asked_for(
    clean: tuple[World, SceneBatch], book_of: Callable[[World, torch.Tensor], Codebook]
) -> None:
    world, scenes = clean
    book = replace(book_of(world, scenes.R_view[:2]), codes=torch.tensor([[1.0, 0.0], [0.6, 0.8]]).half())
    found = book.cosines(torch.tensor([[1, 0], [0, 1]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 1.0], [0.0, 0.8]]), atol=1e-3, rtol=0)
