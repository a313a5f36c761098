"""Boxes that get a pose: the detector's score and the code's likeness count together."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from codepose.estimation.likeliest import likeliest, worth_a_pose, worth_a_pose_in_photo
from codepose.estimation.window_boxes import WindowBoxes


def chosen(labels: list[int], scores: list[float], cosines: list[float], most: int) -> list[int]:
    kept = likeliest(torch.tensor(labels), torch.tensor(scores), torch.tensor(cosines), most)
    return kept.nonzero()[:, 0].tolist()


def test_a_code_near_a_view_outweighs_a_better_score() -> None:
    """log-odds of 0.6 and 0.2 are 0.41 and -1.39: 1.79 apart, as much as 0.179 of cosine."""
    apart = (math.log(0.6 / 0.4) - math.log(0.2 / 0.8)) / 10.0
    assert apart == pytest.approx(0.179, abs=1e-3)
    assert chosen([1, 1], [0.6, 0.2], [0.5, 0.5 + apart + 0.01], 1) == [1]
    assert chosen([1, 1], [0.6, 0.2], [0.5, 0.5 + apart - 0.01], 1) == [0]


def test_each_object_has_as_many() -> None:
    assert chosen([1, 2, 1, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.1, 0.1, 0.9, 0.9], 1) == [3, 4]
    assert chosen([1, 2, 1, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.1, 0.1, 0.9, 0.9], 2) == [0, 1, 3, 4]


def test_of_equal_ones_the_first_is_chosen() -> None:
    assert chosen([1, 1, 1], [0.5, 0.5, 0.5], [0.3, 0.3, 0.3], 2) == [0, 1]


def test_scores_of_one_and_no_boxes_are_taken() -> None:
    assert chosen([1, 1], [1.0, 0.0], [0.2, 0.2], 1) == [0]
    assert chosen([1, 1], [0.99, 0.999], [0.2, 0.2], 1) == [1], "near 1, too, the surer one"
    assert chosen([], [], [], 1) == []


class _Book:
    """Finds codes that are their own cosine."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def search(self, latents: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return self.sign * latents[:, :1], torch.zeros(len(latents), k, dtype=torch.long)


class _Pipeline:
    """Codes that are the boxes' left edges."""

    def __init__(self, nms: float) -> None:
        self.settings = SimpleNamespace(detection=SimpleNamespace(nms=nms))

    def latents(self, prepared: Any, boxes: Tensor, images: Tensor) -> Tensor:
        assert prepared == "image"
        assert images.tolist() == [0] * len(boxes)
        return boxes[:, :1]


def window(boxes: list[list[float]], objects: list[int], scores: list[float]) -> WindowBoxes:
    nothing: Any = None
    numbers = torch.tensor(boxes).view(-1, 4), torch.tensor(objects).long(), torch.tensor(scores)
    return WindowBoxes(nothing, nothing, "image", nothing, *numbers)


def worth(
    boxes: list[list[float]], objects: list[int], scores: list[float], most: int, *signs: float, nms: float = 0.5
) -> list[int]:
    """Which boxes get a pose, where the cosines are the boxes' left edges times their object's sign."""
    books: Any = [_Book(sign) for sign in signs]
    pipeline: Any = _Pipeline(nms)
    return worth_a_pose(pipeline, books, window(boxes, objects, scores), most).tolist()


def test_codes_are_looked_up_in_their_own_objects_book() -> None:
    boxes = [[0.1, 0.0, 0.4, 1.0], [0.9, 0.0, 1.4, 1.0]] * 2
    assert worth(boxes, [0, 1, 1, 0], [0.5] * 4, 1, 1.0, -1.0) == [2, 3]


def test_of_boxes_in_one_place_the_likeliest_is_enough() -> None:
    """The first shares 8 of 10 columns with either other one, these 6 of 10."""
    boxes = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.8, 1.0], [0.2, 0.0, 1.0, 1.0]]
    assert worth(boxes, [0, 0, 0], [0.5, 0.6, 0.4], 3, 0.0) == [1, 2]
    assert worth(boxes, [0, 0, 0], [0.6, 0.5, 0.4], 3, 0.0) == [0]
    assert worth(boxes, [0, 1, 0], [0.6, 0.5, 0.4], 3, 0.0, 0.0) == [0, 1], "another object's stay"
    assert worth(boxes, [0, 0, 0], [0.6, 0.5, 0.4], 2, 1.0) == [1, 2], "codes count: the third one's is 0.2"
    assert worth([*boxes, [5.0, 5.0, 6.0, 6.0]], [0] * 4, [0.6, 0.5, 0.4, 0.3], 2, 0.0) == [0, 3], "as many as may be"
    assert worth(boxes, [0, 0, 0], [0.5, 0.6, 0.4], 3, 0.0, nms=0.82) == [0, 1, 2], "as far as boxes may overlap"


def test_a_photos_windows_share_the_poses_that_there_may_be() -> None:
    """Of the first object the best two of four, wherever they are; of the second the only one; codes count."""
    near, far = [0.9, 0.0, 1.0, 1.0], [0.1, 0.0, 1.0, 1.0]
    views = [
        window([far, near, far], [0, 0, 1], [0.9, 0.2, 0.1]),
        window([], [], []),
        window([near, far], [0, 0], [0.6, 0.8]),
    ]
    books: Any = [_Book(1.0), _Book(1.0)]
    pipeline: Any = _Pipeline(0.5)
    places = worth_a_pose_in_photo(pipeline, books, views, 2)
    # 10 x 0.9 + log-odds: 9 - 1.39 and 9 + 0.41 before 1 + 2.2 and 1 + 1.39
    assert [one.tolist() for one in places] == [[1, 2], [], [0]]
    assert [one.tolist() for one in worth_a_pose_in_photo(pipeline, books, views, 9)] == [[0, 1, 2], [], [0, 1]]
    assert worth_a_pose_in_photo(pipeline, books, [], 2) == []
