"""Symmetry-aware errors against slow plain loops, and BOP's recalls by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose.evaluation import pose_errors
from codepose.evaluation.average_recalls import (
    MSPD_THRESHOLDS,
    VSD_TAUS,
    TargetErrors,
    average_recalls,
    greedy_match,
    matched_recall,
)
from codepose.evaluation.pose_errors import (
    add,
    add_s,
    mspd,
    mssd,
    symmetric_distance,
    symmetry_transforms,
)

HALF_TURN_Z = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
PRISM: dict[str, Any] = {"symmetries_discrete": [HALF_TURN_Z]}
BOTTLE: dict[str, Any] = {"symmetries_continuous": [{"axis": [0, 0, 2], "offset": [3.0, -4.0, 50.0]}]}
TUBE: dict[str, Any] = {
    "symmetries_discrete": [[1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]],
    "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}],
}
CASES = [{}, PRISM, BOTTLE, TUBE]
K = torch.tensor([[600.0, 0, 320], [0, 620, 240], [0, 0, 1]], dtype=torch.float64)

Plain = NDArray[np.float64]
PlainPose = tuple[Plain, Plain, Plain, Plain]


def random_poses(count: int, seed: int = 0, apart: float = 0.4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Poses half a metre away, and estimates some degrees and millimetres off."""
    rng = np.random.default_rng(seed)
    R_gt = Rotation.random(count, rng).as_matrix()
    R = Rotation.from_rotvec(rng.normal(0, apart, (count, 3))).as_matrix() @ R_gt
    t_gt = rng.normal(0, 40, (count, 3)) + np.array([0, 0, 500])
    t = t_gt + rng.normal(0, 20, (count, 3))
    R_e, t_e, R_g, t_g = (torch.from_numpy(x) for x in (R, t, R_gt, t_gt))
    return R_e, t_e, R_g, t_g


def random_vertices(count: int = 40) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).normal(0, 30, (count, 3)))


# the plain twins: one pose, one symmetry, one vertex at a time, in numpy, as the definitions read


def plain_symmetries(info: dict[str, Any], step: float) -> list[Plain]:
    fixed = [np.eye(4)] + [np.array(m, float).reshape(4, 4) for m in info.get("symmetries_discrete", [])]
    turns = []
    for entry in info.get("symmetries_continuous", []):
        axis, offset = np.array(entry["axis"], float), np.array(entry["offset"], float)
        count = math.ceil(math.pi / step)
        for k in range(count):
            turn = np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(2 * math.pi * k / count * axis / np.linalg.norm(axis)).as_matrix()
            turn[:3, 3] = offset - turn[:3, :3] @ offset
            turns.append(turn)
    return [turn @ one for one in fixed for turn in (turns or [np.eye(4)])]


def plain_largest(vertices: Plain, pose: PlainPose, info: dict[str, Any], camera: Plain | None) -> float:
    R, t, R_gt, t_gt = pose
    best = math.inf
    for symmetry in plain_symmetries(info, 0.05):
        largest = 0.0
        for x in vertices:
            estimated, true = R @ x + t, R_gt @ (symmetry[:3, :3] @ x + symmetry[:3, 3]) + t_gt
            if camera is not None:
                estimated, true = ((camera @ p)[:2] / p[2] for p in (estimated, true))
            largest = max(largest, float(np.linalg.norm(estimated - true)))
        best = min(best, largest)
    return best


def plain_add(vertices: Plain, pose: PlainPose, nearest: bool) -> float:
    R, t, R_gt, t_gt = pose
    estimated, true = [R @ x + t for x in vertices], [R_gt @ x + t_gt for x in vertices]
    if nearest:
        return float(np.mean([min(np.linalg.norm(p - q) for q in estimated) for p in true]))
    return float(np.mean([np.linalg.norm(p - q) for p, q in zip(true, estimated, strict=True)]))


