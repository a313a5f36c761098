"""Render-and-compare on reconstructions whose rotation is known."""

from __future__ import annotations

import math

import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.networks.windows import Window
from codepose.refinement import edge_search, render_and_compare
from codepose.refinement.contours import ContourMatcher, RenderedEdges
from codepose.refinement.edge_votes import EdgeField
from codepose.refinement.poses import Photos, Poses, Seen
from codepose.refinement.render_and_compare import ContourRefiner, agreement, finer_photos, useful_size
from codepose.settings.data import CameraSettings
from codepose.settings.inference import RefinementSettings
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


def test_agreement_is_the_correlation_coefficient():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 5, 3, 8, 8, generator=generator)
    found = agreement(a, b)
    for n in range(2):
        for k in range(5):
            twin = torch.corrcoef(torch.stack((a[n].flatten(), b[n, k].flatten())))[0, 1]
            assert found[n, k] == pytest.approx(float(twin), abs=1e-5)
    assert agreement(a, (0.3 * a + 0.2)[:, None]).min() > 0.9999
    assert agreement(torch.zeros_like(a), b).abs().max() == 0.0, "a black reconstruction agrees with nothing"


@pytest.fixture(scope="module")
def unhidden(make_settings) -> tuple[World, SceneBatch]:
    world = World(make_settings(**{"data.occlusion.unoccluded": 1.0, "data.occlusion.clutter": 0}))
    return world, SceneSource(world, "val").scenes(torch.arange(4), 0.0)


def seen_in(scenes: SceneBatch, photos: Photos | None = None) -> Seen:
    order = torch.arange(len(scenes.boxes))
    extent = scenes.K.new_tensor([scenes.images.shape[3], scenes.images.shape[2]])
    return Seen(scenes.images, order, scenes.boxes, scenes.objects, scenes.K, scenes.targets, extent, photos)


def photos_of(scenes: SceneBatch) -> Photos:
    """The scenes at three times the network's resolution."""
    assert scenes.photos is not None
    return Photos(scenes.photos, torch.full((2,), 3.0))


def at(R_view: Tensor, t: Tensor) -> Poses:
    """Poses without a word from the network."""
    return Poses.start(R_view, t, torch.zeros(t.shape[:2]))


def test_refiner_without_rounds_picks_the_best_candidate(unhidden: tuple[World, SceneBatch]):
    world, scenes = unhidden
    candidates = torch.stack((scenes.R_view.roll(1, 0), scenes.R_view, scenes.R_view.roll(2, 0)), 1)
    t = scenes.t_cam_obj[:, None].expand(-1, 3, -1)
    start = at(candidates, t)
    found = ContourRefiner(world, RefinementSettings(rounds=0), agreement=10.0)(seen_in(scenes), start)
    assert torch.equal(found.R_view[:, 0], scenes.R_view)
    assert found.agreement.min() > 0.9999
    first = torch.tensor([1.0, 0.0, 0.0]).expand(len(t), -1)  # its code says otherwise
    start = Poses.start(candidates, t, first)
    found = ContourRefiner(world, RefinementSettings(rounds=0), similarity=100.0)(seen_in(scenes), start)
    assert torch.equal(found.R_view[:, 0], candidates[:, 0])


@pytest.fixture(scope="module")
def photographed(make_settings) -> tuple[World, SceneBatch]:
    """Scenes of 128 px, photographed with 384."""
    world = World(
        make_settings(
            **{"data.occlusion.unoccluded": 1.0, "data.occlusion.clutter": 0, "data.photo_scale": 3},
        )
    )
    return world, SceneSource(world, "val").scenes(torch.arange(6), 0.0, photos=True)


