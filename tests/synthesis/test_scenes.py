"""Crops and scenes: labels against plain renders and silhouettes, and item i a function of (seed, split, i) alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from codepose import geometry
from codepose.randomness import Draws
from codepose.rendering import shading
from codepose.rendering.renderer import Buffers, Instances
from codepose.rendering.shading import Lights, augment
from codepose.settings.data import AugmentationSettings
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.synthesis.backgrounds import Backgrounds, build_backgrounds
from codepose.synthesis.batches import CropBatch, SceneBatch
from codepose.synthesis.scenes import SceneSource, difficulty_at
from codepose.synthesis.world import World

SIZE, FOCAL, CROP, FAR = 128, 75.0, 32, 5000.0
COUNT = 160


@cache
def small(**changes: Any) -> Settings:
    base = {
        "data.clean": 0.0,
        "data.occlusion.others": 2,
        "data.occlusion.clutter": 3,
        "objects": [{"mesh": "hammer", "view_cone_deg": 45.0}],
        "data.camera.image_size": SIZE,
        "data.camera.focal": FOCAL,
        "data.camera.box_side": [20, 33],
        "network.crop": CROP,
        "data.textures": 8,
    }
    return override(load_preset("quick"), base | {key.replace("__", "."): value for key, value in changes.items()})


@cache
def source(split: str = "train", **changes: Any) -> SceneSource:
    return SceneSource(World(small(**changes)), split)  # type: ignore[arg-type]


@cache
def scenes() -> SceneBatch:
    return source().scenes(torch.arange(COUNT), depth=True)


@cache
def crops() -> CropBatch:
    return source().crops(torch.arange(COUNT))


@cache
def alone() -> Buffers:
    """The objects of ``scenes()`` rendered by themselves."""
    batch, world = scenes(), source().world
    mine = Instances.single(batch.objects, batch.R_cam_obj, batch.t_cam_obj)
    return world.renderer.render(mine, world.K.expand(COUNT, 3, 3), (SIZE, SIZE))


def plain_box(mask: Tensor) -> list[float]:
    """The box of a mask (H, W), by looking at every pixel."""
    rows, columns = np.nonzero(mask.numpy())
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# item i alone, in a batch, in another order


def assert_same(batch: Any, other: Any, places: Sequence[int]) -> None:
    """Item k of ``other`` is item places[k] of ``batch``, to the bit, in every field."""
    for f in fields(batch):
        whole, part = getattr(batch, f.name), getattr(other, f.name)
        if f.name == "K":
            assert torch.equal(whole, part)
        elif whole is not None and part is not None:
            assert torch.equal(whole[list(places)], part), f.name


# with 0.9, most occluded images are drawn again, some of them three times
@pytest.mark.parametrize("min_visible", [0.4, 0.9])
@pytest.mark.parametrize("kind", ["scenes", "crops"])
@pytest.mark.parametrize("antialias", [1, 2])
def test_an_item_is_the_same_in_any_batch(kind: str, min_visible: float, antialias: int) -> None:
    make = getattr(source(data__occlusion__min_visible=min_visible, data__antialias=antialias), kind)
    batch = make(torch.arange(24))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert_same(batch, make(order), order.tolist())
    for item in (0, 3, 7, 12, 13, 23):
        assert_same(batch, make(torch.tensor([item])), [item])
    assert_same(batch, make(torch.tensor([21, 2, 2])), [21, 2, 2])


@pytest.mark.parametrize("difficulty", [0.0, 0.35])
def test_an_item_is_the_same_in_any_batch_at_any_difficulty(difficulty: float) -> None:
    for make in (source().scenes, source().crops):
        batch = make(torch.arange(10), difficulty)
        assert_same(batch, make(torch.tensor([8, 1]), difficulty), [8, 1])


def test_two_sources_make_the_same_images() -> None:
    again = SceneSource(World(small()), "train")
    assert_same(scenes(), again.scenes(torch.arange(5, 9), depth=True), [5, 6, 7, 8])
    assert_same(crops(), again.crops(torch.arange(5, 9)), [5, 6, 7, 8])


def test_items_differ() -> None:
    for batch in (scenes(), crops()):
        flat = batch.R_view.flatten(1)
        assert torch.cdist(flat, flat).fill_diagonal_(9).min() > 1e-3
    assert len({image.numpy().tobytes() for image in scenes().images}) == COUNT


@pytest.mark.parametrize("kind", ["scenes", "crops"])
def test_splits_share_no_view_and_no_texture(kind: str) -> None:
    batches = {split: getattr(source(split), kind)(torch.arange(40)) for split in ("train", "val", "test")}
    views = torch.cat([batch.R_view.flatten(1) for batch in batches.values()])
    assert torch.cdist(views, views).fill_diagonal_(9).min() > 1e-3
    banks = [source(split).backgrounds(SIZE).bank for split in batches]
    assert not any(torch.equal(a, b) for a, b in zip(banks, banks[1:] + banks[:1], strict=True))


@pytest.mark.parametrize("kind", ["scenes", "crops"])
def test_splits_share_no_place_no_light_and_no_occluder(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the view: here it is the same in both splits, and so are the textures."""
    index, draw, lights = torch.arange(24), Lights.draw, []
    views, bank = source().views(kind, index), source().backgrounds(SIZE)  # type: ignore[arg-type]
    sources = [SceneSource(source().world, split, bank) for split in ("train", "test")]
    monkeypatch.setattr(SceneSource, "views", lambda *_: views)
    monkeypatch.setattr(Lights, "draw", lambda *args: (lights.append(draw(*args)), lights[-1])[1])
    train, test = (getattr(one, kind)(index) for one in sources)
    assert torch.equal(train.R_view, test.R_view)
    whole = [light.direction for light in lights if len(light.direction) == len(index)]
    assert (whole[0] - whole[-1]).norm(dim=1).min() > 1e-3
    occluded = torch.minimum(train.visible_fraction, test.visible_fraction) < 0.99
    assert occluded.sum() > 8
    assert (train.visible_fraction - test.visible_fraction)[occluded].abs().min() > 1e-4
    if kind == "scenes":
        assert (train.t_cam_obj - test.t_cam_obj).norm(dim=1).min() > 0.1


