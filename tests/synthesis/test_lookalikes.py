"""Views that are easily taken for one another: far apart, alike, and never the same by symmetry."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix

from codepose import geometry
from codepose.parts.symmetry_group import Symmetries
from codepose.randomness import Draws
from codepose.settings.data import ObjectSettings
from codepose.synthesis.lookalikes import LookAlikes, spread_views, thumbnails
from codepose.synthesis.placement import draw_objects, draw_views
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


@pytest.fixture(scope="module")
def whole(make_settings) -> World:
    """The hammer, from every side."""
    return World(make_settings(**{"objects.0.view_cone_deg": 180.0}))


@pytest.fixture(scope="module")
def found(whole: World) -> LookAlikes:
    return LookAlikes.find(whole, 0, 3)


def clean(world: World, R: torch.Tensor) -> torch.Tensor:
    return thumbnails(world.clean_views(torch.zeros(len(R), dtype=torch.long), R))


def angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return geometry.geodesic_angle(a, b).rad2deg()


def test_they_are_far_apart_and_look_alike(whole: World, found: LookAlikes) -> None:
    views = torch.cat((found.rotations[:, None], found.others), 1)  # (V, 4, 3, 3)
    apart = angles(views[:, :, None], views[:, None])
    assert apart[:, ~torch.eye(4, dtype=torch.bool)].min() > 29.9
    likeness = (clean(whole, found.rotations) * clean(whole, found.others[:, 0])).sum(1)
    assert likeness.min() > 0.8
    assert likeness.median() > 0.95
    unlike = (clean(whole, found.rotations) * clean(whole, found.others[:, 0].roll(1, 0))).sum(1)
    assert unlike.median() < 0.6, "thumbnails of any two views"


def test_a_turn_in_the_plane_turns_both(found: LookAlikes) -> None:
    which = torch.arange(len(found.rotations)) % 3
    exact = found.of(found.rotations, which)
    assert torch.allclose(exact, found.others[torch.arange(len(which)), which], atol=1e-5)
    turn = axis_angle_to_rotation_matrix(torch.tensor([[0.0, 0.0, 0.7]]))
    assert torch.allclose(found.of(turn @ found.rotations, which), turn @ exact, atol=1e-5)


def test_any_view_resembles_its_look_alike_more_than_others(whole: World, found: LookAlikes) -> None:
    draws = Draws(0, "any", torch.arange(96))
    R = draw_views(whole, draws, torch.zeros(96, dtype=torch.long))
    other = found.of(R, torch.zeros(96, dtype=torch.long))
    assert angles(R, other).min() > 29.9
    assert (clean(whole, R) * clean(whole, other)).sum(1).median() > 0.9


def test_what_is_the_same_by_symmetry_is_no_look_alike(make_settings) -> None:
    """A part that is said to look the same after half a turn about z: such a turn is never among its look-alikes."""
    world = World(make_settings(**{"objects.0.view_cone_deg": 180.0}))
    model = dataclasses.replace(world.objects[0], declared=Symmetries(np.diag([-1.0, -1.0, 1.0, 1.0])[None]))
    world.objects[0] = model
    found = LookAlikes.find(world, 0, 3)
    least = model.symmetries.angles(found.rotations[:, None], found.others).rad2deg()
    assert least.min() > 29.9


def test_a_narrow_cone_repeats_the_view(make_settings) -> None:
    """Where no view is 30 degrees away, but for turns in the plane that look different, it is its own look-alike."""
    world = World(make_settings(**{"objects.0.view_cone_deg": 5.0}))
    found = LookAlikes.find(world, 0, 40)  # more than fit on the circle of turns, 30 degrees apart
    same = angles(found.rotations[:, None], found.others) < 0.1
    assert same.any(1).all()


def test_a_cone_between_the_views_compared_has_look_alikes(make_settings) -> None:
    """None of the views on the grid lies inside a cone of 2 degrees around the middle of one of its faces."""
    cone = {"objects.0.view_direction": (1.0, 1.0, 1.0), "objects.0.view_cone_deg": 2.0}
    world = World(make_settings(**cone))
    found = LookAlikes.find(world, 0, 3)
    assert found.others.shape == (len(found.rotations), 3, 3, 3)
    views = draw_views(world, Draws(0, "narrow", torch.arange(64)), torch.zeros(64, dtype=torch.long))
    assert world.objects[0].trains(found.of(views, torch.zeros(64, dtype=torch.long))).all()


@pytest.mark.parametrize("opposite", [False, True])
def test_they_stay_within_the_trained_cone(make_settings, opposite: bool) -> None:
    world = World(make_settings(**{"objects.0.view_cone_deg": 30.0, "objects.0.view_opposite": opposite}))
    model = world.objects[0]
    R = draw_views(world, Draws(0, "cone", torch.arange(600)), torch.zeros(600, dtype=torch.long))
    assert model.trains(R).all()
    away = views_beyond(world, 31.0)
    assert not model.trains(away).any()
    found = LookAlikes.find(world, 0, 3)
    others = torch.stack([found.of(R, torch.full((600,), n)) for n in range(3)], 1)
    assert model.trains(others.flatten(0, 1)).all()
    apart = angles(R[:, None], others)
    assert apart.min() > 20.0, "a grid step less than 30 degrees where the cone ends"
    assert (apart > 29.9).float().mean() > 0.5
    assert torch.allclose(others @ others.mT, torch.eye(3).expand_as(others), atol=1e-4)


def views_beyond(world: World, degrees: float) -> torch.Tensor:
    """Views more than ``degrees`` off either end of the cone's axis."""
    every = geometry.codebook_rotations(3, 4, world.objects[0].axis)
    cosines = -every[:, 2] @ world.objects[0].axis
    return every[cosines.abs() < math.cos(math.radians(degrees))]


