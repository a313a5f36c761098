"""``from codepose import ...`` alone: a part is trained, calibrated, measured, found and exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from torch import Tensor

import codepose
from codepose import Camera, PoseEstimator, Run, Settings, calibrate, evaluate, export, preview, train
from codepose.runtime.run import RunError
from codepose.settings.errors import ConfigError
from codepose.settings.files import override
from codepose.synthesis.world import World

BRACKET = Path(__file__).parent / "data" / "bracket.ply"


@pytest.fixture(scope="module")
def settings(make_settings: Any) -> Settings:
    """It detects something everywhere."""
    few = {"data.step1_images": 4, "data.scene_images": 2, "data.val_images": 2, "data.test_images": 2}
    part = {"objects.0.mesh": str(BRACKET), "objects.0.label": "bracket"}
    low: dict[str, Any] = {"detection.score": 0.0, "detection.per_object": 2}
    return make_settings(**few, **part, **low)


@pytest.fixture(scope="module")
def shown() -> list[str]:
    return []


@pytest.fixture(scope="module")
def run(settings: Settings, shown: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("api") / "run"

    def before(world: World) -> None:
        assert not out.exists()
        shown.extend(model.label for model in world.objects)

    return train(settings, out, device="cpu", before=before)


def test_a_part_is_trained_and_calibrated(run: Run, shown: list[str]) -> None:
    assert shown == ["bracket"]
    assert Run.open(run.path).settings == run.settings
    assert run.has("step1")
    assert run.has("step2")
    kept = {path: path.read_bytes() for path in run.path.glob("confidence/*.json")}
    assert len(kept) == 2
    fitted = calibrate(run.path, images=1, device="cpu")
    assert {confidence.detections for confidence in fitted.values()} == {2}, "of one scene, at two a scene"
    assert all(path.read_bytes() != old for path, old in kept.items())
    assert calibrate(run, images=2, device="cpu", again=False)[True].detections == 2, "kept"


def test_a_training_calibrates_on_few_scenes(
    make_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refined poses of a hundred cluttered scenes took longer than the training."""
    asked: list[int] = []
    monkeypatch.setattr("codepose.api.training.train_stages", lambda *_, **__: None)
    monkeypatch.setattr("codepose.api.training.calibrate", lambda run, method, **how: asked.append(how["images"]))
    for scenes in (100, 7):
        train(make_settings(**{"data.val_images": scenes}), tmp_path / str(scenes), device="cpu")
    assert asked == [32, 7]


def test_it_is_measured(run: Run) -> None:
    done = evaluate(run.path, images=1, device="cpu")
    assert done.summary["images"] == 1
    assert next(iter(done.summary["methods"])) == "joint"
    assert (run.path / "report.html").is_file()
    assert "joint + refinement" not in done.summary["methods"]
    assert "joint + refinement" in evaluate(run, images=1, refine=["joint"], device="cpu").summary["methods"]
    with pytest.raises(ConfigError, match=r"^extended cannot be refined: of this run joint are evaluated"):
        evaluate(run, ["joint"], refine=["extended"], device="cpu")
    with pytest.raises(ConfigError, match=r"^the split is test or val, not 'train'"):
        evaluate(run, split="train")


def test_it_finds_parts(run: Run) -> None:
    image = np.full((96, 128, 3), 120, np.uint8)
    found = PoseEstimator.load(run, device="cpu")(
        image, Camera(np.array([[75.0, 0, 63.5], [0, 75, 47.5], [0, 0, 1]])).K
    )
    assert {detection.label for detection in found} == {"bracket"}


def test_it_is_exported(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file itself is tested in tests/estimation/test_export.py."""
    compared: list[tuple[Path, int]] = []
    off = [0.1, 0.11]

    def difference(graph: object, path: Path, images: Tensor, K: Tensor) -> tuple[int, float]:
        compared.append((path, len(images)))
        return 5, off.pop(0)

    monkeypatch.setattr("codepose.api.exporting.require_onnx", lambda: None)
    monkeypatch.setattr("codepose.api.exporting.export_onnx", lambda estimator, path: path.write_bytes(b"graph"))
    monkeypatch.setattr("codepose.api.exporting.largest_difference", difference)
    path = tmp_path / "part.onnx"
    done = export(run.path, path)
    assert (done.path, done.image_size, done.scenes, done.detections, done.difference) == (path, 128, 8, 5, 0.1)
    assert compared == [(path, 8)]
    with pytest.raises(RunError, match=r"boxes differ by 0.11 px"):
        export(run, str(path))
    assert path.is_file(), "for a look"
    with pytest.raises(ConfigError, match=r"part: give a file's name, such as part.onnx"):
        export(run, tmp_path / "part")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.backgrounds": "/nowhere"}, "/nowhere"),
        ({"network.weights": "/nowhere"}, "/nowhere"),
        ({"step2.batch": 65536, "data.scene_images": 65536, "data.camera.image_size": 2048}, "of memory"),
        ({"objects.0.mesh": "/nowhere.ply"}, "/nowhere.ply"),
        ({"objects.0.mesh": "needle.ply"}, "so thin that"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    settings: Settings, changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trimesh.creation.box((300.0, 0.1, 0.1)).export("needle.ply")
    with pytest.raises((ConfigError, OSError, ValueError), match=words):
        train(override(settings, changes), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_training_is_not_begun_twice(run: Run, settings: Settings) -> None:
    with pytest.raises(ValueError, match="resume"):
        train(settings, run.path, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("weights.safetensors")}
    assert train(settings, run.path, resume=True, device="cpu").path == run.path
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("weights.safetensors")} == before


def test_training_images_are_shown(settings: Settings) -> None:
    sheet = preview(settings, count=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert sheet.std() > 10
    with pytest.raises(ConfigError, match="from 1 to 256 columns, not 0"):
        preview(settings, count=0)
    with pytest.raises(ConfigError, match="from 0 to 1, not 5"):
        preview(settings, difficulty=5)


def test_inference_needs_nothing_of_training_and_no_compiler() -> None:
    code = """
import sys
import codepose.estimation.estimator, codepose.estimation.export, codepose.predict.prediction, codepose.ros.messages
import codepose.serve.app, codepose.serve.command
unwanted = ("codepose.training", "torch._dynamo", "torch._inductor", "sympy")
print(*[m for m in sys.modules if m.startswith(unwanted)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names_cost_nothing_until_they_are_asked_for() -> None:
    code = "import sys, codepose; print('torch' in sys.modules, *dir(codepose))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, *names = done.stdout.split()
    assert heavy == "False"
    assert set(codepose.__all__) <= set(names)
