"""Free forms as fields of signed distance on a grid, blended into one another, and the surface where they are 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
import warp as wp
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial.transform import Rotation
from warp.geometry import IsoSurfaceMarchingCubes

from experiments.parts.finish import RefusedError

Field = NDArray[np.float32]


class Space:
    """A cube of grid points.

    Attributes:
        points: (N, N, N, 3), from -1 to 1 along each axis.
    """

    def __init__(self, side: int = 60) -> None:
        line = np.linspace(-1.0, 1.0, side, dtype=np.float32)
        self.points = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1)

    def ellipsoid(self, at: ArrayLike, radii: ArrayLike, axes: ArrayLike | None = None) -> Field:
        """(N, N, N) nearly the distance to an ellipsoid; ``axes`` (3, 3) turns it."""
        local = self.points - np.asarray(at, np.float32)
        if axes is not None:
            local = local @ np.asarray(axes, np.float32)
        r = np.asarray(radii, np.float32)
        k0 = np.linalg.norm(local / r, axis=-1)
        k1 = np.linalg.norm(local / (r * r), axis=-1)
        field: Field = k0 * (k0 - 1.0) / np.maximum(k1, 1e-6)
        return field

    def capsule(self, a: ArrayLike, b: ArrayLike, radius: float, end: float | None = None) -> Field:
        """(N, N, N) distance to a thick line from ``a`` to ``b``, whose radius changes to ``end``."""
        start, stop = np.asarray(a, np.float32), np.asarray(b, np.float32)
        way = stop - start
        t = np.clip((self.points - start) @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
        width = radius + t * ((radius if end is None else end) - radius)
        field: Field = np.linalg.norm(self.points - start - t[..., None] * way, axis=-1) - width
        return field

    def box(self, at: ArrayLike, half: ArrayLike, soft: float = 0.0, axes: ArrayLike | None = None) -> Field:
        """(N, N, N) distance to a box of half sides ``half``, its edges rounded by ``soft``."""
        local = self.points - np.asarray(at, np.float32)
        if axes is not None:
            local = local @ np.asarray(axes, np.float32)
        q = np.abs(local) - (np.asarray(half, np.float32) - soft)
        field: Field = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0) - soft
        return field

    def disc(self, at: ArrayLike, radius: float, half: float, axis: int = 2) -> Field:
        """(N, N, N) nearly the distance to a cylinder about an axis, ``half`` its height to either side of ``at``."""
        local = self.points - np.asarray(at, np.float32)
        round_it = np.linalg.norm(np.delete(local, axis, -1), axis=-1) - radius
        field: Field = np.maximum(round_it, np.abs(local[..., axis]) - half)
        return field

    def torus(self, at: ArrayLike, radius: float, thick: float, axis: int = 2, squash: float = 1.0) -> Field:
        """(N, N, N) distance to a ring about an axis."""
        local = self.points - np.asarray(at, np.float32)
        flat = np.delete(local, axis, -1)
        flat = flat * np.array([1.0, squash], np.float32)
        field: Field = np.hypot(np.linalg.norm(flat, axis=-1) - radius, local[..., axis]) - thick
        return field

    def noise(self, rng: np.random.Generator, scale: float) -> Field:
        """(N, N, N) smooth noise of deviation 1, its bumps about ``scale`` across."""
        side = len(self.points)
        coarse = rng.standard_normal((max(4, round(4.0 / scale)),) * 3)
        fine = zoom(coarse, side / coarse.shape[0], order=3, mode="grid-wrap", grid_mode=True)[:side, :side, :side]
        field: Field = (fine / max(float(fine.std()), 1e-6)).astype(np.float32)
        return field


def tilt(rng: np.random.Generator, most_deg: float) -> NDArray[np.float64]:
    """(3, 3) a random rotation by ``most_deg`` at most."""
    axis = rng.standard_normal(3)
    turn: NDArray[np.float64] = Rotation.from_rotvec(
        np.radians(rng.uniform(0, most_deg)) * axis / np.linalg.norm(axis)
    ).as_matrix()
    return turn


def blend(fields: Sequence[Field], soft: float) -> Field:
    """The union of bodies, melted together over about ``soft``."""
    if soft <= 0:
        hard: Field = np.minimum.reduce(fields)
        return hard
    total = fields[0]
    for other in fields[1:]:
        h = np.maximum(soft - np.abs(total - other), 0.0) / soft
        total = np.minimum(total, other) - h * h * soft / 4
    return total


def carve(body: Field, hole: Field, soft: float = 0.0) -> Field:
    """The body without the hole."""
    return -blend([-body, hole], soft)


def surface(field: Field, smooth: float = 0.0) -> trimesh.Trimesh:
    """The surface of a field without its crumbs; what the grid's faces cut is closed there.

    Args:
        field: (N, N, N), below 0 inside.
        smooth: Grid steps over which it is blurred before.
    """
    values = gaussian_filter(field, smooth) if smooth > 0 else field
    values = np.pad(values, 1, constant_values=1.0).astype(np.float32)
    wp.init()
    points, indices = IsoSurfaceMarchingCubes.extract(wp.array(values, dtype=wp.float32, device="cpu"))
    body = trimesh.Trimesh(points.numpy(), indices.numpy().reshape(-1, 3), process=True)
    pieces = body.split(only_watertight=False)
    largest = max(pieces, key=lambda piece: float(piece.area))
    if largest.area < 0.9 * body.area:
        raise RefusedError(f"it falls into {len(pieces)} pieces")
    return largest
