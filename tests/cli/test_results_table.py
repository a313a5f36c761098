"""The tables after an evaluation: refined poses first, seven rows instead of thirteen, whole words in 80 columns."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from codepose.cli.results_table import results_tables

LARGE = {
    "auc_fraction": 0.123,
    "recall_03": 0.234,
    "mean_iou": 0.345,
    "rotation_median_deg": 177.7,
    "translation_median_mm": 1234.5,
    "mssd_recall_10": 1.0,
    "ms_per_image": 12345.6,
}
"""As wide as numbers get."""
METHODS = ("joint", "extended", "original")


def printed(methods: dict[str, Any]) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    for table in results_tables({"images": 120, "preset": "quick", "methods": methods}):
        console.print(table)
    return console.file.getvalue().splitlines()


def rows(lines: list[str]) -> list[list[str]]:
    """Cells of the lines that begin with a method."""
    return [line.split() for line in lines if line.split() and line.split()[0] in {*METHODS, "oracle"}]


def test_the_demo_leads_with_refined_poses() -> None:
    methods: dict[str, Any] = dict.fromkeys(METHODS, LARGE) | {f"{m} + refinement": LARGE for m in METHODS}
    methods |= {f"{name} + GT box": LARGE | {"auc_fraction": 0.987} for name in methods}
    methods |= {"oracle": LARGE | {"ms_per_image": None}}
    assert len(methods) == 13
    lines = printed(methods)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.index("With refinement: 120 held-out scenes, preset quick") < text.index("The paper's comparison")
    found = rows(lines)
    assert [cells[0] for cells in found] == [*METHODS, *METHODS, "oracle"]
    assert found[0] == ["joint", "100%", "177.7°", "1234.5", "mm", "0.123", "0.987", "12346"]
    assert found[3] == ["joint", "0.123", "0.234", "0.345", "177.7°", "1234.5", "mm", "0.987", "12346"]
    assert found[-1][-2:] == ["-", "-"]


def test_rows_with_depth_stay_whole_in_80_columns() -> None:
    plain = {f"{m}{more}": LARGE for m in METHODS for more in ("", " + depth")}
    lines = printed(plain)
    assert max(map(len, lines)) <= 80
    assert [" ".join(cells[:3]) for cells in rows(lines)[::2]] == [f"{m} 0.123 0.234" for m in METHODS]
    assert [cells[:3] for cells in rows(lines)[1::2]] == [[m, "+", "depth"] for m in METHODS]
    assert "120 held-out scenes, preset quick" in "\n".join(lines)
    assert "refinement" not in "\n".join(lines)
    refined = printed({f"{m} + refinement{more}": LARGE for m in METHODS for more in ("", " + depth")})
    assert [cells[:3] for cells in rows(refined)[1::2]] == [[m, "+", "depth"] for m in METHODS]


def test_an_evaluation_of_an_older_codepose_lacks_some_numbers() -> None:
    (cells,) = rows(printed({"joint": {"auc_fraction": 0.5}}))
    assert cells == ["joint", "0.500", *"------"]
