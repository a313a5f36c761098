"""The picture that a validation leaves behind: what is where in it, and that learning is the same without it."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from codepose.networks.build import build_joint
from codepose.runtime.checkpoint import load_state
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.storage.replace import StorageError
from codepose.synthesis.world import World
from codepose.training import loop, pictures
from codepose.training.pictures import CROPS, SCENES, crops_picture, scenes_picture, write_picture
from codepose.training.plan import Stage, Validation
from codepose.training.stages import step2_stage

WHITE, ORANGE = torch.ones(3), torch.tensor([240.0, 128.0, 24.0]) / 255.0
NOTHING = [torch.nan] * 4


def plain(count: int, side: int) -> Tensor:
    """Images of one colour each."""
    return torch.rand(count, 3, 1, 1).expand(count, 3, side, side)


def tile(picture: Tensor, columns: int, row: int, column: int) -> Tensor:
    side = (592 - 2) // columns - 2
    left, top = (2 + place * (side + 2) for place in (column, row))
    return picture[:, top : top + side, left : left + side]


@pytest.mark.parametrize("crop", [32, 128])
def test_crops_stand_in_three_rows(crop: int) -> None:
    rows = [plain(CROPS + 2, crop) for _ in range(3)]
    picture = crops_picture(*rows)
    assert picture.shape == (3, 3 * 118 + 2, 592)
    for row, images in enumerate(rows):
        for column in range(CROPS):
            expected = images[column, :, :1, :1].expand(3, 116, 116)
            torch.testing.assert_close(tile(picture, CROPS, row, column), expected)
    assert bool((picture[:, :2] == 1).all())
    assert bool((picture[:, :, -2:] == 1).all())


def test_fewer_images_make_a_narrower_picture_and_no_value_leaves_the_range() -> None:
    picture = crops_picture(plain(1, 64) + 2, plain(1, 64) - 2, plain(1, 64).bfloat16())
    assert picture.shape == (3, 3 * 118 + 2, 120)
    assert [float(tile(picture, CROPS, row, 0).mean()) for row in (0, 1)] == [1, 0]
    assert picture.dtype == torch.float32


def test_a_larger_image_is_averaged_over() -> None:
    places = torch.arange(464.0)  # four pixels each become one
    stripes, ramp = (row.expand(1, 3, 464, 464) for row in ((places % 4 == 0).float(), places / 463))
    picture = crops_picture(stripes, ramp, ramp)
    averages, middles = (tile(picture, CROPS, row, 0)[:, 10:-10, 10:-10] for row in (0, 1))
    torch.testing.assert_close(averages, torch.full_like(averages, 0.25), atol=0.01, rtol=0)
    torch.testing.assert_close(middles[0, 0], (places.view(116, 4).mean(1) / 463)[10:-10])


def test_scenes_show_the_true_box_and_the_found_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_boxes, draw = [], pictures.draw_bounding_boxes
    monkeypatch.setattr(
        pictures,
        "draw_bounding_boxes",
        lambda tile, boxes, **more: (drawn_boxes.append(boxes), draw(tile, boxes, **more))[1],
    )
    images, below = torch.zeros(SCENES + 1, 3, 97, 97), plain(SCENES, 32)
    truth = torch.tensor([[10.0, 20.0, 40.0, 60.0]]).repeat(SCENES + 1, 1)
    found = torch.tensor([[12.0, 25.0, 50.0, 62.0], NOTHING, [0.0, 0.0, 97.0, 97.0], NOTHING])
    picture = scenes_picture(images, truth, found, below)
    assert picture.shape == (3, 2 * 196 + 2, 590)
    for column in range(SCENES):
        torch.testing.assert_close(tile(picture, SCENES, 1, column), below[column, :, :1, :1].expand(3, 194, 194))
        scene = tile(picture, SCENES, 0, column)
        edges = [scene[:, 80, 20], scene[:, 80, 80], scene[:, 40, 40], scene[:, 120, 23]]  # twice as large
        assert all(torch.equal(edge, WHITE) for edge in edges), column
    first, second, third = (tile(picture, SCENES, 0, column) for column in range(SCENES))
    for y, x in ((80, 24), (80, 100), (50, 60), (124, 60)):
        torch.testing.assert_close(first[:, y, x], ORANGE)
    drawn = (second.sum(0) > 0).nonzero()
    assert drawn.amin(0).tolist() == [40, 20]
    assert drawn.amax(0).tolist() == [120, 80]
    assert float(second[:, 41, 21:80].min()) == 1  # two pixels wide
    assert float(second[:, 42:119, 22:79].max()) == 0
    assert [len(boxes) for boxes in drawn_boxes] == [2, 1, 2]  # what NaN becomes as a pixel is up to the processor
    torch.testing.assert_close(third[:, 100, 0], ORANGE)


def test_pictures_draw_no_random_numbers() -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]

    images, boxes = plain(3, 32), torch.tensor([[1.0, 1.0, 9.0, 9.0]] * 3)
    before = states()
    crops_picture(images, images, images)
    scenes_picture(images, boxes, boxes, images)
    assert states() == before


def test_a_picture_takes_the_old_ones_place_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "validation.png"
    for value in (0.25, 0.5):
        write_picture(path, torch.full((3, 5, 7), value))
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG", (7, 5))
            assert image.getpixel((3, 3)) == (int(255 * value + 0.5),) * 3
    old = path.read_bytes()

    def full(_: Tensor, new: Path) -> None:
        new.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pictures, "save_image", full)
    with pytest.raises(StorageError, match=r"validation.png cannot be written: No space left on device$"):
        write_picture(path, torch.zeros(3, 5, 7))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def joint(settings: Settings, world: World) -> Stage:
    torch.manual_seed(0)
    return step2_stage(settings, world, build_joint(settings))


def test_each_validation_leaves_a_picture_and_the_weights_are_the_same_without(
    make_settings: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, weights = make_settings(**{"step2.validations": 2}), []
    written: list[tuple[Path, Tensor]] = []
    monkeypatch.setattr(loop, "write_picture", lambda *given: (written.append(given), write_picture(*given)))
    for name in ("with", "without"):
        run, stage = Run.create(tmp_path / name, settings), joint(settings, world)
        if name == "without":
            stage = dataclasses.replace(stage, validate=None)
        loop.fit(stage, run, make_fabric("cpu"))
        assert run.picture("step2").is_file() == (name == "with")
        weights.append(load_state(run.path / "step2" / "weights.safetensors"))
    assert [path for path, _ in written] == [tmp_path / "with" / "step2" / "validation.png"] * 2
    assert not torch.equal(written[0][1], written[1][1])
    with Image.open(written[0][0]) as image:
        assert image.size == (590, 590)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_full_disk_ends_the_training_in_one_line(
    tiny_settings: Settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pictures, "save_image", full)
    with pytest.raises(StorageError, match=r"step2/validation.png cannot be written: No space left on device$"):
        loop.fit(joint(tiny_settings, world), Run.create(tmp_path / "run", tiny_settings), make_fabric("cpu"))


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_writes_one(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "rank", lambda: rank)
    found = Validation({"mse": 0.5}, picture=torch.zeros(3, 4, 4))
    stage = SimpleNamespace(name="step1", network=torch.nn.Identity(), validate=lambda _: found, curriculum=0.0)
    run, logged = SimpleNamespace(picture=lambda stage: tmp_path / f"{stage}.png"), []
    log = SimpleNamespace(write=logged.append)
    state: Any = SimpleNamespace(stage=stage, run=run, log=log, step=7, begun=0.5)
    loop.validate(state, 1)
    assert (tmp_path / "step1.png").is_file() == (rank == 0)
    assert logged == [{"step": 7, "val_mse": 0.5} if rank == 0 else {"step": 7}]
