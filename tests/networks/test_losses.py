"""Eqs. 1-3 against slow twins written from the paper, gradients against finite differences, and the warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codepose.geometry import geodesic_angle, view_rotation
from codepose.networks.losses import (
    ReconstructionHealth,
    angle_loss,
    cos_loss,
    match_loss,
    mse,
    pair_angles,
    reconstruction_health,
)
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries


def rotations(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    return view_rotation(directions, torch.rand(count, generator=generator, dtype=torch.float64) * 6.28)


def slow_mse(reconstruction: torch.Tensor, target: torch.Tensor, k: int) -> float:
    pairs = zip(reconstruction.flatten(), target.flatten(), strict=True)
    errors = sorted(((r - t) ** 2 for r, t in pairs), reverse=True)
    kept = errors[: max(1, len(errors) // k)]
    return float(sum(kept) / len(kept))


def slow_angle(z: torch.Tensor, R: torch.Tensor, objects: torch.Tensor) -> float:
    pairs = []
    for j in range(len(z)):
        others = [k for k in range(len(z)) if k != j and objects[k] == objects[j]]
        if others:
            k = min(others, key=lambda k: float(geodesic_angle(R[j], R[k])))
            theta = float(geodesic_angle(R[j], R[k]))
            pairs.append(float((z[j] - z[k]).norm()) * math.exp(-theta))
        else:
            pairs.append(0.0)
    return sum(pairs) / len(pairs)


@given(st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=20)
def test_mse_is_the_mean_of_the_largest_errors(count: int, k: int) -> None:
    generator = torch.Generator().manual_seed(count * 7 + k)
    a, b = torch.rand(2, count, 3, 4, 5, generator=generator, dtype=torch.float64)
    expected = [slow_mse(x, y, k) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(mse(a, b, k), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_mse_of_at_least_one_pixel_whatever_the_ratio() -> None:
    a = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    assert mse(a, torch.zeros_like(a), 10).tolist() == [1.0]


def test_mse_with_ratio_one_is_equation_1() -> None:
    a, b = torch.rand(2, 3, 3, 8, 8)
    torch.testing.assert_close(mse(a, b), ((a - b) ** 2).mean((1, 2, 3)))


@pytest.mark.parametrize("objects", [[0] * 6, [0, 1, 0, 1, 1, 0], [0, 1, 2, 0, 0, 1]])
def test_angle_loss_equals_its_slow_twin(objects: list[int]) -> None:
    z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    R, which = rotations(6), torch.tensor(objects)
    value = float(angle_loss(z, R, which))
    assert value == pytest.approx(slow_angle(z, R, which), rel=1e-9)


def test_angle_loss_by_hand() -> None:
    """Two views 90 degrees apart: each is the other's neighbour, |z1 - z2| = 5, theta = pi / 2."""
    R = view_rotation(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64), torch.zeros(2).double())
    theta = float(geodesic_angle(R[0], R[1]))
    z = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert float(angle_loss(z, R, torch.zeros(2))) == pytest.approx(5.0 * math.exp(-theta), rel=1e-9)


def test_angle_loss_of_a_lone_view_is_zero() -> None:
    assert float(angle_loss(torch.randn(1, 4), rotations(1).float(), torch.zeros(1))) == 0.0
    assert float(angle_loss(torch.randn(2, 4), rotations(2).float(), torch.tensor([0, 1]))) == 0.0


def test_gradients_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mse(x, b.detach(), 1), a.detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda x: mse(x, b.detach(), 4), a.detach().requires_grad_())
    z = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: angle_loss(x, rotations(4), torch.zeros(4)), z)
    assert torch.autograd.gradcheck(cos_loss, (z, y))


def test_angle_loss_has_a_finite_gradient_where_latents_coincide() -> None:
    z = torch.ones(3, 4, requires_grad=True)
    angle_loss(z, rotations(3).float(), torch.zeros(3)).backward()
    assert torch.isfinite(z.grad).all()


def test_cos_loss_is_minus_the_mean_cosine() -> None:
    z, y = torch.randn(2, 6, 5, dtype=torch.float64)
    slow = -sum(float(a @ b / (a.norm() * b.norm())) for a, b in zip(z, y, strict=True)) / 6
    assert float(cos_loss(z, y)) == pytest.approx(slow, rel=1e-9)
    assert float(cos_loss(z, 3.0 * z)) == pytest.approx(-1.0)


BLACK = (
    "the reconstructions are black where the object should be: raise losses.bootstrap_ratio to 4, "
    "or turn on data.curriculum"
)
COLLAPSED = "the latents have collapsed: all images get nearly the same code; lower the learning rate"


