"""Numbers from per-image errors: AUC, recalls, IoU, medians, paired intervals.

The main one is the AUC of Section 4.1: a pose is correct iff VSD < theta; the area under "number
of correct poses" over theta in [0, 1] is then exactly the sum of 1 - VSD. A missed detection counts VSD = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codepose.runtime.vision import box_area

FloatArray = npt.NDArray[np.float64]
Values = npt.ArrayLike | Tensor

RECALL_THETA = 0.3
ROTATION_THRESHOLDS_DEG = (10, 20, 30)
MSSD_THRESHOLDS_PERCENT = (10, 20)
"""Of the diameter."""
VISIBLE_EDGES = (0.0, 0.6, 0.8, 0.999, 1.0)
VISIBLE_WORDS = ("under 60 %", "60–80 %", "80–99 %", "all visible")
"""Ends of the bins of visible fraction; the last bin is what nothing hides."""


class Interval(NamedTuple):
    """A difference of means with the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class VisibilityBin:
    """Mean over the images with a visible fraction in [low, high); the last bin includes its end."""

    low: float
    high: float
    count: int
    mean: float | None


def auc(errors: Values) -> float:
    """Area under "number of correct poses" over theta in [0, 1]: the sum of 1 - VSD (Section 4.1).

    Args:
        errors: (N,) VSD in [0, 1]; nan = missed, counts as 1.

    Returns:
        A number in [0, N].

    Raises:
        ValueError: an error lies outside [0, 1] or the array is not (N,).
    """
    return float((1.0 - _vsd_values(errors)).sum())


def recall_at(errors: Values, threshold: float) -> float:
    """Share of images whose error is below the threshold, in [0, 1]; nan = missed, never below.

    Args:
        errors: (N,) errors in the threshold's unit, N >= 1.
        threshold: strict upper bound.

    Raises:
        ValueError: there is no image or the array is not (N,).
    """
    return float(np.mean(_vector(errors, "errors") < threshold))


def box_iou_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of a[i] with b[i].

    Args:
        a: (N, 4) boxes xyxy in pixels.
        b: (N, 4) boxes xyxy in pixels.

    Returns:
        (N,) in [0, 1], of the boxes' dtype; 0 where both boxes are empty, nan where a box holds nan.

    Raises:
        ValueError: the shapes differ or are not (N, 4).
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 4:
        raise ValueError(f"boxes must both be (N, 4), got {tuple(a.shape)} and {tuple(b.shape)}")
    corners = torch.cat([torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])], dim=1)
    corners[:, 2:] = torch.maximum(corners[:, :2], corners[:, 2:])  # apart: an empty box, area 0
    shared = box_area(corners)
    union = box_area(a) + box_area(b) - shared
    return torch.where(union == 0, torch.zeros_like(union), shared / union)


def translation_error_mm(t_a: Tensor, t_b: Tensor) -> Tensor:
    """Euclidean distance between translations in the same frame.

    Args:
        t_a: (N, 3) mm.
        t_b: (N, 3) mm.

    Returns:
        (N,) mm.

    Raises:
        ValueError: the shapes differ or do not end in 3.
    """
    if t_a.shape != t_b.shape or t_a.shape[-1:] != (3,):
        raise ValueError(f"translations must both be (N, 3), got {tuple(t_a.shape)} and {tuple(t_b.shape)}")
    distance: Tensor = torch.linalg.vector_norm(t_a - t_b, dim=-1)
    return distance