def test_another_seed_makes_other_images() -> None:
    other = source(data__seed=1).scenes(torch.arange(4))
    assert (other.R_view - scenes().R_view[:4]).flatten(1).norm(dim=1).min() > 1e-3


def test_crops_are_not_scenes() -> None:
    assert (crops().R_view - scenes().R_view).flatten(1).norm(dim=1).median() > 0.1


# a scene's labels


def test_shapes_and_ranges() -> None:
    batch = scenes()
    assert batch.images.shape == (COUNT, 3, SIZE, SIZE)
    assert batch.targets.shape == (COUNT, 3, CROP, CROP)
    assert crops().inputs.shape == crops().targets.shape == (COUNT, 3, CROP, CROP)
    for images in (batch.images, batch.targets, crops().inputs, crops().targets):
        assert images.dtype == torch.float32
        assert images.min() >= 0.0
        assert images.max() <= 1.0
    assert source().scenes(torch.arange(1)).depth is None


def test_poses_are_those_of_the_views_seen_off_the_axis() -> None:
    batch = scenes()
    assert torch.equal(batch.R_cam_obj, geometry.offaxis_rotation(batch.t_cam_obj) @ batch.R_view)
    eye = torch.eye(3).expand(COUNT, 3, 3)
    torch.testing.assert_close(batch.R_cam_obj @ batch.R_cam_obj.mT, eye, atol=1e-5, rtol=0)
    assert (torch.linalg.det(batch.R_cam_obj) > 0.99).all()
    # seen from within the cone: the camera as the object sees it
    model = source().world.objects[0]
    toward = -(batch.R_cam_obj.mT @ batch.t_cam_obj[..., None])[..., 0]
    cosine = toward @ model.axis / toward.norm(dim=1)
    assert cosine.min() >= math.cos(math.radians(model.cone_deg)) - 1e-5
    assert cosine.min() < math.cos(math.radians(0.9 * model.cone_deg))


def test_amodal_boxes_are_those_of_every_vertex() -> None:
    batch, vertices = scenes(), torch.from_numpy(source().world.objects[0].mesh.vertices)
    pixels, depth = geometry.project(vertices, batch.R_cam_obj, batch.t_cam_obj, batch.K)
    assert depth.min() > 100
    torch.testing.assert_close(batch.boxes, torch.cat((pixels.amin(1), pixels.amax(1)), 1), atol=2e-3, rtol=0)


