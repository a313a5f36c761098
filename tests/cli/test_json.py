"""``--json``: one object on stdout and nothing else there, whatever the command says on its way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from PIL import Image

from codepose import api
from codepose.cli.chosen import starting_settings
from codepose.cli.invocation import COMMAND_OPTIONS
from codepose.cli.main import COMMANDS, main
from codepose.parts.mesh import load_mesh
from codepose.runtime.outcome import Command, Outcome, plain
from codepose.runtime.run import Run
from codepose.settings.files import to_yaml
from codepose.storage.checksums import read_json

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
CAMERA = ("--K", "75,75,63.5,63.5")
ALL = ("--min-score", "0", "--min-judged=-99")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, make_settings) -> str:
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(to_yaml(make_settings(**{"data.val_images": 2})))
    return str(path)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]):
    """Runs a command; returns its exit status, the object that it told, and its words."""

    def call(*words: object) -> tuple[int, dict[str, Any], str]:
        status = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert out.count("\n") == 1, out
        return status, json.loads(out, parse_constant=pytest.fail), err

    return call


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_command_knows_it() -> None:
    assert COMMAND_OPTIONS.keys() == COMMANDS.keys()
    assert all(issubclass(kind, Command) for kind in COMMAND_OPTIONS.values())


def test_what_json_does_not_know_becomes_what_it_knows() -> None:
    values = {"path": Path("a/b"), 1: (2.5, float("nan"), -float("inf")), "nested": [{"no": None, "yes": True}]}
    expected = {"path": "a/b", "1": [2.5, None, None], "nested": [{"no": None, "yes": True}]}
    assert plain(values) == plain(MappingProxyType(values)) == expected


def test_unless_told_otherwise_words_are_printed_and_nothing_was_skipped() -> None:
    assert not Command().json
    told = Outcome({})
    assert (told.status, told.then) == (0, None)


def test_a_pipe_gets_the_object_alone(tmp_path: Path) -> None:
    """A real process: what a library or a child writes to the descriptor itself goes to stderr as well."""
    code = (
        "import os, sys\nfrom codepose.cli import mesh_doctor\nfrom codepose.cli.main import main\n"
        "old = mesh_doctor._print_report\n"
        "mesh_doctor._print_report = lambda report: (old(report), os.write(1, b'from C\\n'), os.system('echo child'))\n"
        f"sys.exit(main(['mesh', {str(BRACKET)!r}, '--unit', 'mm', '--out', 'sheet.png', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"bodies", "watertight", "symmetries", "findings"} <= report.keys()
    assert report["size_mm"] == pytest.approx(load_mesh(BRACKET).extents.tolist(), abs=1e-3)
    assert report["sheet"] == "sheet.png"
    assert report["saved"] is None
    assert report["commands"]["train"] == f"codepose train {BRACKET} --out runs/bracket"
    for words in ("from C", "child", "wrote sheet.png", f"train: {report['commands']['train']}"):
        assert words in done.stderr


def test_without_it_words_go_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mesh", str(BRACKET), "--out", str(tmp_path / "sheet.png")]) == 0
    out, err = capsys.readouterr()
    assert f"wrote {tmp_path / 'sheet.png'}" in out
    assert err == ""


def test_a_refusal_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nowhere", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("codepose report: nowhere is no run folder")
    assert err.count("\n") == 1


def test_settings_are_told_as_yaml_has_them(told) -> None:
    _, values, words = told("settings", "--all")
    settings = yaml.safe_load(to_yaml(starting_settings(["--preset", "photos"])))
    for key, one in values.items():
        part: Any = settings
        for name in key.split("."):
            part = part[int(name) if name.isdigit() else name]
        assert one["value"] == part, key
    assert "focal length" in values["data.camera.focal"]["text"].lower()
    assert "--data.camera.focal" in words


def test_pictures_and_datasets_say_where_they_are(told, preset: str, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert told("preview", BRACKET, "--preset", preset, "--count", 1, "--out", sheet)[1] == {"sheet": str(sheet)}
    words = ("render", BRACKET, "--preset", preset, "--bop", tmp_path / "bop", "--images", 2, "--device", "cpu")
    assert told(*words)[1] == {"folder": str(tmp_path / "bop" / "train"), "images": 2}


def test_training_names_the_run(told, preset: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, value, words = told("train", BRACKET, "--preset", preset, "--out", run, "--device", "cpu")
    assert value == {"run": str(run), "methods": ["joint"]}
    assert f"trained: {run}" in words


def test_a_run_is_measured_and_handed_on(told, random_run: Run, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(random_run.path, tmp_path / "run"))
    fitted = told("calibrate", run.path, "--images", 2)[1]
    files = {"plain": "joint.json", "refined": "joint-refined.json"}
    for name, file in files.items():
        kept = json.loads((run.path / "confidence" / file).read_text())
        assert fitted[name].items() <= kept.items()
    measured = told("evaluate", run.path, "--images", 2)[1]
    assert measured == plain(read_json(run.path / "evaluation" / "results.json"))
    assert told("report", run.path)[1] == measured
    packed = told("pack", run.path, tmp_path / "packed")[1]
    size = sum(path.stat().st_size for path in (tmp_path / "packed").rglob("*") if path.is_file())
    assert packed == {"run": str(tmp_path / "packed"), "bytes": size}


def test_predictions_are_told_as_their_file_has_them(told, random_run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((128, 128), 80).convert("RGB").save(photos / name)
    (photos / "c.png").write_bytes(b"not a picture")
    words = ("predict", random_run.path, photos, *CAMERA, *ALL, "--out", tmp_path / "out", "--device", "cpu")
    status, value, said = told(*words)
    assert status == 1, "a photo was skipped"
    assert value["images"] == 2
    assert value["folder"] == str(tmp_path / "out")
    assert value["predictions"] == lines_of(tmp_path / "out" / "predictions.jsonl")
    assert [Path(one["file"]).name for one in value["predictions"]] == ["a.png", "b.png"]
    assert value["predictions"][0]["detections"]
    ((skipped),) = value["skipped"]
    assert skipped["file"] == str(photos / "c.png")
    assert f"{skipped['file']} skipped: {skipped['reason']}" in said
    assert "a.png: " in said


def test_predictions_need_no_files(told, random_run: Run, tmp_path: Path) -> None:
    Image.effect_noise((128, 128), 80).convert("RGB").save(tmp_path / "a.png")
    _, value, _ = told("predict", random_run.path, tmp_path / "a.png", *CAMERA, *ALL, "--out", tmp_path, "--write")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert value["predictions"][0]["detections"][0].keys() >= {"R_cam_obj", "t_cam_obj_mm", "box_xyxy"}


def test_the_experiments_plan_has_a_row_a_stage(told) -> None:
    _, value, _ = told("reproduce", "--dry-run", "--scale", "smoke", "--cells", "t1-128/original", "--device", "cpu")
    assert value["seeds"] == 1
    assert [(one["cell"], one["stage"]) for one in value["stages"]] == [
        ("t1-128/original", "detector"),
        ("t1-128/original", "original"),
    ]
    assert all(one["images"] > 0 and one["gflop_an_image"] > 0 and one["hours"] > 0 for one in value["stages"])


def test_an_exported_file_is_named(told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    path.touch()
    done = api.Exported(path, ("labels", "scores"), 128, 8, 5, 0.01)
    monkeypatch.setattr(api, "export", lambda *_: done)
    assert told("export", "hammer", path)[1] == {
        "path": str(path),
        "outputs": ["labels", "scores"],
        "image_size": 128,
        "scenes": 8,
        "detections": 5,
        "difference": 0.01,
    }


def test_the_demo_tells_its_results(told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = {"images": 24, "preset": "quick", "methods": {"joint": {"auc": 2.5}}}
    done = api.Evaluation(None, summary, tmp_path, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: done)
    assert told("demo", "--pretrained", "--out", tmp_path / "demo")[1] == summary


def test_the_service_tells_its_address_when_it_is_ready(random_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    words = ["serve", str(random_run.path), "--port", "0", "--device", "cpu", "--json"]
    command = [sys.executable, "-m", "codepose", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        value = json.loads(service.stdout.readline())
        with urllib.request.urlopen(f"{value['address']}/healthz", timeout=60) as answer:  # the port is taken already
            assert answer.status == 200
        os.kill(service.pid, signal.SIGINT)
        rest, words_of_it = service.communicate(timeout=60)
    assert service.returncode == 0
    assert value["models"] == ["run"]
    assert value["address"].startswith("http://127.0.0.1:")
    assert rest == ""
    assert f"serving run at {value['address']}" in words_of_it
    assert "Traceback" not in words_of_it
