"""Plots of a report: Fig. 3 of the paper, learning curves, reliability of the confidence.

Matplotlib figures made without pyplot, so that nothing is global.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from codepose.evaluation.metrics import auc
from codepose.evaluation.reliability import expected_calibration_error, reliability
from codepose.reports.draw import METHOD_COLORS, Color, method_colors, to_png
from codepose.storage.replace import write_atomically

THETAS = np.linspace(0.0, 1.0, 1001)
_IN_PANEL = 4
"""Curves whose legend finds room among them."""


def figure3(curves: Mapping[str, npt.ArrayLike], path: Path | None = None, title: str = "") -> Figure:
    """Number of correct poses (VSD < theta) over theta, with each method's AUC (Fig. 3; 40).

    Args:
        curves: method to its (N,) VSD in [0, 1] over the test images; nan = missed, counts as 1.
        path: also written here as PNG.
        title: above the plot.

    Raises:
        ValueError: a VSD lies outside [0, 1].
    """
    figure = figure3_grid({title: curves})
    if path is not None:
        write_atomically(path, to_png(figure))
    return figure


def figure3_grid(panels: Mapping[str, Mapping[str, npt.ArrayLike]]) -> Figure:
    """Up to four panels of `figure3`, two a row, with one colour per method and one kind of line per
    refinement across all of them.

    Args:
        panels: title to the curves of one panel, as in `figure3`.

    Raises:
        ValueError: there is no panel or there are more than four, or a VSD lies outside [0, 1].
    """
    if not 1 <= len(panels) <= 4:
        raise ValueError(f"figure3_grid draws one to four panels, got {len(panels)}")
    colors = method_colors(dict.fromkeys(name for curves in panels.values() for name in curves))
    across, down = min(len(panels), 2), math.ceil(len(panels) / 2)
    beside = any(len(curves) > _IN_PANEL for curves in panels.values())
    figure = _figure((8.2 if beside else 5.6) * across, 4.2 * down)
    for index, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(down, across, index + 1)
        for name, values in curves.items():
            errors = np.sort(np.nan_to_num(np.asarray(values, dtype=np.float64), nan=1.0))
            area = auc(errors)
            label = f"{name}: AUC {area:.0f} ({area / len(errors):.3f})"
            correct = np.searchsorted(errors, THETAS, side="left")
            axes.plot(THETAS, correct, color=_rgb(colors[name]), linestyle=_style(name), linewidth=2, label=label)
        axes.set(title=title, xlabel="VSD threshold θ", ylabel="correct poses (VSD < θ)", xlim=(0, 1))
        axes.set_ylim(0, max((np.size(values) for values in curves.values()), default=1))
        if not beside:
            axes.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=9)
        else:  # so many would hide a curve
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), edgecolor="none", fontsize=9)
        _clean(axes)
    return figure


def learning_curves(records: Sequence[Mapping[str, object]], keys: Sequence[str], *, x: str = "step") -> Figure:
    """One panel per recorded value, over the training step; logarithmic where positive values span 100 times.

    Args:
        records: lines of `metrics.jsonl`; one without a finite number under `x` and the key is left out.
        keys: the values to draw, at least one.
        x: key of the horizontal axis.

    Raises:
        ValueError: there is no key.
    """
    if not keys:
        raise ValueError("learning_curves needs at least one key")
    across = min(len(keys), 3)
    down = math.ceil(len(keys) / across)
    figure = _figure(4.0 * across, 2.8 * down)
    for index, key in enumerate(keys):
        axes = figure.add_subplot(down, across, index + 1)
        points = np.array([(r[x], r[key]) for r in records if _is_number(r.get(x)) and _is_number(r.get(key))], float)
        if len(points):
            xs, ys = points[np.argsort(points[:, 0], kind="stable")].T
            axes.plot(
                xs,
                ys,
                color=_rgb(METHOD_COLORS["original"]),
                linewidth=1.5,
                marker="." if len(xs) < 30 else "",
            )
            if ys.min() > 0 and ys.max() > 100 * ys.min():
                axes.set_yscale("log")
        else:
            axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes, color="grey")
        axes.set(title=key, xlabel=x)
        _clean(axes)
    return figure


def reliability_plot(said: Mapping[str, npt.NDArray[np.float64]], right: Mapping[str, npt.NDArray[np.bool_]]) -> Figure:
    """Confidence against the share of poses that are right: on the diagonal, it may be believed.

    Args:
        said: Method to the confidence of its detections, (N,) in [0, 1].
        right: Method to which of them are right, (N,).
    """
    colors = method_colors(said)
    figure = _figure(5.6, 4.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for name, confidence in said.items():
        rows = np.array(reliability(confidence, right[name])).reshape(-1, 3)
        error = expected_calibration_error(confidence, right[name])
        label = f"{name}: off by {error:.2f} in the mean"
        axes.plot(rows[:, 0], rows[:, 1], color=_rgb(colors[name]), linestyle=_style(name), linewidth=1.5, label=label)
        axes.scatter(rows[:, 0], rows[:, 1], s=12 + 4 * rows[:, 2], color=_rgb(colors[name]), alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=9)
    _clean(axes)
    return figure


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _style(method: str) -> str:
    """How a method's line is drawn: whole, or broken where its poses are refined or fitted to depth."""
    more = method.partition(" + ")[2]
    return {"": "-", "refinement": "--", "depth": ":", "refinement + depth": "-."}.get(more, "--")


def _rgb(color: Color) -> tuple[float, float, float]:
    return color[0] / 255, color[1] / 255, color[2] / 255


def _figure(width: float, height: float) -> Figure:
    """An empty white figure, inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width, height), dpi=120, layout=layout, facecolor="white")


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