def test_amodal_boxes_are_those_of_the_silhouettes() -> None:
    boxes = torch.tensor([plain_box(layer > 0) for layer in alone().layers])
    inside = boxes - scenes().boxes
    assert inside[:, :2].min() > -0.5 - 1e-3  # a pixel's centre is covered, or the pixel is not counted
    assert inside[:, 2:].max() < 0.5 + 1e-3
    assert inside.abs().max() < 1.6
    assert inside.abs().mean() < 0.6


def test_boxes_lie_in_the_image_and_have_the_drawn_size() -> None:
    boxes = scenes().boxes
    assert boxes.min() > 0.0
    assert boxes.max() < SIZE
    side = geometry.box_size(boxes).amax(1)
    drawn = Draws(0, "scenes/train", torch.arange(COUNT)).uniform("box side", low=20.0, high=33.0)
    torch.testing.assert_close(side, drawn, atol=0.05, rtol=0)
    assert side.min() < 21
    assert side.max() > 32
    # the centres fill all the room there is
    center, room = geometry.box_center(boxes), SIZE - geometry.box_size(boxes)
    place = (center - geometry.box_size(boxes) / 2) / room
    for axis in range(2):
        counts = np.histogram(place[:, axis].numpy(), 5, (0, 1))[0]
        assert counts.min() > COUNT / 5 / 2


def test_truncation_lets_boxes_leave_the_image_by_so_much() -> None:
    batch = source(data__camera__truncation=0.4).scenes(torch.arange(60))
    assert batch.boxes.min() == 0.0
    assert batch.boxes.max() == SIZE
    whole = source().world.boxes(batch.objects, batch.R_cam_obj, batch.t_cam_obj)
    out = torch.maximum(-whole[:, :2], whole[:, 2:] - SIZE).amax(1)
    assert out.max() < 0.4 * 33
    assert out.max() > 0.2 * 20
    torch.testing.assert_close(batch.boxes, whole.clamp(0, SIZE))


@pytest.mark.parametrize("truncation", [0.3, 1.0])
def test_no_truncated_box_is_empty(truncation: float) -> None:
    """An empty box has no logarithm: its loss would be infinite. A hammer is slender."""
    batch = source(data__camera__truncation=truncation).scenes(torch.arange(400))
    assert (batch.boxes[:, 2:] - batch.boxes[:, :2]).min() > 2.0


# visibility and depth; one ray a pixel, so that masks are the pixels themselves


def visible_pixels() -> Tensor:
    depth = scenes().depth
    assert depth is not None
    return (alone().depth > 0) & (depth == alone().depth)


def test_depth_is_the_objects_own_or_nearer_and_far_elsewhere() -> None:
    depth, own = scenes().depth, alone().depth
    assert depth is not None
    silhouette = own > 0
    assert (depth[silhouette] <= own[silhouette]).all()
    hidden = silhouette & ~visible_pixels()
    assert (depth[hidden] < own[hidden]).all()
    assert hidden.flatten(1).any(1).sum() > 0.4 * COUNT
    assert depth.max() == FAR
    assert (depth[:, 0, 0] == FAR).float().mean() > 0.8
    assert depth.min() > 50
    # nothing is anywhere near the far plane without being it
    assert depth[depth < FAR].max() < 3000


def test_visible_fraction_is_the_visible_share_of_the_silhouette() -> None:
    share = visible_pixels().flatten(1).sum(1) / (alone().depth > 0).flatten(1).sum(1)
    torch.testing.assert_close(scenes().visible_fraction, share, atol=1e-6, rtol=0)


def test_visible_boxes_are_those_of_the_visible_pixels_within_the_amodal_ones() -> None:
    expected = torch.tensor([plain_box(mask) for mask in visible_pixels()]).float()
    assert torch.equal(scenes().visible_boxes, expected)
    slack = 0.5 + 1e-3  # a pixel counts whole when its centre is covered
    assert (scenes().visible_boxes[:, :2] >= scenes().boxes[:, :2] - slack).all()
    assert (scenes().visible_boxes[:, 2:] <= scenes().boxes[:, 2:] + slack).all()
    cut = geometry.box_size(scenes().boxes) - geometry.box_size(scenes().visible_boxes)
    assert (cut.amax(1) > 4).sum() > 5  # occlusion shortens some


