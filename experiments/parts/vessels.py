"""Bottles, jugs, mugs, cans and vases: turned fields with handles and spouts, in a cube from -1 to 1."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray

from experiments.parts.draw import Draw
from experiments.parts.fields import Field, Space, blend, carve, surface


def _turned(
    s: Space,
    radii: NDArray[np.float64],
    low: float,
    high: float,
    lobes: int = 0,
    depth: float = 0.0,
    twist: float = 0.0,
) -> Field:
    """(N, N, N) a body about z whose radius runs through ``radii`` from ``low`` to ``high``, fluted by ``lobes``."""
    x, y, z = np.moveaxis(s.points, -1, 0)
    t = np.clip((z - low) / (high - low), 0, 1) * (len(radii) - 1)
    r = np.interp(t, np.arange(len(radii)), radii)
    if lobes:
        r = r * (1 + depth * np.cos(lobes * np.arctan2(y, x) + twist * z))
    field: Field = np.maximum(np.hypot(x, y) - r, np.abs(z - (low + high) / 2) - (high - low) / 2).astype(np.float32)
    return field


def _curve(d: Draw, count: int, low: float, high: float) -> NDArray[np.float64]:
    """A smooth random row of radii."""
    knots = d.rng.uniform(low, high, count)
    t = np.linspace(0, count - 1, 30)
    soft: NDArray[np.float64] = np.interp(t, np.arange(count), knots)
    return np.convolve(np.pad(soft, 3, mode="edge"), np.ones(7) / 7, "valid")


def bottle(d: Draw) -> trimesh.Trimesh:
    s = Space()
    body, neck = d.real(0.18, 0.45), d.real(0.06, 0.14)
    shoulder = d.count(14, 22)
    radii = np.concatenate(
        [
            _curve(d, 3, body * 0.75, body)[:: 30 // shoulder + 1],
            np.linspace(body, neck, d.count(3, 8)),
            np.full(d.count(3, 8), neck),
            [neck * 1.3, neck * 1.3],
        ]
    )
    field = _turned(s, radii, -0.85, 0.85, d.pick([0, 0, 4, 6]), 0.06)
    flat = d.pick([1.0, 1.0, 0.6])
    if flat != 1.0:
        field = np.maximum(field, np.abs(s.points[..., 1]) - body * flat)
    if d.chance(0.4):
        field = blend(
            [
                field,
                s.box((0.1, 0, 0.82), (d.real(0.15, 0.3), 0.07, 0.06), 0.03),
                s.capsule((0.25, 0, 0.82), (0.4, 0, 0.74), 0.04),
            ],
            0.03,
        )
    if d.chance(0.4):
        field = carve(field, s.box((body * 1.05, 0, -0.2), (body * 0.3, 0.6, 0.25), 0.05), 0.05)
    return surface(field, 0.5)


def jug(d: Draw) -> trimesh.Trimesh:
    """Jugs, mugs, tea and watering cans: a hollow body with a handle, some with a spout."""
    s = Space(64)
    high, wide = d.real(0.3, 0.7), d.real(0.28, 0.42)
    radii = _curve(d, 4, wide * 0.6, wide)
    lobes = d.pick([0, 0, 0, 8])
    field = _turned(s, radii, -high, high, lobes, 0.05)
    handle = s.torus(
        (-wide * 0.95, 0, d.real(-0.1, 0.15)),
        d.real(0.18, 0.32) * (1 if high > 0.4 else 0.8),
        d.real(0.04, 0.07),
        1,
        d.real(0.7, 1.1),
    )
    field = blend([field, handle], 0.05)
    spout = d.pick(["long", "lip", "none", "lip"])
    if spout == "long":
        field = blend(
            [
                field,
                s.capsule(
                    (wide * 0.7, 0, -high * 0.4), (wide + d.real(0.2, 0.42), 0, high * d.real(0.4, 1.1)), 0.12, 0.06
                ),
            ],
            0.06,
        )
    elif spout == "lip":
        field = blend([field, s.capsule((wide * 0.6, 0, high * 0.7), (wide * 1.35, 0, high * 0.98), 0.16, 0.05)], 0.06)
        field = np.maximum(field, s.points[..., 2] - high)
    if d.chance(0.7):
        field = carve(field, _turned(s, radii - 0.085, -high + 0.1, high + 0.3, lobes, 0.05), 0.02)
    else:
        field = blend(
            [
                field,
                s.ellipsoid((0, 0, high), (wide * 0.6, wide * 0.6, 0.12)),
                s.ellipsoid((0, 0, high + 0.16), (0.07, 0.07, 0.07)),
            ],
            0.03,
        )
    return surface(field, 0.4)


def vase(d: Draw) -> trimesh.Trimesh:
    """Fluted, twisted and dented vessels."""
    s = Space()
    field = _turned(
        s,
        _curve(d, d.count(3, 6), 0.15, 0.55),
        -d.real(0.4, 0.85),
        d.real(0.4, 0.85),
        d.count(2, 9),
        d.real(0.04, 0.18),
        d.real(-4, 4),
    )
    if d.chance(0.5):
        field = carve(field, s.capsule((d.real(-0.1, 0.1), 0, 0.1), (0, 0, 1), 0.12, d.real(0.15, 0.3)), 0.03)
    if d.chance(0.5):
        field = blend([field, s.torus((0.4, d.real(-0.1, 0.1), 0), d.real(0.15, 0.25), 0.05, 1)], 0.05)
    if d.chance(0.5):
        field = carve(field, s.ellipsoid((-0.5, 0.1, d.real(-0.3, 0.3)), (0.25, 0.3, 0.3)), 0.08)
    return surface(field, 0.4)


FAMILIES = {
    "bottle": bottle,
    "jug": jug,
    "vase": vase,
}
