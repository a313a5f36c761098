"""300 truncations and 300 flips of every file of a run: refused by name, or nothing else comes out.

A finished run is asked for a pose and for its report; an interrupted one is trained to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from robustness.harness import Case, Limits, Outcome, call, rng_of
from robustness.photos import picture_of
from robustness.runs import SYMMETRIES, interrupted_after, train_words

from codepose.settings.files import to_yaml

pytestmark = pytest.mark.slow

EACH = 300
"""Truncations of each file, and as many flips."""
_QUICK = 6
"""The same, however small the share."""
_OWN = ("config.yaml", "meshes", "step1", "step2")
"""What a training reads, and writes."""


@dataclass(frozen=True)
class Whole:
    """A run that nothing has happened to, and what it gives.

    Attributes:
        run: Its folder.
        photo: What poses are asked of.
        files: Those of the run, relative to it.
        poses: ``predict``'s answer.
        report: ``report``'s words.
        weights: A hash of Step 2's.
    """

    run: Path
    photo: Path
    files: tuple[Path, ...]
    poses: object
    report: str
    weights: str


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., object]) -> Path:
    folder = tmp_path_factory.mktemp("preset")
    symmetries = folder / "symmetries.json"
    symmetries.write_text(json.dumps(SYMMETRIES))
    settings = make_settings(
        **{
            "name": "tiny",
            "detection.score": 0.0,
            "detection.per_object": 2,
            "objects": [{"mesh": "hammer", "symmetries": str(symmetries)}],
            "step2.checkpoint_every": 1,
            "step1.checkpoint_every": 2,
        }
    )
    (folder / "tiny.yaml").write_text(to_yaml(settings))  # type: ignore[arg-type]
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, preset: Path) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    run, photo = folder / "run", folder / "photo.png"
    Image.fromarray(picture_of(96, 64)).save(photo)
    assert call(train_words(preset, run), folder).status == 0
    assert call(["evaluate", str(run), "--images", "2"], folder).status == 0
    assert call(predict_words(run, photo, folder / "out"), folder).status == 0
    report = call(["report", str(run)], folder)
    assert report.status == 0
    files = tuple(sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file()))
    return Whole(run, photo, files, poses(folder / "out"), report.out.replace(str(run), ""), weights(run))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, preset: Path) -> Path:
    """The same training, killed in Step 2."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    interrupted_after("step2", 2, train_words(preset, run))
    assert (run / "step2" / "checkpoint.safetensors").is_file()
    return run


def test_damaged_files_of_a_finished_run(
    campaign: Callable[..., None], finished: Whole, seed: int, share: Callable[[int, int], int]
) -> None:
    kind = "run-files"
    each = share(EACH, _QUICK)

    def build(number: int, folder: Path) -> Case:
        file, cut = finished.files[number // (2 * EACH)], number % 2 == 0
        copy = folder / "run"
        shutil.copytree(finished.run, copy, copy_function=os.link)
        what = spoil(copy / file, cut, rng_of(kind, seed, number))
        if number % 6 < 2:
            return Case(
                ["report", str(copy)], f"{file}: {what}", (file.name,), lambda o: same_report(o, copy, finished)
            )
        words = predict_words(copy, finished.photo, folder / "out")
        return Case(words, f"{file}: {what}", (file.name,), lambda o: same_poses(o, folder, finished, file))

    numbers = [file * 2 * EACH + i for file in range(len(finished.files)) for i in range(2 * each)]
    campaign(kind, numbers, build, Limits(15.0, 2000))


def test_damaged_files_of_an_interrupted_run(
    campaign: Callable[..., None], interrupted: Path, finished: Whole, seed: int, share: Callable[[int, int], int]
) -> None:
    kind = "resumed-files"
    each = max(1, share(EACH, 1) ** 2 // EACH)  # a training takes seconds: of a small share, a smaller one
    files = sorted(p.relative_to(interrupted) for p in interrupted.rglob("*") if p.is_file())

    def build(number: int, folder: Path) -> Case:
        file, cut = files[number // (2 * EACH)], number % 2 == 0
        copy = shutil.copytree(interrupted, folder / "run")
        what = spoil(copy / file, cut, rng_of(kind, seed, number))
        words = ["train", "--out", str(copy), "--resume"]
        return Case(words, f"{file}: {what}", (file.name,), lambda o: same_training(o, copy, finished, file))

    numbers = [file * 2 * EACH + i for file in range(len(files)) for i in range(2 * each)]
    campaign(kind, numbers, build, Limits(40.0, 2500))


def predict_words(run: Path, photo: Path, out: Path) -> list[str]:
    where = ["--K", "fov=60", "--min-score", "0", "--no-refine", "--out", str(out)]
    return ["predict", str(run), str(photo), *where]


def spoil(file: Path, cut: bool, rng: np.random.Generator) -> str:
    """Cuts a file's end off, or changes one byte of it; another file takes its place: links keep the first one."""
    content = bytearray(file.read_bytes())
    if not content:
        return "it is empty"
    at = int(rng.integers(len(content)))
    if cut:
        what = f"cut at {at} of {len(content)}"
        del content[at:]
    else:
        byte = 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
        content[at] ^= byte
        what = f"byte {at} of {len(content)} changed by {byte}"
    file.unlink()
    file.write_bytes(content)
    return what


def poses(out: Path) -> object:
    line = json.loads((out / "photo.json").read_text())
    return {key: value for key, value in line.items() if key not in ("time_ms", "file")}


def weights(run: Path) -> str:
    return hashlib.sha256((run / "step2" / "weights.safetensors").read_bytes()).hexdigest()


def same_poses(outcome: Outcome, folder: Path, whole: Whole, file: Path) -> str | None:
    """Whether the same poses came out, or a word that names the file."""
    if outcome.status != 0:
        return None
    if poses(folder / "out") != whole.poses and file.name not in outcome.err:
        return f"{file.name} is damaged: other poses, without a word"
    return None


def same_report(outcome: Outcome, copy: Path, whole: Whole) -> str | None:
    if outcome.status == 0 and outcome.out.replace(str(copy), "") != whole.report:
        return f"another report: {outcome.out[:300]}"
    return None


def same_training(outcome: Outcome, copy: Path, whole: Whole, file: Path) -> str | None:
    if outcome.status == 0 and weights(copy) != whole.weights:
        return f"{file.name} is damaged: the training ends at other weights, without a word"
    return None
