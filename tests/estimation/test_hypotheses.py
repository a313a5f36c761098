"""Where refinement begins: which views, in which order and where, on a codebook whose every number is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose.estimation.codebook import Codebook
from codepose.estimation.hypotheses import Hypotheses
from codepose.parts.symmetry_group import Symmetries
from codepose.refinement.poses import Seen
from codepose.settings.inference import RefinementSettings
from codepose.synthesis.lookalikes import thumbnails
from codepose.synthesis.world import World

COSINES = torch.tensor([0.9, 0.85, 0.8, 0.7, 0.6, 0.5])
"""Of the views' codes with the first detection's; with the second one's they are sqrt(1 - c^2): the last is nearest."""
DEGREES = (0.0, 40.0, 5.0, 183.0, 120.0, 160.0)
"""By which the views are turned in the plane."""
EDGES = torch.tensor([[4, 2], [0, 1]])
"""What the photo's edges speak for."""
PLACES = torch.tensor([[[10.0, 20.0, 700.0], [30.0, 0.0, 800.0]], [[-5.0, 0.0, 600.0], [0.0, 7.0, 900.0]]])
"""And where."""


class ByEdges:
    """Answers with ``EDGES``, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Codebook, int, float]] = []

    def __call__(self, seen: Seen, book: Codebook, count: int, apart_deg: float) -> tuple[Tensor, Tensor]:
        self.asked.append((book, count, apart_deg))
        often = -(-count // 2)
        return EDGES.repeat(1, often)[:, :count], PLACES.repeat(1, often, 1)[:, :count]


@pytest.fixture
def seen(world: World) -> Seen:
    """Two detections of the second object, the first with a reconstruction."""
    boxes = torch.tensor([[20.0, 30.0, 60.0, 55.0], [70.0, 60.0, 100.0, 90.0]])
    shown = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shown[1] = 0.0
    ones = torch.ones(2, dtype=torch.long)
    return Seen(torch.zeros(1, 3, 128, 128), ones * 0, boxes, ones, world.K, shown, torch.tensor([128.0, 128.0]))


@pytest.fixture
def book(world: World, seen: Seen, book_of: Callable[[World, Tensor], Codebook]) -> Codebook:
    """Its second view looks as the first detection's reconstruction does."""
    turns = np.array([[0.0, 0.0, angle] for angle in DEGREES])
    R = torch.from_numpy(Rotation.from_rotvec(turns, degrees=True).as_matrix()).float()
    small = torch.zeros(6, 64)
    small[1] = thumbnails(seen.reconstructions[:1])[0]
    codes = torch.stack((COSINES, (1.0 - COSINES**2).sqrt()), 1)
    return replace(book_of(world, R), codes=codes.half(), thumbnails=small.half())


def proposed(seen: Seen, book: Codebook, **settings: int) -> tuple[Any, Tensor, ByEdges]:
    """Of a part that looks the same after half a turn about its z axis, whose codebook is the second one."""
    half = Symmetries(np.diag([-1.0, -1.0, 1.0, 1.0])[None], ())
    parts = [SimpleNamespace(symmetries=None), SimpleNamespace(symmetries=half)]
    world: Any = SimpleNamespace(settings=SimpleNamespace(refinement=RefinementSettings(**settings)), objects=parts)
    books: Any = [None, book]
    hypotheses, by_edges = Hypotheses(world, books), ByEdges()
    hypotheses._by_edges = by_edges  # type: ignore[assignment]
    return *hypotheses(seen, torch.tensor([[2.0, 0.0], [0.0, 3.0]])), by_edges


@pytest.mark.parametrize(
    ("candidates", "first", "second"),
    [
        # 40 degrees is as the reconstruction; 5 is near 0, and 183 looks as 3 does
        (5, [1, 0, 4], [5, 4, 3]),
        (2, [1, 0], [5, 4]),
    ],
)
def test_views_of_codes_are_placed_by_the_boxes_and_those_of_edges_by_the_edges(
    seen: Seen, book: Codebook, candidates: int, first: list[int], second: list[int]
) -> None:
    poses, nearest, by_edges = proposed(seen, book, candidates=candidates, judged=5)
    views = torch.cat((torch.tensor([first, second]), EDGES), 1)
    torch.testing.assert_close(poses.R_view, book.rotations[views])
    cosines = torch.stack((COSINES, (1.0 - COSINES**2).sqrt()))
    torch.testing.assert_close(poses.similarity, cosines.gather(1, views), atol=1e-3, rtol=0)
    torch.testing.assert_close(nearest, torch.tensor([0.9, 0.866]), atol=1e-3, rtol=0)
    for row in range(2):
        for place, view in enumerate(views[row, :-2]):
            _, t = book.poses(view[None], seen.boxes[row, None], seen.K)
            torch.testing.assert_close(poses.t[row, place], t[0], rtol=1e-4, atol=1e-2)
    assert torch.equal(poses.t[:, -2:], PLACES)
    assert torch.equal(poses.boxed, poses.t)
    assert by_edges.asked == [(book, 2, 12.0)]


@pytest.mark.parametrize(("judged", "edges"), [(2, 1), (40, 16)])
def test_edges_find_half_of_the_views_and_sixteen_at_most(seen: Seen, book: Codebook, judged: int, edges: int) -> None:
    poses, _, by_edges = proposed(seen, book, judged=judged)
    assert [count for _, count, _ in by_edges.asked] == [edges]
    assert torch.equal(poses.R_view[0, -edges:], book.rotations[EDGES[0].repeat(8)[:edges]])
    assert poses.t.shape[1] == min(judged - edges, 6) + edges


def test_without_a_judge_edges_propose_nothing(seen: Seen, book: Codebook) -> None:
    poses, _, by_edges = proposed(seen, book, judged=0)
    assert by_edges.asked == []
    assert torch.equal(poses.R_view[0, :4], book.rotations[[1, 0, 4, 5]])