def test_visible_boxes_of_finer_renders_are_in_the_images_pixels() -> None:
    fine = source(data__antialias=2).scenes(torch.arange(30))
    assert torch.equal(fine.R_cam_obj, scenes().R_cam_obj[:30])
    assert (fine.visible_boxes - scenes().visible_boxes[:30]).abs().median() <= 0.5
    assert (fine.visible_boxes * 2 == (fine.visible_boxes * 2).round()).all()
    assert (fine.visible_fraction - scenes().visible_fraction[:30]).abs().max() < 0.15


@pytest.mark.parametrize("kind", ["scenes", "crops"])
def test_visible_fractions(kind: str) -> None:
    found = (scenes() if kind == "scenes" else crops()).visible_fraction
    assert found.min() >= 0.4
    assert found.max() == 1.0
    assert (found < 0.6).sum() > 5


def test_three_in_ten_crops_are_unoccluded() -> None:
    wanted = Draws(0, "crops/train", torch.arange(COUNT)).chance("occluded", 0.7)
    found = crops().visible_fraction
    assert (found[~wanted] == 1.0).all()
    assert (found[wanted] < 1.0).float().mean() > 0.85
    many = source().crops(torch.arange(COUNT, 600)).visible_fraction
    whole = float((torch.cat((found, many)) == 1.0).float().mean())
    assert 0.3 - 4.5 * math.sqrt(0.21 / 600) < whole < 0.3 + 0.7 * 0.15 + 4.5 * math.sqrt(0.21 / 600)


def test_nothing_is_occluded_at_difficulty_zero() -> None:
    easy = source().scenes(torch.arange(60), 0.0, depth=True)
    assert torch.equal(easy.visible_fraction, torch.ones(60))
    assert torch.equal(source().crops(torch.arange(60), 0.0).visible_fraction, torch.ones(60))
    # black around the object, and the poses of any other difficulty
    own = alone().depth[:60]
    assert easy.depth is not None
    assert torch.equal(easy.depth, torch.where(own > 0, own, FAR))
    assert torch.equal(easy.images.amax(1) > 0, own > 0)
    for name in ("R_cam_obj", "t_cam_obj", "boxes", "targets"):
        assert torch.equal(getattr(easy, name), getattr(scenes(), name)[:60]), name


def test_difficulty_scales_the_share_of_occluded_images() -> None:
    half = source().crops(torch.arange(300), 0.5).visible_fraction
    assert abs(float((half < 1).float().mean()) - 0.35) < 0.12


# targets and crops


def test_targets_fill_the_crop_on_black() -> None:
    for batch in (scenes(), crops()):
        seen = batch.targets.amax(1) > 0
        edge = torch.cat((seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]), 1)
        assert not edge.any()
        boxes = torch.tensor([plain_box(mask) for mask in seen]).float()
        side = geometry.box_size(boxes).amax(1)
        assert (side - CROP / 1.2).abs().max() < 1.6
        assert (geometry.box_center(boxes) - CROP / 2).abs().max() <= 1.0
        assert batch.targets.amax((1, 2, 3)).min() > 0.1  # never black


def test_targets_are_the_clean_views_whatever_the_scene() -> None:
    world = source().world
    for batch in (scenes(), crops()):
        assert torch.equal(batch.targets, world.clean_views(batch.objects, batch.R_view))
    # the rotation alone decides: another place, light, background and split, the same target
    again = world.clean_views(scenes().objects[7:8], scenes().R_view[7:8])
    assert torch.equal(again, scenes().targets[7:8])


def test_targets_are_lit_in_the_same_way_and_inputs_are_not() -> None:
    lights = Lights.fixed(3, torch.device("cpu"))
    assert torch.equal(lights.direction, lights.direction[:1].expand(3, 3))
    assert lights.direction[0, 2] < 0
    drawn = Lights.draw(Draws(0, "x", torch.arange(500)), AugmentationSettings())
    torch.testing.assert_close(drawn.direction.norm(dim=1), torch.ones(500))
    assert drawn.direction[:, 2].max() <= 0  # the camera's hemisphere
    assert drawn.direction[:, :2].mean(0).abs().max() < 0.13
    assert abs(float(drawn.direction[:, 2].mean()) + 0.5) < 0.07


