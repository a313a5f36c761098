"""PoseEstimator on a trained tiny run: shapes, frames, scaling, errors."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from codepose import geometry
from codepose.estimation.codebook import Codebook, fingerprint
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.fitted_boxes import fitted_boxes
from codepose.estimation.likeliest import worth_a_pose
from codepose.estimation.methods import confidence_mark, load_codebooks, load_pipeline
from codepose.estimation.photo import Photo
from codepose.estimation.pipelines import JointPipeline
from codepose.estimation.window_boxes import detected_boxes, given_boxes
from codepose.networks.build import build_joint
from codepose.networks.windows import letterbox
from codepose.refinement.poses import Poses, Refiner, Seen, Stages
from codepose.runtime.checkpoint import load_state
from codepose.runtime.devices import current_device
from codepose.runtime.run import Run, RunError
from codepose.settings.errors import ConfigError
from codepose.settings.files import override
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


@pytest.fixture(scope="module")
def run(random_run: Run) -> Run:
    return random_run


@pytest.fixture(scope="module")
def estimator(run: Run) -> PoseEstimator:
    return PoseEstimator.load(run, device="cpu")


@pytest.fixture(scope="module")
def more_looks(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same network, which looks at a box three times."""
    copy = Run.create(tmp_path_factory.mktemp("looks") / "run", override(run.settings, {"refinement.looks": 3}))
    shutil.copytree(run.path / "step2", copy.path / "step2", dirs_exist_ok=True)
    return copy


def camera(size: int) -> np.ndarray:
    return geometry.to_opencv(geometry.camera_matrix(75.0 * size / 128, size / 2, size / 2)).numpy()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def refining(estimator: PoseEstimator, refiner: Refiner) -> PoseEstimator:
    """The same with a refiner."""
    return PoseEstimator(estimator.pipeline, estimator.codebooks, refiner, world=estimator.world)


