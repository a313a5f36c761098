"""The report of a whole experiment: Figure 3 (2 x 2), Figure 4, the table over seeds, paired intervals."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codepose.estimation.methods import METHODS
from codepose.evaluation.metrics import VISIBLE_WORDS
from codepose.evaluation.results import damaged, read_summary
from codepose.paper.comparison import Errors, Spread, auc_difference, read_errors, spread
from codepose.reports import draw, plots
from codepose.reports.html_page import Section, Table, write_report
from codepose.storage.checksums import write_json
from codepose.storage.replace import write_atomically

_PANELS = (("t1-128", "T1, 128"), ("t2-128", "T2, 128"), ("t1-4096", "T1, 4,096"), ("t2-4096", "T2, 4,096"))
_COLUMNS = (
    ("AUC fraction", "auc_fraction", 3),
    ("GT translation", "auc_fraction_rotation", 3),
    ("GT rotation", "auc_fraction_translation", 3),
    ("Recall @ 0.3", "recall_03", 3),
    ("Mean IoU", "mean_iou", 3),
    ("Rotation (°)", "rotation_median_deg", 1),
    ("within 10°", "rotation_recall_10", 2),
    ("within 30°", "rotation_recall_30", 2),
    ("AR_VSD", "ar_vsd", 3),
)
Group = dict[str, dict[int, Errors]]
"""A run group's errors by method and seed."""


_PROVENANCE = ("preset", "weights", "hardware", "processor", "codepose", "torch", "torchvision")
"""What runs say of themselves; those evaluated before 2026-11-28 do not know the last four."""
_SAME = ("split", "images", "data_seed", "photo_scale", "backgrounds")
"""What says of which scenes a run's results are."""


def read_results(out: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Reads the results.json of every evaluated run of an experiment.

    Returns:
        What those say that were evaluated on the same scenes as most, of equally many on the test split, by path; and
        the names of the other runs.

    Raises:
        RunError: One is damaged.
    """
    every = out.glob("seed-*/*/evaluation/results.json")
    paths = sorted((path for path in every if re.fullmatch(r"seed-\d+", path.parts[-4])), key=_order)
    found = {path: read_summary(path) for path in paths}
    scenes = {path: tuple(values.get(key) for key in _SAME) for path, values in found.items()}
    counts = Counter(scenes.values())
    usual = max(counts, key=lambda one: (counts[one], one[0] == "test"), default=None)
    left_out = ["/".join(path.parts[-4:-2]) for path in paths if scenes[path] != usual]
    return {path: values for path, values in found.items() if scenes[path] == usual}, left_out


def read_groups(results: Mapping[Path, Mapping[str, Any]]) -> dict[str, Group]:
    """Reads the per-image errors beside results.json files: by group, method, seed.

    Args:
        results: Of ``read_results``.

    Raises:
        RunError: A per_image.csv is damaged, or not of the images of its results.json.
    """
    groups: dict[str, Group] = {}
    for path, values in results.items():
        seed, _, name = _order(path)
        table = path.with_name("per_image.csv")
        every = read_errors(table)
        if every.keys() != values["methods"].keys() or any(len(e.index) != values["images"] for e in every.values()):
            raise damaged(table, f"it does not belong to {path.name}")
        for method, errors in every.items():
            groups.setdefault(name, {}).setdefault(method, {})[seed] = errors
    return groups


def _order(path: Path) -> tuple[int, int, str]:
    """Its seed, and its group, short names first."""
    seed, group = path.parts[-4], path.parts[-3]
    return int(seed.removeprefix("seed-")), len(group), group


def write_grid_report(out: Path) -> Path:
    """Writes results.json, table.md, figure-3.png and .svg, figure-4.png and .svg, and report.html of an experiment.

    Raises:
        FileNotFoundError: Nothing in the folder has been evaluated.
        RunError: What a run's evaluation wrote is damaged.
    """
    results, left_out = read_results(out)
    if not results:
        raise FileNotFoundError(f"{out} holds no evaluated run: codepose reproduce --out {out}")
    groups, facts = read_groups(results), _facts(list(results.values())) | {"left_out": left_out}
    rows = {f"{g}/{m}": _statistics(list(e.values())) for g, methods in groups.items() for m, e in methods.items()}
    differences = _differences(groups)
    runs = {"/".join(path.parts[-4:-2]): values.get("run") for path, values in results.items()}
    summary = {"cells": rows, "differences": differences, **facts, "evaluated": runs}
    write_json(out / "results.json", summary)
    table = _table(groups)
    write_atomically(out / "table.md", f"{_markdown(table)}\n\n{_markdown(_difference_table(differences))}\n")
    sections = [
        Section("Results", _words(facts), table=table),
        Section("Is the difference beyond the scenes' noise?", _NOISE, table=_difference_table(differences)),
        *_figure3(out, groups),
        *_figure4(out, results, groups),
        Section("By visibility: AUC fraction", "Share of the silhouette that is visible.", table=_visibility(groups)),
    ]
    seeds = max(len(errors) for methods in groups.values() for errors in methods.values())
    headline = {"Cells": len(rows), "Seeds": seeds, "Images": facts["images"]}
    title = "codepose: the paper's experiment"
    return write_report(out / "report.html", title=title, summary=headline, sections=sections)


_NOISE = (
    "AUC fraction of one method minus that of another on the same images, with the 95 % interval of a paired "
    "bootstrap over the images; each image enters with its mean over the seeds. The interval says what other scenes "
    "could change; what other trainings could, the differences of the single seeds show."
)


def _facts(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a reader must know to believe the numbers, from the runs' own results."""
    return {
        **{k: results[0].get(k, "not said") for k in ("images", "split", "backgrounds")},
        **{k: ", ".join(dict.fromkeys(str(one.get(k, "not said")) for one in results)) for k in _PROVENANCE},
        "date": max(str(one.get("date", "")) for one in results),
        "runs": len(results),
    }


def _words(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['preset']}: {facts['images']} scenes of the {facts['split']} split, initial weights: "
        f"{facts['weights']}, backgrounds: {facts['backgrounds']}; {facts['runs']} runs, {facts['hardware']}, until "
        f"{facts['date']}. Mean over the "
        "seeds, ± standard deviation between them; full pose unless a column says which half is true."
        + (f" Left out, evaluated on other scenes: {', '.join(facts['left_out'])}." if facts["left_out"] else "")
    )


