"""Occluders: the hand grips the handle, in the camera's frame; the others stand in front; attempts give way."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from codepose import geometry
from codepose.parts.mesh import Mesh, mesh_from_trimesh
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances
from codepose.settings.data import ObjectSettings, OcclusionSettings
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.synthesis.occluders import ATTEMPTS, Occluders, grip_radius, merge
from codepose.synthesis.world import World

COUNT = 200


@cache
def small() -> Settings:
    changes = {"data.camera.image_size": 128, "data.camera.focal": 75.0, "network.crop": 32}
    return override(load_preset("quick"), changes)


@cache
def world() -> World:
    return World(small())


@cache
def posed() -> tuple[Draws, Tensor, Tensor, Tensor]:
    """Objects all over the image, in any rotation."""
    draws = Draws(5, "test", torch.arange(COUNT))
    R = geometry.view_rotation(draws.direction("view"), draws.uniform("in-plane", high=6.283))
    z = draws.uniform("z", low=700.0, high=1100.0)
    t = torch.cat((draws.uniform("xy", 2, low=-0.5, high=0.5) * z[:, None], z[:, None]), 1)
    return draws, torch.zeros(COUNT, dtype=torch.long), R, t


def placed(attempt: int = 0, difficulty: float = 1.0, **settings: Any) -> tuple[Instances, Tensor]:
    occluders = Occluders(world(), OcclusionSettings(**settings))
    draws, objects, R, t = posed()
    return occluders.place(draws, objects, R, t, attempt=attempt, difficulty=difficulty)


def hands(found: tuple[Instances, Tensor]) -> tuple[Instances, Tensor]:
    mine = found[0].mesh == world().hand_index
    return found[0].select(mine), found[1][mine]


def others(found: tuple[Instances, Tensor]) -> tuple[Instances, Tensor]:
    mine = found[0].mesh >= world().first_other
    return found[0].select(mine), found[1][mine]


def grip_in_camera(image: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of the hammer's grip segment, (n, 3) mm in the camera's frame."""
    _, _, R, t = posed()
    grip = torch.from_numpy(world().objects[0].mesh.grip)
    a, b = (torch.einsum("nij,j->ni", R[image], end) + t[image] for end in grip)
    return a, b


# the hand