def test_detections_are_complete_and_sorted(estimator: PoseEstimator) -> None:
    image = noise(128, 128)
    found = estimator(image, camera(128))
    assert 0 < len(found) <= 3
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for d in found:
        assert d.label == "hammer"
        assert d.object_index == 0
        assert d.reconstruction is not None
        assert d.reconstruction.shape == (3, 32, 32)
        assert d.t_cam_obj[2] > 0
        assert -1.0 <= d.similarity <= 1.0
        assert -1.0 <= d.agreement <= 1.0
        assert d.contour is None, "nothing was refined"
        assert d.confidence is None, "nothing was calibrated"
        numbers = {"score", "confidence", "similarity", "agreement", "contour", "judged"}
        assert set(d.to_json()) == {"label", *numbers, "box_xyxy", "R_cam_obj", "t_cam_obj_mm"}
    assert estimator(image, camera(128), min_score=1.0) == []
    middle = sorted(d.score for d in found)[len(found) // 2]
    kept = estimator(image, camera(128), min_score=middle)
    assert [d.to_json() for d in kept] == [d.to_json() for d in found if d.score >= middle]


def test_a_photo_of_another_size_gives_the_same_pose(
    estimator: PoseEstimator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the pixels with the camera to match: the same box in the network, the same pose in mm, boxes doubled."""
    box = {"boxes": torch.tensor([[30.0, 70.0, 62.0, 95.0]]), "labels": torch.ones(1).long(), "scores": torch.ones(1)}
    monkeypatch.setattr(estimator.pipeline, "detect", lambda prepared, iou: [box])
    scene = SceneSource(world, "test").scenes(torch.arange(1)).images[0]
    small = (scene.permute(1, 2, 0) * 255).byte().numpy()
    large = small.repeat(2, 0).repeat(2, 1)
    a, b = estimator(small, camera(128))[0], estimator(large, camera(256))[0]
    np.testing.assert_allclose(b.box, 2 * a.box, atol=0.5)
    np.testing.assert_allclose(b.t_cam_obj, a.t_cam_obj, rtol=0.02, atol=2.0)
    np.testing.assert_allclose(b.R_cam_obj, a.R_cam_obj, atol=0.02)


def test_poses_of_true_boxes_lie_at_the_true_place(estimator: PoseEstimator, world: World) -> None:
    """With the true view and box, translation and rotation are the truth, off the axis too."""
    scenes = SceneSource(world, "test").scenes(torch.arange(4))
    book = estimator.codebooks[0]
    seen = world.boxes(scenes.objects, scenes.R_view, world.reference_translations(scenes.objects))
    exact = dataclasses.replace(book, rotations=scenes.R_view, boxes=seen)
    R, t = exact.poses(torch.arange(4), scenes.boxes, scenes.K)
    assert float((t - scenes.t_cam_obj).norm(dim=1).max()) < 0.5
    assert float(geometry.geodesic_angle(R, scenes.R_cam_obj).rad2deg().max()) < 0.05
    # the original's formula alone is far off beside the optical axis
    z_ref = torch.full((4,), book.z_ref)
    rough = geometry.translation_from_box(scenes.boxes, scenes.K, seen, book.K, z_ref)
    assert float(((rough - scenes.t_cam_obj).norm(dim=1) / scenes.t_cam_obj.norm(dim=1)).max()) > 0.05


def test_letterbox_scales_the_longer_side_and_pads_with_black() -> None:
    out, scale = letterbox(torch.ones(1, 3, 30, 60), 128)
    assert out.shape == (1, 3, 128, 128)
    assert scale == pytest.approx((128 / 60, 128 / 60))
    assert float(out[:, :, :64].min()) == pytest.approx(1.0)
    assert float(out[:, :, 64:].max()) == 0.0


def test_the_codebook_is_kept_and_rebuilt_for_new_weights(run: Run) -> None:
    path = run.path / "codebooks" / "joint-1.safetensors"
    PoseEstimator.load(run, device="cpu")
    before = path.stat().st_mtime_ns
    PoseEstimator.load(run, device="cpu")
    assert path.stat().st_mtime_ns == before
    torch.manual_seed(1)
    run.save_weights("step2", build_joint(run.settings))
    PoseEstimator.load(run, device="cpu")
    assert path.stat().st_mtime_ns != before


def test_a_refined_pose_is_given_out_in_the_cameras_frame(estimator: PoseEstimator, world: World) -> None:
    """(300, 0, 400) is 36.87 degrees right of the axis: R_cam_obj is R_view turned by so much about y.

    Of the two poses that the refiner knows, the second one is the better.
    """
    place, R_view = torch.tensor([[300.0, 0.0, 400.0]]), geometry.view_rotation(torch.eye(3)[:1], torch.tensor([0.5]))

    def refined(seen: Seen, poses: Poses) -> Poses:
        assert torch.equal(seen.extent, torch.tensor([128.0, 128.0]))
        assert poses.t.shape == (1, estimator.settings.refinement.judged, 3)
        pairs = ((0.9, 0.8), (0.3, 0.75), (0.9, 0.25), (3.0, -1.5), (1.0, 2.0))
        evidence = (torch.tensor([[first, second]]) for first, second in pairs)
        both = torch.stack((torch.eye(3)[None], R_view), 1), torch.stack((2.0 * place, place), 1)
        return Poses(*both, both[1], *evidence)

    (found,) = refining(estimator, refined).in_boxes(noise(128, 128), camera(128), [[70, 40, 100, 70]], [0])
    turn = torch.tensor([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])  # takes z to (0.6, 0, 0.8)
    np.testing.assert_allclose(found.R_cam_obj, (turn @ R_view)[0], atol=1e-6)
    np.testing.assert_allclose(found.to_camera(world.objects[0].offset.double().numpy()), place[0], atol=1e-3)
    assert (found.agreement, found.contour, found.judged) == (0.75, 0.25, -1.5)


@pytest.mark.parametrize(
    ("scores", "looked_at", "kept"),
    [
        ([1.0, 2.0, 3.0], 3, 2),  # each look is better: as many as the settings allow
        ([1.0, 1.0, 0.5], 3, 1),  # what is as good counts as better, what is worse does not
        ([1.0, 0.5, 2.0], 2, 0),  # the first pose stays, and its box has been looked at
    ],
)
def test_a_box_that_its_pose_shows_to_be_off_is_looked_at_again(
    more_looks: Run, world: World, scores: list[float], looked_at: int, kept: int
) -> None:
    """The first box leads ever farther right; the other one's IoU with its pose's is 0.93."""
    straight = torch.eye(3).expand(2, 1, 3, 3)
    places = [torch.tensor([[[x, 0.0, 900.0]], [[-250.0, 0.0, 900.0]]]) for x in (0.0, 100.0, 200.0)]
    objects = torch.zeros(2, dtype=torch.long)
    seen_boxes: list[torch.Tensor] = []

    def posed(look: int) -> Poses:
        value = torch.full((2, 1), scores[look])
        return dataclasses.replace(Poses.start(straight, places[look], value), agreement=value)

    own = world.boxes(objects, posed(0).R[:, 0], places[0][:, 0], world.K)
    off = own.clone()
    off[0, :] -= 30.0
    off[1, 2:] += 0.037 * (own[1, 2:] - own[1, :2])

    def refined(seen: Seen, _: Poses) -> Poses:
        seen_boxes.append(seen.boxes)
        return posed(len(seen_boxes) - 1).select(torch.arange(len(seen.boxes)))

    three = PoseEstimator.load(more_looks, device="cpu")
    assert three.settings.refinement.looks == 3
    found = refining(three, refined).in_boxes(noise(128, 128), camera(128), off.numpy(), [0, 0])
    assert [len(boxes) for boxes in seen_boxes] == [2, 1, 1][:looked_at]
    torch.testing.assert_close(seen_boxes[1], own[:1])  # the box of the pose that the first look found
    offset = world.objects[0].offset.double().numpy()
    middles = np.array([d.to_camera(offset) for d in found])
    np.testing.assert_allclose(middles, torch.cat((places[kept][0], places[0][1])), atol=1e-3)
    assert [d.agreement for d in found] == [scores[kept], scores[0]]
    prepared = three.pipeline.prepare(torch.from_numpy(noise(128, 128)).permute(2, 0, 1)[None] / 255.0)
    latents = three.pipeline.latents(prepared, torch.cat((seen_boxes[kept][:1], off[1:])), objects)
    shown = torch.from_numpy(np.stack([d.reconstruction for d in found]))  # type: ignore[arg-type]
    torch.testing.assert_close(shown, three.pipeline.decode(latents))


@pytest.mark.parametrize(
    ("judged", "placed"),
    [
        ([5.0, 1.6, 1.4, -1.0], [0, 1]),  # 3.5 behind the best is still near enough, more is not
        ([3.0, 1.0, 0.9, 0.0], [0, 1]),  # log-odds of 1 are enough, less are not
        ([0.9, 0.5, 0.0, -2.0], []),
    ],
)
def test_boxes_that_the_judge_thinks_little_of_get_no_further_work(
    estimator: PoseEstimator, world: World, judged: list[float], placed: list[int]
) -> None:
    """Four boxes that are far off those of their poses; only what is placed is looked at again, too."""
    asked: list[tuple[str, list[float]]] = []
    places = torch.tensor([[[x, 0.0, 900.0]] for x in (-150.0, -50.0, 50.0, 150.0)])
    given = np.array([[8.0 + 30 * k, 10.0, 20.0 + 30 * k, 20.0] for k in range(4)])

    def rank(seen: Seen, _: Poses) -> Poses:
        new = len(asked) > 0
        asked.append(("rank", seen.boxes[:, 0].tolist()))
        rows = torch.tensor(placed if new else [0, 1, 2, 3])
        word = torch.tensor(judged)[rows, None]
        pose = Poses.start(torch.eye(3).expand(len(rows), 1, 3, 3), places[rows], word)
        return dataclasses.replace(pose, judged=word)

    def place(seen: Seen, poses: Poses) -> Poses:
        asked.append(("place", seen.boxes[:, 0].tolist()))
        return dataclasses.replace(poses, contour=torch.full_like(poses.score, 0.25))

    found = refining(estimator, Stages(rank, place)).in_boxes(noise(128, 128), camera(128), given, [0] * 4)
    assert [d.contour for d in found] == [0.25 if k in placed else 0.0 for k in range(4)]
    assert [d.judged for d in found] == pytest.approx(judged)
    first = [("rank", pytest.approx(given[:, 0]))] + [("place", pytest.approx(given[placed, 0]))] * bool(placed)
    assert asked[: len(first)] == first
    assert [(what, len(boxes)) for what, boxes in asked[len(first) :]] == [("rank", 2), ("place", 2)] * bool(placed)


class _Twins:
    """A judge to whom three hammers on a plane look likelier tilted than as they lie; the middle one least."""

    def __init__(self, world: World) -> None:
        turns = [Rotation.from_euler("zx", [turn, 180.0], degrees=True).as_matrix() for turn in (10.0, 80.0, 200.0)]
        tilted = Rotation.from_euler("y", 25.0, degrees=True).as_matrix()
        self.R = torch.from_numpy(np.stack([[tilted @ turn, turn] for turn in turns])).float()
        x = torch.tensor([-250.0, 0.0, 250.0])[:, None]
        self.t = torch.stack((x, 0.0 * x, 900.0 + 0.0 * x), -1).expand(3, 2, 3)
        self.boxes = world.boxes(torch.zeros(3, dtype=torch.long), self.R[:, 0], self.t[:, 0])
        self.judged = torch.tensor([[6.0, 5.5], [5.0, 4.5], [8.0, 6.5]])

    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        start = Poses.start(geometry.offaxis_rotation(self.t).mT @ self.R, self.t, torch.zeros(3, 2))
        values = {"judged": self.judged, "contour": self.judged / 100, "agreement": self.judged / 10}
        return dataclasses.replace(start, **values)

    def scores(self, seen: Seen, poses: Poses) -> torch.Tensor:
        return torch.full_like(poses.score, -9.0)

    @staticmethod
    def place(seen: Seen, poses: Poses) -> Poses:
        return dataclasses.replace(poses, score=poses.judged)


@pytest.mark.parametrize("given", [False, True])
def test_the_plane_on_which_parts_lie_decides_between_poses_that_look_the_same(
    estimator: PoseEstimator, world: World, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    twins = _Twins(world)
    whole = PoseEstimator(
        *(estimator.pipeline, estimator.codebooks, Stages(twins, twins.place)),
        confidence=lambda told: told[:, -1] / 10,  # type: ignore[arg-type]
        world=world,
    )
    image, K = noise(128, 128), camera(128)
    boxes = given_boxes(estimator.pipeline, Photo.of(image, K, estimator.device), twins.boxes, torch.zeros(3).long())
    monkeypatch.setattr(whole, "boxes", lambda *_: [[dataclasses.replace(boxes, scores=torch.full((3,), 0.5))]])
    found = whole.in_boxes(image, K, twins.boxes, [0, 0, 0]) if given else whole(image, K)
    order = [0, 1, 2] if given else [2, 0, 1]  # best first
    offset = world.objects[0].offset.double().numpy()
    for one, row in zip(found, order, strict=True):
        np.testing.assert_allclose(one.R_cam_obj, twins.R[row, 1], atol=1e-5)
        np.testing.assert_allclose(one.to_camera(offset), twins.t[row, 1], atol=1e-2)
        judged = float(twins.judged[row, 1])
        assert (one.judged, one.contour) == pytest.approx((judged, judged / 100))
        assert one.agreement == pytest.approx(judged / 10)
        assert one.confidence == (None if given else pytest.approx(judged / 10, abs=0.05))
        np.testing.assert_allclose(one.box, twins.boxes[row], atol=1e-3)
    if not given:  # what depth has measured is worth more
        flat = whole(image, K, depth=np.zeros((128, 128), np.float32))
        assert sorted(d.judged or 0.0 for d in flat) == [5.0, 6.0, 8.0]
        ((many,),) = [list(whole.many([image], [K]))]
        assert [d.judged for d in many] == [d.judged for d in found]


def test_parts_that_a_plane_brings_to_one_place_are_one(
    estimator: PoseEstimator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two were apart as long as one of them was thought farther away; the better one stays."""
    twins = _Twins(world)
    twins.t = twins.t.clone()
    twins.t[2, 1] = twins.t[0, 1]
    twins.R[2, 1] = twins.R[0, 1]
    whole = refining(estimator, Stages(twins, twins.place))
    image, K = noise(128, 128), camera(128)
    boxes = given_boxes(estimator.pipeline, Photo.of(image, K, estimator.device), twins.boxes, torch.zeros(3).long())
    monkeypatch.setattr(whole, "boxes", lambda *_: [[boxes]])
    assert [d.judged for d in whole(image, K)] == [6.5, 4.5]


@pytest.mark.parametrize(("height", "width"), [(128, 128), (150, 200), (200, 150)])
def test_a_given_box_gets_the_pose_that_the_same_box_gets_when_it_is_found(
    estimator: PoseEstimator, height: int, width: int
) -> None:
    """In photos of any shape, which the network sees letterboxed."""
    image, K = noise(height, width), camera(max(height, width))
    found = estimator(image, K)
    given = estimator.in_boxes(image, K, np.array([d.box for d in found]), [d.object_index for d in found])
    assert len(given) == len(found) > 0
    for a, b in zip(given, found, strict=True):
        np.testing.assert_allclose(a.box, b.box, atol=1e-3)
        np.testing.assert_allclose(a.R_cam_obj, b.R_cam_obj, atol=1e-3)
        np.testing.assert_allclose(a.t_cam_obj, b.t_cam_obj, rtol=1e-3, atol=0.1)
        assert a.similarity == pytest.approx(b.similarity, abs=1e-4)
        assert (a.score, a.confidence) == (1.0, None)


def test_found_boxes_are_moved_before_their_poses_are_refined(estimator: PoseEstimator) -> None:
    """To where their codes are clearest; boxes that are given, or whose poses are not refined, stay."""
    looked_at: list[torch.Tensor] = []

    def refined(seen: Seen, poses: Poses) -> Poses:
        looked_at.append(seen.boxes)
        return poses.best(1)

    image, K, refiner = noise(128, 128), camera(128), refining(estimator, refined)
    plain = estimator(image, K)
    photo = Photo.of(image, K, estimator.device)
    ((as_found,),) = estimator.boxes([photo])
    np.testing.assert_allclose([d.box for d in plain], as_found.boxes, atol=1e-3)
    ((every,),) = detected_boxes(estimator.pipeline, [photo], 1, 0.7)  # more candidates than poses that are shown
    ((few,),) = detected_boxes(estimator.pipeline, [photo], 1)
    assert not torch.equal(few.boxes, every.boxes)
    moved = fitted_boxes(estimator.pipeline, estimator.codebooks, every)
    assert (moved.boxes - every.boxes).abs().max() > 1.0
    most = estimator.settings.detection.per_object
    moved = moved.select(worth_a_pose(estimator.pipeline, estimator.codebooks, moved, most))
    ((asked,),) = refiner.boxes([photo])
    torch.testing.assert_close(asked.boxes, moved.boxes)
    found = refiner(image, K)
    torch.testing.assert_close(looked_at[0], moved.boxes)
    assert {tuple(d.box.round(2)) for d in found} <= {tuple(box) for box in moved.boxes.double().numpy().round(2)}
    looked_at.clear()
    refiner.in_boxes(image, K, as_found.boxes, as_found.objects.tolist())
    torch.testing.assert_close(looked_at[0], as_found.boxes)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (960, 1280), (1280, 960)])
