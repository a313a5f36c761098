"""On which of its sides a part comes to rest: ``codepose export`` has found out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rests(mesh: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns what points down, unit (K, 3), and how often (K,), as codepose's function of this name does."""
    return mesh.rests_down, mesh.rests_share
