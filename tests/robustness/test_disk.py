"""A disk that becomes full: one line that says so, nothing half written; a training goes on once there is room."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from robustness.harness import Case, Limits, Outcome, call, rng_of
from robustness.photos import picture_of
from robustness.runs import train_words

from codepose.settings.files import to_yaml
from codepose.settings.schema import Settings

pytestmark = pytest.mark.slow

KIND = "disk"
CASES = 120
_COMMANDS = ("train", "train", "evaluate", "predict", "pack", "render", "preview", "mesh", "calibrate")


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(path)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")

    def resize(self, pages: int) -> None:
        """Makes it as large as so many pages of 4 KiB; no page at all would mean no limit."""
        subprocess.run(["mount", "-o", f"remount,size={4096 * max(1, pages)}", str(self.path)], check=True)

    def used(self) -> int:
        """How many pages are full."""
        return -(-shutil.disk_usage(self.path).used // 4096)

    def clear(self) -> None:
        """Empties it and gives it room again."""
        self.resize(1 << 18)
        for one in self.path.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    made = Disk(tmp_path_factory.mktemp("mounted") / "disk")
    yield made
    subprocess.run(["umount", str(made.path)], check=True)


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, small_settings: Settings) -> Path:
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(to_yaml(small_settings))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, preset: Path) -> str:
    """What a training ends at that always had room."""
    folder = tmp_path_factory.mktemp("whole")
    assert call(train_words(preset, folder / "run"), folder).status == 0
    return hash_of(folder / "run")


def hash_of(run: Path) -> str:
    return hashlib.sha256((run / "step2" / "weights.safetensors").read_bytes()).hexdigest()


def test_a_full_disk(
    campaign: Callable[..., None], disk: Disk, small_run: Path, preset: Path, weights: str, seed: int
) -> None:
    needs: dict[str, int] = {}

    def build(number: int, folder: Path) -> Case:
        rng = rng_of(KIND, seed, number)
        command = _COMMANDS[number % len(_COMMANDS)]
        Image.fromarray(picture_of(96, 64)).save(folder / "photo.png")
        words = words_of(command, disk.path, small_run, preset, folder)
        if command not in needs:  # what the command needs where there is room
            begin(disk, command, small_run)
            before = disk.used()
            assert call(words, folder).status == 0
            needs[command] = max(1, disk.used() - before)
        begin(disk, command, small_run)
        before = {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
        room = int(rng.integers(0, needs[command]))
        disk.resize(disk.used() + room)
        what = f"{command} with {4 * room} KiB of the {4 * needs[command]} that it needs"
        return Case(
            words, what, (str(disk.path), "space"), lambda o: check(o, disk, command, words, before, folder, weights)
        )

    campaign(KIND, CASES, build, Limits(60.0, 3000))


def begin(disk: Disk, command: str, run: Path) -> None:
    """An empty disk, or one with a run on it."""
    disk.clear()
    if command in ("evaluate", "calibrate"):
        shutil.copytree(run, disk.path / "run")


def words_of(command: str, disk: Path, run: Path, preset: Path, folder: Path) -> list[str]:
    """A line whose output goes to the disk."""
    return {
        "train": train_words(preset, disk / "run"),
        "evaluate": ["evaluate", str(disk / "run"), "--images", "2"],
        "calibrate": ["calibrate", str(disk / "run"), "--images", "2"],
        "predict": ["predict", str(run), str(folder / "photo.png"), "--K", "fov=60", "--out", str(disk / "out")],
        "pack": ["pack", str(run), str(disk / "packed")],
        "render": ["render", "--preset", str(preset), "--bop", str(disk / "bop"), "--images", "2"],
        "preview": ["preview", "--preset", str(preset), "--count", "1", "--out", str(disk / "sheet.png")],
        "mesh": ["mesh", "hammer", "--out", str(disk / "sheet.png"), "--save", str(disk / "part.ply")],
    }[command]


def check(
    outcome: Outcome, disk: Disk, command: str, words: list[str], before: dict[Path, bytes], folder: Path, weights: str
) -> str | None:
    """What is left on the disk; and what comes out once there is room."""
    left = [path for path in disk.path.rglob("*") if path.is_file() and hidden(path)]
    if left:
        return f"left behind on the disk: {left}"
    lost = [path for path, content in before.items() if not path.is_file() or path.read_bytes() != content]
    if lost and outcome.status != 0:
        return f"lost or changed: {lost}"
    pictures = [path for path in disk.path.rglob("*.png") if path.name != "photo.png" and not opens(path)]
    if pictures and outcome.status == 0:
        return f"status 0, but half written: {pictures}"
    if command == "train" and outcome.status != 0:
        disk.resize(1 << 18)
        done = call([*words, "--resume"], folder)
        if done.status != 0:
            return f"cannot be resumed: {done.err[-300:]}{done.trace[-300:]}"
        if hash_of(disk.path / "run") != weights:
            return "resumed, it ends at other weights"
    return None


def hidden(path: Path) -> bool:
    """Whether a file is one that is to become another."""
    return path.name.startswith(".") and path.name != ".lock"


def opens(path: Path) -> bool:
    try:
        with Image.open(path) as opened:
            opened.load()
    except OSError:
        return False
    return True