def test_of_refined_poses_that_take_the_same_pixels_the_better_stays(
    estimator: PoseEstimator, height: int, width: int
) -> None:
    """In a corner: one a little nearer takes the pixels of the first, one three diameters beside it does not."""
    size = max(height, width)
    photo = Photo.of(noise(height, width), camera(size), estimator.device)
    part = estimator.world.objects[0]
    diameter, offset = part.mesh.diameter, part.offset.double().numpy()
    R = np.diag([-1.0, 1.0, -1.0])
    z = 8.0 * diameter
    at = np.array([0.15 * width, 0.8 * height]) - size / 2
    corner = np.array([*(at / (75.0 / 128 * size)), 1.0])
    places = [z * corner, (z - 0.1 * diameter) * corner, z * corner + [3.0 * diameter, 0.0, 0.0]]
    box = np.array([0.0, 0.0, 9.0, 9.0])
    found = [Detection(f"{i}", 0, 0.9, 0.5, box, R, t - R @ offset, judged=3.0) for i, t in enumerate(places)]
    refiner = refining(estimator, lambda seen, poses: poses.best(1))
    assert [d.label for d in refiner._distinct(found, photo)] == ["0", "2"]
    assert [d.label for d in refiner._distinct(found[1:], photo)] == ["1", "2"]


