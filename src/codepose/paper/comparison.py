"""Several runs side by side: mean and spread over seeds, paired bootstrap intervals between methods."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codepose.evaluation.metrics import (
    VISIBLE_EDGES,
    Interval,
    VisibilityBin,
    bootstrap_interval,
    by_visibility,
    summarise_columns,
)
from codepose.evaluation.results import damaged

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """One method's numbers on the test images, from one seed.

    Attributes:
        columns: By name as in ``benchmark.Row``, (N,) each; nan where nothing was detected.
        index: (N,) the images.
        visible_fraction: (N,) in [0, 1].
    """

    columns: Mapping[str, FloatArray]
    index: npt.NDArray[np.int64]
    visible_fraction: FloatArray

    @property
    def vsd(self) -> FloatArray:
        """(N,) full-pose VSD in [0, 1]; 1 where nothing was detected."""
        return np.nan_to_num(self.columns["vsd"], nan=1.0)

    def summary(self) -> dict[str, float | None]:
        """Returns the row of the results table."""
        return summarise_columns(self.columns)

    def by_visibility(self) -> list[VisibilityBin]:
        """Returns the AUC fraction by visible fraction."""
        return by_visibility(1.0 - self.vsd, self.visible_fraction.clip(0.0, 1.0), VISIBLE_EDGES)


def read_errors(path: Path) -> dict[str, Errors]:
    """Reads a per_image.csv: errors by method, in the file's order.

    Raises:
        RunError: It cannot be read, is cut off, or has not a line for each method and image.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        text = path.read_text(encoding="utf-8")
        for row in csv.DictReader(io.StringIO(text), strict=True):
            if None in row or None in row.values():
                raise ValueError("a line is too long or too short")
            rows.setdefault(row["method"], []).append(row)
        named = {"index", "object", "method", "visible_fraction"}
        found = {
            method: Errors(
                {name: np.array([float(r[name] or "nan") for r in own]) for name in own[0] if name not in named},
                np.array([int(r["index"]) for r in own]),
                np.array([float(r["visible_fraction"]) for r in own]),
            )
            for method, own in rows.items()
        }
    except (OSError, KeyError, ValueError, OverflowError, csv.Error) as error:
        raise damaged(path, str(error)) from None
    first = next(iter(found.values()), None)
    if not text.endswith("\n") or any(not np.array_equal(one.index, first.index) for one in found.values() if first):
        raise damaged(path, "lines are missing")
    return found


@dataclass(frozen=True)
class Spread:
    """Mean over seeds with the standard deviation (n - 1; nan for one seed), and each seed's value."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Returns mean and standard deviation over seeds."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(np.mean(values)), deviation, tuple(values))


def auc_difference(a: Sequence[Errors], b: Sequence[Errors], *, seed: int = 0) -> Interval:
    """Difference of two methods' AUC fractions with its 95 % paired bootstrap interval over the images.

    Args:
        a: One method's errors, one entry a seed.
        b: The other's, from the same seeds on the same images.
        seed: Of the resampling.

    Returns:
        Mean, low and high end of a minus b; each image enters with its mean over the seeds.

    Raises:
        ValueError: The seeds or the images differ.
    """
    if len(a) != len(b) or any(not np.array_equal(x.index, a[0].index) for x in (*a, *b)):
        raise ValueError("two methods can only be compared on the same images and seeds")
    first = np.mean([1.0 - x.vsd for x in a], axis=0)
    second = np.mean([1.0 - x.vsd for x in b], axis=0)
    return bootstrap_interval(first, second, seed=seed)
