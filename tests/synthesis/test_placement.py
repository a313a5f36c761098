"""Several objects in a scene: labels agree with what is drawn, and nobody stands on anybody."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import trimesh
from torchvision.ops import box_iou

from codepose import geometry
from codepose.parts.mesh import MeshError
from codepose.randomness import Draws
from codepose.settings.data import ObjectSettings
from codepose.settings.files import override
from codepose.synthesis.batches import split_batch
from codepose.synthesis.placement import Companions, _shared, draw_views, place, require_visible
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.stages import targets_of

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"


@pytest.fixture(scope="module")
def crowd(make_settings) -> World:
    settings = make_settings(**{"data.occlusion.companions": 2, "data.clean": 0.3})
    hammer = settings.objects[0]
    bracket = ObjectSettings(mesh=str(BRACKET), view_cone_deg=30.0)
    return World(settings.model_copy(update={"objects": (hammer, bracket)}))


def test_companions_are_labelled_where_they_are_drawn(crowd: World) -> None:
    source = SceneSource(crowd, "train")
    scenes = source.scenes(torch.arange(24))
    assert scenes.other_boxes is not None
    there = scenes.other_objects >= 0
    assert there.any()
    assert not there.all()
    boxes = scenes.other_boxes[there]
    assert ((boxes[:, 2:] - boxes[:, :2]) > 5).all()
    assert (boxes >= 0).all()
    assert (boxes <= 128).all()
    assert (scenes.other_boxes[~there] == 0).all()
    # the same scene without companions differs inside their boxes, and hardly anywhere else
    alone = SceneSource(_without(crowd), "train").scenes(torch.arange(24))
    changed = (scenes.images - alone.images).abs().amax(1) > 0.02  # (B, H, W)
    rows = torch.arange(128)[None, :, None] + 0.5
    columns = torch.arange(128)[None, None] + 0.5
    inside = torch.zeros_like(changed)
    for k in range(2):
        x0, y0, x1, y1 = (scenes.other_boxes[:, k, i, None, None] for i in range(4))
        mine = (columns > x0 - 3) & (columns < x1 + 3) & (rows > y0 - 3) & (rows < y1 + 3)
        assert (changed & mine).flatten(1).any(1)[there[:, k]].float().mean() > 0.9
        inside |= mine
    assert (changed & ~inside).float().mean() < 0.01


def _without(crowd: World) -> World:
    return _with(crowd, companions=0)


def _with(crowd: World, **changes: float) -> World:
    settings = crowd.settings
    occlusion = settings.data.occlusion.model_copy(update=changes)
    return World(settings.model_copy(update={"data": settings.data.model_copy(update={"occlusion": occlusion})}))


def test_no_two_objects_share_a_place(crowd: World) -> None:
    scenes = SceneSource(crowd, "train").scenes(torch.arange(40))
    for target in targets_of(scenes).split():
        boxes = target["boxes"]
        for i in range(len(boxes)):
            for j in range(i):
                overlap = torch.minimum(boxes[i, 2:], boxes[j, 2:]) - torch.maximum(boxes[i, :2], boxes[j, :2])
                smaller = min(float((b[2:] - b[:2]).prod()) for b in (boxes[i], boxes[j]))
                assert float(overlap.clamp_min(0).prod()) < 0.11 * smaller


def test_a_heap_may_overlap(crowd: World) -> None:
    shares = []
    for world in (crowd, _with(crowd, overlap=1.0)):
        scenes = SceneSource(world, "train").scenes(torch.arange(40))
        there = scenes.other_objects[:, 0] >= 0
        overlaps = box_iou(scenes.boxes[there], scenes.other_boxes[there, 0]).diagonal()
        shares.append(float((overlaps > 0.15).float().mean()))
    assert shares[0] == 0.0
    assert shares[1] > 0.05


def test_the_share_of_two_boxes_is_that_of_the_smaller_one() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]])
    others = torch.tensor(
        [
            [[5.0, 5.0, 15.0, 15.0], [20.0, 20.0, 30.0, 30.0]],  # a quarter; nothing, on either axis
            [[8.0, 0.0, 16.0, 5.0], [2.0, 2.0, 6.0, 6.0]],  # a quarter of the smaller; all of it
            [[2.0, 0.0, 12.0, 10.0], [0.0, 0.0, 0.0, 0.0]],  # half; no box
        ]
    )
    torch.testing.assert_close(_shared(boxes, others), torch.tensor([0.25, 1.0, 0.5]))


def test_companions_are_drawn_where_they_are_and_taken_away_with_their_boxes() -> None:
    objects, numbers = torch.tensor([[1, -1], [-1, 0], [2, 1]]), torch.arange(6.0).view(3, 2)
    R, t = torch.eye(3) * numbers[..., None, None], numbers[..., None].expand(-1, -1, 3)
    some = Companions(objects, R, t, numbers[..., None].expand(-1, -1, 4) + 1.0)
    instances, tint = some.instances()
    assert instances.image.tolist() == [0, 1, 2, 2]
    assert instances.mesh.tolist() == [1, 0, 2, 1]
    assert instances.t[:, 0].tolist() == instances.R[:, 0, 0].tolist() == [0.0, 3.0, 4.0, 5.0]
    assert torch.equal(tint, torch.ones(4, 3)), "the CAD file's own colours"
    left = some.without(torch.tensor([2]))
    assert left.objects.tolist() == [[1, -1], [-1, 0], [-1, -1]]
    assert left.boxes[2].abs().sum() == 0.0
    assert torch.equal(left.boxes[:2], some.boxes[:2])
    assert some.objects[2].tolist() == [2, 1], "a copy"


def test_views_of_the_opposite_side_are_half_of_all(crowd: World) -> None:
    part = crowd.settings.objects[1].model_copy(update={"view_opposite": True})
    world = World(crowd.settings.model_copy(update={"objects": (part,)}))
    draws = Draws(0, "x", torch.arange(8000))
    R = draw_views(world, draws, torch.zeros(8000, dtype=torch.long))
    height = -R[:, 2] @ world.objects[0].axis
    assert abs(float((height < 0).float().mean()) - 0.5) < 0.03
    assert float(height.abs().min()) >= math.cos(math.radians(30.0)) - 1e-5


def test_each_object_is_seen_within_its_own_cone(crowd: World) -> None:
    hammer, bracket = crowd.settings.objects
    parts = (hammer.model_copy(update={"view_cone_deg": 10.0}), bracket.model_copy(update={"view_opposite": True}))
    world = World(crowd.settings.model_copy(update={"objects": parts}))
    objects = torch.arange(400) % 2
    R = draw_views(world, Draws(0, "x", torch.arange(400)), objects)
    heights = [-R[objects == k, 2] @ world.objects[k].axis for k in (0, 1)]
    assert math.cos(math.radians(10.0)) - 1e-5 <= float(heights[0].min()) < math.cos(math.radians(9.0))
    assert math.cos(math.radians(30.0)) - 1e-5 <= float(heights[1].abs().min()) < math.cos(math.radians(28.0))
    assert float(heights[1].min()) < 0.0


def test_a_world_may_hold_other_objects_than_its_settings_name(crowd: World) -> None:
    world = World(crowd.settings, objects=crowd.objects[1:])
    assert [o.label for o in world.objects] == ["bracket"]
    assert world.hand_index == 1


def test_the_detectors_targets_hold_everybody_and_the_learned_one_first(crowd: World) -> None:
    scenes = SceneSource(crowd, "train").scenes(torch.arange(16))
    targets = targets_of(scenes).split()
    for i, target in enumerate(targets):
        assert torch.equal(target["boxes"][0], scenes.boxes[i])
        assert int(target["labels"][0]) == int(scenes.objects[i]) + 1
        assert scenes.other_visible is not None
        seen = (scenes.other_objects[i] >= 0) & (scenes.other_visible[i] >= 0.1)
        assert len(target["boxes"]) == 1 + int(seen.sum())
    assert {int(v) for t in targets for v in t["labels"]} == {1, 2}


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_scenes_hold_the_judged_object_once(crowd: World, split: str) -> None:
    scenes = SceneSource(crowd, split).scenes(torch.arange(24))
    assert (scenes.other_objects >= 0).any()
    assert (scenes.other_objects != scenes.objects[:, None]).all()


def test_an_item_is_the_same_in_any_batch(crowd: World) -> None:
    source = SceneSource(crowd, "train")
    whole = source.scenes(torch.arange(6))
    parts = split_batch(whole, [2, 4])
    alone = source.scenes(torch.tensor([3]))
    assert torch.equal(alone.images[0], whole.images[3])
    assert torch.equal(alone.other_boxes[0], whole.other_boxes[3])
    assert torch.equal(parts[1].other_boxes[1], whole.other_boxes[3])


def test_clean_items_hold_nobody_else(crowd: World) -> None:
    scenes = SceneSource(crowd, "train").scenes(torch.arange(40))
    clean = (scenes.images == 0).flatten(1).float().mean(1) > 0.7
    assert clean.any()
    assert (scenes.other_objects[clean] == -1).all()


def test_companions_clean_views_and_visible_fractions_are_theirs(crowd: World) -> None:
    """Visible is where the scene's depth is that of the companion alone."""
    scenes = SceneSource(_with(crowd, overlap=0.6, companions=3), "train").scenes(torch.arange(24), depth=True)
    assert scenes.other_objects is not None
    assert scenes.other_R is not None
    assert scenes.other_t is not None
    assert scenes.other_visible is not None
    assert scenes.other_targets is not None
    assert scenes.depth is not None
    there = scenes.other_objects >= 0
    image, _ = there.nonzero().unbind(1)
    objects, R, t = scenes.other_objects[there], scenes.other_R[there], scenes.other_t[there]
    alone = crowd.renderer.depth_alone(objects, R, t, scenes.K, (128, 128))
    seen = ((alone - scenes.depth[image]).abs() < 0.5) & (alone > 0)
    expected = seen.flatten(1).sum(1) / (alone > 0).flatten(1).sum(1)
    assert (expected < 0.6).any(), "some are hidden"
    off = (scenes.other_visible[there] - expected).abs()  # these parts are a few pixels thin
    assert off.mean() < 0.06
    assert off.max() < 0.25
    assert (scenes.other_visible[~there] == 0).all()
    R_view = geometry.offaxis_rotation(t).mT @ R
    torch.testing.assert_close(scenes.other_targets[there], crowd.clean_views(objects, R_view))
    assert (scenes.other_targets[~there] == 0).all()


