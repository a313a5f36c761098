"""Poses fitted to depth images whose truth is known: parts, occluders, walls, holes, noise."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from codepose import geometry
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.networks.build import build_joint
from codepose.parts.mesh import load_mesh, save_mesh
from codepose.refinement.depth_fit import DepthRefiner, _Window, agreement, aligning_motion, ray_shifts
from codepose.rendering.renderer import Instances
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.synthesis.world import World

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
K = geometry.camera_matrix(600.0, 320.0, 240.0)
HAMMER, PART = 0, 1
DISTANCE = {HAMMER: 900.0, PART: 500.0}
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def settings(make_settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The hammer, and a bracket whose CAD file's origin is far from its middle."""
    path = tmp_path_factory.mktemp("cad") / "part.ply"
    save_mesh(load_mesh(BRACKET).moved([30.0, -20.0, 10.0]), path)
    return make_settings(**{"objects": [{"mesh": "hammer"}, {"mesh": str(path)}]})


@pytest.fixture(scope="module")
def refiner(settings: Settings) -> DepthRefiner:
    return DepthRefiner(World(settings))


def posed(seed: int, index: int) -> tuple[Array, Array]:
    """A random pose in the image."""
    rng = np.random.default_rng(seed)
    R = Rotation.random(random_state=rng).as_matrix()
    return R, np.array([rng.uniform(-80, 80), rng.uniform(-60, 60), DISTANCE[index]])


def perturbed(R: Array, t: Array, seed: int) -> tuple[Array, Array]:
    """Turned by exactly 10 degrees, moved by exactly 30 mm."""
    turn, step = np.random.default_rng(seed).normal(size=(2, 3))
    turn *= math.radians(10.0) / np.linalg.norm(turn)
    return Rotation.from_rotvec(turn).as_matrix() @ R, t + 30.0 * step / np.linalg.norm(step)


def seen(refiner: DepthRefiner, index: int, R: Array, t: Array, *, hand: bool = False, wall: float = 0.0) -> Array:
    """The exact depth (480, 640), with a hand before the part's edge or a wall behind it."""
    world = refiner.world
    parts = [(index, R, t, 1.0)]
    if hand:
        turned = Rotation.from_euler("y", 40, degrees=True).as_matrix()
        aside, scale = ([45.0, 20.0, 0.0], 0.8) if index == HAMMER else ([25.0, 10.0, 0.0], 0.4)
        parts.append((world.hand_index, turned, 0.85 * t + aside, scale))
    meshes, rotations, places, scales = zip(*parts, strict=True)
    nothing = torch.zeros(len(parts), dtype=torch.long)
    R_all, t_all = (torch.from_numpy(np.stack(x)).float() for x in (rotations, places))
    instances = Instances(nothing, torch.tensor(meshes), R_all, t_all, torch.tensor(scales), nothing - 1)
    depth = world.scene_renderer.render(instances, K[None], (480, 640)).depth[0].numpy()
    return np.where(depth > 0, depth, np.float32(wall))


def off(found: tuple[Array, Array], R: Array, t: Array) -> tuple[float, float]:
    """Degrees and mm."""
    return math.degrees(Rotation.from_matrix(found[0] @ R.T).magnitude()), float(np.linalg.norm(found[1] - t))


def test_agreement_by_hand():
    rendered = np.array([[100.0, 100.0, 100.0, 0.0], [100.0, 100.0, 0.0, 0.0]])
    measured = np.array([[100.0, 105.0, 120.0, 50.0], [60.0, 0.0, 100.0, 0.0]])
    # exact 1; half of tau off 0.75; looked through -1; hidden 0; not measured 0
    assert agreement(rendered, measured, 10.0) == pytest.approx((1.0 + 0.75 - 1.0) / 5)
    assert agreement(np.zeros((2, 2)), np.ones((2, 2)), 10.0) == -1.0


