"""The kernel that counts votes, against torch's own sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from codepose.refinement.edge_votes import EdgeField

HEIGHT, WIDTH = 20, 30


def scene(count: int, poses: int, points: int, seed: int) -> tuple[Tensor, ...]:
    """Edge points around (0, 0, 500) mm, projections that keep most of them in the picture, and turns."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    K = torch.tensor([[200.0, 0.0, WIDTH / 2], [0.0, 210.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
    where = normal(count, points, 3) * 20.0
    angle = 6.28 * torch.rand(count, points, generator=generator)
    directions = torch.stack((angle.cos(), angle.sin()), -1)
    projections = K @ torch.linalg.qr(normal(count, poses, 3, 3)).Q
    shifts = (K @ (torch.tensor([0.0, 0.0, 500.0]) + normal(count, poses, 3) * 15.0)[..., None]).squeeze(-1)
    return where, directions, projections, shifts, normal(count, poses)


def plain(field: Tensor, points: Tensor, directions: Tensor, P: Tensor, shifts: Tensor, turned: Tensor) -> Tensor:
    """Pose by pose, with grid_sample."""
    out = torch.zeros(turned.shape)
    for m in range(len(points)):
        photo = m // (len(points) // len(field))
        for s in range(turned.shape[1]):
            seen = points[m] @ P[m, s].T + shifts[m, s]
            pixels = seen[:, :2] / seen[:, 2:].clamp_min(1e-6)
            grid = 2.0 * pixels / torch.tensor([WIDTH, HEIGHT]) - 1.0
            felt = F.grid_sample(field[photo, None], grid[None, None], align_corners=False)[0, :, 0]  # (2, P)
            angle = torch.atan2(directions[m, :, 1], directions[m, :, 0]) + turned[m, s]
            length = directions[m].norm(dim=1)
            out[m, s] = (length * (felt[0] * angle.cos() + felt[1] * angle.sin())).sum()
    return out


@pytest.mark.parametrize("threads", [1, 2])
def test_votes_are_those_of_plain_sampling(threads: int, place: torch.device) -> None:
    """Two photos, three renders each, 50 poses; part of the points lies outside."""
    field = torch.randn(2, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    given = scene(6, 50, 33, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        votes = EdgeField(field.to(place)).votes(*(x.to(place) for x in given)).cpu()
    finally:
        torch.set_num_threads(before)
    exact = plain(field, *given)
    assert exact.abs().median() > 1.0
    torch.testing.assert_close(votes, exact, atol=1e-3, rtol=1e-4)


def test_poses_may_share_a_view_and_a_turn() -> None:
    """Four rows of two photos see views 1, 0, 1 and 1, each row turned alike in all its places."""
    field = torch.randn(2, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    where, directions, _, _, _ = scene(2, 1, 33, 2)
    _, _, projections, shifts, turned = scene(4, 5, 33, 3)
    views, first = torch.tensor([1, 0, 1, 1]), slice(0, 1)
    votes = EdgeField(field).votes(where, directions, projections[:, first], shifts, turned[:, first], views)
    same = projections[:, first].expand(-1, 5, -1, -1), shifts, turned[:, first].expand(-1, 5)
    torch.testing.assert_close(votes, plain(field, where[views], directions[views], *same), atol=1e-3, rtol=1e-4)


def test_a_point_on_an_edge_votes_for_its_own_direction_and_against_the_one_across() -> None:
    field = torch.zeros(1, 2, HEIGHT, WIDTH)
    field[0, :, 7, 12] = torch.tensor([math.cos(0.6), math.sin(0.6)])  # at x = 12.5, y = 7.5
    points = torch.tensor([12.5, 7.5, 1.0]).expand(1, 1, 3)
    eye, zero, turned = torch.eye(3).expand(1, 3, 3, 3), torch.zeros(1, 3, 3), torch.tensor([[0.0, math.pi, 0.3]])
    direction = torch.tensor([math.cos(0.6), math.sin(0.6)]).expand(1, 1, 2)
    votes = EdgeField(field).votes(points, direction, eye, zero, turned)
    torch.testing.assert_close(votes, torch.tensor([[1.0, -1.0, math.cos(0.3)]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.5, 0.5, 1.0),  # the first pixel's centre
        (0.0, 0.5, 0.5),  # the rim: half of it is beyond
        (-0.5, 0.5, 0.0),
        (-70.0, 8.5, 0.0),
        (WIDTH - 0.5, HEIGHT - 0.5, 1.0),
        (WIDTH, HEIGHT - 0.5, 0.5),
        (WIDTH + 0.5, 8.5, 0.0),
        (8.5, HEIGHT + 0.25, 0.25),
        (8.5, 1e9, 0.0),
    ],
)
def test_beyond_the_photo_there_are_no_edges(x: float, y: float, expected: float, place: torch.device) -> None:
    field = torch.zeros(1, 2, HEIGHT, WIDTH)
    field[:, 0] = 1.0
    points, direction = torch.tensor([x, y, 1.0]).expand(1, 1, 3), torch.tensor([1.0, 0.0]).expand(1, 1, 2)
    given = (points, direction, torch.eye(3).expand(1, 1, 3, 3), torch.zeros(1, 1, 3), torch.zeros(1, 1))
    votes = EdgeField(field.to(place)).votes(*(x.to(place) for x in given))
    assert votes.item() == pytest.approx(expected, abs=1e-5)


def test_what_is_behind_the_camera_or_has_no_direction_does_not_vote() -> None:
    field = torch.ones(1, 2, HEIGHT, WIDTH)
    points = torch.tensor([[[12.0, 7.0, 1.0], [12.0, 7.0, -1.0], [12.0, 7.0, 1.0]]])
    directions = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    votes = EdgeField(field).votes(
        points, directions, torch.eye(3).expand(1, 1, 3, 3), torch.zeros(1, 1, 3), torch.zeros(1, 1)
    )
    assert votes.item() == pytest.approx(1.0, abs=1e-5)
