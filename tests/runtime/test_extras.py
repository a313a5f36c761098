"""The smallest installation predicts; what it cannot do says what to type."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from codepose.runtime.extras import TRAINING

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WITHOUT = f"import sys\nfor name in {TRAINING}: sys.modules[name] = None  # as if it were not installed\n"


def modules(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in requirements}


def test_the_extra_installs_what_training_asks_for() -> None:
    assert modules(PROJECT["optional-dependencies"]["train"]) == set(TRAINING)
    assert not modules(PROJECT["dependencies"]) & set(TRAINING)


def ended(lines: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """The exit status and the words on stderr of each of some commands, one after the other, without the extra."""
    code = f"{WITHOUT}from codepose.cli.main import main\nfor words in {lines}:\n"
    code += "    status = main(words)\n    print(f'exit status {status}', file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    parts = re.findall(r"(.*?)exit status (\d+)\n", done.stderr, re.DOTALL)
    assert len(parts) == len(lines)
    return [(int(status), said) for said, status in parts]


@pytest.mark.slow
def test_without_it_photos_are_looked_at(tmp_path: Path) -> None:
    Image.effect_noise((320, 240), 80).convert("RGB").save(tmp_path / "photo.png")
    everything = ["--min-score", "0", "--min-judged=-99", "--max-detections", "1"]
    lines = [
        ["predict", "--help"],
        ["predict", "hammer", "photo.png", "--K", "fov=60", "--device", "cpu", *everything],
        ["mesh", "hammer", "--out", "sheet.png"],
        ["settings"],
    ]
    assert ended(lines, tmp_path) == [(0, "")] * len(lines)
    assert (tmp_path / "predictions" / "photo.overlay.png").is_file()
    assert '"label": "hammer"' in (tmp_path / "predictions" / "predictions.jsonl").read_text()


def test_without_it_training_says_what_to_type(tmp_path: Path) -> None:
    lines = [
        ["train", "hammer"],
        ["demo"],
        ["demo", "--pretrained"],
        ["evaluate", "nowhere"],
        ["reproduce", "--dry-run"],
        ["predict", "hammer", "photo.png", "--K", "fov=60", "--devices", "2", "--device", "cpu"],
    ]
    (tmp_path / "photo.png").touch()
    for line, (status, said) in zip(lines, ended(lines, tmp_path), strict=True):
        assert status == 1
        assert said.startswith(f"codepose {line[0]}: "), said
        assert said.endswith("tensorboard: type pip install 'codepose[train]' (in a checkout '.[train]')\n"), said
        assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_way_to_train_installs_it(page: str) -> None:
    text = (ROOT / page).read_text()
    assert "pip install '.[train]'" in text
    assert "pip install ." not in text