def test_the_shift_is_that_of_the_largest_part_not_of_occluder_or_background():
    rng = np.random.default_rng(0)
    part, occluder, background = rng.normal(30.0, 2.0, 100), rng.normal(-80.0, 2.0, 60), np.full(400, 2000.0)
    shifts = ray_shifts(np.concatenate((background, occluder, part)), 10.0, 100.0, 3)
    np.testing.assert_allclose(shifts, [30.0, -80.0], atol=1.0)
    assert abs(np.median(np.concatenate((background, occluder, part))) - 30.0) > 1000, "a median would not do"
    assert ray_shifts(background, 10.0, 100.0, 3) == []
    near, far = np.full(50, 10.0), np.full(60, 250.0)
    assert ray_shifts(np.concatenate((near, far)), 5.0, 100.0, 1) == [10.0], "a likely shift, though a little rarer"


def test_a_small_motion_is_found_in_one_step():
    rng = np.random.default_rng(1)
    points, normals = rng.normal(0, 50, (40, 3)), rng.normal(size=(40, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    R, t = Rotation.from_rotvec([0.002, -0.001, 0.003]).as_matrix(), np.array([1.0, -2.0, 0.5])
    weights, across = rng.uniform(0.5, 1.0, 40), rng.uniform(0.0, 1.0, 40)
    found = aligning_motion(points, normals, points @ R.T + t, weights, across, 10.0)
    np.testing.assert_allclose(found[0], R, atol=2e-5)
    np.testing.assert_allclose(found[1], t, atol=5e-3)


def test_across_the_normal_a_plane_slides_only_where_it_is_drawn():
    """Targets half a step up and one across: all of the first, and of the second what ``across`` asks for."""
    points = np.stack((*np.mgrid[:5, :5].reshape(2, -1) * 10.0, np.zeros(25)), 1)
    normals, weights, target = np.tile([0.0, 0.0, 1.0], (25, 1)), np.ones(25), points + np.array([1.0, 0.0, 0.5])
    for across, slide in ((0.0, 0.0), (0.2, 1.0)):
        R, t = aligning_motion(points, normals, target, weights, np.full(25, across), 10.0)
        np.testing.assert_allclose(R @ points.mean(0) + t - points.mean(0), [slide, 0.0, 0.5], atol=1e-3)
        np.testing.assert_allclose(R, np.eye(3), atol=1e-6)


def test_a_window_looks_along_the_images_own_rays():
    """Every n-th pixel, with the ray of that pixel's own centre."""
    depth = np.arange(480 * 640, dtype=np.float32).reshape(480, 640)
    window = _Window.cut(depth, K, np.array([100.0, 50.0, 500.0, 350.0]), 100.0)
    assert window is not None
    rows, columns = np.divmod(window.measured.astype(int), 640)
    assert columns[0, 1] - columns[0, 0] == 5
    twin = np.stack(((columns + 0.5 - 320.0) / 600.0, (rows + 0.5 - 240.0) / 600.0, np.ones(rows.shape)), -1)
    np.testing.assert_allclose(window.rays, twin, atol=1e-6)
    k = window.K.double().numpy()
    first = ((0.5 - k[0, 2]) / k[0, 0], (0.5 - k[1, 2]) / k[1, 1])
    np.testing.assert_allclose(first, twin[0, 0, :2], atol=1e-6)
    assert _Window.cut(depth, K, np.array([5000.0, 50.0, 5100.0, 80.0]), 100.0) is None


@pytest.mark.parametrize("wall", [0.0, 5000.0], ids=["nothing behind", "background"])
@pytest.mark.parametrize("index", [HAMMER, PART], ids=["hammer", "bracket"])
def test_a_perturbed_pose_comes_back(refiner: DepthRefiner, index: int, wall: float):
    for seed in range(3):
        R, t = posed(seed, index)
        start = perturbed(R, t, seed)
        assert off(start, R, t) == pytest.approx((10.0, 30.0), abs=1e-6)
        found = refiner.fit(index, *start, K, seen(refiner, index, R, t, wall=wall))
        assert found is not None
        degrees, mm = off(found, R, t)
        assert degrees < 1.0
        assert mm < 1.0


@pytest.mark.parametrize("index", [HAMMER, PART], ids=["hammer", "bracket"])
def test_an_occluder_holes_noise_and_a_wall_are_withstood(refiner: DepthRefiner, index: int):
    errors = []
    for seed in range(3):
        R, t = posed(seed, index)
        rng = np.random.default_rng(seed)
        depth = seen(refiner, index, R, t, hand=True, wall=1.25 * DISTANCE[index])
        alone = seen(refiner, index, R, t)
        assert 0.03 < (depth < alone).sum() / (alone > 0).sum() < 0.7, "the hand hides some of it"
        depth = depth + rng.normal(0.0, 2.0, depth.shape).astype(np.float32)
        depth[rng.random(depth.shape) < 0.3] = 0.0
        found = refiner.fit(index, *perturbed(R, t, seed), K, depth)
        assert found is not None
        errors.append(off(found, R, t))
    assert max(degrees for degrees, _ in errors) < 2.0, errors
    assert max(mm for _, mm in errors) < 2.0, errors


def test_a_part_far_off_along_the_ray_is_not_taken_for_the_wall(refiner: DepthRefiner):
    """A flat part agrees with a wall, too; 60 mm off it still finds itself."""
    R, t = posed(5, HAMMER)
    depth = seen(refiner, HAMMER, R, t, wall=t[2] + 200.0)
    found = refiner.fit(HAMMER, R, t * (1.0 + 60.0 / t[2]), K, depth)
    assert found is not None
    degrees, mm = off(found, R, t)
    assert degrees < 1.0
    assert mm < 1.0


def test_the_true_pose_stays(refiner: DepthRefiner):
    for index in (HAMMER, PART):
        R, t = posed(1, index)
        found = refiner.fit(index, R, t, K, seen(refiner, index, R, t, wall=5000.0))
        assert found is not None, "nothing fits better, but this does"
        degrees, mm = off(found, R, t)
        assert degrees < 0.1
        assert mm < 0.1


def test_where_nothing_of_the_part_is_measured_the_pose_is_kept(refiner: DepthRefiner):
    R, t = posed(0, HAMMER)
    nothing = np.zeros((480, 640), np.float32)
    speck = nothing.copy()
    speck[240, 320:330] = t[2]
    for depth in (nothing, speck, nothing + 5000.0, nothing + 300.0):
        assert refiner.fit(HAMMER, R, t, K, depth) is None
    depth = seen(refiner, HAMMER, R, t)
    assert refiner.fit(HAMMER, R, t * [1.0, 1.0, -1.0], K, depth) is None, "behind the camera"
    assert refiner.fit(HAMMER, R, t + np.array([5000.0, 0.0, 0.0]), K, depth) is None, "beside the image"


def box_of(refiner: DepthRefiner, index: int, R: Array, t: Array) -> Array:
    """Where the detector finds it."""
    place = torch.from_numpy(R)[None].float(), torch.from_numpy(t)[None].float()
    return refiner.world.boxes(torch.tensor([index]), *place, K)[0].double().numpy()


def detection(index: int, R: Array, t: Array, box: Array) -> Detection:
    return Detection("part", index, 0.8, 0.9, box, R, t)


def test_detections_keep_the_cad_files_own_frame(refiner: DepthRefiner):
    R, t = posed(0, PART)
    origin = refiner.world.objects[PART].offset.double().numpy()
    assert np.linalg.norm(origin) > 30.0
    start = perturbed(R, t, 0)
    given = [
        detection(PART, start[0], start[1] - start[0] @ origin, box_of(refiner, PART, R, t)),
        detection(HAMMER, R, t + np.array([5000.0, 0.0, 0.0]), np.array([1.0, 2.0, 30.0, 40.0])),
    ]
    found = refiner(given, K, seen(refiner, PART, R, t, wall=5000.0))
    assert np.array_equal(found[1].t_cam_obj, given[1].t_cam_obj)
    assert [one.depth_fitted for one in found] == [True, False]
    assert off((found[0].R_cam_obj, found[0].t_cam_obj), R, t - R @ origin) < (1.0, 1.0)
    assert np.linalg.norm(found[0].t_cam_obj - (t - R @ origin)) < 1.0
    assert (found[0].label, found[0].score, found[0].object_index) == ("part", 0.8, PART)
    assert np.array_equal(found[0].box, given[0].box)


def test_depth_beside_the_photos_part_moves_no_pose(refiner: DepthRefiner):
    """Not registered, it would draw the pose off the part's own outline in the photo."""
    R, t = posed(0, HAMMER)
    offset = refiner.world.objects[HAMMER].offset.double().numpy()
    box = box_of(refiner, HAMMER, R, t)
    given = detection(HAMMER, R, t - R @ offset, box)
    depth = seen(refiner, HAMMER, R, t, wall=2000.0)
    for share, fitted in ((0.0, True), (0.08, True), (0.25, False)):
        by = round(share * (box[2:] - box[:2]).max())
        found = refiner([given], K, np.roll(depth, by, 1))[0]
        assert found.depth_fitted == fitted, share
        moved = np.linalg.norm(found.t_cam_obj - given.t_cam_obj)
        assert moved > 5.0 if share and fitted else moved < 1.0


@pytest.mark.parametrize(("share", "said"), [(0.06, False), (0.1, True), (0.2, False)])
def test_depth_that_may_not_be_registered_is_worth_a_word(refiner: DepthRefiner, share: float, said: bool) -> None:
    """Below, a detector's box may be as far off; above, no pose is moved."""
    R, t = posed(1, PART)
    offset = refiner.world.objects[PART].offset.double().numpy()
    box = box_of(refiner, PART, R, t)
    shifted = np.roll(seen(refiner, PART, R, t, wall=2000.0), round(share * (box[2:] - box[:2]).max()), 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refiner([detection(PART, R, t - R @ offset, box)], K, shifted)
    assert ["registered to the photo" in str(one.message) for one in caught] == [True] * said


@pytest.fixture(scope="module")
def estimator(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> PoseEstimator:
    run = Run.create(tmp_path_factory.mktemp("depth") / "run", settings)
    run.save_weights("step2", build_joint(settings))
    return PoseEstimator.load(run, device="cpu")


def test_the_estimator_fits_to_depth_of_the_photos_own_size(
    estimator: PoseEstimator, refiner: DepthRefiner, monkeypatch: pytest.MonkeyPatch
):
    """K comes in OpenCV's convention: half a pixel would be 0.75 mm here, and the network's own scale is another."""
    R, t = posed(0, HAMMER)
    start = perturbed(R, t, 0)
    offset = refiner.world.objects[HAMMER].offset.double().numpy()
    true = t - R @ offset
    given = detection(HAMMER, start[0], start[1] - start[0] @ offset, box_of(refiner, HAMMER, R, t))
    monkeypatch.setattr(estimator, "_estimated", lambda *_: [[SimpleNamespace(detection=given)]])
    photo, camera = np.zeros((480, 640, 3), np.uint8), geometry.to_opencv(K).numpy()
    depth = seen(refiner, HAMMER, R, t, wall=5000.0)
    plain = estimator(photo, camera)[0]
    assert np.array_equal(plain.t_cam_obj, given.t_cam_obj)
    found = estimator(photo, camera, depth=depth)[0]
    np.testing.assert_allclose(found.t_cam_obj, true, atol=0.2)
    holes = np.where(np.arange(640) % 5 == 0, np.nan, depth.astype(np.float64))
    np.testing.assert_allclose(estimator(photo, camera, depth=holes)[0].t_cam_obj, true, atol=0.5)
    unseen = estimator(photo, camera, depth=np.zeros((480, 640), np.uint16))[0]
    assert np.array_equal(unseen.t_cam_obj, given.t_cam_obj)
    for wrong in (depth[:-1], depth[..., None], depth > 0, [[1.0]]):
        with pytest.raises(ValueError, match="the depth must be"):
            estimator(photo, camera, depth=wrong)
