"""Numbers on arrays small enough to check by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from codepose.evaluation.metrics import (
    VisibilityBin,
    auc,
    bootstrap_interval,
    box_iou_pairs,
    by_visibility,
    recall_at,
    summarise,
    summarise_columns,
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
    assert auc(torch.tensor([0.25, NAN], requires_grad=True)) == 0.75
    assert auc(torch.tensor([0.1])) == 1.0 - float(np.float32(0.1))  # summed in double precision


def refused(call: Callable[[], object]) -> str:
    """What a call that is refused says."""
    with pytest.raises(ValueError, match=r".") as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([0.5, 1.5], "VSD must lie in [0, 1], got 0.5 to 1.5"),
        ([-0.1], "VSD must lie in [0, 1], got -0.1 to -0.1"),
        ([[0.5]], "VSD must be (N,) with N >= 1, got (1, 1)"),
        ([], "VSD must be (N,) with N >= 1, got (0,)"),
    ],
)
def test_auc_rejects_what_is_no_vsd(errors: Any, message: str) -> None:
    assert refused(lambda: auc(errors)) == message


def test_the_ends_of_the_range_are_vsds() -> None:
    assert auc([0.0, 1.0]) == 1.0


def test_recall_is_strict() -> None:
    assert recall_at([0.1, 0.3, 0.5, NAN], 0.3) == 0.25
    assert recall_at([0.0], 0.0) == 0.0
    assert refused(lambda: recall_at([], 0.3)) == "errors must be (N,) with N >= 1, got (0,)"


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


@pytest.mark.parametrize(("function", "what"), [(box_iou_pairs, "boxes"), (translation_error_mm, "translations")])
def test_pairs_must_match(function: Any, what: str) -> None:
    width = 4 if what == "boxes" else 3
    good = torch.zeros(2, width)
    bad = [(good, torch.zeros(3, width)), (torch.zeros(2, 5), torch.zeros(2, 5))]
    if what == "boxes":
        bad += [(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)), (torch.zeros(4), torch.zeros(4))]
    for a, b in bad:
        expected = f"{what} must both be (N, {width}), got {tuple(a.shape)} and {tuple(b.shape)}"
        assert refused(lambda a=a, b=b: function(a, b)) == expected


def test_translations_of_any_leading_dimensions() -> None:
    a, b = torch.zeros(2, 5, 3), torch.tensor([2.0, 3.0, 6.0]).expand(2, 5, 3)
    assert torch.equal(translation_error_mm(a, b), torch.full((2, 5), 7.0))


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


def test_bootstrap_is_numpys() -> None:
    """The same resamples of the differences, one after the other, and their percentiles."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(1, 1, 30), generator.normal(0, 1, 30)
    draws = np.random.default_rng(7)
    means = [np.mean([(a - b)[i] for i in draws.integers(30, size=30)]) for _ in range(2000)]
    for level, ends in ((0.95, (2.5, 97.5)), (0.8, (10, 90))):
        expected = (np.mean(a) - np.mean(b), *np.percentile(means, ends))
        assert bootstrap_interval(a, b, seed=7, level=level) == pytest.approx(expected, abs=1e-12)
    assert bootstrap_interval(a, b, seed=7) == bootstrap_interval(a, b, seed=7, resamples=2000, level=0.95)
    one = bootstrap_interval(a, b, seed=7, resamples=1)
    assert one.low == one.high == pytest.approx(means[0])


@pytest.mark.parametrize(
    ("a", "b", "settings", "message"),
    [
        ([1.0], [0.0, 0.0], {}, "a and b must be paired by image, got 1 and 2 values"),
        ([1.0, NAN], [0.0, 0.0], {}, "a and b must be finite: give missed detections their value first, e.g. VSD 1"),
        ([], [0.0], {}, "a must be (N,) with N >= 1, got (0,)"),
        ([0.0], [[0.0]], {}, "b must be (N,) with N >= 1, got (1, 1)"),
        *(
            ([1.0, 2.0], [0.0, 0.0], settings, f"resamples must be >= 1 and level in (0, 1), got {values}")
            for settings, values in (
                ({"level": 1.0}, "2000 and 1.0"),
                ({"level": 0.0}, "2000 and 0.0"),
                ({"resamples": 0}, "0 and 0.95"),
            )
        ),
    ],
)
def test_bootstrap_errors(a: list[float], b: Any, settings: dict[str, Any], message: str) -> None:
    assert refused(lambda: bootstrap_interval(a, b, seed=0, **settings)) == message


def test_visibility_bins_close_at_the_last_edge() -> None:
    rows = by_visibility([1.0, 2.0, 3.0, 5.0], [0.4, 0.59, 0.6, 1.0], [0.4, 0.6, 0.8, 0.9, 1.0])
    assert [(row.low, row.high) for row in rows] == [(0.4, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 1.0)]
    assert [row.count for row in rows] == [2, 1, 0, 1]
    assert [row.mean for row in rows] == [1.5, 3.0, None, 5.0]


def test_a_bin_holds_its_lower_end_and_not_its_upper_one() -> None:
    rows = by_visibility([1.0, 2.0, 4.0], [0.25, 0.5, 0.75], [0.25, 0.5, 0.75])
    assert [(row.count, row.mean) for row in rows] == [(1, 1.0), (2, 3.0)]
    assert by_visibility([2.0], [0.0], [0.0, 1.0]) == [VisibilityBin(0.0, 1.0, 1, 2.0)]