def test_in_tiles_as_many_boxes_get_refined_poses_as_there_are_tiles_across(estimator: PoseEstimator) -> None:
    """Times the settings' number; without refinement each window has its own."""
    most = estimator.settings.detection.per_object
    refiner = refining(estimator, lambda seen, poses: poses.best(1))
    photo = Photo.of(noise(256, 256), camera(256), estimator.device)
    (plain,), (dear,) = estimator.boxes([photo], 2), refiner.boxes([photo], 2)
    assert max(len(view.boxes) for view in plain) == most
    assert sum(len(view.boxes) for view in plain) > 2 * most
    assert sum(len(view.boxes) for view in dear) == 2 * most


def test_a_damaged_codebook_is_built_anew_with_a_word(run: Run) -> None:
    path = run.path / "codebooks" / "joint-1.safetensors"
    PoseEstimator.load(run, device="cpu")
    whole, codes = path.read_bytes(), load_state(path)["codes"]
    path.write_bytes(whole[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"joint-1.safetensors is damaged.*; it is built anew"):
        PoseEstimator.load(run, device="cpu")
    assert torch.equal(load_state(path)["codes"], codes)


def test_wrong_inputs_are_refused_in_words(estimator: PoseEstimator, run: Run, tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        estimator(image.astype(np.float32), camera(128))
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        estimator(image[..., 0], camera(128))
    with pytest.raises(ValueError, match="3 x 3"):
        estimator(image, np.eye(4))
    with pytest.raises(ValueError, match="3 x 3"):
        estimator(image, np.full((3, 3), np.nan))
    with pytest.raises(RunError, match="detector"):
        PoseEstimator.load(run, "extended", device="cpu")
    with pytest.raises(RunError, match="no run folder"):
        PoseEstimator.load(tmp_path)


def test_a_detection_is_checked_when_made() -> None:
    good = {"label": "a", "object_index": 0, "score": 0.5, "similarity": 0.9, "box": np.zeros(4)}
    Detection(**good, R_cam_obj=np.eye(3), t_cam_obj=np.ones(3))
    with pytest.raises(ValueError, match="rotation"):
        Detection(**good, R_cam_obj=np.diag([1.0, 1.0, -1.0]), t_cam_obj=np.ones(3))
    with pytest.raises(ValueError, match=r"t_cam_obj must have shape \(3,\)"):
        Detection(**good, R_cam_obj=np.eye(3), t_cam_obj=np.ones(4))
    with pytest.raises(ValueError, match="finite"):
        Detection(**good, R_cam_obj=np.eye(3), t_cam_obj=np.full(3, np.inf))
    with pytest.raises(ValueError, match="score"):
        Detection(**{**good, "score": 1.5}, R_cam_obj=np.eye(3), t_cam_obj=np.ones(3))


def test_one_encoder_pass_serves_boxes_and_latents(estimator: PoseEstimator) -> None:
    pipeline = estimator.pipeline
    assert isinstance(pipeline, JointPipeline)
    calls = []
    handle = pipeline.network.autoencoder.encoder.register_forward_hook(lambda *_: calls.append(1))
    assert len(list(estimator.many([noise(128, 128)] * 2, [camera(128)] * 2))) == 2
    handle.remove()
    assert len(calls) == 1


def test_the_usual_gpu_is_left_to_torch_and_a_numbered_one_is_made_current(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    assert [current_device(name).type for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda", "cpu"]
    assert made == [torch.device("cuda:1")]  # torch refuses a device without a number


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "abacus"])
def test_a_device_that_is_not_there_is_named(run: Run, device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        PoseEstimator.load(run, device=device)


def test_a_confidence_is_that_of_one_network(run: Run, tmp_path: Path) -> None:
    """What only the detector changed changes its scores, and so the evidence; the codebooks stay as they are."""
    pipeline = load_pipeline(run, "joint", torch.device("cpu"))
    books = load_codebooks(run, "joint", pipeline)
    mark = confidence_mark(pipeline, books, refined=True)
    assert confidence_mark(load_pipeline(run, "joint", torch.device("cpu")), books, refined=True) == mark
    assert confidence_mark(pipeline, books, refined=False) != mark
    assert isinstance(pipeline, JointPipeline)
    with torch.no_grad():
        next(pipeline.network.heads.parameters()).add_(0.1)
    assert fingerprint(pipeline) == books[0].fingerprint
    assert confidence_mark(pipeline, books, refined=True) != mark


def test_depth_in_metres_is_refused(estimator: PoseEstimator) -> None:
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"ends 0.6 mm from the camera: it must be in mm"):
        estimator(image, camera(128), depth=np.full((128, 128), 0.6))


def test_a_run_that_cannot_be_written_serves_all_the_same(run: Run, tmp_path: Path, monkeypatch) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("codebooks"))

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Codebook, "save", refuse)
    with pytest.warns(UserWarning, match="cannot be kept"):
        PoseEstimator.load(copy, device="cpu")