def test_health_by_hand() -> None:
    """One pixel of an object, off by 0.5, 0 and 0.1; codes (5, 4) and (5, 2): variances 0 and 1, mean square 17.5."""
    targets, reconstructions = torch.zeros(2, 3, 1, 2), torch.ones(2, 3, 1, 2)
    targets[0, :, 0, 0] = torch.tensor([0.5, 0.0, 0.3])
    reconstructions[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.2])
    health = reconstruction_health(reconstructions, targets, torch.tensor([[5.0, 4.0], [5.0, 2.0]]))
    assert health.object_mse == pytest.approx((0.25 + 0.01) / 3)
    assert health.target_energy == pytest.approx((0.25 + 0.09) / 3)
    assert health.latent_spread == pytest.approx(0.5 / 17.5)
    small = reconstruction_health(targets, targets, torch.tensor([[0.005, 0.004], [0.005, 0.002]]))
    assert small.latent_spread == pytest.approx(0.5 / 17.5)


def test_warnings_name_black_outputs_and_collapsed_latents() -> None:
    targets = torch.zeros(4, 3, 8, 8)
    targets[:, :, 2:5, 2:5] = 0.7
    good = reconstruction_health(targets * 0.9, targets, torch.randn(4, 8))
    assert good.warnings() == []
    black = reconstruction_health(torch.zeros_like(targets), targets, torch.randn(4, 8))
    assert black.object_mse == pytest.approx(0.49)
    assert len(black.warnings()) == 1
    assert "black" in black.warnings()[0]
    nothing = reconstruction_health(targets, torch.zeros_like(targets), torch.randn(4, 8))
    assert (nothing.object_mse, nothing.target_energy, nothing.warnings()) == (0.0, 0.0, []), "nothing to see"
    assert reconstruction_health(targets[:1], targets[:1], torch.randn(1, 8)).warnings() == [], "one code says nothing"
    assert ReconstructionHealth(0.5, 0.5, 1.0).warnings() == [BLACK]
    assert ReconstructionHealth(0.5, 0.625, 1.0).warnings() == [], "not above 0.8 of it"
    assert ReconstructionHealth(1.0, 0.0, 1.0).warnings() == [], "there is no object"
    assert ReconstructionHealth(0.0, 0.5, 1e-4).warnings() == [], "not below 1e-4"
    assert ReconstructionHealth(0.0, 0.5, 0.9e-4).warnings() == [COLLAPSED]
    collapsed = reconstruction_health(targets, targets, torch.ones(4, 8) + 1e-5 * torch.randn(4, 8))
    assert len(collapsed.warnings()) == 1
    assert "collapsed" in collapsed.warnings()[0]


def slow_match(z: torch.Tensor, y: torch.Tensor, R: torch.Tensor, objects: list[int]) -> float:
    total = 0.0
    for i in range(len(z)):
        wanted, found = [], []
        for k in range(len(z)):
            degrees = math.degrees(float(geodesic_angle(R[i], R[k])))
            wanted.append(math.exp(-0.5 * (degrees / 15.0) ** 2) if objects[i] == objects[k] else 0.0)
            found.append(math.exp(float(z[i] @ y[k] / (z[i].norm() * y[k].norm())) / 0.1))
        for w, f in zip(wanted, found, strict=True):
            total -= w / sum(wanted) * math.log(f / sum(found))
    return total / len(z)


@pytest.mark.parametrize("objects", [[0, 0, 0, 0, 0], [0, 1, 0, 1, 1]])
def test_match_loss_equals_its_slow_twin(objects: list[int]) -> None:
    z, y = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    R = rotations(5)
    value = match_loss(z, y, R, torch.tensor(objects))
    assert float(value) == pytest.approx(slow_match(z, y, R, objects), rel=1e-6)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: match_loss(x, y, R, torch.tensor(objects)), z)


