"""BOP19's average recalls: which estimates are matched to which true instances, and how often below how much error.

Source: Hodaň et al., "BOP Challenge 2020 on 6D Object Localization", ECCVW 2020, as bop_toolkit computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

VSD_DELTA_MM = 15.0
"""How far a rendered pixel may lie behind the measured one and still count as visible."""
VSD_TAUS = tuple(0.05 * k for k in range(1, 11))
"""Misalignment tolerances as fractions of the diameter."""
TAU_10, TAU_20, TAU_50 = 1, 3, 9
"""Places of 0.1, 0.2 and 0.5 among them."""
VSD_THRESHOLDS = VSD_TAUS
MSSD_THRESHOLDS = VSD_TAUS
"""Fractions of the diameter."""
MSPD_THRESHOLDS = tuple(5.0 * k for k in range(1, 11))
"""Pixels of an image that is 640 pixels wide."""
MSPD_WIDTH = 640
"""Pixels across the image for which `MSPD_THRESHOLDS` hold."""
ADD_THRESHOLD = 0.1
"""Fraction of the diameter."""


class AverageRecalls(NamedTuple):
    """BOP19's scores, each in [0, 1]; `ar` is the mean of the other three."""

    ar_vsd: float
    ar_mssd: float
    ar_mspd: float
    ar: float


@dataclass(frozen=True, eq=False)
class TargetErrors:
    """Errors of the E estimates of one object in one image against its G true instances.

    Estimates stand in the order of falling score, and there are at most as many as BOP asks for.

    Attributes:
        vsd: (E, G, 10) at `VSD_TAUS`.
        mssd: (E, G), fraction of the diameter.
        mspd: (E, G), pixels of an image that is 640 pixels wide.
        add: (E, G), fraction of the diameter: ADD-S for a symmetric object, ADD for any other.
    """

    vsd: FloatArray
    mssd: FloatArray
    mspd: FloatArray
    add: FloatArray


def greedy_match(errors: FloatArray, threshold: float) -> npt.NDArray[np.int64]:
    """Matches estimates to true instances as BOP does: by falling score, each to the nearest one still free.

    Args:
        errors: (E, G), the estimates in the order of falling score.
        threshold: Strict upper bound of a match; infinite = whatever is nearest.

    Returns:
        (G,) the estimate of each true instance, or -1.
    """
    matched = np.full(errors.shape[1], -1, dtype=np.int64)
    for estimate, row in enumerate(errors):
        free = np.where(matched < 0, row, np.inf)
        nearest = int(free.argmin())
        if free[nearest] < threshold:
            matched[nearest] = estimate
    return matched


def matched_recall(errors: Sequence[FloatArray], threshold: float) -> float:
    """Share of the true instances that an estimate comes nearer to than a threshold.

    Args:
        errors: One (E, G) array an object and image, estimates in the order of falling score; E may be 0.
        threshold: Strict upper bound, in the errors' unit.

    Returns:
        A number in [0, 1]; 0 where there is no instance.
    """
    instances = sum(table.shape[1] for table in errors)
    matched = sum(int((greedy_match(table, threshold) >= 0).sum()) for table in errors)
    return matched / instances if instances else 0.0


def average_recalls(targets: Sequence[TargetErrors]) -> AverageRecalls:
    """BOP19's average recalls: recall averaged over the thresholds of each error, VSD's over its tolerances too.

    Args:
        targets: One entry an object and image; an object that was not found has E = 0.

    Returns:
        AR_VSD, AR_MSSD, AR_MSPD and their mean AR.
    """
    vsd = [
        matched_recall([target.vsd[..., tau] for target in targets], threshold)
        for tau in range(len(VSD_TAUS))
        for threshold in VSD_THRESHOLDS
    ]
    mssd_recalls = [matched_recall([target.mssd for target in targets], threshold) for threshold in MSSD_THRESHOLDS]
    mspd_recalls = [matched_recall([target.mspd for target in targets], threshold) for threshold in MSPD_THRESHOLDS]
    means = [float(np.mean(recalls)) for recalls in (vsd, mssd_recalls, mspd_recalls)]
    return AverageRecalls(means[0], means[1], means[2], float(np.mean(means)))