def _spreads(errors: Sequence[Errors]) -> dict[str, Spread]:
    summaries = [e.summary() for e in errors]
    infinite = {k for s in summaries for k, v in s.items() if v is None}
    return {k: spread([float(s[k] or 0.0) for s in summaries]) for k in summaries[0] if k not in infinite}


def _statistics(errors: Sequence[Errors]) -> dict[str, Any]:
    """Plain numbers for JSON; a deviation of a single seed is null."""
    return {
        name: {
            "mean": s.mean,
            "deviation": None if np.isnan(s.deviation) else s.deviation,
            "values": list(s.values),
        }
        for name, s in _spreads(errors).items()
    }


def _table(groups: Mapping[str, Group]) -> Table:
    rows = []
    for group, methods in groups.items():
        for method, errors in methods.items():
            found = _spreads(list(errors.values()))
            rows.append([f"{group} {method}", *(_cell(found.get(key), digits) for _, key, digits in _COLUMNS)])
    return Table(["Cell", *(heading for heading, _, _ in _COLUMNS)], rows)


def _cell(value: Spread | None, digits: int) -> str:
    if value is None:
        return "–"
    text = f"{value.mean:.{digits}f}"
    return text if np.isnan(value.deviation) else f"{text} ± {value.deviation:.{digits}f}"


def _differences(groups: Mapping[str, Group]) -> dict[str, dict[str, Any]]:
    """Joint against every other method of its group."""
    pairs: dict[str, tuple[dict[int, Errors], dict[int, Errors]]] = {}
    for group, methods in groups.items():
        joint = methods.get("joint")
        if joint is None:
            continue
        for more in ("", " + refinement", " + GT box", " + refinement + GT box"):
            for other in ("extended", "original", "jitter"):
                if f"joint{more}" in methods and f"{other}{more}" in methods:
                    pairs[f"{group}{more}: joint - {other}"] = (methods[f"joint{more}"], methods[f"{other}{more}"])
        if "joint + refinement" in methods:
            pairs[f"{group}: (joint + refinement) - joint"] = (methods["joint + refinement"], joint)
    found = {}
    for name, (a, b) in pairs.items():
        both = sorted(a.keys() & b.keys())
        if both:
            interval = auc_difference([a[seed] for seed in both], [b[seed] for seed in both])
            each = {seed: float(b[seed].vsd.mean() - a[seed].vsd.mean()) for seed in both}
            found[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "by_seed": each}
    return found