def test_a_canvas_only_adds_black_around_a_clean_view() -> None:
    world, few = source().world, slice(0, 6)
    wide = world.clean_views(scenes().objects[few], scenes().R_view[few], canvas=2 * CROP)
    middle = wide[:, :, CROP // 2 : -CROP // 2, CROP // 2 : -CROP // 2]
    torch.testing.assert_close(middle, scenes().targets[few], atol=2e-2, rtol=0)
    around = wide.clone()
    around[:, :, CROP // 2 : -CROP // 2, CROP // 2 : -CROP // 2] = 0
    assert not around.any()


def test_the_easiest_crops_are_their_targets_in_another_light() -> None:
    easy = source().crops(torch.arange(40), 0.0)
    assert torch.equal(easy.inputs.amax(1) > 0, easy.targets.amax(1) > 0)
    assert (easy.inputs - easy.targets).abs().amax((1, 2, 3)).median() > 0.05


def test_crop_windows_are_scaled_and_shifted_by_a_fifth_and_three_twentieths() -> None:
    draws = Draws(0, "crops/train", torch.arange(2000))
    square = torch.tensor([[10.0, 20.0, 50.0, 60.0]]).expand(2000, 4)
    window = source()._jittered(square, draws, 1.0)
    size, shift = geometry.box_size(window) / 40, (geometry.box_center(window) - torch.tensor([30.0, 40.0])) / 40
    torch.testing.assert_close(size[:, 0], size[:, 1])
    assert 0.8 - 1e-5 <= size.min() < 0.81
    assert 1.19 < size.max() <= 1.2 + 1e-5
    assert 0.145 < shift.abs().max() <= 0.15 + 1e-5
    same, centred = (size[:, 0] - 1).abs() < 1e-6, shift.abs().amax(1) < 1e-6
    for chosen in (same, centred):
        assert abs(float(chosen.float().mean()) - 0.5) < 0.06
    assert abs(float((same & centred).float().mean()) - 0.25) < 0.05
    assert torch.equal(source()._jittered(square, draws, 0.0), square)


def test_difficulty_at() -> None:
    assert [difficulty_at(p, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert difficulty_at(0.0, 0.0) == 1.0


# backgrounds


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 photos, each of a colour of its own, in two folders."""
    for k in range(60):
        folder = tmp_path / ("JPEGImages" if k % 2 else "more/of/them")
        folder.mkdir(parents=True, exist_ok=True)
        color = (4 * k + 5, 255 - 4 * k, 128)
        Image.new("RGB", (12, 9), color).save(folder / f"photo{k}.png")
    (tmp_path / "readme.txt").write_text("not a photo")
    return tmp_path


def bank(folder: Path, split: str, count: int = 100, seed: int = 0) -> list[int]:
    """Which of the photos a split's bank holds, by their colours."""
    backgrounds = build_backgrounds(str(folder), split, count, seed=seed)
    colors = backgrounds.bank.flatten(2)
    assert torch.equal(colors, colors[..., :1].expand_as(colors))  # each is one colour, and fills its place
    return [round((int(red) - 5) / 4) for red in colors[:, 0, 0]]


def test_photos_of_the_splits_are_disjoint_and_all_are_used(photos: Path) -> None:
    banks = {split: bank(photos, split) for split in ("train", "val", "test")}
    together = [k for mine in banks.values() for k in mine]
    assert sorted(together) == list(range(60))
    assert len(banks["train"]) > 35
    assert min(len(banks["val"]), len(banks["test"])) >= 1


def test_a_bank_of_photos_is_a_choice_by_the_seed(photos: Path) -> None:
    assert bank(photos, "train", 10) == bank(photos, "train", 10)
    assert len(set(bank(photos, "train", 10))) == 10
    assert bank(photos, "train", 10, seed=1) != bank(photos, "train", 10)
    assert build_backgrounds(str(photos), "train", 10, seed=0).source == f"10 photos of {photos.name}, 320 px"


def test_adding_photos_moves_none_between_splits(photos: Path) -> None:
    before = {split: set(bank(photos, split)) for split in ("train", "val", "test")}
    for k in range(0, 60, 3):
        Image.new("RGB", (8, 8), (4 * k + 5, 0, 0)).save(photos / f"added{k}.png")
    for split, mine in before.items():
        assert mine <= set(bank(photos, split))


def test_background_errors_are_worded(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        build_backgrounds(str(tmp_path / "nowhere"), "train", 4, seed=0)
    with pytest.raises(ValueError, match="no split is called 'dev'; there are train, val, test"):
        build_backgrounds(None, "dev", 4, seed=0)
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (8, 8)).save(few / "one.png")
    complaints = []
    for split in ("train", "val", "test"):
        try:
            build_backgrounds(str(few), split, 4, seed=0)
        except ValueError as error:
            complaints.append(str(error))
    assert len(complaints) == 2  # one photo belongs to one split
    assert all("holds 1 photos, too few" in text and "procedural" in text for text in complaints)


def test_damaged_photos_are_left_out(photos: Path) -> None:
    good = bank(photos, "train")
    broken = sorted(photos.rglob("*.png"))
    for path in broken[:30]:
        path.write_bytes(path.read_bytes()[:40])  # cut short
    broken[30].write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x00oops")  # no PNG at all
    with pytest.warns(UserWarning, match="cannot be read and is left out"):
        left = bank(photos, "train")
    assert set(left) < set(good)
    for path in broken:
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ConfigError, match=r"none of the \d+ photos"):
        bank(photos, "train")


def test_names_that_are_no_text_are_names(photos: Path) -> None:
    """As an old camera writes them; a photo keeps its split, whatever its name."""
    before = bank(photos, "train")
    for path in sorted(photos.rglob("*.png")):
        os.rename(path, os.path.join(os.fsencode(path.parent), b"caf\xe9" + os.fsencode(path.name)))
    together = [bank(photos, split) for split in ("train", "val", "test")]
    assert sorted(k for mine in together for k in mine) == list(range(60))
    assert len(before) > 35


def test_photos_reach_the_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small(data__backgrounds=str(photos), data__occlusion__clutter=0)
    made = SceneSource(World(settings), "train")
    assert made.backgrounds(64).source.endswith(f"photos of {photos.name}, 320 px")
    assert_same(made.scenes(torch.arange(6)), made.scenes(torch.tensor([4])), [4])
    plain = override(settings, {"data.augmentation.noise": 0.0})
    monkeypatch.setattr(shading, "CHANGED", 0.0)
    image = SceneSource(World(plain), "train").scenes(torch.arange(6)).images
    corners = image[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.amax(2) - corners.amin(2)).amax(1).median() < 1e-5  # one flat colour all round


def test_procedural_banks_of_the_splits_differ() -> None:
    banks = {split: build_backgrounds(None, split, 6, seed=0).bank for split in ("train", "val", "test")}
    again = build_backgrounds(None, "val", 6, seed=0)
    assert torch.equal(again.bank, banks["val"])
    assert again.source == "6 procedural textures of 320 px"
    pictures = torch.cat(list(banks.values())).flatten(1) / 255.0
    assert torch.cdist(pictures, pictures).fill_diagonal_(1e9).min() > 1.0
    assert pictures.std(1).min() > 0.005  # none is blank


def test_background_windows_show_one_picture_each() -> None:
    flat = torch.linspace(25, 230, 5).byte()
    backgrounds = Backgrounds(flat[:, None, None, None].expand(5, 3, 320, 320), "flat")
    draws = Draws(0, "x", torch.arange(64))
    windows = backgrounds.sample(draws, 24)
    assert windows.shape == (64, 3, 24, 24)
    spread = windows.flatten(2).amax(2) - windows.flatten(2).amin(2)
    assert spread.max() < 1e-5
    gain = draws.uniform("background gain", 3, low=0.7, high=1.3)
    picture = flat[draws.integer("background", 5)] / 255.0
    torch.testing.assert_close(windows[:, :, 0, 0], (picture[:, None] * gain).clamp(0, 1), atol=1e-5, rtol=0)


def test_backgrounds_are_as_sharp_as_the_images_they_stand_behind() -> None:
    """The sharpest step from pixel to pixel of large images is that of small ones: their pictures are larger, too."""
    world = World(small(data__photo_scale=2, data__textures=8))
    small_one, large_one = (world.backgrounds("test", pixels) for pixels in (256, 512))
    assert small_one.bank.shape == (8, 3, 320, 320)
    assert large_one.bank.shape == (8, 3, 640, 640)
    assert world.backgrounds("test", 512) is large_one
    draws = Draws(0, "x", torch.arange(32))

    def sharpness(backgrounds: Backgrounds, size: int) -> float:
        return float(backgrounds.sample(draws, size).diff(dim=-1).abs().flatten(1).quantile(0.999, dim=1).mean())

    fine, coarse = sharpness(large_one, 512), sharpness(small_one, 512)
    assert fine == pytest.approx(sharpness(small_one, 256), rel=0.25)
    assert fine > 1.3 * coarse
    source = SceneSource(world, "test")
    assert source.backgrounds(world.settings.data.photo_size).source.endswith("px")


# augmentation

NEUTRAL = AugmentationSettings(contrast=(1, 1), invert_channel=0.0, blur_sigma=0.0, noise=0.0)
CONSTANTS = {"CHANGED": 1.0, "PER_CHANNEL": 0.0, "ADD": 0.0, "MULTIPLY": (1, 1)}


def pictures(count: int = 16) -> Tensor:
    return 0.35 + 0.3 * torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(2))


def only(**changes: Any) -> Tensor:
    """What one change, a setting or a constant, makes of the pictures, all of them."""
    settings = NEUTRAL.model_copy(update={key: value for key, value in changes.items() if key.islower()})
    with mock.patch.multiple(shading, **CONSTANTS | {key: value for key, value in changes.items() if key.isupper()}):
        return augment(pictures(), Draws(0, "x", torch.arange(16)), settings)


def test_augment_at_difficulty_zero_and_with_nothing_to_do_is_the_identity() -> None:
    draws = Draws(0, "x", torch.arange(16))
    assert torch.equal(augment(pictures(), draws, AugmentationSettings(), 0.0), pictures())
    torch.testing.assert_close(only(), pictures(), atol=1e-6, rtol=0)
    with mock.patch.object(shading, "CHANGED", 0.0):
        never = augment(pictures(), draws, AugmentationSettings(noise=0.0))
    torch.testing.assert_close(never, pictures(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("difficulty", [0.3, 1.0])
def test_augment_stays_in_range_and_leaves_its_input_alone(difficulty: float) -> None:
    images = torch.rand(64, 3, 20, 20, generator=torch.Generator().manual_seed(3)).round(decimals=1)
    kept = images.clone()
    settings = AugmentationSettings(noise=0.2)
    found = augment(images, Draws(0, "x", torch.arange(64)), settings, difficulty)
    assert torch.equal(images, kept)
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    assert (found - images).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("difficulty", [0.5, 1.0])
def test_augment_does_not_depend_on_the_batch(difficulty: float) -> None:
    images, items = pictures(), torch.arange(16)
    settings = AugmentationSettings(blur_sigma=2.0, noise=0.1, invert_channel=0.5)
    whole = augment(images, Draws(0, "x", items), settings, difficulty)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    assert torch.equal(augment(images[order], Draws(0, "x", items[order]), settings, difficulty), whole[order])
    for k in range(16):
        assert torch.equal(
            augment(images[k : k + 1], Draws(0, "x", items[k : k + 1]), settings, difficulty)[0], whole[k]
        )


def test_add_shifts_every_pixel_by_one_amount() -> None:
    shift = only(ADD=0.1) - pictures()
    per_image = shift.mean((1, 2, 3))
    torch.testing.assert_close(shift, per_image[:, None, None, None].expand_as(shift), atol=1e-6, rtol=0)
    assert 0.05 < per_image.abs().max() <= 0.1
    assert per_image.min() < 0 < per_image.max()
    channels = (only(ADD=0.1, PER_CHANNEL=1.0) - pictures()).mean((2, 3))
    assert (channels.amax(1) - channels.amin(1)).min() > 1e-3


def test_multiply_scales_and_contrast_stretches_about_grey() -> None:
    gain = only(MULTIPLY=(0.6, 1.4)) / pictures()
    assert (gain.amax((1, 2, 3)) - gain.amin((1, 2, 3))).max() < 1e-5
    assert 0.6 - 1e-5 <= gain.min() < 0.8
    assert 1.2 < gain.max() <= 1.4 + 1e-5
    stretch = (only(contrast=(0.4, 2.3)) - 0.5) / (pictures() - 0.5)
    assert torch.allclose(stretch, stretch.flatten(1).median(1).values[:, None, None, None], atol=1e-2)
    assert 0.4 - 1e-2 <= stretch.min() < 1
    assert 1.5 < stretch.max() <= 2.3 + 1e-2


def test_invert_turns_channels_over() -> None:
    torch.testing.assert_close(only(invert_channel=1.0), 1 - pictures(), atol=1e-6, rtol=0)
    half = only(invert_channel=0.5)
    same, over = ((half - x).abs().amax((2, 3)) < 1e-6 for x in (pictures(), 1 - pictures()))
    assert (same ^ over).all()
    assert 8 < over.sum() < 40


def test_blur_and_noise() -> None:
    blurred = only(blur_sigma=1.2)
    sigma = Draws(0, "x", torch.arange(16)).uniform("blur", high=1.2)
    rough = blurred.flatten(2).std(2).mean(1) / pictures().flatten(2).std(2).mean(1)
    assert torch.equal(rough < 0.98, sigma > 0.25) or (rough[sigma > 0.4] < 0.9).all()
    assert (rough <= 1 + 1e-6).all()
    torch.testing.assert_close(blurred.mean((2, 3)), pictures().mean((2, 3)), atol=0.02, rtol=0)
    noise = only(noise=0.05) - pictures()
    drawn = Draws(0, "x", torch.arange(16)).uniform("noise", high=0.05)
    torch.testing.assert_close(noise.flatten(1).std(1), drawn, atol=2e-3, rtol=0.08)
    assert abs(float(torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max())) < 0.15


def test_blur_of_any_strength() -> None:
    """A spot spreads as far as its sigma says, beyond a 7-pixel kernel."""
    spot = torch.zeros(16, 3, 65, 65)
    spot[..., 32, 32] = 1.0
    draws = Draws(0, "x", torch.arange(16))
    settings = NEUTRAL.model_copy(update={"blur_sigma": 6.0})
    with mock.patch.multiple(shading, **CONSTANTS):
        blurred = augment(spot, draws, settings, 1.0)[:, 0]
    x = torch.arange(65) - 32.0
    spread = ((blurred.sum(1) * x.square()).sum(1) / blurred.sum((1, 2))).sqrt()
    sigma = draws.uniform("blur", high=6.0)
    wide = sigma > 1.0
    torch.testing.assert_close(spread[wide], sigma[wide], atol=0.0, rtol=0.1)
    assert sigma.amax() > 5.0


def test_clean_items_are_their_targets_and_only_in_training() -> None:
    plain, mixed = source(), source(data__clean=0.5)
    index = torch.arange(24)
    before, after = plain.crops(index), mixed.crops(index)
    same = (after.inputs == after.targets).flatten(1).all(1)
    assert 6 <= int(same.sum()) <= 18
    assert torch.equal(after.inputs[~same], before.inputs[~same])
    assert (after.visible_fraction[same] == 1.0).all()
    scene = mixed.scenes(index)
    bare = (scene.images[:, :, 0].abs().amax((1, 2)) == 0) & (scene.images[:, :, -1].abs().amax((1, 2)) == 0)
    assert int(bare.sum()) >= 6
    assert (scene.visible_fraction[bare] == 1.0).all()
    wide = scene.visible_boxes[bare] - scene.boxes[bare]
    assert float(wide.abs().max()) < 2.0
    held_out = source("test", data__clean=0.5).crops(index)
    assert not (held_out.inputs == held_out.targets).flatten(1).all(1).any()


def test_photos_show_the_same_scenes_at_a_higher_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shading, "CHANGED", 0.0)
    plain = {"data__augmentation__noise": 0.0}
    index = torch.arange(12)
    usual = source("val", **plain).scenes(index, depth=True)
    closer = source("val", **plain, data__photo_scale=3).scenes(index, depth=True, photos=True)
    assert usual.photos is None
    assert closer.photos is not None
    assert closer.photos.shape == (12, 3, 3 * SIZE, 3 * SIZE)
    for name in ("R_cam_obj", "t_cam_obj", "boxes", "K", "objects", "targets"):
        assert torch.equal(getattr(closer, name), getattr(usual, name)), name
    assert closer.images.shape == usual.images.shape
    reduced = torch.nn.functional.avg_pool2d(closer.photos, 3)
    assert (reduced - closer.images).abs().mean() < 0.01
    same = (closer.visible_fraction - usual.visible_fraction).abs() < 0.05  # an occluder may be drawn anew at the limit
    assert same.float().mean() > 0.8
    assert (closer.images - usual.images)[same].abs().mean() < 0.03
    assert (closer.visible_boxes - usual.visible_boxes)[same].abs().max() < 2.5
    assert closer.depth is not None
    assert closer.depth.shape == (12, SIZE, SIZE)
    again = source("val", **plain, data__photo_scale=3).scenes(index)
    assert again.photos is None, "only where they are asked for"
