"""codepose-runtime finds what codepose finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from codepose import geometry
from codepose.cli.main import main
from codepose.estimation.confidence import Confidence
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import confidence_mark, confidence_path
from codepose.networks.build import build_joint
from codepose.refinement.edge_votes import EdgeField
from codepose.rendering.renderer import Instances, Renderer
from codepose.runtime.run import Run
from codepose.settings.files import override
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
K = geometry.to_opencv(geometry.camera_matrix(75.0, 64.0, 64.0)).numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_settings: Any) -> Run:
    """Two parts, random weights, calibrated without refinement; something is found everywhere."""
    settings = make_settings(**{"detection.score": 0.0, "detection.per_object": 3})
    one = settings.objects[0]
    settings = settings.model_copy(
        update={"objects": (one, one.model_copy(update={"label": "other", "mesh": str(BRACKET)}))}
    )
    torch.manual_seed(3)
    run = Run.create(tmp_path_factory.mktemp("runner") / "run", override(settings, {}))
    run.save_weights("step2", build_joint(settings))
    loaded = PoseEstimator.load(run, device="cpu")
    told = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    path = confidence_path(run, "joint", refined=False)
    path.parent.mkdir()
    mark = confidence_mark(loaded.pipeline, loaded.codebooks, refined=False)
    Confidence.fit(told, told[:, 0] > 0.5, mark).save(path)
    return run


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "new" / "parts"
    assert main(["export", str(run.path), str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def refined(run: Run) -> PoseEstimator:
    return PoseEstimator.load(run, device="cpu", refine=True)


@pytest.fixture(scope="module")
def photo(refined: PoseEstimator) -> np.ndarray:
    scene = SceneSource(refined.world, "test").scenes(torch.arange(1))
    return (scene.images[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def angle_deg(a: Detection, b: Any) -> float:
    cosine = (np.trace(a.R_cam_obj.T @ b.R_cam_obj) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def assert_same(wanted: list[Detection], found: list[Any]) -> None:
    assert [one.label for one in found] == [one.label for one in wanted]
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other.box, one.box, atol=0.01)
        np.testing.assert_allclose(other.R_cam_obj, one.R_cam_obj, atol=1e-4)
        np.testing.assert_allclose(other.t_cam_obj, one.t_cam_obj, atol=0.1)
        for name in ("score", "similarity", "agreement", "confidence"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-4), name
        np.testing.assert_allclose(other.reconstruction, one.reconstruction, atol=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (300, 200), (90, 160)])
def test_poses_are_those_of_the_estimator(
    run: Run, folder: Path, installed: Path, photo: np.ndarray, size: tuple[int, int]
) -> None:
    runner = import_module("codepose_runtime").PoseRunner(folder, refine=False)
    picture = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
    wanted = PoseEstimator.load(run, device="cpu")(picture, K)
    assert {one.label for one in wanted} == {"hammer", "other"}
    assert all(one.confidence is not None for one in wanted)
    assert_same(wanted, runner(picture, K))


def test_candidates_for_refined_poses_are_those_of_the_estimator(
    refined: PoseEstimator, folder: Path, installed: Path, photo: np.ndarray
) -> None:
    """Of more boxes than without refinement, moved to where their codes are clearest."""
    runner = import_module("codepose_runtime").PoseRunner(folder).estimator
    seen = []
    for one in (refined, runner):
        (looked_at,) = one.boxes([import_module(type(one).__module__).Photo.of(photo, K, one.device)])
        seen.append(np.concatenate([view.boxes.cpu().numpy() for view in looked_at]))
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        image = pixels if one is refined else import_module("codepose_runtime.tensors").Tensor(pixels.numpy())
        prepared = one.pipeline.prepare(image)
        few, many = (one.pipeline.detect(prepared, iou)[0]["boxes"].cpu().numpy() for iou in (None, 0.7))
        seen += [few, many]
    for wanted, found in zip(seen[:3], seen[3:], strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.05)
    assert len(seen[1]) != len(seen[2]) or np.abs(seen[1] - seen[2]).max() > 1.0


def test_refined_poses_are_those_of_the_estimator(
    refined: PoseEstimator, folder: Path, installed: Path, photo: np.ndarray
) -> None:
    """In true boxes, so that there is something to refine; a network that knows nothing leaves the judge undecided."""
    runner = import_module("codepose_runtime").PoseRunner(folder)
    scene = SceneSource(refined.world, "test").scenes(torch.arange(1))
    boxes, objects = scene.boxes.numpy(), scene.objects.tolist()
    for part in (lambda refiner: refiner.second.contours, lambda refiner: refiner):
        wanted, found = (
            type(one)(one.pipeline, one.codebooks, part(one.refiner), world=one.world).in_boxes(
                photo, K, boxes, objects
            )
            for one in (refined, runner.estimator)
        )
        for one, other in zip(wanted, found, strict=True):
            assert other.contour == pytest.approx(one.contour, abs=0.02)
            assert other.judged == pytest.approx(one.judged, abs=0.25)  # 0 where it was not asked
            if one.judged == 0.0:  # of those that the judge holds for equal, a last digit decides which it is
                assert angle_deg(one, other) < 0.1
                np.testing.assert_allclose(other.t_cam_obj, one.t_cam_obj, rtol=1e-3, atol=0.1)


class Near(NamedTuple):
    """Poses a few millimetres beside the true ones of four scenes, as codepose's tensors or the runner's."""

    seen: Any
    poses: Any


def near_truth(package: str, scenes: SceneBatch, tensor: Any) -> Near:
    poses = import_module(f"{package}.refinement.poses")
    values = {
        "images": scenes.images,
        "which": torch.arange(4),
        "boxes": scenes.boxes,
        "objects": scenes.objects,
        "K": scenes.K,
        "reconstructions": torch.zeros(4, 3, 2, 2),
        "extent": torch.tensor([128.0, 128.0]),
    }
    seen = poses.Seen(**{name: tensor(value.numpy()) for name, value in values.items()})
    views = (scenes.R_view[:, None], 1.01 * scenes.t_cam_obj[:, None], torch.zeros(4, 1))
    return Near(seen, poses.Poses.start(*(tensor(value.numpy()) for value in views)))


def test_the_judge_says_what_it_says_in_codepose(refined: PoseEstimator, folder: Path, installed: Path) -> None:
    """Of the same poses, and moves them alike."""
    runner = import_module("codepose_runtime").PoseRunner(folder).estimator
    scenes = SceneSource(refined.world, "test").scenes(torch.arange(4), 0.3)
    here = near_truth("codepose", scenes, torch.from_numpy)
    there = near_truth("codepose_runtime", scenes, import_module("codepose_runtime.tensors").from_numpy)
    scores, same = refined.refiner.first.scores(*here).numpy(), runner.refiner.first.scores(*there).numpy()
    assert np.ptp(scores) > 0.5, "not all poses are alike to it"
    np.testing.assert_allclose(same, scores, atol=0.1)  # bf16 here, where the processor has it
    moved, also = refined.refiner.first(*here), runner.refiner.first(*there)
    assert np.abs(moved.t[:, 0].numpy() - here.poses.t[:, 0].numpy()).max() > 0.5
    off = np.linalg.norm(also.t[:, 0].numpy() - moved.t[:, 0].numpy(), axis=-1)
    assert np.median(off) < 0.5


def test_edges_are_fitted_as_codepose_fits_them(refined: PoseEstimator, folder: Path, installed: Path) -> None:
    """Poses a few millimetres beside the true ones, of which something is seen."""
    runner = import_module("codepose_runtime").PoseRunner(folder)
    scenes = SceneSource(refined.world, "test").scenes(torch.arange(4), 0.3)

    def fitted(package: str, world: Any, tensor: Any) -> Any:
        return import_module(f"{package}.refinement.edge_fit").EdgeFit(world)(*near_truth(package, scenes, tensor))

    wanted = fitted("codepose", refined.world, torch.from_numpy)
    found = fitted("codepose_runtime", runner.estimator.world, import_module("codepose_runtime.tensors").from_numpy)
    assert (wanted.t[:, 0] - 1.01 * scenes.t_cam_obj).norm(dim=1).min() > 1.0, "all move"
    off = np.linalg.norm(found.t.numpy() - wanted.t.numpy(), axis=-1)
    assert np.median(off) < 0.5
    assert off.max() < 3.0, "a last digit may decide which of two edges is nearer"
    assert np.median(np.abs(found.R_view.numpy() - wanted.R_view.numpy())) < 1e-3


@pytest.mark.parametrize("far", [False, True])
def test_the_program_leaves_out_what_lies_elsewhere(
    run: Run, folder: Path, installed: Path, photo: np.ndarray, tmp_path: Path, far: bool
) -> None:
    """As predict does: more than a quarter beyond either end of --distance."""
    program = import_module("codepose_runtime.cli").main
    offsets = {one.label: one.offset.numpy() for one in World(run.settings).objects}
    Image.fromarray(photo).save(tmp_path / "photo.png")
    intrinsics = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"

    def found(name: str, *words: str) -> list[dict[str, Any]]:
        asked = [str(folder), str(tmp_path / "photo.png"), "--K", intrinsics, "--min-score", "0.01", "--no-refine"]
        assert program([*asked, *words, "--out", str(tmp_path / name)]) == 0
        detections: list[dict[str, Any]] = json.loads((tmp_path / name / "photo.json").read_text())["detections"]
        return detections

    everything = found("all")
    away = [float(np.linalg.norm(one["R_cam_obj"] @ offsets[one["label"]] + one["t_cam_obj_mm"])) for one in everything]
    between = (min(away) + max(away)) / 2
    assert max(away) > between + 0.01 > min(away) + 0.02
    distance = (between * 1.25, 1e6) if far else (1.0, between / 1.25)
    wanted = [one for one, mm in zip(everything, away, strict=True) if (mm > between) == far]
    assert found("some", "--distance", *map(str, distance)) == wanted


def test_the_program_writes_what_predict_writes(
    run: Run, folder: Path, installed: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    """It runs where neither PyTorch nor anything else that only codepose needs can be imported."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "photo.png").read_bytes()[:200])
    intrinsics = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"
    names = [str(tmp_path / "photo.png"), str(tmp_path / "damaged.png"), "--K", intrinsics, "--min-score", "0.01"]
    asked = ["predict", str(run.path), *names, "--no-refine", "--write", "json", "--out", str(tmp_path / "wanted")]
    assert main(asked) == 1
    barred = ("torch", "torchvision", "warp", "kornia", "scipy", "trimesh", "pydantic", "safetensors", "codepose")
    code = f"import sys; sys.modules.update(dict.fromkeys({barred}))\n"
    code += "from codepose_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(folder), *names, "--no-refine", "--out", str(tmp_path / "found")]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "damaged.png skipped: " in done.stderr
    files = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("wanted", "found")]
    assert files == [["photo.json", "predictions.jsonl"]] * 2
    wanted, found = (json.loads((tmp_path / name / "photo.json").read_text()) for name in ("wanted", "found"))
    assert found.keys() == wanted.keys()
    assert len(found["detections"]) == len(wanted["detections"]) > 0
    for one, other in zip(wanted["detections"], found["detections"], strict=True):
        assert other.keys() == one.keys()
        np.testing.assert_allclose(other["box_xyxy"], one["box_xyxy"], atol=0.01)
        np.testing.assert_allclose(other["t_cam_obj_mm"], one["t_cam_obj_mm"], atol=0.1)