def test_poses_to_learn_are_those_that_can_be_seen(crowd: World) -> None:
    scenes = SceneSource(_with(crowd, overlap=0.6, companions=3), "train").scenes(torch.arange(24))
    assert scenes.other_objects is not None
    assert scenes.other_visible is not None
    assert scenes.other_targets is not None
    assert scenes.other_boxes is not None
    poses = scenes.poses(min_visible=0.5)
    assert poses.slots == 4
    for i in range(24):
        shown = (scenes.other_objects[i] >= 0) & (scenes.other_visible[i] >= 0.5)
        mine = poses.image == i
        assert poses.slot[mine].tolist() == [0, *(shown.nonzero().squeeze(1) + 1).tolist()]
        assert torch.equal(poses.boxes[mine], torch.cat((scenes.boxes[i : i + 1], scenes.other_boxes[i, shown])))
        assert torch.equal(poses.targets[mine], torch.cat((scenes.targets[i : i + 1], scenes.other_targets[i, shown])))
        assert poses.objects[mine].tolist() == [int(scenes.objects[i]), *scenes.other_objects[i, shown].tolist()]
    torch.testing.assert_close(crowd.clean_views(poses.objects, poses.R_view), poses.targets)
    assert len(scenes.poses(min_visible=1.1).image) == 24, "a target object is always learned"
    spread = poses.spread(poses.boxes, 24)
    assert spread.shape == (24, 4, 4)
    assert torch.equal(spread[poses.image, poses.slot], poses.boxes)
    assert spread.abs().sum() == pytest.approx(float(poses.boxes.abs().sum()))
    alone = SceneSource(_without(crowd), "train").scenes(torch.arange(3)).poses(min_visible=0.5)
    assert (alone.image.tolist(), alone.slots) == ([0, 1, 2], 1)


