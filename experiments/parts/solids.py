"""Short names for Manifold's solids: about the z axis or centred at the origin unless they say otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import manifold3d as m3
import numpy as np
import trimesh
from numpy.typing import ArrayLike

from experiments.parts.finish import RefusedError

Solid: TypeAlias = Any  # manifold3d.Manifold, which has no types where it is not installed
Outline: TypeAlias = Any  # manifold3d.CrossSection


def box(x: float, y: float, z: float, at: Sequence[float] = (0, 0, 0)) -> Solid:
    """A box about ``at``."""
    return m3.Manifold.cube((x, y, z), True).translate(tuple(at))


def rod(
    radius: float, height: float, at: Sequence[float] = (0, 0, 0), axis: str = "z", top: float | None = None
) -> Solid:
    """A cylinder about ``at``, or a cone whose end towards +axis has the radius ``top``."""
    body = m3.Manifold.cylinder(height, radius, radius if top is None else top, 40, True)
    return along(body, axis).translate(tuple(at))


def ball(radius: float, at: Sequence[float] = (0, 0, 0)) -> Solid:
    """A sphere about ``at``."""
    return m3.Manifold.sphere(radius, 28).translate(tuple(at))


def along(body: Solid, axis: str) -> Solid:
    """What was about z, about another axis."""
    return {"z": body, "x": body.rotate((0, 90, 0)), "y": body.rotate((-90, 0, 0))}[axis]


def polygon(points: ArrayLike) -> Outline:
    """The outline through points in either sense."""
    return m3.CrossSection(
        [np.asarray(points, np.float64)], m3.FillRule.NonZero if _ccw(points) else m3.FillRule.Negative
    )


def _ccw(points: ArrayLike) -> bool:
    x, y = np.asarray(points, np.float64).T
    return bool(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) > 0)


def disc(radius: float, at: ArrayLike = (0, 0), sides: int = 40) -> Outline:
    """A circle."""
    return m3.CrossSection.circle(radius, sides).translate(tuple(np.asarray(at, np.float64)))


def rect(x: float, y: float, at: Sequence[float] = (0, 0), corner: float = 0.0) -> Outline:
    """A rectangle with rounded corners."""
    corner = min(corner, 0.49 * x, 0.49 * y)
    sharp = m3.CrossSection.square((x - 2 * corner, y - 2 * corner), True)
    return rounded(sharp, corner).translate(tuple(at))


def rounded(outline: Outline, by: float) -> Outline:
    """Wider by ``by``, its corners round."""
    return outline.offset(by, m3.JoinType.Round, 2.0, 24) if by > 0 else outline


def softened(outline: Outline, by: float) -> Outline:
    """Its outer and inner corners rounded, as large as before."""
    return (
        outline.offset(-by, m3.JoinType.Round, 2.0, 24)
        .offset(2 * by, m3.JoinType.Round, 2.0, 24)
        .offset(-by, m3.JoinType.Round, 2.0, 24)
    )


def slab(outline: Outline, height: float, at: float = 0.0) -> Solid:
    """An outline with a thickness, its middle at the height ``at``."""
    return outline.extrude(height).translate((0, 0, at - height / 2))


def bar(outlines: Iterable[Outline]) -> Outline:
    """The hull of outlines."""
    return m3.CrossSection.batch_hull(list(outlines))


def lathe(profile: ArrayLike, sides: int = 48) -> Solid:
    """A profile (N, 2) of radius and height turned about z."""
    return polygon(profile).revolve(sides)


def union(parts: Iterable[Solid]) -> Solid:
    """All of them as one."""
    return m3.Manifold.batch_boolean(list(parts), m3.OpType.Add)


def ring(body: Solid, count: int, start_deg: float = 0.0) -> Solid:
    """``count`` copies about z."""
    return union(body.rotate((0, 0, start_deg + 360 * i / count)) for i in range(count))


def hull(parts: Iterable[Solid]) -> Solid:
    """Their convex hull."""
    return m3.Manifold.batch_hull(list(parts))


def brick(x: float, y: float, z: float, soft: float, at: Sequence[float] = (0, 0, 0)) -> Solid:
    """A box with round edges and corners."""
    soft = min(soft, 0.45 * x, 0.45 * y, 0.45 * z)
    corners = [
        m3.Manifold.sphere(soft, 16).translate((sx * (x / 2 - soft), sy * (y / 2 - soft), sz * (z / 2 - soft)))
        for sx in (-1, 1)
        for sy in (-1, 1)
        for sz in (-1, 1)
    ]
    return hull(corners).translate(tuple(at))


def bevelled(x: float, y: float, z: float, by: float, at: Sequence[float] = (0, 0, 0)) -> Solid:
    """A box whose edges are cut by 45 degrees."""
    by = min(by, 0.3 * x, 0.3 * y, 0.3 * z)
    return hull(
        [box(x - 2 * by, y - 2 * by, z), box(x - 2 * by, y, z - 2 * by), box(x, y - 2 * by, z - 2 * by)]
    ).translate(tuple(at))


def solid(body: trimesh.Trimesh) -> Solid:
    """A closed surface as a solid."""
    return m3.Manifold(m3.Mesh(np.asarray(body.vertices, np.float32), np.asarray(body.faces, np.uint32)))


def surface(body: Solid) -> trimesh.Trimesh:
    """The triangles of a solid, what is thinner than 0.02 % of it left out, and so are crumbs that hang in the air."""
    pieces = sorted(body.decompose(), key=lambda piece: float(piece.volume()))
    if not pieces:
        raise RefusedError("it is empty")
    if sum(piece.volume() for piece in pieces[:-1]) > 0.02 * pieces[-1].volume():
        raise RefusedError(f"it falls into {len(pieces)} pieces")
    low, high = np.split(np.asarray(pieces[-1].bounding_box()), 2)
    mesh = pieces[-1].simplify(float(np.linalg.norm(high - low)) * 2e-4).to_mesh()
    return trimesh.Trimesh(mesh.vert_properties[:, :3], mesh.tri_verts, process=False)
