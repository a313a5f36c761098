"""Random proportions of a part."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


class Draw:
    """What is drawn for one part: the same for the same family and number.

    Attributes:
        number: Which of its family it is.
        rng: Where the numbers come from.
    """

    def __init__(self, family: str, number: int) -> None:
        self.number = number
        self.rng = np.random.default_rng([zlib.crc32(family.encode()), number])

    def real(self, low: float, high: float) -> float:
        """Returns a number between two, all equally likely."""
        return float(self.rng.uniform(low, high))

    def ratio(self, low: float, high: float) -> float:
        """Returns a number between two, both above 0, all factors equally likely."""
        return float(math.exp(self.rng.uniform(math.log(low), math.log(high))))

    def count(self, low: int, high: int) -> int:
        """Returns a whole number from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float = 0.5) -> bool:
        """Returns True in ``share`` of all cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Returns one of several, all equally likely."""
        return choices[int(self.rng.integers(len(choices)))]
