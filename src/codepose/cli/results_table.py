"""What ``codepose demo``, ``evaluate`` and ``report`` print in the end: refined poses first, then the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

_REFINED, _TRUE_BOX = " + refinement", " + GT box"
_AREA = ("AUC/N", "auc_fraction", ".3f", "")
_POSE = (
    ("rotation\n(median)", "rotation_median_deg", ".1f", "\u00b0"),
    ("translation\n(median)", "translation_median_mm", ".1f", " mm"),
)
_TIME = ("ms an\nimage", "ms_per_image", ".0f", "")
_OWNERS = (("right\n(MSSD<10%)", "mssd_recall_10", ".0%", ""), *_POSE, _AREA, _TIME)
_COMPARED = (
    _AREA,
    ("recall\n@0.3", "recall_03", ".3f", ""),
    ("IoU", "mean_iou", ".3f", ""),
    *_POSE,
    _TIME,
)
_Numbers = Mapping[str, Any]


def results_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of an evaluation, of at most 80 columns, those that have rows.

    A method's poses in true boxes have a column of their own; report.html has all of their numbers.

    Args:
        summary: The content of results.json.
    """
    methods: Mapping[str, _Numbers] = summary["methods"]
    own = {name: numbers for name, numbers in methods.items() if not name.endswith(_TRUE_BOX)}
    refined = [name for name in own if _REFINED in name]
    scenes = f"{summary['images']} held-out scenes, preset {summary['preset']}"
    owners = _table(f"With refinement: {scenes}", _OWNERS, methods, refined)
    first = "The paper's comparison, without refinement" if refined else scenes
    compared = _table(first, _COMPARED, methods, [name for name in own if name not in refined])
    return [owners, compared] if refined else [compared]


def _table(
    title: str, columns: tuple[tuple[str, str, str, str], ...], methods: Mapping[str, _Numbers], names: list[str]
) -> Table:
    """A row of numbers for each of some methods, and their AUC/N in true boxes."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in (*(column[0] for column in columns[:-1]), "AUC/N,\ntrue box", columns[-1][0]):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        cells = [_cell(methods[name].get(key), form, unit) for _, key, form, unit in columns]
        in_true_box = _cell(methods.get(name + _TRUE_BOX, {}).get("auc_fraction"), ".3f", "")
        table.add_row(Text(name.replace(_REFINED, "")), *cells[:-1], in_true_box, cells[-1])
    return table


def _cell(value: float | None, form: str, unit: str) -> str:
    """A number as it is printed; an older evaluation lacks some."""
    return "-" if value is None else f"{value:{form}}{unit}"