def _difference_table(differences: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [
            name,
            f"{d['mean']:+.3f}",
            f"{d['low']:+.3f} … {d['high']:+.3f}",
            ", ".join(f"{value:+.3f}" for value in d["by_seed"].values()),
            "yes" if d["low"] > 0 or d["high"] < 0 else "no",
        ]
        for name, d in differences.items()
    ]
    return Table(["AUC fraction", "difference", "95 % interval", "seed by seed", "beyond scenes' noise"], rows)


def _visibility(groups: Mapping[str, Group]) -> Table:
    rows = []
    for group, methods in groups.items():
        for method, errors in methods.items():
            means = [[b.mean for b in e.by_visibility()] for e in errors.values()]
            cells = [f"{np.mean(column):.3f}" if None not in column else "–" for column in zip(*means, strict=True)]
            rows.append([f"{group} {method}", *cells])
    return Table(["Cell", *VISIBLE_WORDS], rows)


def _figure3(out: Path, groups: Mapping[str, Group]) -> list[Section]:
    curves = [*METHODS, *(f"{method} + refinement" for method in METHODS)]
    panels: dict[str, dict[str, Any]] = {}
    for group, title in _PANELS:
        if group in groups:
            errors = {m: _errors(groups, group, m) for m in curves}
            panels[title] = {m: np.mean([np.sort(e.vsd) for e in es], axis=0) for m, es in errors.items() if es}
    if not panels:
        return []
    figure = plots.figure3_grid(panels)
    png, svg = draw.to_png(figure), io.BytesIO()
    figure.savefig(svg, format="svg")
    write_atomically(out / "figure-3.png", png)
    write_atomically(out / "figure-3.svg", svg.getvalue())
    text = (
        "The number of images whose VSD lies below the threshold; the area under a curve is the sum of 1 − VSD. With "
        "several seeds, the mean of their sorted errors, whose area is the mean of theirs. Broken lines, where there "
        "are any: refined poses, which the paper does not have. The extended AAE of a latent size is one network for "
        "T1 and T2, the original AAE one for all four."
    )
    return [Section("Figure 3: correct poses against the VSD threshold", text, [("Figure 3", png)])]


def _errors(groups: Mapping[str, Group], group: str, method: str) -> list[Errors]:
    """A cell's errors by seed, or of its seeds those of the cell whose network it shares.

    The extended AAE of a latent size is one network for T1 and T2, and the original AAE one for all cells.
    """
    own = groups[group]
    if method in own:
        return list(own[method].values())
    seeds = {seed for errors in own.values() for seed in errors}
    ending = {"extended": group.split("-")[1], "original": ""}.get(method.split(" ")[0])
    alike = [] if ending is None else [groups.get(name, {}) for name, _ in _PANELS if name.endswith(ending)]
    lent = next((other[method] for other in alike if method in other), {})
    return [e for seed, e in lent.items() if seed in seeds]


def _figure4(out: Path, results: Iterable[Path], groups: Mapping[str, Group]) -> list[Section]:
    """The detections of the first seed's first run that has them."""
    for path in results:
        picture = path.with_name("figure-4-1.png")
        if not picture.is_file():
            continue
        png = picture.read_bytes()
        try:
            svg = _svg(png)
        except OSError:
            raise damaged(picture, "it is no picture") from None
        write_atomically(out / "figure-4.png", png)
        write_atomically(out / "figure-4.svg", svg)
        means = [
            f"{group} {m}: {np.mean([np.nan_to_num(e.columns['iou']).mean() for e in errors]):.3f}"
            for group in groups
            for m in METHODS
            if (errors := _errors(groups, group, m))
        ]
        text = f"Scenes of {path.parts[-3]}. Mean IoU over all scenes and seeds: {', '.join(means)}."
        return [Section("Figure 4: detections", text, [("Figure 4", png)])]
    return []


def _svg(png: bytes) -> str:
    """A picture of pixels as an SVG file."""
    width, height = Image.open(io.BytesIO(png)).size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{b64encode(png).decode()}"/></svg>\n'
    )


def _markdown(table: Table) -> str:
    lines = [table.headers, ["---"] * len(table.headers), *table.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
