"""Numbers on arrays small enough to check by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from codepose.evaluation.metrics import (
    auc,
    bootstrap_interval,
    box_iou_pairs,
    by_visibility,
    recall_at,
    summarise,
    translation_error_mm,
)

NAN = float("nan")
KEYS = {
    "auc",
    "auc_fraction",
    "recall_03",
    "mean_iou",
    "rotation_median_deg",
    "translation_median_mm",
    "rotation_recall_10",
    "rotation_recall_20",
    "rotation_recall_30",
    "detected_fraction",
}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_auc_is_the_area_under_the_step_curve(errors: list[float]) -> None:
    ends = np.unique([0.0, 1.0, *errors])
    correct = [sum(error < (low + high) / 2 for error in errors) for low, high in pairwise(ends)]
    assert auc(errors) == pytest.approx(float(np.dot(np.diff(ends), correct)), abs=1e-9)


def test_auc_counts_missed_as_nothing_and_takes_tensors() -> None:
    assert auc([0.25, NAN, 1.0]) == 0.75
    assert auc(torch.tensor([0.25, NAN])) == 0.75


@pytest.mark.parametrize("errors", [[0.5, 1.5], [-0.1], [[0.5]], []])
def test_auc_rejects_what_is_no_vsd(errors: Any) -> None:
    with pytest.raises(ValueError, match="VSD must"):
        auc(errors)


def test_recall_is_strict() -> None:
    assert recall_at([0.1, 0.3, 0.5, NAN], 0.3) == 0.25
    assert recall_at([0.0], 0.0) == 0.0


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 4, 4], [1, 1, 1, 1], [NAN] * 4])
    b = torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2], [1, 1, 3, 3], [1, 1, 1, 1], [0, 0, 1, 1]])
    values = box_iou_pairs(a, b)
    torch.testing.assert_close(values, torch.tensor([1 / 3, 0, 1, 1 / 4, 0, NAN]), equal_nan=True)


def test_iou_is_the_diagonal_of_torchvisions() -> None:
    corners = torch.rand(2, 200, 2, 2, generator=torch.Generator().manual_seed(0)) * 100
    a, b = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    torch.testing.assert_close(box_iou_pairs(a, b), box_iou(a, b).diagonal(), rtol=0, atol=1e-6)


def test_iou_leaves_its_arguments_alone() -> None:
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 2, 3, 3]])
    box_iou_pairs(a, b)
    assert a.tolist() == [[0, 0, 1, 1]]
    assert b.tolist() == [[2, 2, 3, 3]]


def test_translation_error_by_hand() -> None:
    assert translation_error_mm(torch.tensor([[1.0, 2, 3]]), torch.tensor([[4.0, 2, 7]])).tolist() == [5.0]


@pytest.mark.parametrize("function", [box_iou_pairs, translation_error_mm])
def test_pairs_must_match(function: Any) -> None:
    with pytest.raises(ValueError, match="must both be"):
        function(torch.zeros(2, 5), torch.zeros(3, 5))


def test_bootstrap_of_a_constant_difference_has_no_width() -> None:
    b = np.random.default_rng(0).random(50)
    assert bootstrap_interval(b + 0.5, b, seed=1) == pytest.approx((0.5, 0.5, 0.5))


def test_bootstrap_is_near_the_normal_interval_and_seeded() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(1, 1, 400), generator.normal(0, 1, 400)
    interval = bootstrap_interval(a, b, seed=0)
    half = 1.96 * np.std(a - b) / np.sqrt(400)
    assert interval.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (interval.low, interval.high) == pytest.approx((interval.mean - half, interval.mean + half), abs=0.02)
    assert bootstrap_interval(a, b, seed=0) == interval
    assert bootstrap_interval(a, b, seed=1) != interval
    assert bootstrap_interval(a, b, seed=0, level=0.5).high < interval.high


@pytest.mark.parametrize(
    ("a", "settings", "message"),
    [
        ([1.0], {}, "paired"),
        ([1.0, NAN], {}, "finite"),
        ([1.0, 2.0], {"level": 1.0}, "level"),
        ([1.0, 2.0], {"resamples": 0}, "resamples"),
    ],
)
def test_bootstrap_errors(a: list[float], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(a, [0.0, 0.0], seed=0, **settings)


def test_visibility_bins_close_at_the_last_edge() -> None:
    rows = by_visibility([1.0, 2.0, 3.0, 5.0], [0.4, 0.59, 0.6, 1.0], [0.4, 0.6, 0.8, 0.9, 1.0])
    assert [(row.low, row.high) for row in rows] == [(0.4, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 1.0)]
    assert [row.count for row in rows] == [2, 1, 0, 1]
    assert [row.mean for row in rows] == [1.5, 3.0, None, 5.0]


@pytest.mark.parametrize(
    ("values", "fractions", "edges", "message"),
    [
        ([1.0], [0.5, 0.6], [0, 1], "paired"),
        ([1.0], [0.5], [0.6, 1], "widen the edges"),
        ([1.0], [NAN], [0.6, 1], "widen the edges"),
        ([1.0], [0.5], [1, 0], "ascending"),
        ([NAN], [0.5], [0, 1], "nan"),
    ],
)
def test_visibility_errors(values: Any, fractions: Any, edges: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_visibility(values, fractions, edges)


def test_summary_by_hand() -> None:
    row = summarise(
        vsd=[0.1, 0.5, NAN, 0.3],
        iou=[0.9, 0.7, 0.6, 0.8],  # the missed image's value does not count
        rotation_deg=[5, 25, NAN, 15],
        translation_mm=[4, 8, NAN, 6],
        score=[0.9, 0.8, NAN, 0.7],
        vsd_variants={"gt_translation": [0, 0, NAN, 0]},
        mssd_share=[0.05, 0.1, NAN, 0.3],
    )
    assert row.pop("auc_fraction_gt_translation") == 0.75
    assert row.pop("mssd_recall_10") == 0.25
    assert row.pop("mssd_recall_20") == 0.5
    assert row == pytest.approx(
        {
            "auc": 2.1,
            "auc_fraction": 0.525,
            "recall_03": 0.25,
            "mean_iou": 0.6,
            "rotation_median_deg": 20.0,
            "translation_median_mm": 7.0,
            "rotation_recall_10": 0.25,
            "rotation_recall_20": 0.5,
            "rotation_recall_30": 0.75,
            "detected_fraction": 0.75,
        }
    )
    assert set(row) == KEYS
    assert all(type(value) is float for value in row.values())


def test_summary_of_a_blind_method_is_json() -> None:
    missed = [NAN, NAN]
    row = summarise(vsd=missed, iou=missed, rotation_deg=missed, translation_mm=missed, score=missed)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["translation_median_mm"] is None
    assert row["rotation_median_deg"] == 180.0
    assert all(row[key] == 0.0 for key in KEYS - {"translation_median_mm", "rotation_median_deg"})


def test_summary_rejects_holes_in_detected_images() -> None:
    values: dict[str, Any] = {name: [0.5, 0.5] for name in ("vsd", "iou", "rotation_deg", "translation_mm", "score")}
    with pytest.raises(ValueError, match="rotation_deg holds nan"):
        summarise(**values | {"rotation_deg": [0.5, NAN]})
    with pytest.raises(ValueError, match="iou has 3 images"):
        summarise(**values | {"iou": [0.5] * 3})
