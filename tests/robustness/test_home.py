"""A home that cannot be written: every command works, with no word of it but ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from robustness.photos import picture_of

from codepose.settings.files import to_yaml
from codepose.settings.schema import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a disk that is read-only: permissions alone do not stop root."""
    folder = tmp_path_factory.mktemp("mounted") / "home"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def lines(folder: Path, run: Path) -> dict[str, list[str]]:
    preset = str(folder / "tiny.yaml")
    return {
        "mesh": ["mesh", "hammer", "--out", str(folder / "sheet.png")],
        "predict": ["predict", "hammer", str(folder / "photo.png"), "--K", "fov=60", "--out", str(folder / "out")],
        "train": ["train", "--preset", preset, "--out", str(folder / "run")],
        "evaluate": ["evaluate", str(run), "--images", "2"],
    }


@pytest.mark.parametrize("command", ["mesh", "predict", "train", "evaluate"])
def test_a_read_only_home(
    command: str,
    home: Path,
    tmp_path: Path,
    small_run: Path,
    small_settings: Settings,
    figures: Callable[[object], None],
) -> None:
    (tmp_path / "tiny.yaml").write_text(to_yaml(small_settings))
    Image.fromarray(picture_of(96, 64)).save(tmp_path / "photo.png")
    (tmp_path / "tmp").mkdir()
    kept = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "LANG", "CUDA_VISIBLE_DEVICES")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(home), "TMPDIR": str(tmp_path / "tmp")}
    words = [sys.executable, "-m", "codepose", *lines(tmp_path, small_run)[command]]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)
    foreign = [line for line in done.stderr.splitlines() if not line.startswith("codepose")]
    assert (done.returncode, foreign) == (0, [])
    figures(f"read-only home: codepose {command} works")