def bootstrap_interval(a: Values, b: Values, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Paired percentile bootstrap of mean(a) - mean(b) over the images.

    Args:
        a: (N,) finite per-image values of one method.
        b: (N,) those of another method on the same images, in the same order.
        seed: of the resampling.
        resamples: number of bootstrap samples, >= 1.
        level: share of the bootstrap distribution inside the interval, in (0, 1).

    Returns:
        The observed difference and the interval's ends, in the unit of the values.

    Raises:
        ValueError: the arrays are not paired or not finite, or a setting is out of range.
    """
    first, second = _vector(a, "a"), _vector(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a and b must be paired by image, got {len(first)} and {len(second)} values")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be >= 1 and level in (0, 1), got {resamples} and {level}")
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("a and b must be finite: give missed detections their value first, e.g. VSD 1")
    generator, count = np.random.default_rng(seed), len(difference)
    means = [difference[generator.integers(count, size=count)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high))


def by_visibility(values: Values, visible_fraction: Values, edges: Sequence[float]) -> list[VisibilityBin]:
    """Mean of a value in bins of the visible fraction.

    Args:
        values: (N,) per-image values, no nan.
        visible_fraction: (N,) share of the object's silhouette that is visible, in [0, 1].
        edges: ascending ends of the bins, two or more, which together cover every image.

    Returns:
        One row per bin; the mean of an empty bin is None.

    Raises:
        ValueError: arrays not paired, a nan, edges not ascending, or an image outside of the edges.
    """
    numbers, fractions = _vector(values, "values"), _vector(visible_fraction, "visible_fraction")
    ends = np.asarray(edges, dtype=np.float64)
    if numbers.shape != fractions.shape:
        raise ValueError(f"values must be paired with visible_fraction: {len(numbers)}, {len(fractions)}")
    if np.isnan(numbers).any():
        raise ValueError("values hold nan: give missed detections their value first, e.g. VSD 1")
    if ends.ndim != 1 or len(ends) < 2 or not (np.diff(ends) > 0).all():
        raise ValueError(f"edges must be two or more ascending numbers, got {list(edges)}")
    if not ((fractions >= ends[0]) & (fractions <= ends[-1])).all():
        raise ValueError(f"visible_fraction leaves [{ends[0]}, {ends[-1]}]: widen the edges")
    which = np.minimum(np.searchsorted(ends, fractions, side="right") - 1, len(ends) - 2)
    groups = [numbers[which == i] for i in range(len(ends) - 1)]
    return [
        VisibilityBin(float(low), float(high), len(group), float(group.mean()) if len(group) else None)
        for low, high, group in zip(ends[:-1], ends[1:], groups, strict=True)
    ]


def summarise(
    *,
    vsd: Values,
    iou: Values,
    rotation_deg: Values,
    translation_mm: Values,
    score: Values,
    vsd_variants: Mapping[str, Values] | None = None,
    mssd_share: Values | None = None,
) -> dict[str, float | None]:
    """Reduces one method's per-image results to the numbers of the results table.

    An image is missed iff its score is nan. There, whatever the other arrays hold, VSD counts 1, IoU 0, the
    rotation error 180 degrees and the translation error infinity.

    Args:
        vsd: (N,) in [0, 1], N >= 1.
        iou: (N,) of the detected box with the amodal GT box, in [0, 1].
        rotation_deg: (N,) geodesic rotation error, degrees in [0, 180].
        translation_mm: (N,) mm.
        score: (N,) detection score; nan = missed.
        vsd_variants: further VSDs by name, (N,) each: with the true translation, cost "tlinear", ...
        mssd_share: (N,) maximum symmetry-aware surface distance over the diameter; None = not measured.

    Returns:
        Plain floats, ready for JSON, under `auc` (of N), `auc_fraction` (of 1), `recall_03`, `mean_iou`,
        `rotation_median_deg`, `translation_median_mm` (None when half of the images or more are missed),
        `rotation_recall_10`, `_20`, `_30` (share below so many degrees), `detected_fraction`;
        `auc_fraction_<name>` for each variant, and `mssd_recall_10`, `_20` (share below so much of the diameter).

    Raises:
        ValueError: arrays differ in length, are empty, leave their range, or hold nan for a detected image.
    """
    missed = np.isnan(_vector(score, "score"))
    errors = _vsd_values(_filled(vsd, missed, 1.0, "vsd"))
    rotation = _filled(rotation_deg, missed, 180.0, "rotation_deg")
    translation_median = float(np.median(_filled(translation_mm, missed, np.inf, "translation_mm")))
    row: dict[str, float | None] = {
        "auc": auc(errors),
        "auc_fraction": auc(errors) / len(errors),
        "recall_03": recall_at(errors, RECALL_THETA),
        "mean_iou": float(_filled(iou, missed, 0.0, "iou").mean()),
        "rotation_median_deg": float(np.median(rotation)),
        "translation_median_mm": translation_median if np.isfinite(translation_median) else None,
    }
    row |= {f"rotation_recall_{degrees}": recall_at(rotation, degrees) for degrees in ROTATION_THRESHOLDS_DEG}
    row["detected_fraction"] = float(np.mean(~missed))
    for name, values in (vsd_variants or {}).items():
        row[f"auc_fraction_{name}"] = auc(_filled(values, missed, 1.0, name)) / len(errors)
    if mssd_share is not None:
        mssd = _filled(mssd_share, missed, np.inf, "mssd_share")
        row |= {f"mssd_recall_{percent}": recall_at(mssd, percent / 100) for percent in MSSD_THRESHOLDS_PERCENT}
    return row


def summarise_columns(columns: Mapping[str, FloatArray]) -> dict[str, float | None]:
    """`summarise` of the columns of per_image.csv, and `ar_vsd`, BOP19's average recall.

    Args:
        columns: By name as in `benchmark.Row`, (N,) each; nan where nothing was detected. What begins with "vsd_" is
            a variant of VSD.

    Raises:
        ValueError: as `summarise`.
    """
    required = {name: columns[name] for name in ("vsd", "iou", "rotation_deg", "translation_mm", "score")}
    variants = {name.removeprefix("vsd_"): v for name, v in columns.items() if name.startswith("vsd_")}
    row = summarise(**required, vsd_variants=variants, mssd_share=columns.get("mssd_share"))  # older tables have none
    return row | {"ar_vsd": float(np.nan_to_num(columns["ar_vsd"]).mean())}


def _vector(values: Values, name: str) -> FloatArray:
    """The values as (N,) float64, N >= 1."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} must be (N,) with N >= 1, got {array.shape}")
    return array


def _vsd_values(errors: Values) -> FloatArray:
    """VSDs as (N,) float64 in [0, 1], a missed image (nan) at 1."""
    array = _vector(errors, "VSD")
    array = np.where(np.isnan(array), 1.0, array)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"VSD must lie in [0, 1], got {array.min()} to {array.max()}")
    return array


def _filled(values: Values, missed: npt.NDArray[np.bool_], worst: float, name: str) -> FloatArray:
    """The values with the worst one at the missed images."""
    array = _vector(values, name)
    if array.shape != missed.shape:
        raise ValueError(f"{name} has {len(array)} images but score has {len(missed)}")
    array = np.where(missed, worst, array)
    if np.isnan(array).any():
        raise ValueError(f"{name} holds nan for a detected image; only images whose score is nan are missed")
    return array
