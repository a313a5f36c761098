"""Animals, figures, blobs and rough bodies: smooth solids from blended fields, in a cube from -1 to 1."""

from __future__ import annotations

import numpy as np
import trimesh

from experiments.parts.draw import Draw
from experiments.parts.fields import Space, blend, carve, surface, tilt


def quadruped(d: Draw) -> trimesh.Trimesh:
    s = Space()
    long, thick, leg = d.real(0.3, 0.5), d.real(0.13, 0.26), d.real(0.2, 0.5)
    parts = [s.ellipsoid((0, 0, 0), (long, thick, thick * d.real(0.8, 1.2)), tilt(d.rng, 15))]
    for x in (-0.7, 0.7):
        for y in (-1, 1):
            foot = (x * long + d.real(-0.1, 0.1), y * thick * d.real(0.6, 1.1), -leg - thick * 0.5)
            parts.append(s.capsule((x * long, y * thick * 0.5, -0.05), foot, thick * 0.4, thick * d.real(0.22, 0.4)))
    neck = np.array([long * d.real(0.9, 1.2), d.real(-0.1, 0.1), d.real(0.05, 0.42)])
    parts.append(s.capsule((long * 0.75, 0, 0), neck, thick * 0.6, thick * 0.5))
    head = thick * d.real(0.6, 1.0)
    parts.append(
        s.ellipsoid(neck + [head * 0.4, 0, 0], (head * d.real(1.0, 1.8), head * 0.8, head * 0.85), tilt(d.rng, 25))
    )
    for y in (-1, 1):
        parts.append(
            s.capsule(
                neck + [0, y * head * 0.5, head * 0.4],
                neck + [d.real(-0.1, 0.1), y * head * d.real(0.6, 1.4), head * d.real(0.9, 2.2)],
                head * 0.28,
                head * 0.12,
            )
        )
    if d.chance(0.8):
        parts.append(
            s.capsule(
                (-long * 0.9, 0, 0),
                (-long - d.real(0.1, 0.25), d.real(-0.2, 0.2), d.real(-0.1, 0.4)),
                thick * 0.25,
                thick * 0.15,
            )
        )
    return surface(blend(parts, d.real(0.05, 0.14)), 0.6)


def biped(d: Draw) -> trimesh.Trimesh:
    s = Space()
    high, wide = d.real(0.25, 0.4), d.real(0.14, 0.26)
    parts = [s.ellipsoid((0, 0, 0), (wide, wide * d.real(0.6, 1.0), high))]
    for y in (-1, 1):
        foot = np.array([d.real(-0.1, 0.15), y * wide * d.real(0.5, 0.9), -high - d.real(0.1, 0.4)])
        parts += [
            s.capsule((0, y * wide * 0.5, -high * 0.6), foot, wide * 0.45, wide * 0.35),
            s.ellipsoid(foot + [0.06, 0, 0], (wide * 0.7, wide * 0.4, wide * 0.3)),
        ]
        elbow = np.array([d.real(0, 0.25), y * (wide + d.real(0.05, 0.3)), d.real(-0.2, 0.3)])
        hand = elbow + [d.real(0, 0.25), d.real(-0.1, 0.1), d.real(-0.2, 0.25)]
        parts += [
            s.capsule((0, y * wide * 0.7, high * 0.6), elbow, wide * 0.32, wide * 0.26),
            s.capsule(elbow, hand, wide * 0.26, wide * 0.3),
        ]
    head = wide * d.real(0.7, 1.2)
    at = np.array([0.04, d.real(-0.04, 0.04), high + head * 0.7])
    parts.append(s.ellipsoid(at, (head, head * d.real(0.8, 1.1), head * d.real(0.9, 1.2))))
    parts.append(s.capsule(at, at + [head * d.real(1.0, 1.6), 0, 0], head * 0.3, head * 0.15))
    if d.chance(0.5):
        parts.append(s.box(at + [0, 0, head * 0.9], (head * 1.2, head * 1.2, head * 0.15), 0.03))
    return surface(blend(parts, d.real(0.04, 0.12)), 0.6)