@pytest.mark.parametrize("name", ["runner.safetensors", "codebook-2.safetensors", "latents.onnx"])
def test_a_damaged_file_is_refused(folder: Path, installed: Path, tmp_path: Path, name: str) -> None:
    runtime, graphs = (import_module(f"codepose_runtime{part}") for part in ("", ".graphs"))
    shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "copy" / name).write_bytes(content)
    with pytest.raises(graphs.FolderError, match=f"{name} is damaged: it does not match its checksum"):
        runtime.PoseRunner(tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(graphs.FolderError, match=name):
        runtime.PoseRunner(tmp_path / "copy")


def test_errors_are_one_line(folder: Path, installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = import_module("codepose_runtime.cli").main
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    for arguments, advice in (
        ([str(tmp_path / "none"), photo, "--K", "fov=60"], "is no folder"),
        ([str(tmp_path), photo, "--K", "fov=60"], "holds no runner.safetensors"),
        ([str(folder), photo, "--K", "1,2,3"], "is not four numbers"),
        ([str(folder), str(tmp_path / "none.png"), "--K", "fov=60"], "does not exist"),
        ([str(folder), photo, "--K", "fov=60", "--tiles", "0"], "--tiles must lie between"),
        (
            [str(folder), photo, "--K", "fov=60", "--distance", "700", "400"],
            "--distance is the nearest and the farthest",
        ),
        ([str(folder), photo, "--K", "camera.yaml"], "reads no calibration files"),
    ):
        assert program(arguments) == 1
        told = capsys.readouterr().err
        assert advice in told
        assert told.count("\n") == 1


def test_what_cannot_be_exported_is_said(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["export", str(run.path), str(tmp_path / "file")]) == 1
    assert "is a file: choose another folder" in capsys.readouterr().err


def test_the_rasteriser_draws_what_codepose_draws(world: World, installed: Path) -> None:
    tensors, renderers = (import_module(f"codepose_runtime.{name}") for name in ("tensors", "rendering.renderer"))
    mesh, count = world.objects[0].mesh, 6
    assert mesh.closed
    generator = torch.Generator().manual_seed(0)
    turns = geometry.view_rotation(
        torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1),
        torch.rand(count, generator=generator) * 6.0,
    )
    places = torch.tensor([[5.0, -20.0, 500.0]]).repeat(count, 1)
    places[-1, 2], places[-2, :2] = 40.0, 260.0  # around the camera; half outside the image
    cameras = geometry.camera_matrix(120.0, 50.0, 40.0).expand(count, 3, 3)
    numbers = torch.zeros(count).long()
    wanted = Renderer([mesh]).render(Instances.single(numbers, turns, places), cameras, (80, 96))
    given = (tensors.from_numpy(x.numpy()) for x in (numbers, turns, places))
    drawn = renderers.Renderer([mesh]).render(
        renderers.Instances.single(*given), tensors.from_numpy(cameras.numpy()), (80, 96)
    )
    other = drawn.instance.array != wanted.instance.numpy()
    assert other.mean() < 1e-4  # at an edge a rounding may decide
    assert (wanted.instance >= 0).float().mean() > 0.05
    for name in ("depth", "normal", "color"):
        found, true = getattr(drawn, name).array, getattr(wanted, name).numpy()
        off = np.abs(found - true).reshape(*other.shape, -1).max(-1)
        assert np.quantile(off[~other], 0.9995) < 1e-2, name


@pytest.mark.parametrize("turns", [1, 7])
def test_edges_vote_as_in_codepose(installed: Path, turns: int) -> None:
    tensors, votes = (import_module(f"codepose_runtime.{name}") for name in ("tensors", "refinement.edge_votes"))
    random = np.random.default_rng(0)
    field = random.normal(size=(2, 2, 20, 24)).astype(np.float32)
    points = random.normal(size=(5, 11, 3)).astype(np.float32)
    directions = random.normal(size=(5, 11, 2)).astype(np.float32)
    projections = (random.normal(size=(6, turns, 3, 3)) * 3.0 + np.eye(3)).astype(np.float32)
    shifts = (random.normal(size=(6, 7, 3)) * 4.0 + [60.0, 60.0, 5.0]).astype(np.float32)
    angles = random.normal(size=(6, turns)).astype(np.float32)
    given = (points, directions, projections, shifts, angles, np.array([0, 1, 4, 2, 3, 3]))
    wanted = EdgeField(torch.from_numpy(field)).votes(*map(torch.from_numpy, given))
    found = votes.EdgeField(tensors.from_numpy(field)).votes(*map(tensors.from_numpy, given))
    assert wanted.abs().mean() > 0.1
    np.testing.assert_allclose(found.array, wanted.numpy(), atol=1e-3)


def test_the_plane_on_which_parts_lie_is_asked_as_the_estimator_asks_it(
    refined: PoseEstimator, folder: Path, installed: Path
) -> None:
    """Three hammers whose tilted twins are a little likelier: both take them as they lie."""
    runner = import_module("codepose_runtime").PoseRunner(folder).estimator
    turns = [Rotation.from_euler("zx", [turn, 180.0], degrees=True).as_matrix() for turn in (10.0, 80.0, 200.0)]
    tilted = Rotation.from_euler("y", 25.0, degrees=True).as_matrix()
    R = np.stack([[tilted @ turn, turn] for turn in turns]).astype(np.float32)
    t = np.array([[[x, 0.0, 900.0]] * 2 for x in (-250.0, 0.0, 250.0)], np.float32)
    chosen = []
    for one in (refined, runner):
        there = type(one).__module__.split(".")[0]
        torch_like = torch if one is refined else import_module("codepose_runtime.tensors")
        poses_of, places = (import_module(f"{there}.{name}") for name in ("refinement.poses", "estimation.laid_poses"))
        geometry_of, boxes_of = (import_module(f"{there}.{name}") for name in ("geometry", "estimation.box_poses"))
        turn, at = torch_like.from_numpy(R), torch_like.from_numpy(t)
        poses = poses_of.Poses.start(geometry_of.offaxis_rotation(at).mT @ turn, at, torch_like.zeros(3, 2))
        score = torch_like.tensor([[6.0, 5.5]] * 3)
        poses = replace(poses, judged=score, score=score)
        nothing = torch_like.zeros(3, dtype=torch_like.long)
        images, shown = torch_like.zeros(1, 3, 128, 128), torch_like.zeros(3, 3, 32, 32)
        boxes, extent = one.world.boxes(nothing, turn[:, 1], at[:, 1]), torch_like.tensor([128.0, 128.0])
        seen = poses_of.Seen(images, nothing, boxes, nothing, one.world.K, shown, extent)
        looked = boxes_of.Looked(torch_like.arange(3), seen, poses)
        found = one._on_a_plane([places.Place.of(looked, row) for row in range(3)])
        chosen.append(np.array([np.asarray(pose.R[0, 0].numpy()) for pose in found]))
        np.testing.assert_allclose(one.world.objects[0].rests[0], refined.world.objects[0].rests[0])
        np.testing.assert_allclose(one.world.objects[0].rests[1], refined.world.objects[0].rests[1])
    np.testing.assert_allclose(chosen[0], R[:, 1], atol=1e-5)
    np.testing.assert_allclose(chosen[1], R[:, 1], atol=1e-5)
