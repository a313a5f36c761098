"""Convex hulls of meshes: where they end in an image, and how far they reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from codepose import geometry
from codepose.rendering.warp_runtime import warp_device

from codepose.rendering import hull_kernel  # isort: skip  (Warp is started by the line before)

if TYPE_CHECKING:
    from codepose.parts.mesh import Mesh


class Hulls:
    """The convex hulls of several meshes on one device.

    Args:
        meshes: In the order in which they are counted.
        device: A torch device.
    """

    def __init__(self, meshes: Sequence[Mesh], device: torch.device) -> None:
        self._sizes = torch.tensor([len(m.hull) for m in meshes])
        most = int(self._sizes.max())
        self._filled = torch.from_numpy(np.stack([_filled(m.hull, most) for m in meshes])).to(device)  # (M, H, 3)
        if device.type == "cpu":
            wp.load_module(hull_kernel.__name__, device=warp_device(device))  # before several threads ask for it
            even = [_filled(m.hull, -len(m.hull) % hull_kernel.LANES + len(m.hull)) for m in meshes]
            counts = torch.tensor([len(points) for points in even])
            self._flat = wp.from_torch(torch.from_numpy(np.concatenate([points.T.ravel() for points in even])))
            self._firsts, self._counts = wp.from_torch((counts.cumsum(0) - counts).int()), wp.from_torch(counts.int())

    def __len__(self) -> int:
        """How many meshes there are."""
        return len(self._filled)

    def __getitem__(self, mesh: int) -> Tensor:
        """Returns the vertices (H, 3) of one mesh's hull, mm."""
        return self._filled[mesh, : int(self._sizes[mesh])]

    def boxes(self, mesh: Tensor, R: Tensor, t: Tensor, K: Tensor) -> Tensor:
        """Returns the exact amodal boxes (N, 4) of meshes (N,) before the camera.

        On a CPU by a kernel of its own: the projected points, all at once, would not stay in its caches.

        Args:
            mesh: (N,) which mesh.
            R: (N, 3, 3) rotations, with any scale.
            t: (N, 3) mm.
            K: (N, 3, 3), pixel centres at integer + 0.5.
        """
        if mesh.device.type != "cpu":
            return geometry.projected_box(self._filled[mesh], R, t, K)
        boxes = torch.empty(len(mesh), 4)
        projections, shifts = (K @ R).float().contiguous(), (K @ t[..., None]).squeeze(-1).float().contiguous()
        given = ((mesh.int().contiguous(), wp.int32), (projections, wp.mat33), (shifts, wp.vec3), (boxes, wp.vec4))
        inputs = [wp.from_torch(values, dtype=kind, return_ctype=True) for values, kind in given]
        inputs = [self._firsts, self._counts, self._flat, *inputs]
        wp.launch(hull_kernel.find_ends, len(mesh), inputs, device="cpu")
        return boxes

    def lowest(self, mesh: Tensor, direction: Tensor) -> Tensor:
        """Returns how far (N,) in mm each of meshes (N,) reaches along directions (N, 3) of its own frame, at least."""
        hulls = self._filled
        if hulls.device.type == "cpu" and len(mesh):  # where points cost time, no more than the largest has
            hulls = hulls[:, : int(self._sizes[mesh].max())]
        return (hulls[mesh] @ direction[..., None])[..., 0].amin(1)


def _filled(hull: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """A hull (H, 3) with the first point again and again, up to ``count`` of them."""
    return np.concatenate((hull, np.repeat(hull[:1], count - len(hull), 0)))
