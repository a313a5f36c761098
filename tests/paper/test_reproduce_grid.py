"""The whole experiment at smoke scale, which takes minutes: sharing, resuming, the report's numbers."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import codepose
from codepose.api import evaluate
from codepose.cli.main import main
from codepose.paper import reproduce
from codepose.paper.comparison import auc_difference, read_errors
from codepose.paper.experiment_report import _differences, _errors, read_groups, read_results, write_grid_report
from codepose.paper.grid import cells, stage_key, training_stages
from codepose.runtime.checkpoint import load_state
from codepose.runtime.run import Run
from codepose.storage.checksums import read_json, write_json

PICKED = ("t1-128/*", "t2-128/joint")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "smoke"
    assert main(["reproduce", "--scale", "smoke", "--seeds", "2", "--out", str(folder), "--cells", *PICKED]) == 0
    return folder


def test_what_can_be_shared_is_trained_once(out: Path) -> None:
    every = cells("smoke", 0)
    keys = {stage_key(c, s) for c in every for s in training_stages(c)}
    assert sum(k == "detector" for k in keys) == 1
    assert {k for k in keys if k.startswith("step1")} == {"step1-128", "step1-4096"}
    first, second = out / "seed-0" / "t1-128", out / "seed-0" / "t2-128"
    a, b = (load_state(p / "step1" / "weights.safetensors") for p in (first, second))
    assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (load_state(p / "step2" / "weights.safetensors") for p in (first, second))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    assert not (second / "detector").exists(), "joint alone needs no independent detector"


def test_the_report_agrees_with_the_images_csv(out: Path) -> None:
    summary = json.loads((out / "results.json").read_text())
    for seed in (0, 1):
        with open(out / f"seed-{seed}" / "t1-128" / "evaluation" / "per_image.csv") as file:
            rows = [r for r in csv.DictReader(file) if r["method"] == "extended"]
        value = np.mean([1.0 - float(r["vsd"] or 1.0) for r in rows])
        cell = summary["cells"]["t1-128/extended"]["auc_fraction"]
        assert cell["values"][seed] == pytest.approx(value, abs=1e-6)
        assert cell["mean"] == pytest.approx(np.mean(cell["values"]))
        assert cell["deviation"] == pytest.approx(np.std(cell["values"], ddof=1))
    assert summary["codepose"] == codepose.__version__
    runs = {f"seed-{seed}/{group}" for seed in (0, 1) for group in ("t1-128", "t2-128")}
    assert runs <= summary["evaluated"].keys()
    for name, run in summary["evaluated"].items():
        results = json.loads((out / name / "evaluation" / "results.json").read_text())
        assert run == results["run"]
        assert run["folder"] == name.split("/")[1]
    rows = {f"t1-128/{m}" for m in ("joint + refinement", "joint + GT box", "jitter", "oracle")} | {"t2-128/joint"}
    assert rows <= set(summary["cells"])
    difference = summary["differences"]["t1-128: joint - extended"]
    assert list(difference["by_seed"]) == ["0", "1"]
    assert np.mean(list(difference["by_seed"].values())) == pytest.approx(difference["mean"])
    assert "t1-128 + refinement + GT box: joint - extended" in summary["differences"]
    assert "t1-128: (joint + refinement) - joint" in summary["differences"]
    assert difference["low"] <= difference["mean"]
    assert difference["mean"] <= difference["high"]
    for name in ("report.html", "table.md", "figure-3.png", "figure-3.svg", "figure-4.png", "figure-4.svg"):
        assert (out / name).stat().st_size > 500, name


def test_a_grid_goes_on_after_kill_9(out: Path, tmp_path: Path) -> None:
    """Killed once Step 1 is done: the second call keeps it, and ends where a call that nothing disturbed did."""
    words = ["reproduce", "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path), "--cells", "t1-128/extended"]
    process = subprocess.Popen([sys.executable, "-m", "codepose", *words, "t1-128/joint"], stdout=subprocess.DEVNULL)
    run = tmp_path / "seed-0" / "t1-128"
    step1, deadline = run / "step1" / "weights.safetensors", time.monotonic() + 600
    while not step1.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    written = step1.stat().st_mtime_ns
    assert not (tmp_path / "report.html").exists()
    assert main([*words, "t1-128/joint"]) == 0
    assert step1.stat().st_mtime_ns == written
    for stage in ("step1", "step2", "detector"):
        mine, theirs = (load_state(p / stage / "weights.safetensors") for p in (run, out / "seed-0" / "t1-128"))
        off = max(float((mine[key] - theirs[key]).abs().max()) for key in theirs)
        assert off < (1e-4 if stage == "step1" else 1e-2), stage  # processes divide sums among threads in their own way
    assert (tmp_path / "report.html").exists()


def test_a_second_call_repeats_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sorted(out.rglob("weights.safetensors"))
    before = [p.stat().st_mtime_ns for p in weights]
    monkeypatch.setattr("codepose.paper.reproduce.evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    assert main(["reproduce", "--scale", "smoke", "--seeds", "2", "--out", str(out), "--cells", *PICKED]) == 0
    assert [p.stat().st_mtime_ns for p in weights] == before


def test_later_cells_take_over_what_earlier_ones_left(out: Path, tmp_path: Path, monkeypatch) -> None:
    """t1-128 is there from an earlier call: t2-128 trains none of what they share."""
    shutil.copytree(out / "seed-0" / "t1-128", tmp_path / "seed-0" / "t1-128")
    trained: list[list[str]] = []

    def spied(run: Run, methods: list[str], **_: object) -> None:
        trained.append(sorted(s for s in ("step1", "detector", "original", "step2") if not run.has(s)))

    monkeypatch.setattr("codepose.paper.reproduce.train_stages", spied)
    monkeypatch.setattr("codepose.paper.reproduce.evaluate", lambda *_, **__: None)
    monkeypatch.setattr("codepose.paper.reproduce.write_grid_report", lambda folder: folder)
    arguments = ["--scale", "smoke", "--seeds", "1", "--out", str(tmp_path), "--cells", "t2-128/*"]
    assert main(["reproduce", *arguments]) == 0
    assert trained[-1] == ["step2"]


def test_methods_evaluated_by_an_earlier_call_stay_in_the_results(out: Path, monkeypatch) -> None:
    run = Run.open(out / "seed-0" / "t1-128")
    path = run.path / "evaluation" / "results.json"
    results = read_json(path)
    results["methods"] = {name: rows for name, rows in results["methods"].items() if name.startswith("joint")}
    text, evaluated = path.read_text(), []
    monkeypatch.setattr("codepose.paper.reproduce.evaluate", lambda run, methods, **_: evaluated.append(methods))
    try:
        write_json(path, results)
        reproduce._evaluate(run, cells("smoke", 0, ["t1-128/extended"]), "cpu")
    finally:
        path.write_text(text)
    assert evaluated == [["joint", "extended"]]


def test_differences_are_paired_by_image(out: Path) -> None:
    groups = read_groups(read_results(out)[0])
    joint, extended = (list(groups["t1-128"][method].values()) for method in ("joint", "extended"))
    found = auc_difference(joint, extended)
    assert found.mean == pytest.approx(
        np.mean([e.vsd.mean() for e in extended]) - np.mean([j.vsd.mean() for j in joint])
    )
    assert auc_difference(joint, joint) == (0.0, 0.0, 0.0)
    shuffled = read_errors(out / "seed-0" / "t1-128" / "evaluation" / "per_image.csv")["joint"]
    shuffled.index[:] = shuffled.index[::-1]
    with pytest.raises(ValueError, match="same images"):
        auc_difference([shuffled], joint[:1])


def test_only_seeds_that_both_have_are_paired(out: Path) -> None:
    joint = read_groups(read_results(out)[0])["t1-128"]["joint"]
    found = _differences({"t1-128": {"joint": joint, "jitter": {1: joint[1]}, "original": {7: joint[0]}}})
    assert found["t1-128: joint - jitter"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "by_seed": {1: 0.0}}
    assert "t1-128: joint - original" not in found


@pytest.mark.parametrize("change", [{"split": "val"}, {"images": 3}, {"methods": {"joint": {}}}, {"methods": []}])
def test_results_of_other_scenes_are_not_taken_for_the_tests(out: Path, change: dict[str, object], monkeypatch) -> None:
    run = Run.open(out / "seed-0" / "t1-128")
    path = run.path / "evaluation" / "results.json"
    text, evaluated = path.read_text(), []
    monkeypatch.setattr("codepose.paper.reproduce.evaluate", lambda run, methods, **_: evaluated.append(methods))
    try:
        write_json(path, read_json(path) | change)
        reproduce._evaluate(run, cells("smoke", 0, ["t1-128/joint"]), "cpu")
    finally:
        path.write_text(text)
    assert evaluated == [["joint"]]


@pytest.mark.parametrize("change", [{"split": "val"}, {"images": 3}, {"photo_scale": 7}])
def test_runs_evaluated_on_other_scenes_stay_out_of_the_report(out: Path, change: dict[str, object]) -> None:
    path = out / "seed-1" / "t1-128" / "evaluation" / "results.json"
    text = path.read_text()
    assert list(read_groups(read_results(out)[0])["t1-128"]["joint"]) == [0, 1]
    try:
        write_json(path, read_json(path) | change)
        assert list(read_groups(read_results(out)[0])["t1-128"]["joint"]) == [0]
        assert "seed-1/t1-128" in write_grid_report(out).read_text()
    finally:
        path.write_text(text)
        write_grid_report(out)


def test_figure_3_draws_the_shared_networks_in_every_panel_of_the_same_seeds(out: Path) -> None:
    groups = read_groups(read_results(out)[0])
    assert "extended" not in groups["t2-128"]
    for method in ("joint", "extended", "original"):
        assert len(_errors(groups, "t2-128", method)) == 2
    assert _errors(groups, "t2-128", "extended") == list(groups["t1-128"]["extended"].values())
    groups["t2-128"] = {"joint": {0: groups["t2-128"]["joint"][0]}}
    assert _errors(groups, "t2-128", "original") == [groups["t1-128"]["original"][0]]
    groups["t1-4096"] = {"joint": groups["t1-128"]["joint"]}
    assert len(_errors(groups, "t1-4096", "original")) == 2
    assert _errors(groups, "t1-4096", "extended") == []
    groups["t1-4096"] = {"extended": groups["t1-128"]["extended"]}
    assert _errors(groups, "t1-4096", "joint") == []


def test_copies_of_a_seeds_folder_stay_out_of_the_report(out: Path) -> None:
    copy = out / "seed-0-backup"
    shutil.copytree(out / "seed-0" / "t1-128" / "evaluation", copy / "t1-128" / "evaluation")
    try:
        assert list(read_groups(read_results(out)[0])["t1-128"]["joint"]) == [0, 1]
    finally:
        shutil.rmtree(copy)


def test_an_evaluation_that_was_cut_off_leaves_the_one_before_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(out / "seed-1" / "t1-128")
    before = files(run.path)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codepose.reports.run_report.write_run_report", cut_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, ["joint"], images=2, device="cpu")
    assert files(run.path) == before


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_say_which_seed_they_are_of(out: Path) -> None:
    for seed in (0, 1):
        results = json.loads((out / f"seed-{seed}" / "t1-128" / "evaluation" / "results.json").read_text())
        assert (results["seed"], results["data_seed"]) == (seed, 0)