@pytest.mark.parametrize(
    ("values", "fractions", "edges", "message"),
    [
        ([1.0], [0.5, 0.6], [0, 1], "values must be paired with visible_fraction: 1, 2"),
        ([1.0], [0.5], [0.6, 1], "visible_fraction leaves [0.6, 1.0]: widen the edges"),
        ([1.0], [0.5], [0.1, 0.4], "visible_fraction leaves [0.1, 0.4]: widen the edges"),
        ([1.0], [1.5], [0, 1], "visible_fraction leaves [0.0, 1.0]: widen the edges"),
        ([1.0, 1.0], [0.7, NAN], [0.6, 1], "visible_fraction leaves [0.6, 1.0]: widen the edges"),
        ([1.0], [0.5], [1, 0], "edges must be two or more ascending numbers, got [1, 0]"),
        ([1.0], [0.5], [0, 0.5, 0.5, 1], "edges must be two or more ascending numbers, got [0, 0.5, 0.5, 1]"),
        ([1.0], [0.5], [0.5], "edges must be two or more ascending numbers, got [0.5]"),
        ([1.0], [0.5], [[0, 1], [1, 2]], "edges must be two or more ascending numbers, got [[0, 1], [1, 2]]"),
        ([1.0, NAN], [0.5, 0.5], [0, 1], "values hold nan: give missed detections their value first, e.g. VSD 1"),
        ([], [0.5], [0, 1], "values must be (N,) with N >= 1, got (0,)"),
        ([0.5], [], [0, 1], "visible_fraction must be (N,) with N >= 1, got (0,)"),
    ],
)
def test_visibility_errors(values: Any, fractions: Any, edges: Any, message: str) -> None:
    assert refused(lambda: by_visibility(values, fractions, edges)) == message


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


def test_shares_of_the_diameter_are_in_percent() -> None:
    good = dict.fromkeys(["vsd", "iou", "rotation_deg", "translation_mm", "score"], [0.5] * 4)
    row = summarise(**good, mssd_share=[0.0995, 0.1005, 0.1995, 0.2005])  # type: ignore[arg-type]
    assert (row["mssd_recall_10"], row["mssd_recall_20"]) == (0.25, 0.75)


def test_summary_of_a_blind_method_is_json() -> None:
    missed = [NAN, NAN]
    row = summarise(vsd=missed, iou=missed, rotation_deg=missed, translation_mm=missed, score=missed)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["translation_median_mm"] is None
    assert row["rotation_median_deg"] == 180.0
    assert all(row[key] == 0.0 for key in KEYS - {"translation_median_mm", "rotation_median_deg"})


def test_a_missed_image_counts_whatever_its_other_numbers_are() -> None:
    good: dict[str, Any] = {"vsd": [0.0] * 3, "iou": [1.0] * 3, "rotation_deg": [1.0] * 3, "translation_mm": [2.0] * 3}
    row = summarise(**good, score=[0.5, NAN, NAN], vsd_variants={"10": [0.0] * 3}, mssd_share=[0.0] * 3)
    assert row == pytest.approx(
        {
            "auc": 1.0,
            "auc_fraction": 1 / 3,
            "recall_03": 1 / 3,
            "mean_iou": 1 / 3,
            "rotation_median_deg": 180.0,
            "translation_median_mm": None,
            "rotation_recall_10": 1 / 3,
            "rotation_recall_20": 1 / 3,
            "rotation_recall_30": 1 / 3,
            "detected_fraction": 1 / 3,
            "auc_fraction_10": 1 / 3,
            "mssd_recall_10": 1 / 3,
            "mssd_recall_20": 1 / 3,
        }
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({name: [0.5, NAN]}, f"{name} holds nan for a detected image; only images whose score is nan are missed")
            for name in ("vsd", "iou", "rotation_deg", "translation_mm", "mssd_share")
        ),
        (
            {"vsd_variants": {"rotation": [0.5, NAN]}},
            "rotation holds nan for a detected image; only images whose score is nan are missed",
        ),
        ({"iou": [0.5] * 3}, "iou has 3 images but score has 2"),
        ({"iou": []}, "iou must be (N,) with N >= 1, got (0,)"),
        ({"score": []}, "score must be (N,) with N >= 1, got (0,)"),
        ({"vsd": [0.5, 2.0]}, "VSD must lie in [0, 1], got 0.5 to 2.0"),
    ],
)
def test_summary_rejects_holes_in_detected_images(change: dict[str, Any], message: str) -> None:
    names = ("vsd", "iou", "rotation_deg", "translation_mm", "score")
    values: dict[str, Any] = {name: [0.5, 0.5] for name in names}
    assert refused(lambda: summarise(**values | change)) == message


def test_older_tables_have_no_surface_distance() -> None:
    columns = {name: np.array([0.25, 0.75]) for name in ("vsd", "iou", "rotation_deg", "translation_mm", "score")}
    columns |= {"vsd_10": np.array([1.0, 0.5]), "ar_vsd": np.array([0.5, NAN])}
    row = summarise_columns(columns)
    assert set(row) == KEYS | {"auc_fraction_10", "ar_vsd"}
    assert (row["auc"], row["auc_fraction_10"], row["ar_vsd"]) == (1.0, 0.25, 0.25)
    assert summarise_columns(columns | {"mssd_share": np.array([0.05, 0.15])})["mssd_recall_10"] == 0.5