def test_groups_of_items_show_one_object_in_views_alike(make_settings) -> None:
    settings = make_settings(**{"objects.0.view_cone_deg": 180.0, "data.clean": 0.0})
    other = ObjectSettings(mesh="hammer", label="twin")
    world = World(settings.model_copy(update={"objects": (*settings.objects, other)}))
    plain, grouped = SceneSource(world, "train"), SceneSource(world, "train", look_alikes=3)
    items = torch.arange(16)
    draws = Draws(settings.data.seed, "crops/train", items)
    objects = draw_objects(world, draws)
    for alone, together, drawn in (
        (plain.crops(items), grouped.crops(items), draw_views(world, draws, objects)),
        (plain.scenes(items), grouped.scenes(items), None),
    ):
        if drawn is not None:
            assert torch.equal(alone.R_view, drawn)
        assert torch.equal(together.R_view[::4], alone.R_view[::4])
        assert torch.equal(together.objects, alone.objects[::4].repeat_interleave(4))
        R = together.R_view.view(4, 4, 3, 3)
        assert angles(R[:, :1], R[:, 1:]).min() > 29.9
    one = grouped.crops(torch.tensor([7, 13]))  # an item is the same in any batch
    assert torch.allclose(one.inputs, grouped.crops(items).inputs[[7, 13]], atol=1e-5)


def test_views_are_spread_best_first() -> None:
    turns = [0.0, 3.0, 20.0, 25.0, 90.0]
    rotations = axis_angle_to_rotation_matrix(torch.tensor([[0.0, 0.0, math.radians(a)] for a in turns]))
    views = torch.tensor([[0, 1, 2, 3, 4], [3, 2, 1, 0, 4]])
    R = rotations[views]
    assert spread_views(R, 3, 12.0).tolist() == [[0, 2, 4], [0, 2, 4]]
    assert spread_views(R, 5, 12.0).tolist() == [[0, 2, 4, 0, 0], [0, 2, 4, 0, 0]]
    assert spread_views(R, 2, 0.0).tolist() == [[0, 1], [0, 1]]
    assert spread_views(R[:, :3], 9, 12.0).tolist() == [[0, 2, 0], [0, 2, 0]]


def test_views_that_look_the_same_are_one_hypothesis() -> None:
    """A part that looks the same after half a turn about z: of 0, 170, 180, 60 and 240 degrees two are apart."""
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])[None]
    degrees = torch.deg2rad(torch.tensor([0.0, 170.0, 180.0, 60.0, 240.0]))
    spins = axis_angle_to_rotation_matrix(torch.stack((0 * degrees, 0 * degrees, degrees), 1))
    rotations = axis_angle_to_rotation_matrix(torch.tensor([[0.4, -0.2, 0.1]])) @ spins
    R = rotations[None]
    assert spread_views(R, 3, 12.0, Symmetries(turn)).tolist() == [[0, 3, 0]]
    assert spread_views(R, 4, 8.0, Symmetries(turn)).tolist() == [[0, 1, 3, 0]]
    assert spread_views(R, 4, 12.0, Symmetries.none()).tolist() == [[0, 1, 3, 4]]
