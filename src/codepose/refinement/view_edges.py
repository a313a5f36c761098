"""The edge points of an object's views, drawn once: with them hundreds of poses are compared without a render."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codepose import geometry
from codepose.refinement.edges import edge_points
from codepose.rendering.renderer import Instances
from codepose.synthesis.objects import Objects

_LEVEL = 3
"""Icosphere subdivisions: a view is at most 5 degrees from the nearest of 642 directions."""
_SIDE, _PAD = 64, 1.15
"""Pixels along the renders, and their side over that of the part's box."""
_POINTS = 96
"""Edge points of a view."""
_RENDERS = 64
"""Views rendered at a time."""


@dataclass(frozen=True)
class ViewEdges:
    """Edge points of V views of one object, lifted to its surface.

    Attributes:
        rotations: (V, 3, 3) R_view, one of each direction.
        points: (V, P, 3) mm in the object's own axes, from its middle.
        directions: (V, P, 2), (cos, sin) of twice the edge's direction as this view shows it; zero = no point.
        length: (V,) mm, of the outline and all other edges, at the object's distance.
    """

    rotations: Tensor
    points: Tensor
    directions: Tensor
    length: Tensor

    @classmethod
    @torch.no_grad()
    def draw(cls, world: Objects, index: int) -> ViewEdges:
        """Renders object ``index`` from all directions in which it was trained."""
        model = world.objects[index]
        R = geometry.codebook_rotations(_LEVEL, 1, model.axis, model.cone_deg, opposite=model.opposite)
        R = R.to(world.device)
        order = torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0)).to(R)
        parts = [_view_edges(world, index, some, order) for some in torch.split(R, _RENDERS)]
        return cls(R, *(torch.cat(values) for values in zip(*parts, strict=True)))

    def nearest(self, R_view: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which view (M,) lies nearest to each R_view (M, 3, 3), and its turn in the plane (M,), radians."""
        view, _, angle = geometry.nearest_view(R_view, self.rotations)
        return view, angle


def _view_edges(world: Objects, index: int, R: Tensor, order: Tensor) -> tuple[Tensor, ...]:
    """Points, directions and length of some views."""
    objects = torch.full((len(R),), index, device=R.device)
    t = world.reference_translations(objects)
    window = geometry.padded_square(world.boxes(objects, R, t), _PAD)
    K = geometry.crop_camera(world.K, window, _SIDE)
    seen = world.renderer.render(Instances.single(objects, R, t), K, (_SIDE, _SIDE))
    edges = edge_points(seen.depth, seen.normal, seen.color, order.expand_as(seen.depth), _POINTS)
    points = geometry.from_pixels(edges.points, edges.depth, K[:, None]) - t[:, None]
    return points @ R, edges.directions, edges.length * t[:, 2] / K[:, 0, 0]
