"""Things with a handle, a lens, buttons or wheels: compounds of fields, in a cube from -1 to 1."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import trimesh

from experiments.parts.draw import Draw
from experiments.parts.fields import Field, Space, blend, carve, surface, tilt


def pistol_grip(d: Draw) -> trimesh.Trimesh:
    """Drill-, glue-gun- and dryer-like devices: a barrel, a slanted handle, a trigger, a nose, a battery or a cord."""
    s = Space(64)
    r, long, slant = d.real(0.13, 0.22), d.real(0.35, 0.6), d.real(-0.05, 0.3)
    parts: list[Field] = [
        s.capsule((-long + 0.1, 0, 0.3), (long * 0.5, 0, 0.3), r, r * d.real(0.8, 1.1))
        if d.chance()
        else s.box((-0.1, 0, 0.3), (long * 0.8, r * 0.85, r), 0.06)
    ]
    at = d.real(-0.45, 0.05)
    end = np.array([at - slant, 0, d.real(-0.6, -0.35)])
    parts.append(s.capsule((at, 0, 0.25), end, r * 0.65, r * d.real(0.5, 0.75)))
    nose = d.pick(["cone", "rod", "wide"])
    parts.append(
        s.capsule(
            (long * 0.5, 0, 0.3),
            (long * 0.5 + d.real(0.15, 0.35), 0, 0.3 + d.pick([0.0, 0.0, 0.06])),
            r * {"cone": 0.8, "rod": 0.35, "wide": 0.9}[nose],
            r * {"cone": 0.25, "rod": 0.3, "wide": 1.15}[nose],
        )
    )
    parts.append(s.box((at + r * 0.8, 0, 0.02), (0.06, 0.04, 0.09), 0.02, tilt(d.rng, 8)))
    base = d.pick(["battery", "cord", "none", "tank"])
    if base == "battery":
        parts.append(
            s.box(
                end + [d.real(-0.02, 0.1), 0, -0.06],
                (d.real(0.18, 0.32), r * d.real(0.7, 1.1), d.real(0.06, 0.14)),
                0.03,
            )
        )
    elif base == "cord":
        parts.append(s.capsule(end, end + [d.real(-0.15, 0.15), d.real(-0.1, 0.1), -0.25], 0.05, 0.04))
    elif base == "tank":
        parts.append(s.capsule((d.real(-0.3, 0.2), 0, 0.35), (d.real(-0.3, 0.2), d.real(-0.1, 0.1), 0.75), 0.14, 0.18))
    if d.chance(0.4):
        parts.append(s.torus((at + 0.1, 0, 0.02), 0.17, 0.035, 1))
    if d.chance(0.4):
        parts.append(s.capsule((long * 0.2, 0, 0.3), (long * 0.2, d.pick([-1, 1]) * d.real(0.3, 0.5), 0.25), 0.06))
    return surface(blend(parts, d.real(0.01, 0.06)), 0.4)


def boxed_lens(d: Draw) -> trimesh.Trimesh:
    """Camera-, projector- and binocular-like devices: a body with a lens, a grip, knobs and an eyepiece."""
    s = Space(64)
    half = np.array([d.real(0.3, 0.6), d.real(0.1, 0.22), d.real(0.2, 0.42)])
    parts: list[Field] = [s.box((0, 0, 0), half, d.real(0.01, 0.1))]
    for _ in range(d.pick([1, 1, 2])):
        x, r, deep = d.real(-0.35, 0.35) * half[0], d.real(0.5, 0.9) * half[2], d.real(0.1, 0.6)
        steps = np.sort(d.rng.uniform(0, 1, 2))
        for k, t in enumerate((steps[0], steps[1], 1.0)):
            width = r * (1 - 0.13 * k * d.real(0.2, 1.4))
            parts.append(s.disc((x, 0.05 - half[1] - deep * t / 2, 0), width, 0.05 + deep * t / 2, 1))
        bore = s.capsule((x, -2.0, 0), (x, -half[1] - 0.3 * deep, 0), 0.65 * width)
    if d.chance(0.7):
        side = d.pick([-1, 1])
        parts.append(
            s.capsule(
                (side * half[0], -half[1], -half[2] * 0.7),
                (side * half[0], -half[1], half[2] * 0.7),
                d.real(0.08, 0.14),
            )
        )
    if d.chance(0.7):
        parts.append(
            s.box(
                (d.real(-0.2, 0.2), d.real(-0.05, 0.1), half[2]),
                (d.real(0.12, 0.25), half[1] * 0.9, d.real(0.06, 0.18)),
                0.03,
            )
        )
    for _ in range(d.count(0, 3)):
        x = d.real(-0.85, 0.85) * half[0]
        parts.append(s.capsule((x, 0, half[2]), (x, 0, half[2] + d.real(0.02, 0.08)), d.real(0.04, 0.08)))
    field = blend(parts, d.real(0.0, 0.03))
    if d.chance(0.6):
        field = carve(field, bore)
    return surface(field, 0.4)


def handset(d: Draw) -> trimesh.Trimesh:
    """Telephone receivers, razors, game pads and mice: curved bars with swollen ends, and buttons."""
    s = Space()
    bend, long = d.real(-0.2, 0.4), d.real(0.4, 0.65)
    t = np.linspace(-1, 1, 7)
    line = np.stack([long * t, 0 * t, bend * t**2 - bend / 2], 1)
    parts = [s.capsule(a, b, d.real(0.09, 0.14)) for a, b in pairwise(line)]
    for end in (line[0], line[-1]):
        if d.chance(0.8):
            parts.append(
                s.ellipsoid(
                    end + [0, 0, d.real(0, 0.1)], d.rng.uniform([0.13, 0.12, 0.08], [0.25, 0.3, 0.22]), tilt(d.rng, 25)
                )
            )
    for _ in range(d.count(1, 5)):
        spot = line[d.count(1, 5)]
        parts.append(s.ellipsoid(spot + [d.real(-0.05, 0.05), d.real(-0.08, 0.08), -0.12], (0.05, 0.05, 0.05)))
    return surface(blend(parts, d.real(0.04, 0.14)), 0.5)


def vehicle(d: Draw) -> trimesh.Trimesh:
    """A toy car, tractor or boat."""
    s = Space()
    half = np.array([d.real(0.45, 0.65), d.real(0.17, 0.28), d.real(0.08, 0.18)])
    parts: list[Field] = [s.box((0, 0, 0), half, 0.06)]
    parts.append(
        s.box(
            (d.real(-0.3, 0.2), 0, half[2] + 0.08),
            (half[0] * d.real(0.25, 0.6), half[1] * d.real(0.6, 0.95), d.real(0.1, 0.2)),
            0.05,
        )
    )
    for x in np.linspace(-0.65, 0.65, d.count(2, 3)):
        r = d.real(0.1, 0.2)
        for y in (-1, 1):
            at = np.array([x * half[0], y * half[1], -half[2]])
            parts.append(s.disc(at, r * 0.95, 0.05, 1))
    if d.chance(0.6):
        parts.append(
            s.capsule(
                (0.3 * half[0], d.real(-0.1, 0.1), half[2]),
                (0.3 * half[0] + d.real(-0.1, 0.5), 0, half[2] + d.real(0.15, 0.45)),
                0.05,
            )
        )
    if d.chance(0.4):
        parts.append(s.ellipsoid((half[0], 0, 0), (0.2, half[1] * 0.9, half[2])))
    return surface(blend(parts, d.real(0.0, 0.05)), 0.4)


def grip(d: Draw) -> trimesh.Trimesh:
    """A swollen handle with a head of one kind or another: brushes, ladles, paddles, shavers."""
    s = Space()
    long = d.real(0.5, 0.75)
    t = np.linspace(0, 1, 8)
    line = np.stack([-long + 1.1 * long * t, 0.06 * np.sin(3 * t), d.real(-0.15, 0.15) * t**2], 1)
    radii = 0.08 + 0.05 * np.interp(t, np.linspace(0, 1, 5), d.rng.uniform(0, 1, 5))
    parts: list[Field] = [s.capsule(line[i], line[i + 1], radii[i], radii[i + 1]) for i in range(7)]
    at = line[-1]
    kind = d.pick(["bowl", "brush", "paddle", "ball", "loop"])
    if kind == "bowl":
        r = d.real(0.18, 0.3)
        cup = carve(
            s.ellipsoid(at + [r, 0, 0], (r, r, r * 0.85)), s.ellipsoid(at + [r, 0, r * 0.6], (r * 0.68, r * 0.68, r))
        )
        parts.append(cup)
    elif kind == "brush":
        parts.append(
            s.box(at + [0.15, 0, d.real(-0.1, 0.05)], (d.real(0.1, 0.3), d.real(0.06, 0.25), d.real(0.05, 0.2)), 0.03)
        )
    elif kind == "paddle":
        parts.append(s.ellipsoid(at + [0.2, 0, 0], (d.real(0.2, 0.35), d.real(0.15, 0.35), 0.05), tilt(d.rng, 15)))
    elif kind == "ball":
        parts.append(s.ellipsoid(at + [0.1, 0, 0], d.rng.uniform(0.12, 0.3, 3)))
    else:
        parts.append(s.torus(at + [0.2, 0, 0], d.real(0.15, 0.25), 0.06, d.pick([1, 2])))
    return surface(blend(parts, d.real(0.03, 0.1)), 0.4)


FAMILIES = {
    "pistol-grip": pistol_grip,
    "boxed-lens": boxed_lens,
    "handset": handset,
    "vehicle": vehicle,
    "grip": grip,
}