def test_the_judges_word_ranks_the_detections(estimator: PoseEstimator) -> None:
    """The refiner holds the detector's first for the worst."""

    def refined(seen: Seen, poses: Poses) -> Poses:
        return dataclasses.replace(poses.best(1), judged=torch.arange(len(poses.t)).float()[:, None])

    found = refining(estimator, refined)(noise(128, 128), camera(128))
    assert [d.judged for d in found] == [2.0, 1.0, 0.0]
    assert found[0].score <= found[-1].score


def test_a_part_that_is_seen_this_way_and_the_other_way_round_is_one(estimator: PoseEstimator) -> None:
    """Poses that take the same pixels for their own: the judge's favourite stays, and another one beside it.

    Depth tells apart what lies one upon the other.
    """
    beside = torch.tensor([[-60.0, 0.0, 900.0], [60.0, 0.0, 900.0], [60.0, 0.0, 900.0]])
    turned = geometry.view_rotation(torch.eye(3)[[0, 0, 0]], torch.tensor([0.2, 0.2, 0.2 + torch.pi]))

    def refined(seen: Seen, poses: Poses) -> Poses:
        judged = torch.arange(len(poses.t)).float()[:, None]
        t = beside[: len(poses.t), None]
        return dataclasses.replace(poses.best(1), R_view=turned[: len(t), None], t=t, boxed=t, judged=judged)

    image, K = noise(128, 128), camera(128)
    # the CAD file's origin may lie anywhere
    books = [dataclasses.replace(book, offset=book.offset + 300.0) for book in estimator.codebooks]
    refiner = PoseEstimator(estimator.pipeline, books, refined, world=estimator.world)
    assert len(refiner.boxes([Photo.of(image, K, estimator.device)])[0][0].boxes) == 3
    found = refiner(image, K)
    assert [d.judged for d in found] == [2.0, 0.0]
    assert [d.judged for d in next(refiner.many([image], [K]))] == [2.0, 0.0]
    assert len(refiner(image, K, depth=np.zeros((128, 128), np.float32))) == 3
    detection = refiner.settings.detection.model_copy(update={"nms": 0.99})
    refiner.settings = refiner.settings.model_copy(update={"detection": detection})
    assert len(refiner(image, K)) == 3, "boxes may overlap as far as the settings say"


