"""1,000 odd BOP folders: refused by name, or the same numbers as the whole one.

The estimator answers with the truth, so that every score of the whole folder is 1 and anything that is lost shows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robustness.harness import Case, Limits, Outcome, rng_of
from robustness.mutators import SAME, mutate_bytes, mutate_json, mutate_text, truncate

from codepose.estimation.detection import Detection

pytestmark = pytest.mark.slow

KIND = "bop"
_SCORES = ("ar", "ar_vsd", "ar_mssd", "ar_mspd", "add_recall_10")
_JSON = (
    *("test/000001/scene_camera.json", "test/000001/scene_gt.json", "test/000001/scene_gt_info.json"),
    *("models/models_info.json", "test_targets_bop19.json", "camera.json"),
)


class Truth:
    """Answers with an image's labels, found by its pixels; with nothing where these are no image of the dataset."""

    def __init__(self, path: Path) -> None:
        from codepose.bop.dataset import BopDataset

        self.device = torch.device("cpu")
        self.images = {image.rgb().tobytes(): image for image in BopDataset.open(path).images("test")}

    def __call__(self, image: Any, camera: Any, **_: object) -> list[Detection]:
        found = self.images.get(np.asarray(image).tobytes())
        return [
            Detection(
                label="",
                object_index=0,
                score=0.9 - 0.1 * i,
                similarity=1.0,
                box=np.array([1.0, 2.0, 30.0, 40.0]) if label.box is None else label.box,
                R_cam_obj=label.R_cam_obj,
                t_cam_obj=label.t_cam_obj,
            )
            for i, label in enumerate((found and found.instances) or ())
        ]


@pytest.fixture(scope="module")
def dataset(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from codepose.cli.main import main

    folder = tmp_path_factory.mktemp("bop") / "ds"
    assert main(["render", str(small_run), "--bop", str(folder), "--split", "test", "--images", "3"]) == 0
    return folder


def test_odd_bop_folders(
    campaign: Callable[..., None],
    small_run: Path,
    dataset: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codepose.cli.main import main
    from codepose.estimation.estimator import PoseEstimator

    truth = Truth(dataset)
    monkeypatch.setattr(PoseEstimator, "load", classmethod(lambda *_, **__: truth))
    assert main(["evaluate", str(small_run), "--bop", str(dataset)]) == 0
    whole = json.loads((small_run / "evaluation" / "ds-test" / "results.json").read_text())
    assert all(whole[name] > 0.99 for name in _SCORES), whole

    def build(number: int, folder: Path) -> Case:
        return bop_case(number, folder, small_run, dataset, whole, seed)

    campaign(KIND, 1000, build, Limits(15.0, 1500))


def bop_case(number: int, folder: Path, run: Path, dataset: Path, whole: dict[str, Any], seed: int) -> Case:
    """A copy of the dataset in which one file is odd, or not there."""
    rng = rng_of(KIND, seed, number)
    copy = shutil.copytree(dataset, folder / "ds")
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    file, what, free = spoil(copy, rng)
    return Case(
        arguments=["evaluate", str(run), "--bop", str(copy), *(["--depth"] if number % 3 == 0 else [])],
        what=f"{file}: {what}",
        named=(Path(file).name, Path(file).stem, "models", "object", "image", "scene", "obj_id"),
        check=lambda outcome: check(outcome, run, whole, what, free),
    )


def spoil(copy: Path, rng: np.random.Generator) -> tuple[str, str, bool]:
    """Changes a file; returns its name, what was done, and whether other numbers may come out."""
    if rng.random() < 0.65:
        return spoil_json(copy, rng)
    files = sorted(p for p in copy.rglob("*") if p.suffix in (".png", ".ply"))
    file = files[int(rng.integers(len(files)))]
    name, which = str(file.relative_to(copy)), int(rng.integers(8))
    if which == 0:
        file.unlink()
        return name, "not there", False
    if which == 1:
        file.unlink()
        file.mkdir()
        return name, "a folder", False
    if which == 2:
        file.unlink()
        file.symlink_to("nowhere")
        return name, "a link to nowhere", False
    content, what = mutate_bytes(file.read_bytes(), rng)
    file.write_bytes(content)
    return name, what, file.suffix == ".ply" and not what.startswith("cut at")


def spoil_json(copy: Path, rng: np.random.Generator) -> tuple[str, str, bool]:
    """Changes one of the JSON files."""
    name = _JSON[int(rng.choice([0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 5]))]
    file = copy / name
    text = file.read_text()
    if rng.random() < 0.6:
        changed, what, place = mutate_json(json.loads(text), rng)
        file.write_text(changed)
        row = name == "test_targets_bop19.json" and len(place) == 1 and "dropped" in what
        number = " = " in what and what.rpartition(" = ")[2].strip("'").lstrip("-")[:1].isdigit()
        return name, what, row or (number and "cam_R_m2c" not in place)  # other numbers make no rotation
    if rng.random() < 0.15:
        data = bytearray(file.read_bytes())
        what = truncate(data, rng)
        file.write_bytes(data)
        return name, what, False
    content, what = mutate_text(text, rng)
    file.write_bytes(content)
    return name, what, what not in SAME


def check(outcome: Outcome, run: Path, whole: dict[str, Any], what: str, free: bool) -> str | None:
    """What is wrong with the numbers."""
    file = run / "evaluation" / "ds-test" / "results.json"
    if outcome.status != 0:
        if what in SAME:
            return f"the same content, refused: {outcome.err[:200]}"
        return "refused, but there are results" if file.exists() else None
    found = json.loads(file.read_text())
    if "NaN" in file.read_text() or "Infinity" in file.read_text():
        return "numbers that are not finite"
    changed = {n: found[n] for n in _SCORES if found[n] is None or abs(found[n] - whole[n]) > 1e-9}
    count = {n: v for n, v in found.items() if n in ("images", "instances", "targets") and v != whole.get(n)}
    if (changed or count) and not free:
        return f"other numbers, without a word: {changed} {count}"
    for name, value in changed.items():
        if value is not None and not 0.0 <= value <= 1.0:
            return f"{name} is {value}"
    return None