@pytest.mark.parametrize("used", [None, [True, False, True, True, False, True], [True] + [False] * 5, [False] * 6])
def test_match_loss_of_near_views_of_some_of_the_batch(used: list[bool] | None) -> None:
    """A few degrees apart, the width of the Gaussian counts; what is not used counts neither way."""
    generator = torch.Generator().manual_seed(4)
    z, y = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    axes = torch.randn(6, 3, generator=generator, dtype=torch.float64) * 0.3
    R = torch.linalg.matrix_exp(torch.linalg.cross(axes[:, None], -torch.eye(3, dtype=torch.float64)[None]))
    objects = [0, 1, 0, 0, 0, 0]
    chosen = None if used is None else torch.tensor(used)
    value = match_loss(z, y, R, torch.tensor(objects), used=chosen)
    rows = [i for i in range(6) if used is None or used[i]]
    expected = slow_match(z[rows], y[rows], R[rows], [objects[i] for i in rows]) if rows else 0.0
    assert float(value) == pytest.approx(expected, rel=1e-6)
    cosines = torch.nn.functional.cosine_similarity(z, y)[rows]
    assert float(cos_loss(z, y, chosen)) == pytest.approx(-float(cosines.mean()) if rows else 0.0, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_have_the_type_of_the_codes(dtype: torch.dtype) -> None:
    z, R, objects = torch.randn(2, 4, dtype=dtype), rotations(2), torch.zeros(2, dtype=torch.long)
    assert angle_loss(z, R, objects).dtype == dtype
    assert pair_angles(R.to(dtype), objects, (TWO_SIDED,)).dtype == dtype


def test_match_loss_stays_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(1)
    z, noise = torch.randn(2, 16, 128, generator=generator)
    y = z + 0.5 * noise  # cosines around 0.9: half a per cent, of which the temperature makes ten times as much
    R, objects = rotations(16).float(), torch.zeros(16, dtype=torch.long)
    exact = match_loss(z.double(), y.double(), R.double(), objects).float()
    torch.testing.assert_close(match_loss(z, y, R, objects), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(match_loss(z, y, R, objects), exact, rtol=1e-5, atol=1e-5)


def test_match_loss_prefers_the_right_clean_view() -> None:
    R = rotations(6)
    y = torch.eye(6, dtype=torch.float64)
    right, wrong = match_loss(y, y, R, torch.zeros(6)), match_loss(y.roll(1, 0), y, R, torch.zeros(6))
    assert float(right) < float(wrong)


ABOUT_Z = np.diag([-1.0, -1.0, 1.0, 1.0])[None]
TWO_SIDED = Symmetries(ABOUT_Z)
ROUND = Symmetries(np.zeros((0, 4, 4)), (ContinuousSymmetry(np.array([0.0, 0.0, 1.0]), np.zeros(3)),))


def test_views_that_look_the_same_are_no_angle_apart() -> None:
    R = rotations(4)
    half = torch.from_numpy(ABOUT_Z[0, :3, :3])
    spin = torch.linalg.matrix_exp(0.7 * torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64))
    batch = torch.cat((R, R @ half, R @ spin))
    objects = torch.zeros(12, dtype=torch.long)
    plain, turned, spun = (pair_angles(batch, objects, g) for g in ((), (TWO_SIDED,), (ROUND,)))
    first, second, third = range(4), range(4, 8), range(8, 12)
    assert torch.equal(plain, geodesic_angle(batch[:, None], batch[None]))
    assert float(turned[first, second].max()) < 1e-6
    torch.testing.assert_close(plain[first, second], torch.full((4,), math.pi, dtype=torch.float64))
    assert float(turned[first, third].min()) > 0.69
    assert float(spun[first, third].max()) < 1e-6
    slow = torch.minimum(plain, geodesic_angle(batch[:, None], batch[None] @ half))
    torch.testing.assert_close(turned, slow, atol=1e-6, rtol=0)


def test_only_the_symmetric_object_gets_other_angles() -> None:
    R, objects = rotations(6), torch.tensor([0, 1, 0, 1, 1, 0])
    plain, mixed = pair_angles(R, objects), pair_angles(R, objects, (Symmetries.none(), TWO_SIDED))
    first = (objects[:, None] == 0) & (objects[None] == 0)
    assert torch.equal(plain[first], mixed[first])
    second = (objects[:, None] == 1) & (objects[None] == 1)
    assert bool((mixed[second] <= plain[second] + 1e-6).all())
    assert bool(mixed[~first & ~second].isinf().all())
    z, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none = (Symmetries.none(), Symmetries.none())
    assert torch.equal(angle_loss(z, R, objects), angle_loss(z, R, objects, symmetries=none))
    assert torch.equal(match_loss(z, y, R, objects), match_loss(z, y, R, objects, none))


def test_each_part_of_many_gets_the_angles_of_its_own_symmetries() -> None:
    """Fixed turns, of any number, an axis with a half turn across it, a ball, and none."""
    quarter = np.eye(4)
    quarter[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
    square = Symmetries(np.stack([quarter, quarter @ quarter, quarter @ quarter @ quarter]))
    rod = Symmetries(np.diag([1.0, -1.0, -1.0, 1.0])[None], ROUND.continuous)
    ball = Symmetries(np.zeros((0, 4, 4)), ROUND.continuous * 3)
    groups = (TWO_SIDED, square, rod, ball, ROUND, Symmetries.none())
    R, objects = rotations(24), torch.arange(24) % 6
    found = pair_angles(R, objects, groups)
    for part, group in enumerate(groups):
        own = R[part::6]
        expected = group.angles(own[:, None], own[None])
        torch.testing.assert_close(found[part::6, part::6], expected, atol=1e-6, rtol=0)
    assert bool(found[objects[:, None] != objects].isinf().all())


def test_losses_take_the_same_look_for_the_same_view() -> None:
    """Turning one view by a symmetry changes nothing; without the symmetries it does."""
    R, objects = rotations(5), torch.zeros(5, dtype=torch.long)
    other = R.clone()
    other[2] = R[2] @ torch.from_numpy(ABOUT_Z[0, :3, :3])
    z, y = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for loss in (
        lambda views, *group: angle_loss(z, views, objects, *group),
        lambda views, *group: match_loss(z, y, views, objects, *group),
    ):
        assert float(loss(other, (TWO_SIDED,))) == pytest.approx(float(loss(R, (TWO_SIDED,))), rel=1e-6)
        assert float(loss(other)) != pytest.approx(float(loss(R)), rel=1e-3)
