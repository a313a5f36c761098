"""Batches: which poses they hold, where these belong, and how a batch is divided."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from codepose.synthesis.batches import CropBatch, SceneBatch, split_batch

B, N = 3, 2


def scenes() -> SceneBatch:
    """Three scenes of a target object, with two companions each: seen, hidden, or none at all."""
    values = {field.name: torch.rand(B, 4) for field in fields(SceneBatch)}
    values |= {name: torch.rand(B, 3, 3) for name in ("R_cam_obj", "R_view")}
    values |= {"index": torch.arange(B), "objects": torch.tensor([0, 2, 1]), "K": torch.rand(3, 3), "photos": None}
    values |= {"targets": torch.rand(B, 3, 5, 5), "other_targets": torch.rand(B, N, 3, 5, 5)}
    values |= {"other_boxes": torch.rand(B, N, 4), "other_t": torch.rand(B, N, 3)}
    values |= {name: torch.rand(B, N, 3, 3) for name in ("other_R", "other_R_view")}
    values["other_objects"] = torch.tensor([[1, 0], [-1, 2], [0, -1]])
    values["other_visible"] = torch.tensor([[0.39, 0.4], [0.9, 0.41], [1.0, 0.0]])
    return SceneBatch(**values)


def test_poses_are_those_of_the_targets_and_of_companions_that_can_be_seen() -> None:
    """Scene 0 shows its second companion just well enough, scene 1 its second, scene 2 its first."""
    batch = scenes()
    poses = batch.poses(0.4)
    assert poses.image.tolist() == [0, 0, 1, 1, 2, 2]
    assert poses.slot.tolist() == [0, 2, 0, 2, 0, 1]
    assert poses.slots == 1 + N
    assert poses.objects.tolist() == [0, 0, 2, 2, 1, 0]
    for name in ("boxes", "R_view", "targets"):
        own, other = getattr(batch, name), getattr(batch, f"other_{name}")
        expected = torch.stack((own[0], other[0, 1], own[1], other[1, 1], own[2], other[2, 0]))
        assert torch.equal(getattr(poses, name), expected), name


def test_poses_without_companions_are_the_targets() -> None:
    batch = scenes()
    alone = replace(batch, **{field.name: None for field in fields(batch) if field.name.startswith("other_")})
    poses = alone.poses(0.4)
    assert (poses.image.tolist(), poses.slot.tolist(), poses.slots) == ([0, 1, 2], [0, 0, 0], 1)
    for name in ("objects", "boxes", "R_view", "targets"):
        assert torch.equal(getattr(poses, name), getattr(batch, name)), name


def test_values_of_poses_go_back_to_their_places_with_gradient() -> None:
    poses = scenes().poses(0.4)
    values = torch.arange(1.0, 13.0).view(6, 2).requires_grad_()
    spread = poses.spread(values, B)
    assert spread[:, :, 0].tolist() == [[1.0, 0.0, 3.0], [5.0, 0.0, 7.0], [9.0, 11.0, 0.0]]
    assert spread.shape == (B, 1 + N, 2)
    (spread[1] * 2.0).sum().backward()
    assert values.grad[:, 0].tolist() == [0.0, 0.0, 2.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["scenes", "crops"])
def test_a_divided_batch_is_the_whole_one_after_the_other(kind: str) -> None:
    batch = scenes() if kind == "scenes" else CropBatch(*(torch.rand(B, 2) for _ in fields(CropBatch)))
    parts = split_batch(batch, [1, 1, 1])
    assert [len(part.index) for part in parts] == [1, 1, 1]
    for field in fields(batch):
        whole = getattr(batch, field.name)
        if whole is None or field.name == "K":
            assert all(getattr(part, field.name) is whole for part in parts)
        else:
            assert torch.equal(torch.cat([getattr(part, field.name) for part in parts]), whole), field.name


def test_photographs_are_what_a_camera_gives() -> None:
    """Twice the network's pixels; of both the middle is the optical axis, in OpenCV's pixels half a one less."""
    K = torch.tensor([[30.0, 0.0, 2.0], [0.0, 30.0, 2.0], [0.0, 0.0, 1.0]])
    pixels = torch.zeros(B, 3, 8, 8)
    pixels[1, 2, 5, 6] = 0.5
    batch = replace(scenes(), images=torch.ones(B, 3, 4, 4), K=K, photos=pixels)
    images, camera, scale = batch.photographs()
    assert scale == 2.0
    assert camera.tolist() == [[60.0, 0.0, 3.5], [0.0, 60.0, 3.5], [0.0, 0.0, 1.0]]
    assert [(image.shape, image.dtype.name) for image in images] == [((8, 8, 3), "uint8")] * B
    assert np.argwhere(np.stack(images)).tolist() == [[1, 5, 6, 2]]
    assert images[1][5, 6, 2] == 128
    alone, camera, scale = replace(batch, photos=None).photographs()
    assert (alone[0].shape, camera[0, 2], scale) == ((4, 4, 3), 1.5, 1.0)
    assert alone[0].min() == 255