def test_poses_are_not_rounded_where_layers_are(crowd: World) -> None:
    scenes = SceneSource(crowd, "train").scenes(torch.arange(8))
    exact = scenes.poses(min_visible=0.4).R_view
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scenes.poses(min_visible=0.4).R_view, exact)
    torch.testing.assert_close(exact.mT @ exact, torch.eye(3).expand_as(exact), atol=1e-5, rtol=0)


def test_what_leaves_the_image_counts_as_hidden(crowd: World) -> None:
    """Companions half outside: of the silhouette that is compared with, only what is inside can be seen."""
    settings = override(crowd.settings, {"data.camera.truncation": 0.9, "data.occlusion.unoccluded": 1.0})
    scenes = SceneSource(World(settings), "train").scenes(torch.arange(48))
    assert scenes.other_objects is not None
    assert scenes.other_visible is not None
    assert scenes.other_R is not None
    assert scenes.other_t is not None
    there = scenes.other_objects >= 0
    R, t = scenes.other_R[there], scenes.other_t[there]
    boxes = crowd.boxes(scenes.other_objects[there], R, t)
    clipped = boxes.clamp(0, 128)
    inside = (clipped[:, 2:] - clipped[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
    little = inside < 0.35
    assert little.any()
    assert scenes.other_visible[there][little].max() < 0.75
    assert scenes.other_visible[there][little].mean() < 0.4


@pytest.mark.parametrize("size", [(140.0, 10.0, 10.0), (88.0, 13.0, 13.0), (2000.0, 60.0, 60.0)])
def test_slender_parts_that_point_at_the_camera_stay_before_it(size, tmp_path: Path, make_settings) -> None:
    """Seen from its end, a rod would have to touch the camera to fill the drawn box."""
    trimesh.creation.box(size).export(tmp_path / "rod.ply")
    part = {"mesh": str(tmp_path / "rod.ply"), "view_direction": (1.0, 0.0, 0.0), "view_cone_deg": 20.0}
    world = World(make_settings(objects=[part]))
    draws = Draws(0, "rods", torch.arange(3000))
    objects = torch.zeros(3000, dtype=torch.long)
    R, t = place(world, draws, objects, draw_views(world, draws, objects))
    assert torch.isfinite(t).all()
    assert torch.isfinite(R).all()
    _, depth = geometry.project(world.renderer.hull(0), R, t, world.K)
    assert depth.amin() > 0.2 * world.objects[0].mesh.diameter
    boxes, camera = world.boxes(objects, R, t), world.settings.data.camera
    side = geometry.box_size(boxes).amax(1)
    assert side.amax() <= camera.box_side[1] + 1.0
    assert ((side >= camera.box_side[0] - 1.0) | (t[:, 2] < 0.8 * world.objects[0].mesh.diameter)).all()
    assert (boxes > -2.0).all()
    assert (boxes < camera.image_size + 2.0).all()
    assert world.far > float(t[:, 2].amax()) + world.objects[0].mesh.diameter / 2


def test_parts_that_cannot_be_seen_are_refused(make_settings, tmp_path: Path) -> None:
    sliver = trimesh.Trimesh([[0, 0, 0], [100, 0, 0], [50, 1e-3, 0]], [[0, 1, 2]], process=False)
    sliver.export(str(tmp_path / "sliver.ply"))
    require_visible(World(make_settings()))
    with pytest.raises(MeshError, match="sliver is so thin"):
        require_visible(World(make_settings(**{"objects": [{"mesh": str(tmp_path / "sliver.ply")}]})))
