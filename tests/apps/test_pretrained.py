"""The trained network that comes with the package: small, complete, left alone, and as good as its card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codepose import geometry
from codepose.apps import commands
from codepose.apps.cli import main
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.refine import Photos, useful_size
from codepose.evaluation.metrics import box_iou_pairs
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.run import Run, pretrained

SCENES = 16


def test_it_is_small_and_has_a_card() -> None:
    folder = pretrained()["hammer"]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 12_000_000
    assert "codepose reproduce" in (folder / "README.md").read_text()


def test_it_finds_the_hammer_in_scenes_it_has_never_seen() -> None:
    folder = pretrained()["hammer"]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    run = Run.open("hammer")
    plain = PoseEstimator.load(run, device="cpu")
    refined = PoseEstimator.load(run, device="cpu", refine=True)
    for estimator in (plain, refined):
        assert estimator.confidence is not None, "calibrated with other settings"
    scenes = SceneSource(World(run.settings), "val").scenes(torch.arange(SCENES), photos=True)
    photos = Photos.of(scenes, useful_size(run.settings.data.camera))
    prepared = plain.pipeline.prepare(scenes.images)
    found = plain.pipeline.detect(prepared)
    assert all(len(one["boxes"]) for one in found), "a hammer was not found"
    boxes = torch.stack([one["boxes"][0] for one in found])
    assert box_iou_pairs(boxes, scenes.boxes).mean() > 0.8
    errors = []
    for estimator in (plain, refined):
        poses = estimator.poses(prepared, boxes, torch.arange(SCENES), scenes.objects, scenes.K, photos)
        errors.append(geometry.geodesic_angle(poses.R, scenes.R_cam_obj).rad2deg())
    assert errors[1].median() < 25.0, "random rotations are 120 degrees apart"
    assert (errors[1] < 10).float().mean() > (errors[0] < 10).float().mean() + 0.2
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before, "the package was written to"


def test_its_demo_works_in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_SHOWN", 2)
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
