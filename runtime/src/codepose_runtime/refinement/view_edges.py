"""The edge points of an object's views, which ``codepose export`` has drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codepose_runtime import geometry
from codepose_runtime.tensors import Tensor


@dataclass(frozen=True)
class ViewEdges:
    """As codepose's: V views of one object."""

    rotations: Tensor
    points: Tensor
    directions: Tensor
    length: Tensor

    @classmethod
    def draw(cls, world: Any, index: int) -> ViewEdges:
        """Returns those of object ``index``."""
        drawn: ViewEdges = world.objects[index].edges
        return drawn

    def nearest(self, R_view: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which view (M,) lies nearest to each R_view (M, 3, 3), and its turn in the plane (M,), radians."""
        view, _, angle = geometry.nearest_view(R_view, self.rotations)
        return view, angle
