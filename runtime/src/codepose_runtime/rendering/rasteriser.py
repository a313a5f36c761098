"""codepose's rasteriser in NumPy: the same questions to the same pixels, one image after the other.

As in ``raster_kernels.py`` there, the smallest key of a pixel, its depth's bits above the number of the face, is its
nearest face, and whether its centre lies inside a face is asked in camera coordinates, relative to the ray through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from codepose_runtime.tensors import Tensor
from numpy.typing import NDArray

_NEAR_MM, _SLACK, _AWAY = np.float32(0.1), 2.0e-3, 1.0e-2
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_AT_A_TIME = 1 << 21
"""Pairs of a face and a pixel that are asked about together: what they take stays below half a gigabyte."""

Floats = NDArray[np.float32]


class Rasteriser:
    """Holds meshes and draws instances of them, as codepose's own does; each stands alone in its image.

    Args:
        meshes: What ``Instances.mesh`` counts.
        device: The CPU.
        threads: One is used.
    """

    def __init__(self, meshes: Sequence[Any], device: Any, threads: int | None = None) -> None:
        self._meshes = list(meshes)

    def draw(self, instances: Any, K: Tensor, layers: Tensor, out: Any) -> None:
        """Draws the instances; pixels where there is nothing stay as they are."""
        if len(layers) and layers.array.max() >= 0:
            raise NotImplementedError("only instances that stand alone in their images")
        for i, (image, number) in enumerate(zip(instances.image.tolist(), instances.mesh.tolist(), strict=True)):
            mesh, R = self._meshes[number], instances.R.array[i].astype(np.float32)
            placed = mesh.vertices @ (R * instances.scale.array[i]).T + instances.t.array[i]
            view = _View(placed, mesh.faces, K.array[image], out.depth.shape[1:])
            keys = view.keys(solid=bool(mesh.closed))
            hit = np.flatnonzero(keys != _EMPTY)
            faces = (keys[hit] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            out.depth.array[image].reshape(-1)[hit] = (keys[hit] >> np.uint64(32)).astype(np.uint32).view(np.float32)
            out.instance.array[image].reshape(-1)[hit] = i
            if out.normal.numel():
                normal, color = view.surface(hit, faces, R, mesh)
                out.normal.array[image].reshape(-1, 3)[hit] = normal
                out.color.array[image].reshape(-1, 3)[hit] = color


class _View:
    """One mesh before one camera.

    Args:
        placed: (V, 3) mm, camera frame.
        faces: (F, 3).
        K: (3, 3), pixel centres at integer + 0.5.
        size: (height, width).
    """

    def __init__(self, placed: Floats, faces: NDArray[np.int32], K: Floats, size: tuple[int, ...]) -> None:
        self._placed, self._faces, self._size = placed, faces, size
        self._inverse = np.float32(1.0) / K.diagonal()[:2].astype(np.float32)
        self._middle = K[:2, 2].astype(np.float32)

    def keys(self, solid: bool) -> NDArray[np.uint64]:
        """Returns each pixel's smallest key (height * width,)."""
        keys = np.full(self._size[0] * self._size[1], _EMPTY)
        faces, first, sides = self._candidates(solid and bool(self._placed[:, 2].min() > _NEAR_MM))
        counts = sides.prod(1)
        starts = np.concatenate(([0], counts.cumsum()))
        begin = 0
        while begin < len(faces):
            end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + _AT_A_TIME, "right")) - 1)
            some = slice(begin, end)
            self._draw(keys, faces[some], first[some], sides[some, 0], counts[some])
            begin = end
        return keys

    def surface(self, hit: NDArray[np.int64], faces: NDArray[np.int64], R: Floats, mesh: Any) -> tuple[Floats, Floats]:
        """Returns normals and colours (n, 3) of pixels (n,) on faces (n,)."""
        height_rays = self._rays(hit % self._size[1], hit // self._size[1])
        corners = self._faces[faces]
        a, b, c = (self._placed[corners[:, k]] for k in range(3))
        weights = np.stack(_areas(*(_beside(x, *height_rays) for x in (a, b, c))), 1)
        weights /= weights.sum(1, keepdims=True)
        normal, color = (np.einsum("nk,nkd->nd", weights, x[corners]) for x in (mesh.normals, mesh.colors))
        normal = normal @ R.T
        ray = np.stack((*height_rays, np.ones_like(height_rays[0])), 1)
        away = (np.cross(b - a, c - a) * ray).sum(1) > 0
        normal[away] *= -1  # the back of a face, of an open mesh
        lean = np.clip((normal * ray).sum(1) / (ray * ray).sum(1), 0, None)
        normal = normal - lean[:, None] * ray  # a smooth normal that looks away at the rim: edge-on
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12), color

    def _rays(self, column: NDArray[np.int64], row: NDArray[np.int64]) -> tuple[Floats, Floats]:
        u = (column.astype(np.float32) + np.float32(0.5) - self._middle[0]) * self._inverse[0]
        v = (row.astype(np.float32) + np.float32(0.5) - self._middle[1]) * self._inverse[1]
        return u, v

    def _candidates(self, solid: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Faces (n,) that may be seen, the first pixel (n, 2) xy of those they may cover, and how many (n, 2)."""
        z = self._placed[:, 2:]
        behind = z[:, 0] < _NEAR_MM
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = self._placed[:, :2] / z / self._inverse + self._middle
        pixels[behind] = 0.0
        corners = pixels[self._faces]  # (F, 3, 2)
        near = behind[self._faces]
        limit = np.array(self._size[::-1]) - 1
        first = np.clip(np.ceil(corners.min(1) - 0.5 - _SLACK), 0, limit + 1.0).astype(np.int64)
        last = np.clip(np.floor(corners.max(1) - 0.5 + _SLACK), -1.0, limit).astype(np.int64)
        crosses = near.any(1) & ~near.all(1)  # it may be anywhere
        first[crosses], last[crosses] = 0, limit
        sides = last - first + 1
        seen = (sides > 0).all(1) & ~near.all(1)
        if solid:
            (ax, ay), (bx, by), (cx, cy) = (corners[:, k].T for k in range(3))
            seen &= (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) <= _AWAY
        chosen = np.flatnonzero(seen)
        return chosen, first[chosen], sides[chosen]

    def _draw(
        self,
        keys: NDArray[np.uint64],
        faces: NDArray[np.int64],
        first: NDArray[np.int64],
        width: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        """Puts faces' keys wherever they are the nearest so far."""
        owner = np.repeat(np.arange(len(faces)), counts)
        place = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
        down, across = np.divmod(place, width[owner])
        column, row = first[owner, 0] + across, first[owner, 1] + down
        corners = self._faces[faces]
        a, b, c = (self._placed[corners[:, k]] for k in range(3))
        u, v = self._rays(column, row)
        beside = [_beside(x[owner], u, v) for x in (a, b, c)]
        weights = _areas(*beside)
        low, high = np.minimum.reduce(weights), np.maximum.reduce(weights)
        maybe = np.flatnonzero(((low >= 0) | (high <= 0)) & (low != high))
        beside = [(x[maybe], y[maybe]) for x, y in beside]
        weights = [w[maybe] for w in weights]
        front = low[maybe] >= 0
        inside = np.where(front, _inside(weights, beside), _inside([-w for w in weights], beside, turned=True))
        total = weights[0] + weights[1] + weights[2]
        some = owner[maybe]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (weights[0] * a[some, 2] + weights[1] * b[some, 2] + weights[2] * c[some, 2]) / total
        drawn = np.flatnonzero(inside & (total != 0) & (z >= _NEAR_MM))
        bits = z[drawn].astype(np.float32).view(np.uint32).astype(np.uint64)
        pixel = (row[maybe] * self._size[1] + column[maybe])[drawn]
        np.minimum.at(keys, pixel, (bits << np.uint64(32)) | faces[some[drawn]].astype(np.uint64))


def _beside(vertex: Floats, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Where vertices (n, 3) lie beside rays (u, v, 1), in the planes of their own depths."""
    return vertex[:, 0] - u * vertex[:, 2], vertex[:, 1] - v * vertex[:, 2]


def _areas(a: Any, b: Any, c: Any) -> list[Floats]:
    """Twice the areas of the triangles that rays make with the edges opposite the corners."""
    return [b[0] * c[1] - b[1] * c[0], c[0] * a[1] - c[1] * a[0], a[0] * b[1] - a[1] * b[0]]


def _inside(weights: Sequence[Floats], beside: Sequence[Any], turned: bool = False) -> NDArray[np.bool_]:
    """Whether centres are inside, or on an edge that is a top or a left one."""
    result = np.ones(len(weights[0]), bool)
    for k, weight in enumerate(weights):
        p, q = beside[(k + 1) % 3], beside[(k + 2) % 3]
        if turned:
            p, q = q, p
        on = (weight == 0) & ((q[1] < p[1]) | ((q[1] == p[1]) & (q[0] > p[0])))
        result &= (weight > 0) | on
    return result