def test_refiner_finds_the_true_pose_near_another(photographed: tuple[World, SceneBatch]):
    world, scenes = photographed
    turns = torch.tensor([[9.0, 6.0, 4.0], [-9.0, 6.0, 4.0], [9.0, -6.0, -4.0]]).deg2rad()
    start = axis_angle_to_rotation_matrix(turns) @ scenes.R_view[:, None]  # three hypotheses each
    t = (scenes.t_cam_obj[:, None] * 1.03).expand(-1, 3, -1)
    found = ContourRefiner(world, RefinementSettings())(seen_in(scenes, photos_of(scenes)), at(start, t))
    before = geometry.geodesic_angle(start, scenes.R_view[:, None]).rad2deg()
    after = geometry.geodesic_angle(found.R_view[:, 0], scenes.R_view).rad2deg()
    assert before.min() > 11.0
    assert after.max() < 10.0, after
    assert after.median() < 5.0, after
    assert found.agreement.min() > 0.95
    assert (found.t[:, 0] - scenes.t_cam_obj)[:, :2].norm(dim=1).median() < 3.0, "a pixel of the photo is 3 mm"


def test_no_pose_is_rendered_twice(photographed: tuple[World, SceneBatch], monkeypatch: pytest.MonkeyPatch):
    """Each search begins at the edges of a render that has been made to score its pose."""
    world, scenes = photographed
    made: list[tuple[Tensor, Tensor]] = []
    rendered = ContourMatcher.rendered

    def watched(matcher: ContourMatcher, R_view: Tensor, t: Tensor, boxed: Tensor) -> RenderedEdges:
        made.append((R_view.flatten(0, 1), t.flatten(0, 1)))
        return rendered(matcher, R_view, t, boxed)

    def searched(field: EdgeField, start: RenderedEdges, R_view: Tensor, spread_deg: float):
        turns, places = (torch.cat(values) for values in zip(*made, strict=True))
        for turn, place in zip(R_view.flatten(0, 1), start.t, strict=True):
            assert ((turns == turn).flatten(1).all(1) & (places == place).all(1)).any()
        return edge_search.search(field, start, R_view, spread_deg)

    monkeypatch.setattr(ContourMatcher, "rendered", watched)
    monkeypatch.setattr(render_and_compare, "search", searched)
    start = scenes.R_view[:, None].expand(-1, 2, -1, -1)
    t = scenes.t_cam_obj[:, None] * torch.tensor([0.98, 1.03])[:, None]
    ContourRefiner(world, RefinementSettings(rounds=3))(seen_in(scenes, photos_of(scenes)), at(start, t))
    assert [len(turns) // len(scenes.R_view) for turns, _ in made] == [2, 2, 2, 2, 4, 4]
    poses = torch.cat([torch.cat((turn.flatten(1), place), 1) for turn, place in made[2:]])
    assert len(poses.unique(dim=0)) == len(poses)


def test_photos_of_a_higher_resolution_give_sharper_poses(photographed: tuple[World, SceneBatch]):
    world, scenes = photographed
    off = axis_angle_to_rotation_matrix(torch.tensor([[math.radians(5.0), math.radians(-4.0), math.radians(3.0)]]))
    start = (off @ scenes.R_view)[:, None]
    t = scenes.t_cam_obj[:, None] * torch.tensor([1.0, 1.0, 1.03])
    refiner = ContourRefiner(world, RefinementSettings(), agreement=0.0)
    coarse = refiner(seen_in(scenes), at(start, t))
    fine = refiner(seen_in(scenes, photos_of(scenes)), at(start, t))
    moved, was = ((x.t[:, 0] - scenes.t_cam_obj).norm(dim=1) for x in (fine, coarse))
    assert moved.median() < 0.7 * was.median(), (moved, was)


def test_photos_that_show_no_more_change_nothing(
    photographed: tuple[World, SceneBatch], monkeypatch: pytest.MonkeyPatch
):
    """Boxes of 26 to 40 pixels: the coarse window has 96 pixels for 42 to 64 of the image's."""
    world, scenes = photographed
    start, refiner = (
        at(scenes.R_view[:, None], scenes.t_cam_obj[:, None]),
        ContourRefiner(world, RefinementSettings(rounds=1)),
    )
    looked: list[int] = []
    searched = ContourRefiner._searched
    monkeypatch.setattr(
        ContourRefiner, "_searched", lambda self, side, *more: looked.append(side) or searched(self, side, *more)
    )
    without = refiner(seen_in(scenes), start)
    assert looked == [96]
    larger = F.interpolate(scenes.images, (230, 230), mode="bilinear")
    with_photos = refiner(seen_in(scenes, Photos(larger, torch.full((2,), 230 / 128))), start)
    assert looked == [96, 96], "none of them has enough"
    assert torch.equal(with_photos.R_view, without.R_view)
    assert torch.equal(with_photos.t, without.t)
    refiner(seen_in(scenes, photos_of(scenes)), start)
    assert looked == [96, 96, 192]


def test_each_detection_is_refined_by_itself(photographed: tuple[World, SceneBatch]):
    """One that fills its window and one that does not, together or alone."""
    world, scenes = photographed
    photos = photos_of(scenes)
    refiner = ContourRefiner(world, RefinementSettings(rounds=1))
    start = at(scenes.R_view[:, None], scenes.t_cam_obj[:, None])
    sides = geometry.box_size(scenes.boxes).amax(1)
    scale = float(torch.tensor([96 * 1.25 / 1.6]) / sides.median())  # half of them have enough pixels
    smaller = F.interpolate(photos.images, scale_factor=scale / 3, mode="bilinear", antialias=True)
    photos = Photos(smaller, torch.full((2,), smaller.shape[-1] / 128))
    enough = sides * photos.scale[0] * 1.6 >= 1.25 * 96
    assert 0 < enough.sum() < len(enough)
    seen = seen_in(scenes, photos)
    together = refiner(seen, start)
    for i in range(len(sides)):
        row = torch.tensor([i])
        alone = refiner(seen.select(row), start.select(row))
        assert torch.allclose(alone.R_view[0], together.R_view[i], atol=1e-5)
        assert torch.allclose(alone.t[0], together.t[i], atol=0.05)


def test_the_useful_size_fills_the_fine_window():
    assert useful_size(CameraSettings(image_size=256, box_side=(50.0, 70.0))) == 512
    assert useful_size(CameraSettings()) == 577
    assert useful_size(CameraSettings(image_size=256, box_side=(180.0, 220.0))) == 256, "never less than the network's"
    window, K = Window(0, 0, 300, 150), geometry.camera_matrix(240.0, 150.0, 75.0)
    settings = CameraSettings(image_size=64, box_side=(30.0, 50.0))
    _, there = window.look(torch.zeros(1, 3, 150, 300), K, 64)
    finer = finer_photos(window, torch.zeros(1, 3, 150, 300), K, there, settings)
    assert finer is not None
    assert finer.images.shape[-2:] == (192, 192)
    assert finer.scale.tolist() == pytest.approx([3.0, 3.0])
    assert finer_photos(Window(0, 0, 64, 40), torch.zeros(1, 3, 40, 64), K, there, settings) is None


def test_a_hypothesis_that_is_no_pose_leaves_the_others_alone(photographed: tuple[World, SceneBatch]):
    """As many renders as one chunk holds, all of them empty."""
    world, scenes = photographed
    start, t = scenes.R_view[:, None].expand(-1, 32, 3, 3), scenes.t_cam_obj[:, None].expand(-1, 32, 3).clone()
    t[2] = math.nan
    refiner = ContourRefiner(world, RefinementSettings(rounds=1))
    found = refiner(seen_in(scenes), at(start, t))
    assert found.t[[0, 1, 3, 4, 5]].isfinite().all()
    alone = refiner(seen_in(scenes).select(torch.tensor([3])), at(start[3:4], t[3:4]))
    assert torch.allclose(alone.t[0], found.t[3], atol=0.01)