def test_the_hand_grips_the_handle() -> None:
    scene, _ = hands(placed(unoccluded=0.0, hand=1.0, others=0))
    assert scene.image.tolist() == list(range(COUNT))
    a, b = grip_in_camera(scene.image)
    along = (b - a) / (b - a).norm(dim=1, keepdim=True)
    # the bar that the hand is closed around is its y axis, and goes one way or the other along the handle
    cosine = (scene.R[:, :, 1] * along).sum(1)
    torch.testing.assert_close(cosine.abs(), torch.ones(COUNT), atol=1e-5, rtol=0)
    assert abs(float((cosine > 0).float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(COUNT)
    # the hand's origin lies on the segment, all along it
    place = ((scene.t - a) * along).sum(1) / (b - a).norm(dim=1)
    assert (scene.t - (a + place[:, None] * (b - a))).norm(dim=1).max() < 1e-2
    assert -1e-5 <= place.min() < 0.05
    assert 0.95 < place.max() <= 1 + 1e-5
    # a rotation, and turned about the bar by any angle
    torch.testing.assert_close(scene.R @ scene.R.mT, torch.eye(3).expand(COUNT, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(scene.R) > 0.99).all()
    R = posed()[2][scene.image]
    palm = (R.mT @ scene.R)[:, :, 2]  # in the hammer's frame, where the handle is y
    turn = torch.atan2(palm[:, 0], palm[:, 2])
    counts = np.histogram(turn.numpy(), 8, (-math.pi, math.pi))[0]
    assert counts.min() > COUNT / 8 / 2.5


def test_the_hand_grips_along_any_axis(tmp_path: Path) -> None:
    """The hammer's handle is y, as the hand's bar is; a rod along z shows in which frame the hand rolls."""
    trimesh.creation.cylinder(radius=10.0, height=200.0).export(tmp_path / "rod.ply")
    rods = World(small().model_copy(update={"objects": (ObjectSettings(mesh=str(tmp_path / "rod.ply")),)}))
    draws, objects, R, t = posed()
    settings = OcclusionSettings(unoccluded=0.0, hand=1.0, others=0)
    scene, _ = Occluders(rods, settings).place(draws, objects, R, t, attempt=0, difficulty=1.0)
    cosine = (scene.R[:, :, 1] * R[scene.image, :, 2]).sum(1)
    torch.testing.assert_close(cosine.abs(), torch.ones(len(cosine)), atol=1e-5, rtol=0)


def test_a_hand_that_would_reach_behind_the_camera_is_left_out(tmp_path: Path) -> None:
    """A ball of 40 mm fills its box from 10 cm away; where no hand fits, another occluder takes its place."""
    trimesh.creation.icosphere(radius=20.0).export(tmp_path / "ball.ply")
    near = World(small().model_copy(update={"objects": (ObjectSettings(mesh=str(tmp_path / "ball.ply")),)}))
    draws, objects, R, t = posed()
    t = t * (100.0 / t[:, 2:])
    settings = OcclusionSettings(unoccluded=0.0, hand=1.0, others=1)
    scene, tint = Occluders(near, settings).place(draws, objects, R, t, attempt=0, difficulty=1.0)
    assert len(tint) == len(scene.image)
    assert near.scene_renderer.nearest_depths(scene).min() > 10.0
    count = int((scene.mesh == near.hand_index).sum())
    assert 0.3 * COUNT < count < COUNT
    assert scene.image.unique().tolist() == list(range(COUNT))


def test_the_hands_size_fits_the_handle() -> None:
    scene, _ = hands(placed(unoccluded=0.0, hand=1.0, others=0))
    part = world().objects[0].mesh
    fitting = min(max(part.diameter / 300.0, 1.1 * grip_radius(part) / 16.0), 1.6)
    assert (scene.scale >= 0.9 * fitting - 1e-6).all()
    assert (scene.scale <= 1.15 * fitting + 1e-6).all()
    assert scene.scale.std() > 0.05 * fitting
    assert (scene.layer == -1).all()


def test_skin_tints() -> None:
    _, tint = hands(placed(unoccluded=0.0, hand=1.0, others=0))
    assert tint.shape == (COUNT, 3)
    tone = tint.mean(1, keepdim=True)
    assert 0.35 * 0.9 <= tone.min() < 0.45
    assert 1.1 < tone.max() <= 1.25 * 1.1
    hue = tint / tint.amin(1, keepdim=True)
    assert 1.1 < hue.max() <= 1.1 / 0.9 + 1e-5


def cylinder(radius: float, height: float) -> Mesh:
    return mesh_from_trimesh(trimesh.creation.cylinder(radius=radius, height=height, sections=64), "cylinder")


def test_grip_radius_of_a_cylinder_is_its_radius() -> None:
    for radius in (8.0, 20.0):
        assert grip_radius(cylinder(radius, 200.0)) == pytest.approx(radius, rel=2e-3)


def test_grip_radius_without_surface_beside_the_grip_is_the_hands_own() -> None:
    part = cylinder(10.0, 100.0)
    far = dataclasses.replace(part, grip=np.array([[0.0, 0, 900], [0, 0, 950]], np.float32))
    assert grip_radius(far) == 16.0


def test_grip_radius_is_that_of_most_of_the_surface_beside_the_grip() -> None:
    """A rod of 5 mm with a narrow collar of 12 mm and a large knob behind its end."""
    rod, collar, knob = (
        trimesh.creation.cylinder(radius=radius, segment=[[0, 0, low], [0, 0, high]], sections=sections)
        for radius, low, high, sections in ((5.0, 0, 100, 64), (12.0, 40, 45, 256), (30.0, 110, 170, 64))
    )
    whole = trimesh.util.concatenate([rod, collar, knob])
    assert grip_radius(mesh_from_trimesh(whole, "rod", grip=[[0, 0, 0], [0, 0, 100]])) == pytest.approx(5.0, rel=2e-3)


# the others


def near(**settings: Any) -> tuple[Instances, Tensor]:
    """Occluders of hammers 200 mm from the camera, less than they are long; and their diameters in mm."""
    draws, objects, R, t = posed()
    occluders = Occluders(world(), OcclusionSettings(unoccluded=0.0, hand=0.0, **settings))
    scene, _ = occluders.place(draws, objects, R, t * (200.0 / t[:, 2:]), attempt=0, difficulty=1.0)
    assert len(scene.image) >= COUNT
    diameters = torch.tensor([m.diameter for m in world().other_meshes])
    return scene, scene.scale * diameters[scene.mesh - world().first_other]


def test_occluders_of_near_objects_keep_away_from_the_camera() -> None:
    """Two fifths of the object's distance at least, where six tenths of its length would be behind the camera."""
    scene, _ = near(others=1)
    assert scene.t[:, 2].min() == pytest.approx(80.0, abs=1e-3)
    scene, sizes = near(others=0, large=1.0)
    assert scene.t[:, 2].min() == pytest.approx(80.0, abs=1e-3)
    assert (sizes <= 0.8 * scene.t[:, 2] + 1e-3).all(), "all of it before the camera"


def test_other_occluders_stand_in_front_of_the_object() -> None:
    t = posed()[3]
    scene, tint = others(placed(unoccluded=0.0, hand=0.0, others=2))
    K, diameter = world().K, world().objects[0].mesh.diameter
    assert scene.mesh.unique().tolist() == [world().first_other + kind for kind in range(6)]
    nearer = t[scene.image, 2] - scene.t[:, 2]
    assert nearer.min() >= 0.15 * diameter - 1e-2
    assert nearer.max() <= 0.6 * diameter + 1e-2
    # near the object in the image
    pixels = K[0, 0] * scene.t[:, :2] / scene.t[:, 2:]
    of_object = K[0, 0] * t[scene.image, :2] / t[scene.image, 2:]
    reach = 0.4 * diameter * K[0, 0] / t[scene.image, 2]
    assert ((pixels - of_object).abs() <= reach[:, None] + 1e-3).all()
    size = scene.scale * torch.tensor([m.diameter for m in world().other_meshes])[scene.mesh - world().first_other]
    assert (size >= 0.2 * diameter - 1e-2).all()
    assert (size <= 0.6 * diameter + 1e-2).all()
    assert tint.min() >= 0.05
    assert tint.max() <= 1.0
    assert tint.std() > 0.2


def test_large_occluders_reach_over_the_object_from_one_side() -> None:
    scene, tint = others(placed(unoccluded=0.0, hand=1.0, others=0, large=1.0))
    _, objects, R, t = posed()
    assert scene.image.tolist() == list(range(COUNT))
    assert tint.shape == (COUNT, 3)
    assert (scene.t[:, 2] < t[:, 2]).all()
    diameter = world().objects[0].mesh.diameter
    size = scene.scale * torch.tensor([m.diameter for m in world().other_meshes])[scene.mesh - world().first_other]
    assert (scene.t[:, 2] > 0.6 * size).all()  # all of it before the camera
    assert (size >= 1.0 * diameter - 1e-2).all()
    assert size.max() > 1.2 * diameter
    K = world().K.expand(COUNT, 3, 3)
    own = world().scene_renderer.projected_boxes(Instances.single(objects, R, t), K)
    theirs = world().scene_renderer.projected_boxes(scene, K)
    shared = torch.minimum(own[:, 2:], theirs[:, 2:]) - torch.maximum(own[:, :2], theirs[:, :2])
    share = shared / (own[:, 2:] - own[:, :2])  # (n, 2), along each axis
    # in one direction the thing ends upon the object; moved to the image's edge, its size there differs a little
    ends_upon = ((share > 0.1) & (share < 0.8) & ((theirs[:, :2] < own[:, :2]) ^ (theirs[:, 2:] > own[:, 2:]))).any(1)
    assert ends_upon.float().mean() > 0.95
    sides = torch.cat((theirs[:, :2] < own[:, :2], theirs[:, 2:] > own[:, 2:]), 1).float().mean(0)
    assert (sides > 0.3).all()  # from the left, above, the right and below


def test_later_large_occluders_cover_less_of_the_object() -> None:
    """At the second attempt 0.7 of 0.2 to 0.7 of its box; along the other axis they lie up to a quarter aside."""
    scene, _ = others(placed(attempt=1, unoccluded=0.0, hand=1.0, others=0, large=1.0))
    draws, objects, R, t = posed()
    K = world().K.expand(COUNT, 3, 3)
    own = world().scene_renderer.projected_boxes(Instances.single(objects, R, t), K)
    theirs = world().scene_renderer.projected_boxes(scene, K)
    shared = (torch.minimum(own, theirs)[:, 2:] - torch.maximum(own, theirs)[:, :2]) / (own[:, 2:] - own[:, :2])
    sideways = draws.chance("large#1 axis", 0.5)
    covered = torch.where(sideways, shared[:, 0], shared[:, 1])
    assert covered.median() == pytest.approx(0.7 * 0.45, abs=0.06)
    assert covered.quantile(0.9) < 0.7 * 0.7 + 0.03
    off = (theirs[:, :2] + theirs[:, 2:]) / 2 - geometry.to_pixels(t, K)
    aside = (off / (theirs[:, 2:] - theirs[:, :2])).abs()
    assert torch.where(sideways, aside[:, 1], aside[:, 0]).median() < 0.2


def test_large_occluders_are_asked_for() -> None:
    without = placed(unoccluded=0.0)
    with_large = placed(unoccluded=0.0, large=0.5)
    more = len(with_large[0].mesh) - len(without[0].mesh)
    assert abs(more / COUNT - 0.5) < 0.15
    assert len(placed(attempt=ATTEMPTS - 1, unoccluded=0.0, large=1.0)[0].mesh) == 0


def test_clutter_stands_at_or_behind_the_object() -> None:
    draws, objects, _, t = posed()
    occluders = Occluders(world(), OcclusionSettings(clutter=3))
    scene, _ = occluders.clutter(draws, objects, t, 1.0)
    assert abs(len(scene.mesh) / COUNT - 1.5) < 0.3
    behind = scene.t[:, 2] - t[scene.image, 2]
    assert behind.min() >= -1e-3
    assert behind.max() <= 1.5 * world().objects[0].mesh.diameter
    pixels = (scene.t @ world().K.T)[:, :2] / scene.t[:, 2:]
    assert pixels.min() >= -1e-2
    assert pixels.max() <= 128 + 1e-2
    assert abs(float(torch.corrcoef(pixels.T)[0, 1])) < 0.3, "all over the image"
    assert len(occluders.clutter(draws, objects, t, 0.0)[0].mesh) == 0


# attempts and difficulty


def test_each_attempt_asks_for_less() -> None:
    diameter = world().objects[0].mesh.diameter
    mesh_diameters = torch.tensor([m.diameter for m in world().other_meshes])
    largest, drawn = [], []
    for attempt in range(ATTEMPTS):
        found = placed(attempt=attempt)
        scene, _ = others(found)
        size = scene.scale * mesh_diameters[scene.mesh - world().first_other]
        drawn.append((len(hands(found)[0].mesh), len(scene.mesh)))
        if len(size):
            assert (size >= 0.2 * 0.7**attempt * diameter - 1e-2).all()
            assert (size <= 0.6 * 0.7**attempt * diameter + 1e-2).all()
            largest.append(float(size.max()))
    assert largest == sorted(largest, reverse=True)
    assert min(drawn[0][0], drawn[1][0]) > 0.3 * COUNT
    assert drawn[ATTEMPTS - 2][0] == 0  # the last but one: no hand
    assert drawn[ATTEMPTS - 2][1] > 0
    assert drawn[ATTEMPTS - 1] == (0, 0)  # the last: nothing


def test_attempts_draw_anew() -> None:
    first, again = hands(placed(0))[0], hands(placed(1))[0]
    both = set(first.image.tolist()) & set(again.image.tolist())
    assert len(both) > 10
    for image in both:
        a, b = (h.t[h.image == image][0] for h in (first, again))
        assert not torch.equal(a, b)


@pytest.mark.parametrize(("difficulty", "unoccluded"), [(1.0, 0.3), (0.5, 0.3), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)])
def test_share_of_occluded_images(difficulty: float, unoccluded: float) -> None:
    scene, _ = placed(difficulty=difficulty, unoccluded=unoccluded)
    share = (1.0 - unoccluded) * difficulty
    found = len(scene.image.unique()) / COUNT
    assert abs(found - share) <= 4.5 * math.sqrt(share * (1 - share) / COUNT)
    wanted = posed()[0].chance("occluded", share).nonzero().squeeze(1)
    assert torch.equal(scene.image.unique(), wanted)  # each of them gets at least one, the others none


# batches


def test_an_images_occluders_do_not_depend_on_its_batch() -> None:
    draws, objects, R, t = posed()
    occluders = Occluders(world(), small().data.occlusion)
    whole, tints = occluders.place(draws, objects, R, t, attempt=1, difficulty=1.0)
    some = torch.tensor([150, 3, 77, 4])
    part, part_tints = occluders.place(draws.select(some), objects[some], R[some], t[some], attempt=1, difficulty=1.0)
    for k, image in enumerate(some.tolist()):
        mine, own = whole.image == image, part.image == k
        assert torch.equal(whole.mesh[mine], part.mesh[own])
        torch.testing.assert_close(whole.R[mine], part.R[own], atol=1e-6, rtol=0)
        torch.testing.assert_close(whole.t[mine], part.t[own], atol=1e-3, rtol=0)
        assert torch.equal(whole.scale[mine], part.scale[own])
        assert torch.equal(tints[mine], part_tints[own])


def test_merge_keeps_each_tint_with_its_instance() -> None:
    def part(image: list[int], mark: float) -> tuple[Instances, Tensor]:
        n, marks = len(image), mark + torch.arange(float(len(image)))
        scene = Instances(
            torch.tensor(image),
            torch.zeros(n, dtype=torch.long),
            torch.eye(3).expand(n, 3, 3),
            torch.zeros(n, 3),
            marks,
            torch.full((n,), -1),
        )
        return scene, marks[:, None].expand(n, 3)

    scene, tint = merge([part([0, 1, 2, 3], 0.0), part([1, 3], 10.0), part([], 20.0), part([0, 3, 3], 30.0)])
    assert scene.image.tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert scene.scale.tolist() == [0, 30, 1, 10, 2, 3, 11, 31, 32]
    assert torch.equal(tint, scene.scale[:, None].expand(-1, 3))


@cache
def bench() -> World:
    return World(override(small(), {"data.occlusion.shapes": "things"}))


def test_things_keep_their_colours_and_may_be_larger_than_the_object() -> None:
    draws, objects, _, t = posed()
    asked = OcclusionSettings(clutter=6, shapes="things")
    things, tint = Occluders(bench(), asked).clutter(draws, objects, t, 1.0)
    assert 2.5 * COUNT < len(tint) < 3.5 * COUNT  # every other one is there
    assert torch.equal(tint, tint[:, :1].expand(-1, 3))
    assert 0.6 <= tint.min() < tint.max() <= 1.2
    kinds = things.mesh - bench().first_other
    assert len(kinds.unique()) == len(bench().other_meshes) == 48
    across = torch.tensor([mesh.diameter for mesh in bench().other_meshes])[kinds] * things.scale
    sizes = across / bench().diameters[0]
    assert 0.2 <= sizes.min() < 0.25
    assert 1.45 < sizes.max() <= 1.5


def test_solids_are_smaller_than_the_object_and_of_one_colour_each() -> None:
    draws, objects, _, t = posed()
    solids, tint = Occluders(world(), OcclusionSettings(clutter=6)).clutter(draws, objects, t, 1.0)
    assert (tint.amax(1) - tint.amin(1)).median() > 0.2
    across = torch.tensor([mesh.diameter for mesh in world().other_meshes])[solids.mesh - world().first_other]
    assert (across * solids.scale / world().diameters[0]).max() <= 0.6


def test_things_before_the_object_stay_smaller_than_it() -> None:
    draws, objects, R, t = posed()
    asked = OcclusionSettings(unoccluded=0.0, hand=0.0, others=2, shapes="things")
    things, _ = Occluders(bench(), asked).place(draws, objects, R, t, attempt=0, difficulty=1.0)
    across = torch.tensor([mesh.diameter for mesh in bench().other_meshes])[things.mesh - bench().first_other]
    assert len(across) >= COUNT
    assert (across * things.scale / bench().diameters[0]).max() <= 0.6


def test_scenes_have_a_renderer_of_their_own() -> None:
    """The objects' own holds nothing else: a network that only finds parts needs no hand."""
    assert len(world().renderer._hulls) == len(world().objects)
    assert len(world().scene_renderer._hulls) == len(world().objects) + 1 + len(world().other_meshes)
    assert world().first_other == len(world().objects) + 1
