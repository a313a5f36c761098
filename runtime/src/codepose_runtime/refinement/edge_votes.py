"""How well the edge points of renders lie on the edges of photos, under many poses at once, in NumPy."""

from __future__ import annotations

import numpy as np
from codepose_runtime.tensors import Tensor
from numpy.typing import NDArray

_AT_A_TIME = 1 << 18
"""Points that are looked up together: what they take fits a core's caches."""


class EdgeField:
    """The edges of N photos, as codepose's own has them.

    Args:
        directions: (N, 2, H, W), cos and sin of twice the edges' direction; beyond the photos there is none.
    """

    def __init__(self, directions: Tensor) -> None:
        padded = np.pad(directions.array, ((0, 0), (0, 0), (1, 1), (1, 1)))
        self._edges = (padded[:, 0] + 1j * padded[:, 1]).astype(np.complex64)  # (N, H + 2, W + 2)
        self.directions = directions

    def votes(
        self,
        points: Tensor,
        directions: Tensor,
        projections: Tensor,
        shifts: Tensor,
        turned: Tensor,
        views: Tensor | None = None,
    ) -> Tensor:
        """Sums the agreement of M views' edge points with the photos' edges, under S poses each, (M, S)."""
        rows, poses = shifts.shape[:2]
        own = np.arange(rows) if views is None else views.array
        voters, renders = points.shape[1], rows // len(self._edges)
        turns = (directions.array[..., 0] - 1j * directions.array[..., 1]).astype(np.complex64)
        result = np.empty((rows, poses), np.complex64)
        step = max(1, _AT_A_TIME // (poses * voters))
        for start in range(0, rows, step):
            some = slice(start, start + step)
            placed = points.array[own[some], None] @ projections.array[some].swapaxes(-1, -2)  # (m, S or 1, P, 3)
            fields = np.arange(rows)[some] // renders
            felt = self._felt(fields, *(placed[..., k] + shifts.array[some, :, k, None] for k in range(3)))
            result[some] = (felt @ turns[own[some], :, None])[..., 0]
        angle = turned.array
        return Tensor((result.real * np.cos(angle) + result.imag * np.sin(angle)).astype(np.float32))

    def _felt(
        self, fields: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]
    ) -> NDArray[np.complex64]:
        """The photos' edges of numbers (m,) at homogeneous pixels (m, S, P), between pixels."""
        height, width = self._edges.shape[1:]
        nearness = 1.0 / np.maximum(z, np.float32(1e-6))
        # from pixel centres at integer + 0.5 to the columns of the padded field, whose rim is zero
        x = np.clip(x * nearness + np.float32(0.5), 0, np.float32(width - 1))
        y = np.clip(y * nearness + np.float32(0.5), 0, np.float32(height - 1))
        column, row = np.minimum(x.astype(np.int32), width - 2), np.minimum(y.astype(np.int32), height - 2)
        x -= column
        y -= row
        corner = (row + (fields * height).astype(np.int32)[:, None, None]) * width + column
        flat = self._edges.reshape(-1)
        top, low = (flat[at] + x * (flat[at + 1] - flat[at]) for at in (corner, corner + width))
        result: NDArray[np.complex64] = top + y * (low - top)
        return result
