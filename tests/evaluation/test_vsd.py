"""VSD against bop_toolkit's values, against a slow twin written from the definition, and by hand."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codepose.evaluation.vsd import vsd

GOLDEN = Path(__file__).parents[1] / "data" / "vsd_bracket.npz"
K_UNIT = torch.tensor([[1e9, 0.0, 0.0], [0.0, 1e9, 0.0], [0.0, 0.0, 1.0]])  # so long that distance = depth
K = torch.tensor([[40.0, 0.0, 4.3], [0.0, 42.0, 3.1], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def golden() -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDEN) as file:
        data = dict(file)
    data["depth_test"] = data["depth_test"].astype(np.float64) * data["depth_scale"]
    return data


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize(
    ("key", "cost", "delta"),
    [
        ("step_norm_d15", "step", 15.0),
        ("tlin_norm_d15", "tlinear", 15.0),
        ("step_abs_d15", "step", 15.0),
        ("tlin_abs_d15", "tlinear", 15.0),
        ("step_abs_d5", "step", 5.0),
    ],
)
def test_agrees_with_bop_toolkit(
    golden: dict[str, npt.NDArray[Any]], key: str, cost: Any, delta: float, as_tensors: bool
) -> None:
    convert = torch.from_numpy if as_tensors else np.asarray
    est, gt, test = (convert(golden[name]) for name in ("depth_est", "depth_gt", "depth_test"))
    relative = "norm" in key
    values = vsd(
        est,
        gt,
        test,
        convert(golden["K"]),
        delta=delta,
        taus=golden["taus_rel" if relative else "taus_abs"].tolist(),
        cost=cost,
        diameter=float(golden["diameter"]) if relative else None,
    )
    assert values.dtype == torch.float64
    np.testing.assert_allclose(values.numpy(), golden[key], rtol=0, atol=1e-6)


def slow_vsd(
    est: npt.NDArray[Any],
    gt: npt.NDArray[Any],
    test: npt.NDArray[Any],
    camera: npt.NDArray[Any],
    delta: float,
    tau: float,
    cost: str,
    diameter: float,
    rule: str,
) -> float:
    """One image, one tau, pixel by pixel."""
    total, union = 0.0, 0
    for v in range(est.shape[0]):
        for u in range(est.shape[1]):
            ray = math.hypot(*np.linalg.solve(camera, [u, v, 1.0]))
            d_est, d_gt, d_test = (float(z[v, u]) * ray for z in (est, gt, test))
            measured = d_test > 0
            near_est, near_gt = (d - d_test <= delta for d in (d_est, d_gt))
            scene_est, scene_gt = (
                (near or not measured) if rule == "bop19" else (near and measured) for near in (near_est, near_gt)
            )
            visible_gt = d_gt > 0 and scene_gt
            visible_est = d_est > 0 and (scene_est or visible_gt)
            if visible_gt or visible_est:
                union += 1
                if visible_gt and visible_est:
                    distance = abs(d_gt - d_est) / diameter
                    total += float(distance >= tau) if cost == "step" else min(distance / tau, 1.0)
                else:
                    total += 1.0
    return total / union if union else 1.0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    cost=st.sampled_from(["step", "tlinear"]),
    rule=st.sampled_from(["bop19", "bop18"]),
    diameter=st.sampled_from([None, 37.7]),
)
def test_agrees_with_slow_twin(seed: int, cost: Any, rule: Any, diameter: float | None) -> None:
    generator = np.random.default_rng(seed)
    est, gt, test = (
        generator.uniform(480, 540, (3, 6, 7)) * (generator.random((3, 6, 7)) < share) for share in (0.6, 0.6, 0.8)
    )
    cameras = K.numpy() + np.diag([1.0, 1.0, 0.0]) * generator.uniform(-5, 5, (3, 1, 1))
    taus = [0.1, 0.4] if diameter else [4.0, 20.0]
    fast = vsd(est, gt, test, cameras, delta=10.0, taus=taus, cost=cost, diameter=diameter, visibility=rule)
    slow = [
        [slow_vsd(*case, 10.0, tau, cost, diameter or 1.0, rule) for tau in taus]
        for case in zip(est, gt, test, cameras, strict=True)
    ]
    np.testing.assert_allclose(fast.numpy(), slow, rtol=0, atol=1e-12)


def row(*depths: float) -> torch.Tensor:
    return torch.tensor([[depths]])  # (1, 1, W)


def test_four_pixels_by_hand() -> None:
    # both, 5 mm apart | both, 25 mm apart | only the estimate | the true surface behind an occluder
    est, gt, test = row(505, 525, 500, 0), row(500, 500, 0, 500), row(500, 500, 900, 400)
    # the union has 3 pixels: the fourth is hidden
    assert vsd(est, gt, test, K_UNIT, taus=(20.0,)).item() == pytest.approx((0 + 1 + 1) / 3, abs=1e-12)
    linear = vsd(est, gt, test, K_UNIT, taus=(20.0, 50.0), cost="tlinear")[0]
    assert linear.tolist() == pytest.approx([(0.25 + 1 + 1) / 3, (0.1 + 0.5 + 1) / 3], abs=1e-12)


def test_distance_is_along_the_ray() -> None:
    # At u = 3 with f = 4 the ray is 1.25 long: 17 mm of depth are 21.25 mm of distance.
    camera = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    est, gt = row(0, 0, 0, 517), row(0, 0, 0, 500)
    assert vsd(est, gt, gt, camera, taus=(21.0, 21.5), delta=100.0)[0].tolist() == [1.0, 0.0]


def test_the_true_pose_costs_nothing(golden: dict[str, npt.NDArray[Any]]) -> None:
    gt = golden["depth_gt"][:3]
    assert (gt > 0).any(axis=(1, 2)).all()
    costs: tuple[Any, ...] = ("step", "tlinear")
    for cost in costs:
        assert vsd(gt, gt, gt, golden["K"], taus=(1e-6, 20.0), cost=cost).eq(0).all()


def test_nothing_visible_is_one() -> None:
    nothing, hidden, wall = row(0, 0), row(500, 500), row(100, 100)
    assert vsd(nothing, nothing, wall, K_UNIT).item() == 1.0
    assert vsd(hidden, hidden, wall, K_UNIT).item() == 1.0
    assert vsd(nothing, hidden, hidden, K_UNIT).item() == 1.0


def test_an_empty_batch() -> None:
    empty = torch.zeros(0, 4, 5)
    assert vsd(empty, empty, empty, K, taus=(1.0, 2.0)).shape == (0, 2)


def test_delta_is_inclusive_and_tau_counts_from_itself() -> None:
    test, est, gt = row(500), row(516), row(515)
    assert vsd(est, gt, test, K_UNIT, delta=15.0, taus=(2.0,)).item() == 0.0  # the estimate joins gt's mask
    assert vsd(est, gt, test, K_UNIT, delta=14.0, taus=(2.0,)).item() == 1.0  # neither is visible
    assert vsd(gt, est, test, K_UNIT, delta=15.0, taus=(2.0,)).item() == 1.0  # gt is hidden: no intersection
    assert vsd(est, gt, test, K_UNIT, delta=15.0, taus=(1.0, 1.001)).tolist() == [[1.0, 0.0]]


def test_unmeasured_pixels_follow_the_rule() -> None:
    surface, unmeasured = row(500, 500), row(500, 0)
    only_left = row(500, 0)
    assert vsd(only_left, surface, unmeasured, K_UNIT).item() == 0.5
    assert vsd(only_left, surface, unmeasured, K_UNIT, visibility="bop18").item() == 0.0


def test_taus_are_fractions_of_each_diameter() -> None:
    est, gt = row(510).expand(2, 1, 1), row(500).expand(2, 1, 1)
    relative = vsd(est, gt, gt, K_UNIT, taus=(0.1, 0.5), cost="tlinear", diameter=torch.tensor([50.0, 200.0]))
    absolute = [vsd(est[:1], gt[:1], gt[:1], K_UNIT, taus=(0.1 * d, 0.5 * d), cost="tlinear") for d in (50, 200)]
    torch.testing.assert_close(relative, torch.cat(absolute), rtol=0, atol=1e-12)
    assert relative.tolist()[0] == pytest.approx([1.0, 0.4])


def test_a_batch_equals_its_images(golden: dict[str, npt.NDArray[Any]]) -> None:
    est, gt, test = (golden[name][:5] for name in ("depth_est", "depth_gt", "depth_test"))
    cameras = np.stack([golden["K"] + np.diag([i, 2.0 * i, 0]) for i in range(5)])
    batch = vsd(est, gt, test, cameras, taus=(5.0, 20.0), cost="tlinear")
    singles = [
        vsd(est[i, None], gt[i, None], test[i, None], cameras[i], taus=(5.0, 20.0), cost="tlinear") for i in range(5)
    ]
    assert torch.equal(batch, torch.cat(singles))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(golden: dict[str, npt.NDArray[Any]]) -> None:
    depths = [torch.from_numpy(golden[name]) for name in ("depth_est", "depth_gt", "depth_test")]
    est, gt, test = (depth.cuda() for depth in depths)
    values = vsd(est, gt, test, golden["K"], taus=golden["taus_abs"].tolist(), cost="tlinear")
    assert values.is_cuda
    np.testing.assert_allclose(values.cpu().numpy(), golden["tlin_abs_d15"], rtol=0, atol=1e-6)


def test_integer_depth_maps_count_in_mm() -> None:
    gt = np.full((1, 2, 2), 500, dtype=np.uint16)
    gt.setflags(write=False)
    assert vsd(gt + np.uint16(25), gt, gt, K.numpy(), taus=(20.0, 40.0)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_estimated": torch.zeros(4, 5)}, "depth maps must be (N, H, W), got (4, 5); add a batch axis"),
        ({"depth_gt": torch.zeros(2, 4, 6)}, "depth_gt is (2, 4, 6), depth_estimated (2, 4, 5)"),
        ({"depth_test": torch.zeros(2, 4, 6)}, "depth_test is (2, 4, 6), depth_estimated (2, 4, 5)"),
        ({"depth_gt": torch.zeros(2, 4, 5, device="meta")}, "depth_gt is on meta, move it to cpu"),
        ({"depth_test": torch.zeros(2, 4, 5, device="meta")}, "depth_test is on meta, move it to cpu"),
        ({"K": torch.eye(4)}, "K must be (3, 3) or (2, 3, 3), got (4, 4)"),
        ({"K": torch.eye(3).expand(3, 3, 3)}, "K must be (3, 3) or (2, 3, 3), got (3, 3, 3)"),
        ({"cost": "l2"}, "cost must be one of ('step', 'tlinear'), got 'l2'"),
        ({"visibility": "bop20"}, "visibility must be one of ('bop19', 'bop18'), got 'bop20'"),
        ({"taus": (20.0, 0.0)}, "taus must be one or more positive numbers, got [20.0, 0.0]"),
        ({"taus": (float("nan"),)}, "taus must be one or more positive numbers, got [nan]"),
        ({"taus": ()}, "taus must be one or more positive numbers, got []"),
        ({"delta": float("nan")}, "delta must be >= 0 mm, got nan"),
        ({"delta": -1.0}, "delta must be >= 0 mm, got -1.0"),
        ({"diameter": -1.0}, "diameter must be positive and finite, in mm"),
        ({"diameter": 0.0}, "diameter must be positive and finite, in mm"),
        ({"diameter": torch.tensor([50.0, float("inf")])}, "diameter must be positive and finite, in mm"),
        ({"diameter": torch.ones(3)}, "diameter must be one number or (2,), got (3,)"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    depth = torch.zeros(2, 4, 5)
    arguments = {"depth_estimated": depth, "depth_gt": depth, "depth_test": depth, "K": K} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        vsd(**arguments)


def test_what_is_measured_unless_something_else_is_asked_for() -> None:
    """Delta 15 mm, tau 20 mm, step cost, distances in mm, and a pixel without test depth is visible."""
    test = row(500, 500, 500, 500, 0)
    gt = row(514.5, 515.5, 500, 500, 500)
    est = row(514.5, 515.5, 480.5, 479.5, 500)
    assert vsd(est, gt, test, K_UNIT).tolist() == [[1 / 4]]  # the second is hidden, the fourth 20.5 mm off
    assert vsd(est, gt, test, K_UNIT, delta=0.0).tolist() == [[1 / 3]]
    assert vsd(est, gt, test, K_UNIT, taus=(1.0,)).tolist() == [[2 / 4]]


def test_rays_of_a_camera_with_skew() -> None:
    """K^-1 [1, 1, 1] = (0.5, 0.5, 1) for this K: the ray is sqrt(1.5) long, 20 mm of depth are 24.49 mm."""
    camera = torch.tensor([[1.0, 0.5, 0.25], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    depths = torch.zeros(2, 2, 2)
    depths[:, 1, 1] = 500.0
    moved = torch.where(depths > 0, depths + 20.0, 0.0)
    assert vsd(moved, depths, depths, camera, delta=50.0, taus=(24.4, 24.6)).tolist() == [[1.0, 0.0]] * 2


def test_any_depth_above_nothing_is_a_surface() -> None:
    """However near, be it in metres: of six pixels the second has no estimate, the third no truth.

    The fourth one's estimate is hidden, but the truth there is not; the fifth is not measured; the sixth is hidden.
    """
    est, gt, test = row(0.5, 0, 0.5, 0.9, 0.5, 0.9), row(0.5, 0.5, 0, 0.5, 0.5, 0.9), row(0.5, 0.5, 0.9, 0.4, 0, 0.1)
    assert vsd(est, gt, test, K_UNIT, delta=0.2, taus=(0.3, 0.5)).tolist() == [[3 / 5, 2 / 5]]
    # bop18: with the fifth pixel hidden, too
    assert vsd(est, gt, test, K_UNIT, delta=0.2, taus=(0.3,), visibility="bop18").tolist() == [[3 / 4]]
    assert vsd(est, gt, test, K_UNIT, delta=0.6, taus=(0.3,), visibility="bop18").tolist() == [[3 / 4]]


def test_a_pixel_of_one_pose_alone_costs_1_whatever_the_tolerance() -> None:
    gt, nothing, wall = row(500, 500), row(500, 0), row(500, 500)
    for pair in ((nothing, gt), (gt, nothing)):
        assert vsd(*pair, wall, K_UNIT, taus=(1000.0,)).item() == 0.5
        assert vsd(*pair, wall, K_UNIT, taus=(1000.0,), cost="tlinear").item() == 0.5


def test_two_images_have_two_cameras() -> None:
    """At u = 3 the rays of these are 1.25 and 1 long: 17 mm of depth are 21.25 and 17 mm of distance."""
    cameras = torch.stack((torch.diag(torch.tensor([4.0, 4.0, 1.0])), K_UNIT))
    est, gt = row(0, 0, 0, 517).expand(2, 1, 4), row(0, 0, 0, 500).expand(2, 1, 4)
    assert vsd(est, gt, gt, cameras, delta=100.0).tolist() == [[1.0], [0.0]]


def test_arrays_as_they_come(golden: dict[str, npt.NDArray[Any]]) -> None:
    """Upside down, read-only, and a camera in single precision: no copy to make first, no warning, no digit lost."""
    est, gt, test = (np.ascontiguousarray(golden[name][:2, ::-1]) for name in ("depth_est", "depth_gt", "depth_test"))
    camera = golden["K"].astype(np.float32)
    expected = vsd(est, gt, test, camera.astype(np.float64), taus=(1000.0,), cost="tlinear")
    flipped = [golden[name][:2, ::-1] for name in ("depth_est", "depth_gt", "depth_test")]
    for array in (*flipped, camera):
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(vsd(*flipped, camera, taus=(1000.0,), cost="tlinear"), expected)


def test_a_camera_in_single_precision_is_inverted_in_double() -> None:
    camera = torch.tensor([[610.3, 0.0, 317.7], [0.0, 604.1, 241.9], [0.0, 0.0, 1.0]])
    est = torch.full((1, 3, 5), 700.0)
    one, two = (vsd(est, est - 11.3, est, K, taus=[20.0], cost="tlinear") for K in (camera, camera.double()))
    assert 0.5 < float(one) < 1.0
    assert torch.equal(one, two)
