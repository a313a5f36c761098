"""The trained network that comes with the package: small, complete, left alone, and as good as its card says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from codepose import geometry
from codepose.cli import commands
from codepose.cli.main import main
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation.metrics import box_iou_pairs
from codepose.rendering.renderer import Instances
from codepose.rendering.shading import Lights, render_shaded
from codepose.runtime.run import Run, pretrained
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

SCENES = 8


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    return SceneSource(World(Run.open("hammer").settings), "val").scenes(torch.arange(SCENES), photos=True)


def test_it_is_small_and_has_a_card() -> None:
    folder = pretrained()["hammer"]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 12_000_000
    assert "codepose reproduce" in (folder / "README.md").read_text()


def test_it_finds_the_hammer_in_scenes_it_has_never_seen(scenes: SceneBatch) -> None:
    folder = pretrained()["hammer"]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    run = Run.open("hammer")
    plain = PoseEstimator.load(run, device="cpu")
    refined = PoseEstimator.load(run, device="cpu", refine=True)
    for estimator in (plain, refined):
        assert estimator.confidence is not None, "calibrated with other settings"
    images, K, scale = scenes.photographs()
    errors, boxes = [], []
    for estimator in (plain, refined):
        best = [next(iter(found), None) for found in estimator.many(images, [K] * SCENES)]
        assert None not in best, "a hammer was not found"
        boxes.append(torch.tensor(np.array([d.box / scale for d in best if d is not None])).float())
        R = torch.tensor(np.array([d.R_cam_obj for d in best if d is not None])).float()
        errors.append(geometry.geodesic_angle(R, scenes.R_cam_obj).rad2deg())
    assert box_iou_pairs(boxes[0], scenes.boxes).mean() > 0.8
    assert errors[1].median() < 25.0, "random rotations are 120 degrees apart"
    assert (errors[1] < 10).float().mean() > (errors[0] < 10).float().mean() + 0.2
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before, "the package was written to"


@pytest.mark.filterwarnings("error")
def test_it_gives_one_pose_at_480p_720p_1080p_and_upright() -> None:
    """One render of 1920 x 1920, cut to landscape and portrait and resized, with its camera: 1.5 degrees, 0.5 %."""
    run, side, cut = Run.open("hammer"), 1920, 420
    world, estimator = World(run.settings), PoseEstimator.load(run, device="cpu", refine=True)
    focal = run.settings.data.camera.focal * side / run.settings.data.camera.image_size
    K = geometry.camera_matrix(focal, side / 2, side / 2)
    view = torch.nn.functional.normalize(torch.tensor([0.9, 0.2, 0.3]), dim=0)
    t = torch.tensor([[60.0, -40.0, 750.0]])
    R = geometry.offaxis_rotation(t) @ geometry.view_rotation(view, torch.tensor(2.0))
    scene, light, white = Instances.single(torch.zeros(1).long(), R, t), Lights.fixed(1, t.device), torch.ones(1, 3)
    rgba = render_shaded(world.renderer, scene, K[None], side, light, white, 1)[0][0]
    picture = rgba[:3] + (1.0 - rgba[3:]) * torch.linspace(0.35, 0.6, side)
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
    for wide, sizes in ((True, [(854, 480), (1280, 720), (1920, 1080)]), (False, [(720, 1280), (1080, 1920)])):
        part = pixels[cut:-cut] if wide else pixels[:, cut:-cut]
        for size in sizes:
            photo = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.LANCZOS))
            across, down = size[0] / part.shape[1], size[1] / part.shape[0]
            x, y = (side / 2) * across, (side / 2 - cut) * down
            if not wide:
                x, y = (side / 2 - cut) * across, (side / 2) * down
            camera = [[focal * across, 0, x - 0.5], [0, focal * down, y - 0.5], [0, 0, 1]]
            found = estimator(photo, camera)[0]
            angle = geometry.geodesic_angle(torch.from_numpy(found.R_cam_obj).float(), R[0]).rad2deg()
            expected = t[0] - R[0] @ world.objects[0].offset
            assert float(angle) < 1.5, size
            assert np.linalg.norm(found.t_cam_obj - expected.numpy()) < 4.0, size


@pytest.mark.slow
def test_the_wheel_brings_it_and_predicts_right_away(tmp_path: Path, scenes: SceneBatch) -> None:
    """What pip installs, away from the repository: ``codepose predict hammer photo.png --K ...``."""
    run = Run.open("hammer")
    best = int(scenes.visible_fraction.argmax())
    assert scenes.photos is not None
    pixels = (scenes.photos[best].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    scale = len(pixels) / run.settings.data.camera.image_size
    focal, middle = scale * run.settings.data.camera.focal, len(pixels) / 2 - 0.5

    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=root, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {"codepose/py.typed", "codepose/presets/quick.yaml"} <= set(archive.namelist())
        archive.extractall(tmp_path / "site")
    words = ["predict", "hammer", "photo.png", "--K", f"{focal},{focal},{middle},{middle}", "--device", "cpu"]
    place = dict(os.environ, PYTHONPATH=str(tmp_path / "site"))
    code = "import sys, codepose; from codepose.cli.main import main; print(codepose.__file__); sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=place, capture_output=True, text=True, check=True
    )
    assert str(tmp_path / "site") in done.stdout
    found = json.loads((tmp_path / "predictions" / "photo.json").read_text())["detections"]
    boxes = torch.tensor([one["box_xyxy"] for one in found])
    assert box_iou(boxes / scale, scenes.boxes[best : best + 1]).max() > 0.7
    assert all(one["confidence"] is not None for one in found)
    assert (tmp_path / "predictions" / "photo.overlay.png").is_file()


@pytest.mark.slow
def test_its_demo_works_in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_DEMO_SCENES", 2)
    (tmp_path / "hammer").mkdir()  # of the user's own
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--pretrained", "--out", str(tmp_path / "demo"), "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "demo" / "evaluation" / "results.json").read_text())
    assert results["images"] == 2
    assert results["methods"]["joint + refinement"]["mean_iou"] > 0.5
    assert (tmp_path / "demo" / "report.html").is_file()


@pytest.mark.parametrize("more", [[], ["--bop", "somewhere"]])
def test_results_are_not_written_into_the_package(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "hammer", *more]) == 1
    assert "demo --pretrained" in capsys.readouterr().err