@pytest.mark.parametrize("tiles", [1, 2])
def test_several_photos_at_once_are_each_answered_as_alone(
    estimator: PoseEstimator, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of different sizes and cameras, too; and all of them go through the encoder together."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (*shape, 3), dtype=np.uint8) for shape in ((128, 128), (96, 128), (120, 80))]
    cameras = [camera(128), camera(128), camera(100)]
    sizes = []
    prepare = estimator.pipeline.prepare
    monkeypatch.setattr(estimator.pipeline, "prepare", lambda x: (sizes.append(len(x)), prepare(x))[1])
    alone = [estimator(image, K, tiles=tiles) for image, K in zip(images, cameras, strict=True)]
    windows = len(sizes)
    assert sizes == [1] * windows
    together = list(estimator.many(images, cameras, tiles=tiles))
    assert sum(sizes[windows:]) == windows
    assert max(sizes[windows:]) == 3
    assert [len(found) for found in together] == [len(found) for found in alone]
    for a, b in zip((d for f in together for d in f), (d for f in alone for d in f), strict=True):
        np.testing.assert_allclose(a.box, b.box, atol=0.01)
        assert a.score == pytest.approx(b.score, abs=1e-4)
        np.testing.assert_allclose(a.t_cam_obj, b.t_cam_obj, rtol=1e-3)
    assert list(estimator.many([], [])) == []