def bird(d: Draw) -> trimesh.Trimesh:
    s = Space()
    long, thick = d.real(0.3, 0.45), d.real(0.18, 0.32)
    parts = [s.ellipsoid((0, 0, 0), (long, thick, thick), tilt(d.rng, 30))]
    head = thick * d.real(0.45, 0.8)
    at = np.array([long * d.real(0.6, 1.1), d.real(-0.1, 0.1), thick * d.real(0.6, 1.6)])
    parts += [s.capsule((long * 0.5, 0, thick * 0.3), at, thick * 0.5, head * 0.8), s.ellipsoid(at, (head, head, head))]
    parts.append(s.capsule(at, at + [head * d.real(1.3, 2.6), 0, d.real(-0.15, 0.05)], head * 0.45, head * 0.1))
    parts.append(
        s.ellipsoid(
            (-long * 1.1, 0, d.real(0, 0.2)),
            (long * d.real(0.3, 0.6), thick * d.real(0.3, 0.8), thick * 0.2),
            tilt(d.rng, 30),
        )
    )
    spread = d.real(0.1, 0.5)
    for y in (-1, 1):
        parts.append(
            s.ellipsoid(
                (-0.05, y * (thick + spread * 0.4), 0.1), (long * 0.6, spread * 0.7 + 0.06, 0.05), tilt(d.rng, 20)
            )
        )
    if d.chance(0.6):
        parts.append(s.ellipsoid((0, 0, -thick * 1.1), (thick, thick, 0.08)))
    return surface(blend(parts, d.real(0.04, 0.1)), 0.5)


def fish(d: Draw) -> trimesh.Trimesh:
    s = Space()
    long, high, wide = d.real(0.45, 0.65), d.real(0.15, 0.4), d.real(0.1, 0.22)
    parts = [s.ellipsoid((0, 0, 0), (long, wide, high))]
    parts.append(
        s.ellipsoid((-long * 0.95, d.real(-0.15, 0.15), 0.1), (0.12, 0.05, d.real(0.2, 0.35)), tilt(d.rng, 30))
    )
    parts.append(
        s.ellipsoid((d.real(-0.2, 0.2), 0, high), (d.real(0.1, 0.3), 0.05, d.real(0.1, 0.25)), tilt(d.rng, 25))
    )
    for y in (-1, 1):
        parts.append(s.ellipsoid((0.15, y * wide, -0.1), (0.12, 0.15, 0.05), tilt(d.rng, 40)))
    return surface(blend(parts, 0.05), 0.5)


def blob(d: Draw) -> trimesh.Trimesh:
    s = Space()
    at, parts = np.zeros(3), []
    stretch = d.rng.uniform(0.5, 1.0, 3)
    for _ in range(d.count(3, 9)):
        r = d.rng.uniform(0.1, 0.3, 3)
        parts.append(s.ellipsoid(at, r, tilt(d.rng, 180)))
        at = np.clip(at + d.rng.uniform(-0.35, 0.35, 3) * stretch, -0.65, 0.65)
    return surface(blend(parts, d.real(0.1, 0.3)), 0.5)


def rough(d: Draw) -> trimesh.Trimesh:
    """A simple body with a rough, dented surface, as scans and castings have."""
    s = Space()
    base = [
        s.ellipsoid((0, 0, 0), d.rng.uniform(0.25, 0.75, 3), tilt(d.rng, 30)),
        s.box((0, 0, 0), d.rng.uniform(0.15, 0.65, 3), d.real(0, 0.15), tilt(d.rng, 30)),
        s.torus((0, 0, 0), d.real(0.4, 0.55), d.real(0.12, 0.25), squash=d.real(0.7, 1.2)),
        s.capsule(d.rng.uniform(-0.6, -0.3, 3), d.rng.uniform(0.3, 0.6, 3), d.real(0.15, 0.35), d.real(0.1, 0.3)),
    ]
    body = base[d.count(0, 3)]
    for _ in range(d.count(1, 3)):
        extra = s.box(d.rng.uniform(-0.4, 0.4, 3), d.rng.uniform(0.08, 0.35, 3), 0.04, tilt(d.rng, 90))
        body = blend([body, extra], 0.05) if d.chance() else carve(body, extra, 0.05)
    body = body + d.real(0.02, 0.06) * s.noise(d.rng, d.real(0.4, 1.0)) + d.real(0.0, 0.012) * s.noise(d.rng, 0.15)
    return surface(body, 0.4)


FAMILIES = {
    "quadruped": quadruped,
    "biped": biped,
    "bird": bird,
    "fish": fish,
    "blob": blob,
    "rough": rough,
}
