"""Poses are judged where the part is, wherever its CAD file has the origin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from codepose.bop.dataset import BopDataset
from codepose.bop.entries import BopError
from codepose.bop.scenes import BopImage, BopInstance
from codepose.bop.scoring import Judge
from codepose.estimation.detection import Detection
from codepose.parts.mesh import save_mesh
from codepose.parts.shapes import hammer

MIDDLE = np.array([0.0, 0.0, 900.0])
"""Where the part stands in its file: 900 mm above the origin, as in the coordinates of an assembly."""
BEFORE = np.array([0.0, 0.0, 800.0])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "models").mkdir()
    part = hammer().moved(MIDDLE)
    save_mesh(part, folder / "models" / "obj_000001.ply", normals=True)
    (folder / "models" / "models_info.json").write_text(json.dumps({"1": {"diameter": part.diameter}}))
    return folder


def pose(R: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return R, middle - R @ MIDDLE


@pytest.mark.parametrize("cx", [319.5, 320.0])
def test_a_part_before_the_camera_may_have_its_origin_behind_it(dataset: Path, cx: float) -> None:
    judge = Judge(BopDataset.open(dataset), [1], torch.device("cpu"))
    image = BopImage(1, 0, dataset, np.array([[600.0, 0.0, cx], [0.0, 600.0, cx - 80.0], [0.0, 0.0, 1.0]]), 1.0, None)
    R, t = pose(np.eye(3), BEFORE)
    assert t[2] < 0.0
    view = judge.view(image, np.zeros((480, 640, 3), np.uint8))
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    found = [
        Detection("hammer", 0, 0.9, 0.9, np.array([0.0, 0.0, 10.0, 10.0]), *each)
        for each in (pose(np.eye(3), BEFORE), pose(turned, BEFORE + np.array([150.0, 0.0, 0.0])))
    ]
    errors = judge.errors(view, [BopInstance(0, 1, R, t, 1.0, None, None)], found)
    np.testing.assert_allclose(errors.vsd[0, 0], 0.0)
    np.testing.assert_allclose(errors.vsd[1, 0], 1.0, atol=0.25)
    assert errors.mssd[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert errors.mssd[1, 0] > 0.5


def test_a_pose_behind_the_camera_covers_no_pixel(dataset: Path) -> None:
    judge = Judge(BopDataset.open(dataset), [1], torch.device("cpu"))
    K = torch.tensor([[600.0, 0.0, 320.5], [0.0, 600.0, 240.5], [0.0, 0.0, 1.0]])  # a pixel's centre on the axis
    R, t = torch.eye(3)[None], torch.tensor([[0.0, 0.0, -500.0]])
    depth = judge._renderer.depth_alone(torch.zeros(1, dtype=torch.long), R, t, K, (480, 640))
    assert float(depth.abs().max()) == 0.0


@pytest.mark.parametrize(
    "text", ["version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "", "ply\nformat ascii"]
)
def test_a_model_that_was_not_fetched_is_named(dataset: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "models_info.json").write_text((dataset / "models" / "models_info.json").read_text())
    (tmp_path / "models" / "obj_000001.ply").write_text(text)
    with pytest.raises(BopError, match="fetch the dataset's models again"):
        Judge(BopDataset.open(tmp_path), [1], torch.device("cpu"))
