"""The commands as a user types them, from a CAD file to poses, on settings small enough for seconds."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import codepose
from codepose import geometry
from codepose.cli.chosen import with_meshes
from codepose.cli.main import main
from codepose.estimation.pipelines import JointPipeline, TwoStagePipeline
from codepose.runtime.run import Run
from codepose.settings.files import load_preset, load_settings, to_yaml
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"

ALL = ("--min-score", "0", "--min-judged=-99")
"""Shows whatever is found, by however bad a network."""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, make_settings) -> Path:
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    changes = {"name": "tiny", "data.val_images": 2, "detection.score": 0.0, "detection.per_object": 2}
    settings = make_settings(**changes)
    path.write_text(to_yaml(settings))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, preset: Path) -> Path:
    """codepose train bracket.ply ... && codepose evaluate ..."""
    out = tmp_path_factory.mktemp("cli") / "part"
    methods = ["--methods", "joint", "extended", "original"]
    assert main(["train", str(BRACKET), "--preset", str(preset), "--out", str(out), *methods]) == 0
    assert main(["evaluate", str(out)]) == 0
    return out


def test_results_hold_every_method_on_the_same_images(run: Path) -> None:
    results = json.loads((run / "evaluation" / "results.json").read_text())
    names = {"joint", "extended", "original"}
    assert set(results["methods"]) == names | {f"{n} + GT box" for n in names} | {"oracle"}
    assert results["images"] == 6
    assert results["split"] == "test"
    keys = {"auc", "auc_fraction", "recall_03", "mean_iou", "rotation_median_deg", "translation_median_mm"}
    keys |= {"mssd_recall_10", "mssd_recall_20"}
    assert results["symmetries"] == {}
    for numbers in results["methods"].values():
        assert keys <= numbers.keys()
        assert numbers["auc"] == pytest.approx(6 * numbers["auc_fraction"])
    assert results["methods"]["joint + GT box"]["mean_iou"] == pytest.approx(1.0)
    errors = {n: m["rotation_median_deg"] for n, m in results["methods"].items()}
    assert errors["oracle"] == min(errors.values()), "nothing can retrieve a view nearer than the nearest"
    with open(run / "evaluation" / "per_image.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 7
    assert {"mssd_mm", "mspd_px", "mssd_share"} <= rows[0].keys()
    by_method = {n: [float(r["vsd"] or 1.0) for r in rows if r["method"] == n] for n in results["methods"]}
    for name, errors in by_method.items():
        assert sum(1.0 - e for e in errors) == pytest.approx(results["methods"][name]["auc"], abs=1e-4)


def test_results_say_by_what_and_of_which_run_they_are(run: Path) -> None:
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["codepose"] == codepose.__version__
    assert (results["torch"], results["torchvision"]) == (str(torch.__version__), str(torchvision.__version__))
    assert torch.backends.cpu.get_cpu_capability() in results["processor"].split(", ")
    files = ["config.yaml", *(f"{stage}/weights.safetensors" for stage in ("detector", "original", "step1", "step2"))]
    digests = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}
    assert results["run"] == {"folder": run.name, "sha256": digests}


def test_report_is_self_contained_and_its_pictures_open(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "://" not in page  # "http" alone may stand in a picture, by chance
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) >= 8
    for data in pictures:
        assert base64.b64decode(data).startswith(b"\x89PNG")
    for title in ("Figure 3", "Figure 4", "Reconstructions", "Training data", "Poses", "know symmetries"):
        assert title in page
    assert main(["report", str(run)]) == 0


def test_a_network_that_finds_nothing_has_a_report(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (JointPipeline, TwoStagePipeline):
        monkeypatch.setattr(
            kind,
            "detect",
            lambda self, prepared, iou=None, found=kind.detect: [
                {name: values[:0] for name, values in one.items()} for one in found(self, prepared, iou)
            ],
        )
    copy = shutil.copytree(run, tmp_path / "part")
    (copy / "report.html").unlink()
    assert main(["evaluate", str(copy), "--refine", "--images", "3"]) == 0
    page = (copy / "report.html").read_text()
    assert "Figure 4" in page
    assert "Poses: estimated" not in page, "there is none"
    methods = json.loads((copy / "evaluation" / "results.json").read_text())["methods"]
    assert methods["joint"]["auc"] == methods["joint + refinement"]["auc"] == 0.0
    assert methods["joint + GT box"]["mean_iou"] == pytest.approx(1.0)


def test_the_run_folder_can_be_moved(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    try:
        objects = Run.open(moved).settings.objects
        assert objects[0].label == "bracket"
        assert Path(objects[0].mesh).is_relative_to(moved)
        original, own = World(Run.open(moved).settings), BRACKET
        assert own.is_file()
        assert original.objects[0].mesh.diameter > 50
    finally:
        moved.rename(run)


def test_predict_on_a_folder_skips_what_is_no_image(run: Path, tmp_path: Path, capsys) -> None:
    settings = Run.open(run).settings
    scene = SceneSource(World(settings), "test").scenes(torch.arange(1))
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray((scene.images[0].permute(1, 2, 0) * 255).byte().numpy()).save(photos / "a.png")
    (photos / "b.png").write_bytes(b"not a picture")
    K = geometry.to_opencv(scene.K)
    camera = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"
    out = tmp_path / "out"
    status = main(["predict", str(run), str(photos), "--K", camera, "--out", str(out), *ALL])
    assert status == 1, "a skipped file must show in the exit status"
    assert "b.png skipped" in capsys.readouterr().err
    found = json.loads((out / "a.json").read_text())
    assert len(found["detections"]) == 2
    pose = found["detections"][0]
    assert pose["label"] == "bracket"
    R = np.array(pose["R_cam_obj"])
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-4)
    assert len(pose["t_cam_obj_mm"]) == 3
    assert Image.open(out / "a.overlay.png").size == (128, 128)
    one = main(["predict", str(run), str(photos / "a.png"), "--K", camera, "--out", str(out), "--min-score", "1"])
    assert one == 0
    assert json.loads((out / "a.json").read_text())["detections"] == []


def test_preview_draws_before_training(preset: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["preview", str(BRACKET), "--preset", str(preset), "--out", str(out), "--count", "3"]) == 0
    assert np.asarray(Image.open(out)).std() > 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.ply"], "nowhere.ply"),
        (["train", "--preset", "none-such"], "quick"),
        (["train", "--network.weights", "none"], "network.frozen: random weights would stay random"),
        (["train", "--network.weights", "hammer"], "encoder is another"),
        (["train", "--data.backgrounds", "nowhere"], "nowhere does not exist"),
        (["train", "--preset", "quick", "--network.weights", "imagenet", "--network.width", "1"], "VGG16"),
        (["evaluate", "nowhere"], "codepose train"),
        (["report", "nowhere"], "nowhere is no run folder"),
        (["report", "hammer"], "codepose demo --pretrained"),
        (["predict", "nowhere", "photo.png"], "--K fx,fy,cx,cy"),
        (["predict", "nowhere", "photo.png", "--K", "1,2,3"], "four numbers"),
        (["predict", "nowhere", "photo.png", "--K", "fov=60", "--max-detections", "-1"], "--max-detections must be"),
        (["predict", "nowhere", "a.png", "--K", "fov=60", "--max-frames", "9" * 30], "from 1 to 1,000,000,000"),
        (["evaluate", "nowhere", "--images", "1000000001"], "--images must be a number from 1 to 1,000,000,000"),
        (["preview", "--count", "257"], "--count must be a number from 1 to 256"),
        (["predict", "nowhere", "photo.png", "--K", "fov=60", "--nms", "1.5"], "--nms is a share from 0 to 1"),
        (["train", "--network.weights", "nowhere"], "nowhere is no run folder"),
        (["train", "--data.camera.box-side", "0", "0"], "data.camera.box_side must lie between 0 and"),
        (["train", "--out", __file__], "test_cli.py is a file: choose another --out"),
        (["predict", "hammer", __file__, "--K", "fov=60", "--out", __file__], "test_cli.py is a file: choose another"),
        (["predict", "hammer", __file__, "--K", "fov=60", "--method", "extended"], "only the joint method comes with"),
        (["train", "--preset=quick", "--network.weights", "hammer", "--network.width", "0.5"], "encoder is another"),
        (["evaluate", "nowhere", "--images", "0"], "--images must be a number from 1"),
        (["preview", "--difficulty", "5"], "--difficulty is a share from 0 to"),
        (["preview", "--out", "sheet.psd"], "give a picture's name, such as sheet.png"),
        (["evaluate", "nowhere", "--split", "train"], "the split is test or val"),
        (["evaluate", "nowhere", "--obj-ids", "5"], "--obj-ids goes with --bop"),
        (["evaluate", "nowhere", "--camera", "cam1"], "--camera goes with --bop"),
        (["predict", "nowhere", "photo.png", "--K", "fov=60", "--min-score", "50"], "--min-score is a share from 0 to"),
        (
            ["predict", "nowhere", "photo.png", "--K", "fov=60", "--min-confidence", "nan"],
            "--min-confidence is a share",
        ),
        (["predict", "nowhere", "photo.png", "--K", "fov=60", "--min-judged", "nan"], "--min-judged is a number"),
        (["reproduce", "--seeds", "-1"], "--seeds must be a number from 1"),
        (["preview", "--out", "sheet.foo"], "sheet.png"),
        (["mesh", "hammer", "--out", "sheet"], "sheet.png"),
        (["train", "--device", "mps"], "cpu, cuda"),
        (["train", "--device", "cuda:99"], "there is no device cuda:99"),
        (["train", "--objects.0.symmetries", __file__], "test_cli.py is no JSON"),
        (
            ["train", "--preset", "smoke", "--data.textures", "65536", "--data.camera.image-size", "8192"],
            "lower --data.textures",
        ),
        (["train", "--device", "cuda:x"], "cpu, cuda"),
        (["train", "--device", "a\nb\r\x1b[31m\x85\u2028c"], r"not a\nb\r\x1b[31m\x85\u2028c"),
        (["predict", "hammer", "a\nb.png", "--K", "fov=60"], r"a\nb.png"),
    ],
)
def test_mistakes_end_in_one_line_that_says_what_to_type(
    arguments: list[str], words: str, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(arguments) == 1
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_a_value_out_of_range_is_told_without_a_librarys_address() -> None:
    command = [sys.executable, "-m", "codepose", "train", "--data.camera.box-side", "90", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "a range must go from low to high, not from 90.0 to 20.0" in done.stderr
    assert "http" not in done.stderr


def test_a_file_in_the_place_of_a_folder_is_named(preset: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "part").write_text("")
    assert main(["train", "--preset", str(preset), "--out", str(tmp_path / "part")]) == 1
    assert str(tmp_path / "part") in capsys.readouterr().err
    binary = tmp_path / "preset.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert main(["train", "--preset", str(binary)]) == 1
    assert "UTF-8" in capsys.readouterr().err


def test_parts_of_one_name_are_numbered() -> None:
    files = (Path("a/part.stl"), Path("b/part.stl"), Path("hammer"))
    assert [o.label for o in with_meshes(load_preset("quick"), files).objects] == ["part", "part-2", "hammer"]


def test_unknown_command_lists_the_known(capsys) -> None:
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err
    assert main(["--version"]) == 0


def test_a_run_folder_is_not_overwritten(run: Path, preset: Path, capsys) -> None:
    assert main(["train", str(BRACKET), "--preset", str(preset), "--out", str(run)]) == 1
    assert "--resume" in capsys.readouterr().err


def test_several_parts_in_one_network(preset: Path, tmp_path: Path) -> None:
    """The settings hold a list of objects: two parts give two codebooks, three classes, one run."""
    out = tmp_path / "set"
    assert main(["train", str(BRACKET), "hammer", "--preset", str(preset), "--out", str(out)]) == 0
    settings = Run.open(out).settings
    assert [o.label for o in settings.objects] == ["bracket", "hammer"]
    scenes = SceneSource(World(settings), "train").scenes(torch.arange(12))
    assert set(scenes.objects.tolist()) == {0, 1}
    assert main(["evaluate", str(out), "--images", "2"]) == 0
    assert sorted(p.name for p in (out / "codebooks").iterdir()) == ["joint-1.safetensors", "joint-2.safetensors"]


def test_the_demo_refines_what_a_user_gets_and_compares_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at a network that knows parts, and refined poses are dear: the joint network's alone."""
    asked: list[Any] = []
    monkeypatch.setattr("codepose.api.train_stages", lambda run, methods, device: asked.append(methods))
    monkeypatch.setattr("codepose.api.calibrate", lambda run, images, device, again: asked.append((images, again)))
    monkeypatch.setattr("codepose.api.trained_methods", lambda run: ["joint", "extended", "original"])

    def evaluated(run: Run, methods: list[str], *, images: int, refine: list[str], device: str) -> None:
        asked.append((methods, images, refine))
        raise KeyboardInterrupt

    monkeypatch.setattr("codepose.api.evaluate", evaluated)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 130
    everything = ["joint", "extended", "original"]
    assert asked == [tuple(everything), (16, False), (everything, 24, ["joint"])]
    settings = load_settings(tmp_path / "demo" / "config.yaml")
    assert settings.network.weights == "base"
    stages = [settings.step1, settings.step2, settings.detector, settings.original]
    assert sum(stage.time_limit or 0 for stage in stages) <= 450, "the demo is to end in 12 minutes"
    assert main(["demo", "--joint-only", "--out", str(tmp_path / "short")]) == 130
    assert asked[3] == ("joint",)
    assert asked[5] == (["joint"], 24, ["joint"])


def test_one_unit_for_all_files() -> None:
    settings = load_preset("quick")
    files = (Path("a.stl"), Path("b.stl"))
    assert [o.unit for o in with_meshes(settings, files, "inch").objects] == ["inch", "inch"]
    assert [o.unit for o in with_meshes(settings, files).objects] == ["mm", "mm"], "the preset's"
    assert with_meshes(settings, (), "m").objects[0].unit == "m"
    assert with_meshes(settings, ()) == settings
    assert [o.body for o in with_meshes(settings, files, None, "nut").objects] == ["nut", "nut"]
