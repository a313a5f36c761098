"""What a run's report says first."""

from __future__ import annotations

from typing import Any

import pytest

from codepose.reports.run_report import headline

PLAIN = {
    "auc_fraction": 0.1,
    "mean_iou": 0.8,
    "rotation_median_deg": 17.7,
    "translation_median_mm": 45.0,
    "mssd_recall_10": 0.1,
}
REFINED = PLAIN | {
    "auc_fraction": 0.6,
    "rotation_median_deg": 3.04,
    "translation_median_mm": 9.8,
    "mssd_recall_10": 0.7,
}


@pytest.mark.parametrize(
    ("methods", "shown", "rotation"),
    [
        ({"joint": PLAIN, "joint + refinement": REFINED, "joint + GT box": PLAIN}, "joint + refinement", "3.0°"),
        ({"extended": REFINED, "joint": PLAIN, "oracle": REFINED}, "joint", "17.7°"),
        ({"original": PLAIN, "oracle": REFINED}, "original", "17.7°"),
    ],
)
def test_the_headline_is_of_refined_poses_where_there_are_some(methods: Any, shown: str, rotation: str) -> None:
    tiles = headline({"images": 24, "methods": methods})
    assert (tiles["Poses of"], tiles["Median rotation error"]) == (shown, rotation)


def test_the_headline_says_what_was_not_measured() -> None:
    tiles = headline({"images": 24, "methods": {"joint": PLAIN | {"translation_median_mm": None}}})
    assert tiles["Median translation error"] == "n/a"
    assert tiles["Held-out scenes"] == "24"
