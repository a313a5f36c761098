"""Poses and detections as refiners hand them on, on numbers chosen by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codepose.refinement.poses import Photos, Poses, Refiner, Seen


def numbered(values: Tensor) -> Poses:
    """Poses whose every field says the given numbers (N, k)."""
    R, t = torch.eye(3) * values[..., None, None], values[..., None].expand(-1, -1, 3)
    return Poses(R, t, t + 0.1, values + 0.2, values + 0.3, values + 0.4, values + 0.5, values)


def assert_same(found: Poses, values: Tensor) -> None:
    expected = numbered(values)
    for name in Poses.__dataclass_fields__:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


SCORES = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])


def test_the_best_come_first_and_all_of_a_pose_goes_along() -> None:
    assert_same(numbered(SCORES).best(2), torch.tensor([[3.0, 2.0], [6.0, 5.0]]))
    assert_same(numbered(SCORES).best(9), torch.tensor([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]))


def test_what_has_no_score_comes_last() -> None:
    poses = numbered(torch.tensor([[-7.0, math.nan, 2.0]]))
    assert poses.best(2).score.tolist() == [[2.0, -7.0]]


def test_poses_are_joined_and_replaced_detection_by_detection() -> None:
    poses = numbered(SCORES)
    assert_same(poses.select(torch.tensor([1])), SCORES[1:])
    assert_same(poses.joined(numbered(SCORES[:, :1] + 10.0)), torch.cat((SCORES, SCORES[:, :1] + 10.0), 1))
    changed = poses.replaced(torch.tensor([1]), numbered(SCORES[:1] + 20.0))
    assert_same(changed, torch.tensor([[1.0, 3.0, 2.0], [21.0, 23.0, 22.0]]))


def test_the_chosen_ones_come_from_the_first_the_others_from_the_second() -> None:
    chosen = torch.tensor([[True, False, True], [False, False, True]])
    found = numbered(SCORES).where(chosen, numbered(SCORES + 10.0))
    assert_same(found, torch.tensor([[1.0, 13.0, 2.0], [15.0, 14.0, 6.0]]))
    assert_same(numbered(SCORES).reshaped(6, 1), SCORES.view(6, 1))


def test_a_start_is_where_the_boxes_say_and_ranked_by_its_codes() -> None:
    R, t, cosines = torch.eye(3).expand(1, 2, 3, 3), torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]), SCORES[:1, :2]
    start = Poses.start(R, t, cosines)
    assert torch.equal(start.boxed, t)
    assert torch.equal(start.score, cosines)
    assert start.contour.abs().max() == start.agreement.abs().max() == start.judged.abs().max() == 0.0
    assert start.best(1).t.tolist() == [[[4.0, 5.0, 6.0]]]


def test_the_rotation_in_the_cameras_frame_is_turned_by_the_ray() -> None:
    """(300, 0, 400) is 36.87 degrees right of the axis."""
    poses = Poses.start(torch.eye(3).view(1, 1, 3, 3), torch.tensor([[[300.0, 0.0, 400.0]]]), torch.zeros(1, 1))
    torch.testing.assert_close(poses.R[0, 0, :, 2], torch.tensor([0.6, 0.0, 0.8]))


def seen(photos: Photos | None) -> Seen:
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    K = torch.tensor([[10.0, 0.0, 4.0], [0.0, 10.0, 4.0], [0.0, 0.0, 1.0]])
    images, which = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    return Seen(images, which, boxes, torch.tensor([3, 4]), K, torch.rand(2, 3, 4, 4), torch.tensor([8.0, 6.0]), photos)


def test_detections_in_the_photos_pixels() -> None:
    photos = Photos(torch.ones(2, 3, 16, 16), torch.tensor([2.0, 3.0]))
    there = seen(photos).in_photos()
    assert there.images is not None
    assert there.images.shape == (2, 3, 16, 16)
    assert there.boxes[0].tolist() == [2.0, 6.0, 6.0, 12.0]
    assert there.extent.tolist() == [16.0, 18.0]
    assert there.K.diagonal().tolist() == [20.0, 30.0, 1.0]
    assert there.photos is None, "it is there already"
    plain = seen(None)
    assert plain.in_photos() is plain


def test_some_detections_keep_their_images() -> None:
    some = seen(Photos(torch.ones(2, 3, 16, 16), torch.ones(2))).select(torch.tensor([1]))
    assert (some.which.tolist(), some.objects.tolist()) == ([1], [4])
    assert some.boxes.tolist() == [[5.0, 6.0, 7.0, 8.0]]
    assert some.images.shape[0] == 2
    assert some.photos is not None
    assert some.to(torch.device("cpu")).photos is some.photos


def test_refiners_can_be_called_one_after_the_other() -> None:
    """A refiner of one's own is a function of a few lines."""

    def nearer(seen: Seen, poses: Poses) -> Poses:
        return Poses.start(poses.R_view, poses.t * 0.5, poses.similarity)

    stages: list[Refiner] = [nearer, nearer, lambda seen, poses: poses.best(1)]
    poses = numbered(SCORES)
    for stage in stages:
        poses = stage(seen(None), poses)
    assert poses.t[:, 0, 0].tolist() == [0.75, 1.5]
