"""The benchmark's rows with depth, on estimates whose error is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix

from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation.benchmark import evaluate
from codepose.networks.build import build_joint
from codepose.runtime.run import Run
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


def test_depth_mends_poses_and_nothing_else(make_settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poses 8 degrees and 30 mm off: the row with depth has them right, boxes and other rows stay as they were."""
    settings = make_settings(
        **{"data.occlusion.unoccluded": 1.0, "detection.score": 0.0, "data.camera.image_size": 256,
           "data.camera.focal": 150.0, "data.camera.box_side": [52.0, 80.0]}
    )  # fmt: skip
    run = Run.create(tmp_path / "run", settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(settings))
    world = World(settings)
    scenes = SceneSource(world, "val").scenes(torch.arange(4), photos=True)
    turn = axis_angle_to_rotation_matrix(torch.tensor([[0.0, 0.1396, 0.0]]))

    _, _, scale = scenes.photographs()
    R = (turn @ scenes.R_cam_obj).double().numpy()
    t = (scenes.t_cam_obj + torch.tensor([0.0, 0.0, 30.0])).double().numpy()
    offset, boxes = world.objects[0].offset.double().numpy(), scenes.boxes.double().numpy() * scale
    off = [
        Detection("hammer", 0, 0.9, 0.8, boxes[i], R[i], t[i] - R[i] @ offset, reconstruction=scenes.targets[i].numpy())
        for i in range(4)
    ]
    monkeypatch.setattr(PoseEstimator, "many", lambda *_: [[d] for d in off])
    monkeypatch.setattr(PoseEstimator, "in_boxes", lambda *_: off[:1])
    plain = PoseEstimator.load(run, device="cpu")
    pair = {"joint": plain, "joint + refinement": PoseEstimator(plain.pipeline, plain.codebooks)}
    results = evaluate(world, pair, images=4, split="val", batch=4, depth=True, examples=0)
    rows = results.methods
    assert "joint + refinement + depth" in rows
    assert "joint + depth" not in rows
    before, after = rows["joint + refinement"], rows["joint + refinement + depth"]
    assert before.array("rotation_deg") == pytest.approx(8.0, abs=0.01)
    assert before.array("translation_mm") == pytest.approx(30.0, abs=0.01)
    assert after.array("rotation_deg").max() < 1.0
    assert after.array("translation_mm").max() < 1.5
    assert after.array("vsd").max() < 0.05
    assert after.iou == before.iou
    assert after.score == before.score
    only = evaluate(world, {"joint": plain}, images=4, split="val", batch=4, depth=True, examples=0)
    assert list(only.methods) == ["joint", "joint + depth", "joint + GT box", "oracle"]
    without = evaluate(world, {"joint": plain}, images=4, split="val", batch=4, examples=0)
    assert list(without.methods) == ["joint", "joint + GT box", "oracle"]
    assert without.methods["joint"].vsd == only.methods["joint"].vsd
