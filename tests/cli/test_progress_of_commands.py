"""Work that may take long says how far it is: a line for each piece of it where there is no terminal."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from codepose.cli.main import main
from codepose.runtime.run import Run
from codepose.settings.files import to_yaml
from codepose.settings.schema import Settings

CAMERA = ("--K", "75,75,63.5,63.5", "--device", "cpu")


@pytest.fixture
def done(capsys: pytest.CaptureFixture[str]):
    """Runs a command; returns the pieces of work that it said to be done."""

    def call(*words: object) -> list[str]:
        assert main([*map(str, words)]) == 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err, "that is for terminals"
        return list(dict.fromkeys(re.findall(r"^(.+): 100%", out, re.MULTILINE)))

    return call


def test_of_a_run(done, random_run: Run, tmp_path: Path) -> None:
    run = shutil.copytree(random_run.path, tmp_path / "run")
    fitted = ["Codebook: joint", "Confidence: joint", "Confidence: joint, refined"]
    assert done("calibrate", run, "--images", 2, "--device", "cpu") == fitted
    assert done("evaluate", run, "--images", 2, "--device", "cpu") == ["Codebook: joint", "Evaluation on test"]
    shutil.rmtree(run / "codebooks")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (128, 128), (90, 90, 90)).save(tmp_path / name)
    photos = (tmp_path / "a.png", tmp_path / "b.png", "--no-refine", *CAMERA)
    assert done("predict", run, *photos) == ["codebook", "predicting"]
    assert done("predict", run, *photos) == ["predicting"], "the codebook is kept"
    assert done("pack", run, tmp_path / "packed") == ["codebook"]


def test_of_training_and_rendering(done, tiny_settings: Settings, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text(to_yaml(tiny_settings))
    words = ("--preset", preset, "--device", "cpu")
    trained = done("train", *words, "--out", tmp_path / "run")
    stages = ["Step 1: extended AAE", "Step 2: joint network"]
    assert trained == [*stages, "Codebook: joint", "Confidence: joint", "Confidence: joint, refined"]
    assert done("render", *words, "--bop", tmp_path / "bop", "--images", 2) == ["Rendering train"]


def test_of_a_plan(done) -> None:
    words = ("--dry-run", "--scale", "smoke", "--cells", "t1-128/original", "--device", "cpu")
    assert done("reproduce", *words) == ["an iteration of each stage"]
