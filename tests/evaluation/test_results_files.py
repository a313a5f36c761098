"""What an evaluation wrote is read again as it was, also an older one; what is damaged is named in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codepose.bop.entries import BopError
from codepose.bop.results import read_results
from codepose.cli.main import main
from codepose.evaluation.results import damaged, read_summary
from codepose.paper.comparison import read_errors
from codepose.paper.experiment_report import _facts, _figure4, read_groups
from codepose.runtime.run import Run, RunError
from codepose.settings.schema import Settings

OLD = {
    "methods": {
        "joint": {"auc": 3.5, "auc_fraction": 0.875, "rotation_median_deg": None},
        "joint + GT box": {"auc": 3.75, "auc_fraction": 0.9375, "rotation_median_deg": 4.0},
    },
    "images": 2,
    "split": "test",
    "backgrounds": "procedural",
    "seed": 0,
    "preset": "quick",
    "weights": "none",
    "hardware": "AMD EPYC, 2 CPU threads",
    "date": "2026-11-23",
}
"""The first version's results.json, without what it did not say: versions, the processor, the run."""
TABLE = """\
index,object,visible_fraction,method,vsd,iou
0,1,0.5,joint,0.25,0.75
1,1,1,joint,,
0,1,0.5,joint + GT box,0.125,1
1,1,1,joint + GT box,0.0625,1
"""
ROW = "1,2,3,0.5,1 0 0 0 1 0 0 0 1,10 20 700,0.25"


@pytest.fixture
def results(tmp_path: Path, tiny_settings: Settings) -> Path:
    """RUN/evaluation/results.json of a run that was evaluated by the first version."""
    run = Run.create(tmp_path / "seed-0" / "t1-128", tiny_settings)
    path = run.stage("evaluation") / "results.json"
    path.write_text(json.dumps(OLD))
    path.with_name("per_image.csv").write_text(TABLE)
    return path


def test_an_old_evaluation_still_opens(results: Path, capsys) -> None:
    assert read_summary(results) == OLD
    assert main(["report", str(results.parents[1])]) == 0
    said = capsys.readouterr().out
    assert "2 held-out scenes, preset quick" in said
    assert "0.875" in said
    facts = _facts([OLD, OLD | {"torch": "2.15", "processor": "AMD EPYC, AVX512"}])
    assert (facts["torch"], facts["processor"]) == ("not said, 2.15", "not said, AMD EPYC, AVX512")
    assert facts["codepose"] == "not said"


def test_errors_come_back_by_method(results: Path) -> None:
    errors = read_errors(results.with_name("per_image.csv"))
    assert list(errors) == ["joint", "joint + GT box"]
    np.testing.assert_array_equal(errors["joint"].columns["vsd"], [0.25, np.nan])
    np.testing.assert_array_equal(errors["joint"].vsd, [0.25, 1.0])
    np.testing.assert_array_equal(errors["joint"].index, [0, 1])
    assert read_groups({results: OLD})["t1-128"]["joint"][0].visible_fraction.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        json.dumps(OLD).encode()[:-30],
        json.dumps(OLD | {"methods": []}).encode(),
        json.dumps(OLD | {"methods": {"joint": [1]}}).encode(),
        json.dumps(OLD | {"methods": {"joint": {"auc": "much"}}}).encode(),
        json.dumps(OLD | {"images": "all"}).encode(),
        json.dumps({name: value for name, value in OLD.items() if name != "preset"}).encode(),
    ],
)
def test_damaged_results_are_named_with_what_to_type(results: Path, content: bytes, capsys) -> None:
    results.write_bytes(content)
    assert main(["report", str(results.parents[1])]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"codepose report: {results} is damaged (")
    assert said.endswith(f"): type codepose evaluate {results.parents[1]}\n")
    assert said.count("\n") == 1


def test_what_is_damaged_is_said_in_one_line(tmp_path: Path) -> None:
    said = str(damaged(tmp_path / "evaluation" / "results.json", "no\n  number\tat all"))
    assert "results.json is damaged (no number at all): type codepose evaluate" in said


def test_a_methods_name_is_no_markup(results: Path, capsys) -> None:
    results.write_text(json.dumps(OLD | {"methods": {"[/red]joint": {"auc": 1.0}}}))
    assert main(["report", str(results.parents[1])]) == 0
    assert "[/red]joint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda table: table[:-3], "is damaged"),  # inside the last line
        (lambda table: table[:-1], "lines are missing"),
        (lambda table: table.rsplit("\n", 2)[0] + "\n", "lines are missing"),
        (lambda table: table.replace("0.75", "0.75,7"), "too long or too short"),
        (lambda table: table.replace("0.75", "three"), "three"),
        (lambda table: table.replace("method", "name"), "'method'"),
        (lambda table: table.replace("0,1,0.5,joint,", "0.5,1,0.5,joint,"), "invalid literal"),
        (lambda table: table.replace("joint + GT box", "joint,"), "too long or too short"),
        (lambda table: table.replace("0.75", '"0.75'), "is damaged"),
        (lambda table: table.replace("0.75", "\udcff"), "utf-8"),
    ],
)
def test_damaged_tables_are_named(results: Path, damage: Callable[[str], str], says: str) -> None:
    path = results.with_name("per_image.csv")
    path.write_bytes(damage(TABLE).encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=says) as raised:
        read_errors(path)
    assert str(raised.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "table", ["", TABLE.replace("1,1,1,joint,,\n", "").replace("1,1,1,joint + GT box,0.0625,1\n", "")]
)
def test_a_table_of_other_images_is_refused(results: Path, table: str) -> None:
    results.with_name("per_image.csv").write_text(table)
    with pytest.raises(RunError, match=r"per_image\.csv is damaged"):
        read_groups({results: OLD})


def test_a_damaged_picture_is_named(results: Path) -> None:
    results.with_name("figure-4-1.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(RunError, match=r"figure-4-1\.png is damaged \(it is no picture\): type codepose evaluate"):
        _figure4(results.parents[3], [results], {})


def test_a_table_that_is_gone_is_named(results: Path) -> None:
    results.with_name("per_image.csv").unlink()
    with pytest.raises(RunError, match=r"per_image\.csv is damaged .*type codepose evaluate"):
        read_groups({results: OLD})


@pytest.mark.parametrize("content", [f"\ufeff{ROW}\r\n".encode(), f"scene_id,im_id\n\n{ROW}".encode()])
def test_poses_of_other_tools_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    (one,) = read_results(tmp_path / "a.csv")
    assert (one.scene_id, one.im_id, one.obj_id, one.score, one.time) == (1, 2, 3, 0.5, 0.25)
    assert one.t_cam_obj.tolist() == [10, 20, 700]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe" + ROW.encode("utf-16-le"), "is no text in UTF-8"),
        (ROW.replace("700", "nan").encode(), "line 1 .*a number is not finite"),
        (ROW.replace("0.5", "inf").encode(), "line 1 .*a number is not finite"),
        (ROW.replace("0.25", "nan").encode(), "line 1 .*a number is not finite"),
        (f"{ROW}\nscene_id,im_id\n{ROW}".encode(), "line 2 is not scene_id"),
        (f"{ROW}\n{ROW[:20]}".encode(), "line 2 is not scene_id"),
        (ROW.replace("700", '"700').encode(), "line 1 is not"),
    ],
)
def test_damaged_poses_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(BopError, match=says):
        read_results(tmp_path / "a.csv")
