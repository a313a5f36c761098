"""How likely a pose is right, from everything that speaks for it: logistic regression, fitted on scenes with labels.

The detector's score says whether a part is there, the code's similarity and the reconstruction whether the network
knows how it lies, the contour and the judge whether the render fits the photo. None of them is a probability of the
pose; together, calibrated on held-out scenes, they are (Platt, 1999). ``evaluation/reliability.py`` makes the labels
and the plot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from scipy.optimize import minimize
from torch import Tensor

from codepose.estimation.evidence import probability
from codepose.storage.checksums import DamagedError, read_json, write_json

CORRECT = 0.2
"""A pose is right if no point of the part's surface is off by more of its diameter (MSSD)."""
Columns = Annotated[tuple[FiniteFloat, ...], Field(min_length=4, max_length=5)]
_PENALTY = 1.0
"""Of the squared weights: with few scenes, evidence that says little gets little weight."""


class Confidence(BaseModel):
    """A logistic regression over standardised evidence.

    Attributes:
        mean, scale: Of each column of evidence.
        weights: Of each column after that.
        bias: Log-odds at average evidence.
        detections: On how many it was fitted.
        correct: How many of them were right.
        fingerprint: Hash of the network and settings whose detections these were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Columns
    scale: Columns
    weights: Columns
    bias: FiniteFloat
    detections: int
    correct: int
    fingerprint: str = ""

    @model_validator(mode="after")
    def _has_a_weight_a_column(self) -> Self:
        if not len(self.mean) == len(self.scale) == len(self.weights):
            raise ValueError("mean, scale and weights have a number for each column")
        return self

    @classmethod
    def fit(cls, evidence: Tensor, correct: Tensor, fingerprint: str = "") -> Self:
        """Fits weights to detections of which it is known whether they are right.

        Args:
            evidence: (N, 4), or (N, 5) where poses are judged; see the function ``evidence``.
            correct: (N,) bool.
            fingerprint: Of what the evidence depends on (``confidence_mark``); kept with the weights.

        Raises:
            ValueError: There is no detection.
        """
        x = evidence.double().cpu().numpy()
        right = correct.cpu().numpy().astype(bool)
        if len(x) == 0:
            raise ValueError("the confidence cannot be calibrated: nothing was detected")
        mean, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale < 1e-9, 1.0, scale)
        z = (x - mean) / scale
        hits, misses = int(right.sum()), int((~right).sum())
        # Platt's targets: never quite 0 or 1, so that a perfect split gives no infinite weights
        wanted = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))

        def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits = z @ parameters[:-1] + parameters[-1]
            value = np.logaddexp(0.0, logits) - wanted * logits
            slope = 1 / (1 + np.exp(-logits)) - wanted
            penalty = 0.5 * _PENALTY * float(parameters[:-1] @ parameters[:-1])
            gradient = np.append(slope @ z + _PENALTY * parameters[:-1], slope.sum())
            return float(value.sum()) + penalty, gradient

        best = minimize(loss, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B").x
        return cls(
            mean=mean.tolist(),
            scale=scale.tolist(),
            weights=best[:-1].tolist(),
            bias=float(best[-1]),
            detections=len(x),
            correct=hits,
            fingerprint=fingerprint,
        )

    def __call__(self, evidence: Tensor) -> Tensor:
        """Returns the probability (N,) that each detection's pose is right, for evidence (N, c) as it was fitted to."""
        return probability(evidence, self.mean, self.scale, self.weights, self.bias)

    def save(self, path: Path) -> None:
        """Writes it as JSON, in one step, with a checksum."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> Self | None:
        """Reads what ``save`` wrote; None if there is nothing, or it is another network's.

        Raises:
            DamagedError: It is damaged.
        """
        try:
            read = cls.model_validate(read_json(path))
        except (FileNotFoundError, ValidationError):
            return None
        except DamagedError as error:
            raise DamagedError(f"{error}: delete it, and `codepose calibrate` makes it again") from None
        return read if read.fingerprint == fingerprint else None
