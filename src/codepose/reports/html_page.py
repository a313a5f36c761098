"""One self-contained HTML page: headline numbers, text, tables and pictures, nothing loaded from outside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from codepose.storage.replace import write_atomically

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

METHOD_COLUMNS: tuple[tuple[str, str, int], ...] = (  # heading, key of metrics.summarise, decimals
    ("AUC", "auc", 1),
    ("AUC fraction", "auc_fraction", 3),
    ("Recall @ 0.3", "recall_03", 3),
    ("Mean IoU", "mean_iou", 3),
    ("Median rotation error (°)", "rotation_median_deg", 1),
    ("Median translation error (mm)", "translation_median_mm", 1),
)


@dataclass(frozen=True)
class Table:
    """A heading per column and rows of cells that are as long; all plain text."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row has {len(row)} cells under {len(self.headers)} headers: {list(row)}")


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs parted by blank lines, a table, and pictures as (caption, PNG bytes)."""

    title: str
    text: str = ""
    pictures: Sequence[tuple[str, bytes]] = ()
    table: Table | None = None

    def __post_init__(self) -> None:
        for caption, data in self.pictures:
            if not data.startswith(PNG_SIGNATURE):
                raise ValueError(f"picture {caption!r} is no PNG: encode it with codepose.reports.draw.to_png")


def method_table(summaries: Mapping[str, Mapping[str, float | None]]) -> Table:
    """The results table: a row per method, as in the README.

    Args:
        summaries: method to what `metrics.summarise` returned for it; with "ms_per_image" where it was timed.

    Raises:
        ValueError: a summary lacks a column's key.
    """
    rows = []
    for method, summary in summaries.items():
        missing = [key for _, key, _ in METHOD_COLUMNS if key not in summary]
        if missing:
            raise ValueError(f"the summary of {method!r} lacks {missing}: make it with metrics.summarise")
        rows.append([method, *(_number(summary[key], decimals) for _, key, decimals in METHOD_COLUMNS)])
    headers = ["Method", *(heading for heading, _, _ in METHOD_COLUMNS)]
    if any("ms_per_image" in summary for summary in summaries.values()):
        headers.append("Time an image (ms)")
        for row, summary in zip(rows, summaries.values(), strict=True):
            row.append(_number(summary.get("ms_per_image"), 0))
    return Table(tuple(headers), rows)


def write_report(path: Path | str, *, title: str, summary: Mapping[str, object], sections: Sequence[Section]) -> Path:
    """Writes the page; an existing file is replaced in one step.

    Args:
        path: of the HTML file; its folder is made if need be.
        title: of the page.
        summary: name to value, shown as tiles at the top; floats are printed with four significant digits.
        sections: in reading order.

    Returns:
        The path written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join([_summary(summary), _contents(sections), *map(_section, sections, range(len(sections)))])
    page = PAGE.format(title=escape(title), style=STYLE, body=body)
    write_atomically(target, page)
    return target


def _summary(summary: Mapping[str, object]) -> str:
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(_value(value))}</dd></div>" for name, value in summary.items()
    )
    return f'<dl class="tiles">{tiles}</dl>' if tiles else ""


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    return f"<nav>{links}</nav>" if len(sections) > 1 else ""


def _section(section: Section, index: int) -> str:
    paragraphs = "".join(f"<p>{escape(part.strip())}</p>" for part in section.text.split("\n\n") if part.strip())
    table = _table(section.table) if section.table else ""
    pictures = "".join(_picture(caption, data) for caption, data in section.pictures)
    return f'<section id="s{index}"><h2>{escape(section.title)}</h2>{paragraphs}{table}{pictures}</section>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in table.headers)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _picture(caption: str, data: bytes) -> str:
    text, encoded = escape(caption), base64.b64encode(data).decode("ascii")
    return f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "n/a" if value is None else str(value)


def _number(value: float | None, decimals: int) -> str:
    return "n/a" if value is None else f"{value:.{decimals}f}"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #ffffff; --ink: #23262b; --soft: #666c75;
  --line: #e3e1dc; --accent: #b9560a; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17191d; --card: #202328; --ink: #e6e4e0; --soft: #a0a5ad; --line: #363a41;
    --accent: #f2a15c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 1.5rem; }
@media (max-width: 40rem) { h1 { font-size: 1.5rem; } }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 0.75rem; }
p { max-width: 42rem; margin: 0 0 1rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; padding: 0.5rem 0; }
section { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 0 0 1rem; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.6rem 0.9rem; flex: 1 1 7.5rem; overflow-wrap: break-word; }
dt { color: var(--soft); font-size: 0.82rem; line-height: 1.35; }
dd { margin: 0.15rem 0 0; font-size: 1.25rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: 0.93rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 0.45rem 0.8rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 0.82rem; line-height: 1.3; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 0 0 1.5rem; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: 0.88rem; margin-top: 0.4rem; max-width: 42rem; }
"""
