"""Edge points that move with the part: as good as a new render near the pose, and led to the true one."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor

from codepose import geometry
from codepose.refinement import edge_search
from codepose.refinement.contours import ContourMatcher, Reach, RenderedEdges
from codepose.refinement.edge_search import _changed_poses, _values, search
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

THERE = (Reach(0.0, 0.0, 1),)


@pytest.fixture(scope="module")
def clean(make_settings) -> tuple[World, SceneBatch]:
    """Scenes in which the part covers some 120 pixels, with nothing in front of it."""
    size = {"data.camera.image_size": 512, "data.camera.focal": 300.0, "data.camera.box_side": [100.0, 133.0]}
    world = World(make_settings(**size, **{"data.occlusion.unoccluded": 1.0, "data.occlusion.clutter": 0}))
    return world, SceneSource(world, "val").scenes(torch.arange(6), 0.5)


def matcher_of(clean: tuple[World, SceneBatch], rows: Tensor) -> ContourMatcher:
    world, scenes = clean
    return ContourMatcher(world, scenes.images, rows, scenes.boxes[rows], scenes.objects[rows], scenes.K, side=192)


def turned(R_view: Tensor, t: Tensor, turn: Tensor) -> Tensor:
    """The view after a turn (3,), axis times radians, about the axes of the camera."""
    frame = geometry.offaxis_rotation(t)
    return frame.mT @ axis_angle_to_rotation_matrix(turn[None]) @ frame @ R_view


def test_without_a_change_points_score_as_the_render_does(clean: tuple[World, SceneBatch]):
    _, scenes = clean
    matcher, R_view, t = matcher_of(clean, torch.arange(6)), scenes.R_view[:, None], scenes.t_cam_obj[:, None]
    boxed = t * 1.05
    _, score = matcher.fit(R_view, boxed, t, THERE)
    value = _values(matcher.field, matcher.rendered(R_view, t, boxed), torch.zeros(6, 1, 6))
    assert torch.allclose(value, score, atol=2e-3)


@pytest.mark.parametrize(
    "change",
    [
        (0.0, 0.0, 0.3, 0.0, 0.0, 0.0),  # in the plane
        (0.0, 0.0, -0.15, 0.05, -0.03, 0.06),
        (0.05, 0.0, 0.0, 0.0, 0.0, -0.05),
        (0.0, -0.05, 0.02, -0.02, 0.04, 0.0),
    ],
)
def test_moved_points_score_as_a_new_render_does(clean: tuple[World, SceneBatch], change: tuple[float, ...]):
    """From a pose beside the true one to the true one."""
    _, scenes = clean
    back = torch.tensor(change)
    matcher = matcher_of(clean, torch.arange(6))
    aside = scenes.t_cam_obj.clone()
    aside[:, 2] *= math.exp(change[5])
    K = matcher._K
    center = scenes.t_cam_obj[:, :2] / scenes.t_cam_obj[:, 2:] - back[3:5] * matcher._box / K.diagonal(0, 1, 2)[:, :2]
    aside[:, :2] = center * aside[:, 2:]
    frame = geometry.offaxis_rotation(aside)
    R = axis_angle_to_rotation_matrix(-back[None, :3]) @ scenes.R_cam_obj
    start, boxed = (frame.mT @ R)[:, None], scenes.t_cam_obj[:, None]
    _, new = matcher.fit(scenes.R_view[:, None], boxed, boxed, THERE)
    given = matcher.rendered(start, aside[:, None], boxed)
    turns, t = _changed_poses(given, back.expand(6, 1, 6))
    assert torch.allclose(t[:, 0], scenes.t_cam_obj, rtol=1e-4, atol=0.05)
    assert torch.allclose(turns[:, 0] @ R, scenes.R_cam_obj, atol=1e-5)
    value = _values(matcher.field, given, back.expand(6, 1, 6))
    before = _values(matcher.field, given, torch.zeros(6, 1, 6))
    assert (value - new).abs().max() < 0.1, (value, new)
    assert (value > before + 0.03).all(), (value, before)


def test_the_search_leads_to_the_true_pose(clean: tuple[World, SceneBatch]):
    scenes = SceneSource(clean[0], "val").scenes(torch.arange(24), 0.5)
    matcher = matcher_of((clean[0], scenes), torch.arange(24))
    R_view = turned(scenes.R_view, scenes.t_cam_obj, torch.tensor([0.07, -0.06, 0.05]))[:, None]
    t = scenes.t_cam_obj[:, None] * torch.tensor([1.0, 1.0, 1.03])
    _, before = matcher.fit(R_view, t, t, THERE)
    found, place = R_view, t
    for spread in (5.0, 3.0, 2.0):
        found, place = search(matcher.field, matcher.rendered(found, place, t), found, spread)
    _, after = matcher.fit(found, t, place, THERE)
    assert (after > before).all()
    off, was = (geometry.geodesic_angle(x[:, 0], scenes.R_view).rad2deg() for x in (found, R_view))
    assert was.min() > 5.5
    assert off.median() < 4.0, off
    assert (off < was).float().mean() > 0.7, off
    aside, beside = ((x[:, 0] - scenes.t_cam_obj).norm(dim=1) for x in (place, t))
    assert aside.median() < 0.4 * beside.median(), (aside, beside)


def test_each_hypothesis_is_searched_by_itself(clean: tuple[World, SceneBatch]):
    _, scenes = clean
    views = [turned(scenes.R_view, scenes.t_cam_obj, torch.tensor([0.05 * k, 0.0, 0.0])) for k in range(3)]
    R_view, t = torch.stack(views, 1), scenes.t_cam_obj[:, None].expand(-1, 3, -1)
    matcher = matcher_of(clean, torch.arange(6))
    matcher.fit(R_view, t, t, THERE)
    found, place = search(matcher.field, matcher.rendered(R_view, t, t), R_view, 4.0)
    alone = matcher_of(clean, torch.tensor([4]))
    alone.fit(R_view[4:5], t[4:5], t[4:5], THERE)
    one, there = search(alone.field, alone.rendered(R_view[4:5, 1:2], t[4:5, 1:2], t[4:5, 1:2]), R_view[4:5, 1:2], 4.0)
    assert torch.allclose(one[0, 0], found[4, 1], atol=1e-4)
    assert torch.allclose(there[0, 0], place[4, 1], atol=0.05)


def test_changes_are_scored_by_pixels_and_edge_points() -> None:
    """Two of four edge points agree, 6 pixels right and 2.4 above: 0.05 and 0.02 of 120."""
    edges: Any = SimpleNamespace(
        points=torch.zeros(1, 4, 2), depth=torch.ones(1, 4), directions=torch.ones(1, 4, 2), voters=torch.tensor([4.0])
    )
    K, t = geometry.camera_matrix(300.0, 96.0, 96.0)[None], torch.tensor([[90.0, -60.0, 400.0]])
    start = RenderedEdges(edges, torch.ones(1), t, 1.1 * t, K, 120.0)
    field: Any = SimpleNamespace(votes=lambda *_: torch.tensor([[2.0]]))
    value = _values(field, start, torch.tensor([[[0.0, 0.0, 0.3, 0.05, -0.02, 0.1]]]))
    expected = start.worth(torch.tensor([[0.5]]), torch.tensor([[[6.0, -2.4]]]), torch.tensor([[0.1]]))
    assert torch.allclose(value, expected)
    assert not torch.allclose(value, start.worth(torch.tensor([[0.5]]), torch.zeros(1, 1, 2), torch.tensor([[0.1]])))


FIRST = torch.tensor([math.radians(2.0)] * 3 + [0.008, 0.008, 0.012])
"""The spread of the first changes: 2 degrees, and so many shares of the box's side and of the size."""


