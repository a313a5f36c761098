"""Things of everyday shape, made by code: what stands around a part on a real bench.

A thing is one to four plain solids, each in its own place and colour: boxes, tins, bottles, bowls, rings, stones. None
is meant to be anything; together they have the edges, shades and outlines of what a detector must leave alone.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from trimesh.remesh import subdivide_to_size

from codepose.parts.mesh import Mesh, mesh_from_trimesh

SIZE_MM = 100.0
"""Diameter of a thing."""
_SOLIDS = (0.4, 0.3, 0.2, 0.1)
"""How often a thing is made of one solid, two, three and four."""
_FINEST = 0.15
"""Longest edge, in sizes of a solid: fine enough for the patterns on it."""


def things(count: int, seed: Sequence[int]) -> tuple[Mesh, ...]:
    """Returns as many different things, each ``SIZE_MM`` across and centred at the origin; a seed gives the same."""
    return tuple(_thing(np.random.default_rng([*seed, number]), number) for number in range(count))


def _thing(rng: np.random.Generator, number: int) -> Mesh:
    solids = [_stand(_solid(rng), rng, first=part == 0) for part in range(rng.choice(4, p=_SOLIDS) + 1)]
    whole: trimesh.Trimesh = trimesh.Scene(solids).to_mesh()
    whole.vertices -= whole.bounds.mean(axis=0)
    whole.vertices *= SIZE_MM / (2.0 * np.linalg.norm(whole.vertices, axis=1).max())
    return mesh_from_trimesh(whole, f"thing {number}")


def _solid(rng: np.random.Generator) -> trimesh.Trimesh:
    """One painted solid, centred, 1 long."""
    kinds = (_box, _cylinder, _ball, _ring, _stone, _turned, _turned)
    solid = kinds[rng.integers(len(kinds))](rng)
    halve: Any = subdivide_to_size  # has no types
    corners = (solid.vertices - solid.bounds.mean(axis=0)) / solid.extents.max()
    vertices, faces = halve(corners, solid.faces, _FINEST, max_iter=12)
    colors = (255.0 * _pattern(vertices, rng)).round().astype(np.uint8)
    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)


def _stand(solid: trimesh.Trimesh, rng: np.random.Generator, *, first: bool) -> trimesh.Trimesh:
    """A solid as it stands in a thing: the first in the middle, the others smaller and somewhere on it."""
    if not first:
        # at right angles, as most things are built, or any way round
        turn = Rotation.create_group("O")[rng.integers(24)] if rng.random() < 0.5 else Rotation.random(rng=rng)
        solid.vertices = rng.uniform(0.25, 0.8) * turn.apply(solid.vertices) + rng.uniform(-0.5, 0.5, 3)
    return solid


def _box(rng: np.random.Generator) -> trimesh.Trimesh:
    solid: trimesh.Trimesh = trimesh.creation.box(extents=np.exp(rng.uniform(-3.0, 0.0, 3)))
    return solid


def _cylinder(rng: np.random.Generator) -> trimesh.Trimesh:
    radius = 0.5 * np.exp(rng.uniform(-3.0, 1.5))  # from a stick to a lid
    solid: trimesh.Trimesh = trimesh.creation.cylinder(radius=radius, height=1.0, sections=24)
    return solid


def _ball(rng: np.random.Generator) -> trimesh.Trimesh:
    ball: trimesh.Trimesh = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    ball.vertices *= rng.uniform(0.4, 1.0, 3)
    return ball


def _ring(rng: np.random.Generator) -> trimesh.Trimesh:
    solid: trimesh.Trimesh = trimesh.creation.torus(0.4, rng.uniform(0.04, 0.15), major_sections=28, minor_sections=10)
    return solid


def _stone(rng: np.random.Generator) -> trimesh.Trimesh:
    points = rng.normal(size=(int(rng.integers(6, 16)), 3)) * rng.uniform(0.2, 1.0, 3)
    solid: trimesh.Trimesh = trimesh.convex.convex_hull(points)
    return solid


def _turned(rng: np.random.Generator) -> trimesh.Trimesh:
    """Turned on a lathe: bottles, cups, knobs, handles."""
    heights = np.sort(rng.uniform(0.0, 1.0, int(rng.integers(2, 7))))
    radii = rng.uniform(0.05, rng.uniform(0.12, 0.5), len(heights))
    profile = np.column_stack((np.r_[0.0, radii, 0.0], np.r_[heights[0], heights, heights[-1]]))
    solid: trimesh.Trimesh = trimesh.creation.revolve(profile, sections=24)
    return solid


def _pattern(places: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Colours (V, 3) in [0, 1] of places (V, 3) on a solid: plain, striped, in two halves, or blotched."""
    one, other = _color(rng), _color(rng)
    kind = rng.random()
    if kind < 0.5:
        share = np.zeros(len(places))
    else:
        waves = rng.normal(size=(1 if kind < 0.85 else 4, 3))
        often = rng.uniform(0.3, 3.0) if kind < 0.7 else rng.uniform(2.0, 5.0)
        waves *= often / np.linalg.norm(waves, axis=1)[:, None]
        share = (np.sin(2.0 * np.pi * (places @ waves.T) + rng.uniform(0.0, 6.3, len(waves))).sum(1) > 0).astype(float)
    return one + share[:, None] * (other - one)


def _color(rng: np.random.Generator) -> NDArray[np.float64]:
    """Grey, from black to white, as often as coloured."""
    saturation = rng.uniform(0.0, 0.12) if rng.random() < 0.5 else rng.uniform(0.2, 1.0)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.05, 1.0)))
