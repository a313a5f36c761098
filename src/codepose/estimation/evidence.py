"""What speaks for a pose, in numbers, and the probability that a calibration gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def evidence(
    score: Tensor, similarity: Tensor, agreement: Tensor, contour: Tensor, judged: Tensor | None = None
) -> Tensor:
    """Returns the evidence (N, 4) of N detections, from (N,) each as ``Detection`` has them; 0 = not known.

    The detector's score in [0, 1] becomes its logit. Where poses are judged there is a fifth column.
    """
    columns = [torch.logit(score.double(), eps=1e-6), similarity, agreement, contour]
    return torch.stack([c.double() for c in (*columns, *([] if judged is None else [judged]))], 1)


def probability(
    evidence: Tensor, mean: Sequence[float], scale: Sequence[float], weights: Sequence[float], bias: float
) -> Tensor:
    """Returns the probability (N,) that each pose is right, by a logistic regression.

    Args:
        evidence: (N, c).
        mean, scale: Of each column.
        weights: Of each column after that.
        bias: Log-odds at average evidence.
    """
    middle, unit, weight = (evidence.new_tensor(values) for values in (mean, scale, weights))
    return torch.sigmoid(((evidence - middle) / unit) @ weight + bias)