def searched(
    monkeypatch: pytest.MonkeyPatch, values: Callable[[Tensor], Tensor]
) -> tuple[RenderedEdges, Tensor, Tensor]:
    """Two poses beside the axis, and what the search makes of them where scores are known: R and t."""
    t = torch.tensor([[90.0, -60.0, 400.0], [-50.0, 10.0, 600.0]])
    R_view = axis_angle_to_rotation_matrix(torch.tensor([[0.3, 1.0, -0.4], [2.0, 0.1, 0.2]]))
    K = geometry.camera_matrix(300.0, 96.0, 96.0).expand(2, 3, 3)
    nothing: Any = None
    start = RenderedEdges(nothing, torch.ones(2), t, t, K, 120.0)
    monkeypatch.setattr(edge_search, "_values", lambda field, given, change: values(change))
    found, place = search(nothing, start, R_view[:, None], 2.0)
    back = geometry.offaxis_rotation(place[:, 0]) @ found[:, 0]
    return start, back @ (geometry.offaxis_rotation(t) @ R_view).mT, place[:, 0]


def changed(start: RenderedEdges, turn: Tensor, t: Tensor) -> Tensor:
    """Which change (2, 6) it was, in first spreads."""
    vector = 0.5 * torch.stack(
        (turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]), 1
    )
    shift = (geometry.to_pixels(t, start.K) - geometry.to_pixels(start.t, start.K)) / start.box
    return torch.cat((vector, shift, (start.t[:, 2:] / t[:, 2:]).log()), 1) / FIRST


def test_a_known_change_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies about one spread away along each axis; four rounds bring it within a fifth of one."""
    best = torch.tensor([1.0, -0.8, 0.6, -1.0, 0.8, 0.9])
    start, turn, t = searched(monkeypatch, lambda change: -(change / FIRST - best).square().sum(-1))
    assert (changed(start, turn, t) - best).abs().max() < 0.2


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_the_best_of_any_round_is_returned(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round's scores are above all others'."""
    rounds: list[Tensor] = []

    def values(change: Tensor) -> Tensor:
        rounds.append(change / FIRST)
        return 100.0 * (len(rounds) == which + 1) - rounds[-1].square().sum(-1)

    start, turn, t = searched(monkeypatch, values)
    assert [change.shape for change in rounds] == [(2, 100, 6)] * 4
    least = rounds[which].square().sum(-1).argmin(1)
    assert torch.allclose(changed(start, turn, t), rounds[which][torch.arange(2), least], atol=5e-3)
    assert torch.allclose(rounds[0][0].std(0), torch.ones(6), atol=0.25)
    assert torch.equal(rounds[0][0], rounds[0][1]), "the same changes are tried on every pose"
