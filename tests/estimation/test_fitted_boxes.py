"""Boxes moved to where their codes are clearest: shifts and sizes worked out by hand, from made-up codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.fitted_boxes import fitted_boxes
from codepose.estimation.window_boxes import WindowBoxes

NOTHING: Any = None
SQUARE = torch.tensor([[40.0, 30.0, 60.0, 50.0]])
"""A box of 20 pixels around (50, 40)."""
UPRIGHT = torch.tensor([[45.0, 30.0, 55.0, 50.0]])
"""Half as wide."""
Cosine = Callable[[Tensor, Tensor], Tensor]
"""Centres (N, 2) and longer sides (N,) of boxes -> cosines (N,)."""


class _Pipeline:
    """Codes that are their boxes."""

    codes_from_features = True
    settings = SimpleNamespace(data=SimpleNamespace(camera=SimpleNamespace(image_size=90)))

    def latents(self, prepared: Any, boxes: Tensor, images: Tensor) -> Tensor:
        assert prepared == "image"
        assert images.tolist() == [0] * len(boxes)
        return boxes


def book(cosine: Cosine, *views: tuple[float, float], nearest: Callable[[Tensor], Tensor] | None = None) -> Any:
    """A codebook whose views have these widths and heights; by default its first is nearest to every box."""

    def search(latents: Tensor, k: int) -> tuple[Tensor, Tensor]:
        found = cosine(geometry.box_center(latents), geometry.box_size(latents).amax(1))
        first = torch.zeros(len(latents), dtype=torch.long)
        return found[:, None], (first if nearest is None else nearest(latents))[:, None]

    return SimpleNamespace(search=search, boxes=torch.tensor([[0.0, 0.0, *view] for view in views or ((7.0, 7.0),)]))


def fitted(boxes: Tensor, *books: Any, objects: list[int] | None = None) -> Tensor:
    which = torch.tensor(objects or [0] * len(boxes))
    view = WindowBoxes(NOTHING, NOTHING, "image", NOTHING, boxes, which, torch.full((len(boxes),), 0.5))
    pipeline: Any = _Pipeline()
    moved = fitted_boxes(pipeline, books, view)
    assert moved.objects is view.objects
    assert moved.scores is view.scores
    return moved.boxes


def test_nothing_speaks_for_another_box() -> None:
    flat = book(lambda center, side: torch.full_like(side, 0.7))
    torch.testing.assert_close(fitted(SQUARE, flat), SQUARE)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("box", [SQUARE, UPRIGHT])
def test_a_slope_moves_boxes_as_far_as_the_prior_lets_it(axis: int, box: Tensor) -> None:
    """A cosine that grows by 0.2 a longer side.

    Places 0.2 sides away are worth -0.16 and -0.08, and weigh exp(-5.333), 1 and exp(-2.667): 0.0120 sides in the mean.
    Then 0.1 away -0.05 and -0.01, exp(-1.667) and exp(-0.333): 0.0277; 0.05 away exp(-0.583) and exp(0.083): 0.0100.
    """
    slope = book(lambda center, side: 0.5 + 0.2 * center[:, axis] / 20.0)
    moved = geometry.box_center(fitted(box, slope)) - geometry.box_center(box)
    assert moved[0, axis] == pytest.approx(20.0 * 0.0497, abs=20.0 * 2e-4)
    assert moved[0, 1 - axis] == pytest.approx(0.0, abs=1e-4)


def test_a_slope_resizes_boxes_as_far_as_the_prior_lets_it() -> None:
    """A cosine that grows by 0.2 for a log size of 1.

    Log sizes of -0.3 to 0.3 weigh exp(-6), exp(-2), 1, 1, exp(-2): 0.0746 in the mean. Then 0.15 down and up exp(-2)
    and 1: 0.0607; and 0.08 exp(-0.818), exp(0.249): 0.0247.
    """
    slope = book(lambda center, side: 0.5 + 0.2 * side.log())
    box = fitted(SQUARE, slope)
    torch.testing.assert_close(geometry.box_center(box), geometry.box_center(SQUARE))
    assert math.log(float(geometry.box_size(box)[0, 0]) / 20.0) == pytest.approx(0.1600, abs=2e-4)


def test_boxes_come_to_where_codes_are_clearest() -> None:
    """A box a fifth too small and beside the part, as detectors give it."""
    center, side = torch.tensor([53.0, 37.0]), 25.0

    def clear(centers: Tensor, sides: Tensor) -> Tensor:
        off = ((centers - center) / side).square().sum(1) + (sides / side).log().square()
        return 0.9 - 40.0 * off

    box = fitted(SQUARE, book(clear))
    assert (geometry.box_center(box)[0] - center).norm() < 0.03 * side
    assert float(geometry.box_size(box)[0, 0]) == pytest.approx(side, rel=0.04)


def test_boxes_have_the_proportions_of_the_view_that_is_nearest_in_the_end() -> None:
    """The longer side stays; which view is nearest is asked where the box lies last."""

    def flat(centers: Tensor, sides: Tensor) -> Tensor:
        return torch.full_like(sides, 0.7)

    torch.testing.assert_close(fitted(UPRIGHT, book(flat, (8.0, 2.0))), torch.tensor([[40.0, 37.5, 60.0, 42.5]]))
    torch.testing.assert_close(fitted(UPRIGHT, book(flat, (2.0, 8.0))), torch.tensor([[47.5, 30.0, 52.5, 50.0]]))

    def slope(centers: Tensor, sides: Tensor) -> Tensor:
        return 0.2 * centers[:, 0] / 20.0

    several = book(slope, (8.0, 8.0), (8.0, 2.0), nearest=lambda boxes: (geometry.box_center(boxes)[:, 0] > 51).long())
    size = geometry.box_size(fitted(SQUARE, several))[0]
    assert float(size[1] / size[0]) == pytest.approx(0.25)


def test_the_proportions_are_those_of_the_box_worth_most() -> None:
    """A cosine that grows by 0.1 a side: the last grid begins at 50.38, and a pixel on it is larger, yet worth less."""
    several = book(
        lambda centers, sides: 0.1 * centers[:, 0] / 20.0,
        (8.0, 8.0),
        (8.0, 2.0),
        nearest=lambda boxes: (geometry.box_center(boxes)[:, 0] > 51).long(),
    )
    size = geometry.box_size(fitted(SQUARE, several))[0]
    assert float(size[1] / size[0]) == pytest.approx(1.0)


def test_each_object_asks_its_own_book() -> None:
    right, down = (book(lambda c, s, axis=axis: 0.2 * c[:, axis] / 20.0) for axis in (0, 1))  # type: ignore[misc]
    moved = fitted(SQUARE.expand(3, 4), right, down, objects=[1, 0, 1]) - SQUARE
    assert (moved[[0, 2], 1] > 0.5).all()
    assert (moved[1, 0] > 0.5).all()
    assert moved[[0, 2], 0].abs().max() < 1e-3
    assert abs(float(moved[1, 1])) < 1e-3


def test_many_boxes_move_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.rand(7, 4, generator=torch.Generator().manual_seed(2)) * 20.0 + torch.tensor([20.0, 20.0, 60.0, 60.0])
    wavy = book(lambda c, s: (0.1 * c).sin().sum(1) * 0.1 + 0.01 * s.log())
    alone = torch.cat([fitted(box[None], wavy) for box in boxes])
    torch.testing.assert_close(fitted(boxes, wavy), alone)
    monkeypatch.setattr("codepose.estimation.fitted_boxes._AT_ONCE", 50)  # 45 a box: parts end between boxes
    torch.testing.assert_close(fitted(boxes, wavy), alone)


def test_no_boxes_are_moved_to_none() -> None:
    assert fitted(torch.zeros(0, 4), book(lambda c, s: s)).shape == (0, 4)


def test_boxes_stay_where_codes_are_dear() -> None:
    dear: Any = SimpleNamespace(codes_from_features=False)
    view = WindowBoxes(NOTHING, NOTHING, "image", NOTHING, SQUARE, torch.tensor([0]), torch.tensor([0.5]))
    assert fitted_boxes(dear, [], view) is view


def test_boxes_end_where_the_image_does() -> None:
    """As those of parts that are cut off do in training."""
    upright = torch.tensor([[-4.0, 20.0, 16.0, 40.0], [70.0, 76.0, 94.0, 100.0]])
    flat = book(lambda center, side: torch.full_like(side, 0.7))
    expected = torch.tensor([[0.0, 20.0, 16.0, 40.0], [70.0, 76.0, 90.0, 90.0]])
    torch.testing.assert_close(fitted(upright, flat), expected)
