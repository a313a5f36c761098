"""Convex hulls of meshes: where they end in an image, and how far they reach, as codepose's own has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codepose_runtime import geometry
from codepose_runtime import tensors as torch
from codepose_runtime.tensors import Tensor


class Hulls:
    """The convex hulls of several meshes.

    Args:
        meshes: In the order in which they are counted.
        device: The CPU.
    """

    def __init__(self, meshes: Sequence[Any], device: Any) -> None:
        self._hulls = [torch.from_numpy(mesh.hull) for mesh in meshes]

    def __len__(self) -> int:
        """How many meshes there are."""
        return len(self._hulls)

    def __getitem__(self, mesh: int) -> Tensor:
        """Returns the vertices (H, 3) of one mesh's hull, mm."""
        return self._hulls[mesh]

    def boxes(self, mesh: Tensor, R: Tensor, t: Tensor, K: Tensor) -> Tensor:
        """Returns the exact amodal boxes (N, 4) of meshes (N,) before the camera."""
        boxes = torch.empty(len(mesh), 4)
        for index in sorted(set(mesh.tolist())):
            rows = (mesh == index).nonzero().squeeze(1)
            boxes[rows] = geometry.projected_box(self._hulls[index], R[rows], t[rows], K[rows])
        return boxes

    def lowest(self, mesh: Tensor, direction: Tensor) -> Tensor:
        """Returns how far (N,) in mm each of meshes (N,) reaches along directions (N, 3) of its own frame, at least."""
        reach = [(self._hulls[index] @ way).amin(0) for index, way in zip(mesh.tolist(), direction, strict=True)]
        return torch.stack(reach)
