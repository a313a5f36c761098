"""How well the edge points of renders lie on the edges of photos, under many poses at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import warp as wp
from torch import Tensor
from torch.nn import functional as F

from codepose.rendering.warp_runtime import cpu_pool, warp_device, warp_stream

from codepose.refinement import vote_kernel  # isort: skip  (Warp is started by the line before)

_SMALL = 64
"""Poses for which further CPU threads are not worth their start."""


class EdgeField:
    """The edges of N photos, ready to be read between pixels.

    Args:
        directions: (N, 2, H, W), cos and sin of twice the edges' direction, shorter for weak edges; beyond the
            photos there is none.
    """

    def __init__(self, directions: Tensor) -> None:
        padded = F.pad(directions, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
        self._padded = wp.from_torch(padded.view(-1, 2), dtype=wp.vec2)
        self._size = padded.shape[1:3]
        wp.load_module(vote_kernel.__name__, device=warp_device(directions.device))  # before several threads ask for it
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
        """Sums the agreement of M = N k views' edge points with the photos' edges, under S poses each.

        A point at p is seen at the pixel (x / z, y / z) with (x, y, z) = projection @ p + shift, pixel centres at
        integer + 0.5. It agrees by 1 with a strong edge of its own direction, by -1 with one across.

        Args:
            points: (V, P, 3).
            directions: (V, P, 2), cos and sin of twice the direction; zero = does not vote.
            projections: (M, S, 3, 3), or (M, 1, 3, 3): the same for all S.
            shifts: (M, S, 3).
            turned: (M, S) radians by which the doubled directions are turned, or (M, 1) as ``projections``.
            views: (M,) which of the V views; None = each its own, V = M.

        Returns:
            (M, S).
        """
        votes = torch.empty(shifts.shape[:2], device=self.directions.device)
        if views is None:
            views = torch.arange(len(points), device=points.device)
        kinds = (wp.vec3, wp.vec2, wp.mat33, wp.vec3, wp.float32)
        tensors = (points, directions, projections, shifts, turned)
        flat = (x.float().contiguous().flatten(0, 1) for x in tensors)
        arrays = [wp.from_torch(x, dtype=kind) for x, kind in zip(flat, kinds, strict=True)]
        rows, poses = votes.shape
        counts = (rows // len(self.directions), poses, turned.shape[1], points.shape[1], *self._size)
        inputs = [
            *counts,
            self._padded,
            *arrays,
            wp.from_torch(views.int().contiguous()),
            wp.from_torch(votes.view(-1)),
        ]
        _count_votes(inputs, votes.numel(), self.directions.device)
        return votes


def _count_votes(inputs: Sequence[object], poses: int, device: torch.device) -> None:
    """Runs the kernel; on a CPU several threads divide many poses."""
    target, stream = warp_device(device), warp_stream(device)

    def launch(first: int, last: int) -> None:
        wp.launch(vote_kernel.count_votes, last - first, [first, *inputs], device=target, stream=stream)

    threads = torch.get_num_threads() if device.type == "cpu" and poses > _SMALL else 1
    if threads == 1:
        launch(0, poses)
        return
    edges = [poses * i // threads for i in range(threads + 1)]
    list(cpu_pool(threads).map(launch, edges[:-1], edges[1:]))