def as_plain(poses: tuple[Tensor, ...]) -> list[PlainPose]:
    return [tuple(x[i].numpy() for x in poses) for i in range(len(poses[0]))]  # type: ignore[misc]


@pytest.mark.parametrize("info", CASES)
def test_mssd_and_mspd_are_their_definitions(info: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, poses, symmetries = random_vertices(8), random_poses(3), symmetry_transforms(info, 0.05)
    for chunk in (1 << 22, 100):  # all symmetries at once, and a few at a time
        monkeypatch.setattr(pose_errors, "_CHUNK", chunk)
        surface = mssd(vertices, *poses, symmetries)
        projection = mspd(vertices, *poses, K, symmetries)
        for i, pose in enumerate(as_plain(poses)):
            assert float(surface[i]) == pytest.approx(plain_largest(vertices.numpy(), pose, info, None), abs=1e-9)
            assert float(projection[i]) == pytest.approx(
                plain_largest(vertices.numpy(), pose, info, K.numpy()), abs=1e-9
            )


def test_add_and_add_s_are_their_definitions() -> None:
    vertices, poses = random_vertices(), random_poses(5)
    averages, nearest = add(vertices, *poses), add_s(vertices, *poses)
    for i, pose in enumerate(as_plain(poses)):
        assert float(averages[i]) == pytest.approx(plain_add(vertices.numpy(), pose, nearest=False), abs=1e-9)
        assert float(nearest[i]) == pytest.approx(plain_add(vertices.numpy(), pose, nearest=True), abs=1e-9)
    assert (nearest <= averages).all()
    assert (averages <= mssd(vertices, *poses)).all()


def test_the_convex_hull_is_enough_for_mssd() -> None:
    from scipy.spatial import ConvexHull

    vertices, poses, symmetries = random_vertices(200), random_poses(4), symmetry_transforms(TUBE)
    hull = vertices[ConvexHull(vertices.numpy()).vertices]
    assert len(hull) < 60
    np.testing.assert_allclose(mssd(hull, *poses, symmetries), mssd(vertices, *poses, symmetries), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("info", CASES)
def test_symmetry_transforms_are_bop_toolkits(info: dict[str, Any]) -> None:
    expected = np.stack(plain_symmetries(info, 0.01))
    transforms = symmetry_transforms(info)
    assert transforms.shape == expected.shape
    np.testing.assert_allclose(transforms.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(transforms[0], torch.eye(4, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_full_turn_has_315_steps_of_at_most_a_hundredth_of_the_diameter() -> None:
    transforms = symmetry_transforms(BOTTLE)
    assert len(transforms) == 315
    rim = torch.tensor([3.0 + 25.0, -4.0, 10.0, 1.0], dtype=torch.float64)  # of a part 50 mm across
    steps = torch.diff(transforms @ rim, dim=0).norm(dim=1)
    assert float(steps.max()) <= 0.01 * 50.0
    on_axis = torch.tensor([3.0, -4.0, 123.0, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(transforms @ on_axis, on_axis.expand(315, 4), rtol=1e-9, atol=1e-9)
    assert len(symmetry_transforms(TUBE)) == 2 * 315


@pytest.mark.parametrize("info", CASES)
def test_a_symmetric_object_under_its_symmetries_has_no_error(info: dict[str, Any]) -> None:
    symmetries = symmetry_transforms(info)
    vertices, some = random_vertices(), symmetries[:: 1 + len(symmetries) // 20]
    _, _, R_gt, t_gt = random_poses(len(some))
    R = R_gt @ some[:, :3, :3]
    t = (R_gt @ some[:, :3, 3:])[..., 0] + t_gt
    poses = (R, t, R_gt, t_gt)
    assert float(mssd(vertices, *poses, symmetries).max()) < 1e-9
    assert float(mspd(vertices, *poses, K, symmetries).max()) < 1e-9
    angle, shift = symmetric_distance(*poses, symmetries)
    assert float(angle.max()) < 1e-7
    assert float(shift.max()) < 1e-9
    assert info == {} or float(mssd(vertices, *poses).max()) > 10.0, "without its symmetries it is far off"


def test_a_continuous_symmetry_between_two_steps_costs_half_a_step() -> None:
    symmetries = symmetry_transforms(TUBE)
    ring = torch.tensor([[20.0 * math.cos(a), 20.0 * math.sin(a), z] for a in range(6) for z in (-30.0, 30.0)]).double()
    between = torch.from_numpy(Rotation.from_rotvec([0, 0, math.pi / 315]).as_matrix())[None]
    eye, t = torch.eye(3).double()[None], torch.tensor([[0.0, 0.0, 400.0]]).double()
    error = float(mssd(ring, between, t, eye, t, symmetries))
    assert error == pytest.approx(2 * 20.0 * math.sin(math.pi / 630), rel=1e-6)


def test_add_s_of_a_turned_prism_is_zero_and_add_is_not() -> None:
    corners = torch.tensor([[x, y, z] for x in (-5.0, 5.0) for y in (-9.0, 9.0) for z in (-2.0, 2.0)])
    turned = torch.tensor(HALF_TURN_Z).reshape(4, 4)[:3, :3].float()[None]
    eye, t = torch.eye(3)[None], torch.tensor([[10.0, 0.0, 300.0]])
    assert float(add_s(corners, turned, t, eye, t)) < 1e-9
    assert float(add(corners, turned, t, eye, t)) == pytest.approx(2 * math.hypot(5, 9), rel=1e-6)


def test_a_shift_by_hand() -> None:
    vertices = random_vertices()
    _, _, R, t = random_poses(1)
    aside = t + torch.tensor([[3.0, 4.0, 0.0]]).double()
    for error in (mssd, add):
        assert float(error(vertices, R, aside, R, t)) == pytest.approx(5.0)
    point = torch.zeros(1, 3).double()
    straight = torch.tensor([[0.0, 0.0, 600.0]]).double()
    assert float(mspd(point, R, straight + torch.tensor([[6.0, 0, 0]]), R, straight, K)) == pytest.approx(6.0)
    angle, shift = symmetric_distance(R, aside, R, t)
    assert float(angle) == pytest.approx(0.0, abs=1e-7)
    assert float(shift) == pytest.approx(5.0)


def test_one_camera_or_one_each_and_any_principal_point() -> None:
    vertices, poses = random_vertices(), random_poses(3)
    one = mspd(vertices, *poses, K)
    np.testing.assert_allclose(mspd(vertices, *poses, K.expand(3, 3, 3)), one, rtol=1e-9, atol=1e-9)
    moved = K.clone()
    moved[:2, 2] += 0.5
    np.testing.assert_allclose(mspd(vertices, *poses, moved), one, rtol=1e-9, atol=1e-9)


def test_a_pose_in_the_cameras_plane_is_infinitely_wrong() -> None:
    point, eye = torch.zeros(1, 3), torch.eye(3)[None]
    there, here = torch.tensor([[0.0, 0.0, 500.0]]), torch.zeros(1, 3)
    assert float(mspd(point, eye, here, eye, there, K)) == math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": torch.zeros(0, 3)}, "vertices must be"),
        ({"R_gt": torch.zeros(2, 3, 3)}, "R_gt must be"),
        ({"t_estimated": torch.zeros(3)}, "t_estimated must be"),
        ({"symmetries": torch.eye(4)}, "symmetries must be"),
    ],
)
def test_wrong_shapes_are_named(change: dict[str, Tensor], message: str) -> None:
    names = ("vertices", "R_estimated", "t_estimated", "R_gt", "t_gt")
    good = dict(zip(names, (random_vertices(), *random_poses(3)), strict=True))
    with pytest.raises(ValueError, match=message):
        mssd(**(good | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="K must be"):
        mspd(**good, K=K[None].expand(2, 3, 3))


def test_a_listed_identity_is_no_symmetry() -> None:
    assert symmetry_transforms({"symmetries_discrete": [torch.eye(4).flatten().tolist()]}).shape == (1, 4, 4)


@pytest.mark.parametrize(
    "info",
    [
        {"symmetries_discrete": [[1.0] * 9]},
        {"symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]},
        {"symmetries_continuous": [{"axis": [0, 1], "offset": [0, 0, 0]}]},
        {"symmetries_discrete": [[-1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]},  # a mirror
    ],
)
def test_symmetries_that_are_none_are_refused(info: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must hold"):
        symmetry_transforms(info)


# recalls


def plain_match(errors: Plain, threshold: float) -> list[int]:
    """bop_toolkit's loop: the nearest free instance that is near enough, estimate by estimate."""
    taken: dict[int, int] = {}
    for e in range(errors.shape[0]):
        best, best_error = -1, threshold
        for g in range(errors.shape[1]):
            if g not in taken and errors[e, g] < best_error:
                best, best_error = g, errors[e, g]
        if best >= 0:
            taken[best] = e
    return [taken.get(g, -1) for g in range(errors.shape[1])]


def test_matching_is_greedy_by_score() -> None:
    errors = np.array([[1.0, 2.0], [0.5, 9.0]])
    assert greedy_match(errors, 5.0).tolist() == [0, -1], "the second estimate fits better but comes too late"
    assert greedy_match(errors, math.inf).tolist() == [0, 1]
    assert greedy_match(errors, 1.0).tolist() == [1, -1], "below the threshold, strictly"
    assert greedy_match(np.zeros((0, 3)), 1.0).tolist() == [-1, -1, -1]
    rng = np.random.default_rng(0)
    for _ in range(200):
        table = rng.random(rng.integers(1, 5, 2)).round(1)
        assert greedy_match(table, 0.6).tolist() == plain_match(table, 0.6)


def test_recall_counts_instances_not_images() -> None:
    near, far = np.zeros((1, 1)), np.full((2, 3), 9.0)
    assert matched_recall([near, far], 1.0) == 0.25
    assert matched_recall([near, np.zeros((0, 1))], 1.0) == 0.5
    assert matched_recall([], 1.0) == 0.0


def target(vsd: float, mssd_value: float, mspd_value: float) -> TargetErrors:
    one = np.ones((1, 1))
    return TargetErrors(np.full((1, 1, len(VSD_TAUS)), vsd), one * mssd_value, one * mspd_value, one)


def test_average_recalls_by_hand() -> None:
    perfect, useless = target(0.0, 0.0, 0.0), target(1.0, 9.0, 999.0)
    assert average_recalls([perfect]) == (1.0, 1.0, 1.0, 1.0)
    assert average_recalls([useless]) == (0.0, 0.0, 0.0, 0.0)
    # 0.22 is below 0.25, 0.3, ... 0.5: 6 of 10; 0.12: 8 of 10; 31 px: 4 of 10
    one = average_recalls([target(0.22, 0.12, 31.0)])
    assert one == pytest.approx((0.6, 0.8, 0.4, 0.6))
    both = average_recalls([target(0.22, 0.12, 31.0), useless])
    assert both == pytest.approx((0.3, 0.4, 0.2, 0.3))


def test_average_recall_of_vsd_is_the_mean_over_tolerances_and_thresholds() -> None:
    values = np.random.default_rng(1).random((1, 1, len(VSD_TAUS)))
    nothing = np.ones((1, 1))
    recalls = average_recalls([TargetErrors(values, nothing, nothing, nothing)])
    hits = [value < 0.05 * k for value in values.flatten() for k in range(1, 11)]
    assert recalls.ar_vsd == pytest.approx(np.mean(hits))


def test_the_thresholds_are_bop19s() -> None:
    np.testing.assert_allclose(VSD_TAUS, np.arange(0.05, 0.51, 0.05))
    np.testing.assert_allclose(MSPD_THRESHOLDS, np.arange(5, 51, 5))
