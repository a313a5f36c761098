"""Views found by the photo's edges alone, where the true view is known; their points against a render's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.refinement.poses import Seen
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
    picked = WideSearch(world)(seen, book, 8, 12.0)
    assert picked.shape == (SCENES, 8)
    off = geometry.geodesic_angle(book.rotations[picked], scenes.R_view[:, None]).rad2deg()
    assert (off.amin(1) < 20.0).sum() >= SCENES - 1, off.amin(1)
    assert (off[:, 0] < 20.0).sum() >= 5, "of them the best"
    apart = geometry.geodesic_angle(book.rotations[picked[:, :1]], book.rotations[picked[:, 1:]]).rad2deg()
    assert apart.min() > 11.9


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
