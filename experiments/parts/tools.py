"""Levers, handles, hand tools and connectors: what is long, or is held."""

from __future__ import annotations

import numpy as np

from experiments.parts.draw import Draw
from experiments.parts.lofts import circle, rectangle, rounded_path, smooth_path, sweep
from experiments.parts.plates import odd_outline, sum_of
from experiments.parts.solids import (
    Outline,
    Solid,
    along,
    ball,
    bar,
    bevelled,
    box,
    brick,
    disc,
    hull,
    lathe,
    polygon,
    rect,
    ring,
    rod,
    slab,
    softened,
    solid,
    union,
)


def lever(d: Draw) -> Solid:
    long, big, small, thick = d.real(60, 90), d.real(10, 20), d.real(5, 11), d.ratio(5, 16)
    bend = d.pick([0.0, d.real(-35, 35)])
    mid, end = (
        np.array([long * 0.5, 0]),
        np.array([long * 0.5, 0]) + long * 0.5 * np.array([np.cos(np.radians(bend)), np.sin(np.radians(bend))]),
    )
    width = d.real(0.4, 0.75)
    shape = bar([disc(big * width, (0, 0)), disc(small * width, mid)]) + bar(
        [disc(small * width, mid), disc(small * width, end)]
    )
    body = (
        slab(shape, thick * d.real(0.4, 0.9))
        + slab(disc(big), thick)
        + slab(disc(small, end), thick * d.real(0.7, 1.4))
    )
    body -= slab(disc(big * d.real(0.4, 0.65)) + disc(small * 0.5, end), 100)
    if d.chance(0.4):
        body -= slab(rect(big * 0.3, big * 0.5, (0, big * 0.55)), 100)
    if d.chance(0.4):
        body += rod(small * 0.6, thick * d.real(2, 4), (*end, thick))
    return body


def crank(d: Draw) -> Solid:
    arm, thick, grip = d.real(40, 70), d.real(6, 12), d.real(25, 45)
    body = slab(bar([disc(d.real(9, 14)), disc(d.real(6, 9), (arm, 0))]), thick)
    body += rod(d.real(5, 8), grip * d.real(0.5, 1.2), (0, 0, -grip * 0.4))
    knob = lathe(
        [
            (0, 0),
            (5, 0),
            (d.real(6, 9), grip * 0.3),
            (d.real(5, 7), grip * 0.7),
            (d.real(6, 10), grip),
            (0, grip * 1.05),
        ]
    )
    return body + knob.translate((arm, 0, thick * 0.3))


def fork(d: Draw) -> Solid:
    gap, wall, wide, long = d.real(8, 22), d.real(4, 9), d.real(14, 28), d.real(25, 50)
    outer = gap + 2 * wall
    body = slab(bar([disc(wide / 2, (long, 0)), rect(4, wide, (2, 0))]), outer) - box(
        long * 1.6, 100, gap, (long * 1.05, 0, 0)
    )
    body -= rod(wide * d.real(0.18, 0.3), 100, (long, 0, 0))
    shank = d.real(30, 60)
    body += rod(min(wide, outer) * d.real(0.3, 0.48), shank, (-shank / 2 + 2, 0, 0), "x")
    if d.chance(0.4):
        body += rod(wide * 0.3, outer * d.real(1.2, 1.7), (long, 0, outer * 0.2))
    if d.chance(0.3):
        body += along(slab(disc(wide * 0.6, sides=6), 8), "x").translate((-shank * 0.6, 0, 0))
    return body


def clamp(d: Draw) -> Solid:
    bore, wall, deep = d.real(12, 24), d.real(5, 9), d.ratio(12, 40)
    ear = d.real(14, 26)
    shape = disc(bore + wall) + rect(ear + bore, d.real(14, 22), (bore + ear * 0.5, 0), 2)
    shape = shape - disc(bore) - rect(200, d.real(3, 6), (100, 0))
    body = slab(shape, deep)
    body -= rod(3, 100, (bore + wall + ear * 0.4, 0, d.pick([0.0, deep * 0.2])), "y")
    if d.chance(0.5):
        body += slab(
            bar([rect(d.real(30, 60), 7, (0, -bore - wall - 2)), disc(6, (0, -bore - wall))]), deep * d.real(0.5, 1)
        )
        body -= slab(disc(bore), 200)
    return body


def screw_clamp(d: Draw) -> Solid:
    """A C with a spindle."""
    deep, high, thick = d.real(30, 60), d.real(45, 80), d.real(7, 12)
    body = slab(
        rect(deep, high, corner=6) - rect(deep, high - 3 * thick, (thick * 1.2, 0), 4), thick * d.real(0.8, 1.3)
    )
    at, travel = deep / 2 - thick * 0.6, d.real(0.3, 0.6) * (high - 3 * thick)
    body += along(rod(thick * 0.38, high * 0.75), "y").translate(
        (at, high / 2 + high * 0.375 - travel - thick * 1.2, 0)
    )
    body += along(rod(thick * 0.7, 4), "y").translate((at, high / 2 - travel - thick * 1.2, 0))
    body += rod(thick * 0.25, d.real(20, 36), (at, high * 1.22 - travel - thick, 0), d.pick(["x", "z"]))
    return body + rod(thick * 0.7, 4, (at, -high / 2 + thick * 1.6, 0), "y")


def knob(d: Draw) -> Solid:
    r, high, kind = d.real(18, 30), d.ratio(12, 40), d.pick(["lobes", "knurled", "star", "pointer", "wing"])
    if kind == "wing":
        body = rod(r * 0.5, high) + bevelled(2.6 * r, r * 0.25, high * 0.9, 2, (0, 0, high * 0.3))
    elif kind == "pointer":
        body = rod(r, high * 0.4) + slab(
            bar([disc(r * 0.35), disc(r * 0.12, (r * d.real(0.9, 1.4), 0)), disc(r * 0.2, (-r * 0.8, 0))]),
            high * 0.8,
            high * 0.4,
        )
    else:
        n = {"lobes": d.count(3, 6), "star": d.count(5, 9), "knurled": d.count(14, 24)}[kind]
        bump = {"lobes": 0.35, "star": 0.2, "knurled": 0.08}[kind] * r
        shape = disc(r * 0.85) + sum_of([disc(bump, (r * 0.85, 0)).rotate(360 * k / n) for k in range(n)])
        body = slab(softened(shape, 1.0) if kind != "knurled" else shape, high * 0.6)
        body += rod(r * 0.7, high * 0.4, (0, 0, high * 0.4), top=r * d.real(0.3, 0.6))
    body += rod(r * d.real(0.25, 0.5), high, (0, 0, -high * 0.6))
    if d.chance():
        body += rod(r * 0.15, high * d.real(1, 2.5), (0, 0, -high * 1.2))
    if d.chance():
        body -= box(r * 0.6, 3, 4, (r * 0.4, 0, high * 0.6))
    return body


def bow_handle(d: Draw) -> Solid:
    long, high, t = d.real(60, 90), d.ratio(15, 45), d.real(4, 9)
    section = d.pick([circle(t, 18), rectangle(2 * t, t), circle(t, 18, 0.6)])
    path = rounded_path(
        [
            (-long / 2, 0, 0),
            (-long / 2 * d.real(0.7, 1), 0, high),
            (long / 2 * d.real(0.7, 1), 0, high),
            (long / 2, 0, 0),
        ],
        d.real(3, 25),
    )
    body = solid(sweep(path, section))
    for side in (-1, 1):
        foot = slab(rect(d.real(14, 22), d.real(10, 18), corner=4) - disc(2.2, (side * 4, 0)), 4)
        body += foot.translate((side * (long / 2 + 3), 0, 1))
    return body


def spanner(d: Draw) -> Solid:
    long, thick, wide = d.real(70, 95), d.ratio(5, 10), d.real(8, 12)
    head, tail = d.real(12, 17), d.real(8, 13)
    shape = bar([disc(wide * 0.5, (-long / 2, 0)), disc(wide * d.real(0.35, 0.5), (long / 2, 0))])
    heads = shape + disc(head, (-long / 2, 0)) + disc(tail, (long / 2, 0))
    tilt = d.pick([0.0, 15.0, 90.0])
    jaw = rect(head * 2, head * d.real(0.8, 1.0), (-head, 0)) + disc(head * 0.45, sides=6)
    heads -= jaw.rotate(tilt).translate((-long / 2, 0))
    if d.chance():
        heads -= disc(tail * d.real(0.5, 0.7), (long / 2, 0), d.pick([6, 12]))
    else:
        heads -= rect(tail * 2.4, tail * 0.9, (long / 2 + tail, 0)).rotate(0)
    body = slab(heads, thick)
    if d.chance(0.5):
        body -= slab(rect(long * 0.5, wide * 0.45, corner=2), thick, thick * 0.75)
    return body


def pliers(d: Draw) -> Solid:
    nose, opening, thick = d.ratio(15, 40), d.real(3, 22), d.real(7, 12)
    parts = [rod(d.real(8, 11), thick * 1.2)]
    for side in (-1, 1):
        turn = side * opening
        jaw = (
            slab(bar([disc(7, (0, 0)), disc(d.real(1.5, 4), (nose, 0))]), thick)
            .translate((0, side * 2.5, 0))
            .rotate((0, 0, turn * 0.4))
        )
        grip = [(0, 0, 0), (-18, side * -12, 0), (-45, side * -16, 0), (-d.real(62, 80), side * -d.real(8, 16), 0)]
        arm = solid(sweep(smooth_path(grip, 8), circle(d.real(3.5, 6), 14, d.real(0.8, 1.4)))).rotate(
            (0, 0, turn * 0.5)
        )
        parts += [jaw, arm]
    return union(parts)


def scissors(d: Draw) -> Solid:
    opening, blade, thick = d.real(5, 28), d.ratio(25, 55), d.real(3, 6)
    parts = [rod(4, thick * 3)]
    for side in (-1, 1):
        r = d.real(9, 15)
        at = (-d.real(28, 40), side * -r * 1.05)
        shape = polygon([(-6, -4), (blade, 0), (blade * 0.9, 4), (-6, 5)]) + bar(
            [disc(4), disc(3.5, (at[0] + r - 2, at[1] * 0.7))]
        )
        shape = shape - disc(r, at) + (disc(r, at) - disc(r - 4, at))
        parts.append(slab(shape, thick, side * thick * 0.45).rotate((0, 0, side * opening)))
    return union(parts)


def screwdriver(d: Draw) -> Solid:
    grip, shaft, r = d.real(25, 45), d.ratio(15, 60), d.real(7, 13)
    n = d.pick([3, 6, 8])
    body = lathe(
        [
            (0, 0),
            (r * 0.7, 0),
            (r, grip * 0.15),
            (r * d.real(0.75, 1), grip * 0.55),
            (r, grip * 0.75),
            (r * 0.5, grip),
            (0, grip),
        ]
    )
    body -= ring(rod(r * 0.25, grip * 0.8, (r * 1.05, 0, grip * 0.35)), n)
    body += rod(r * d.real(0.2, 0.35), shaft, (0, 0, grip + shaft / 2 - 1))
    if d.chance():
        body += hull([box(r * 0.8, 1.2, 1, (0, 0, grip + shaft + 4)), rod(r * 0.25, 1, (0, 0, grip + shaft - 5))])
    else:
        body += along(slab(disc(r * 0.5, sides=6), 14), "z").translate((0, 0, grip + shaft))
    if d.chance(0.3):
        body += along(rod(r * 0.4, r * 4), "x").translate((0, 0, grip * 0.1))
    return body


def bent_key(d: Draw) -> Solid:
    """Hexagonal and round rods bent to an L, an S or a hook."""
    t, a, b = d.real(2.5, 6), d.ratio(15, 40), d.ratio(50, 90)
    kind = d.pick(["l", "z", "hook", "offset"])
    choices: dict[str, list[tuple[float, ...]]] = {
        "l": [(a, 0, 0), (0, 0, 0), (0, b, 0)],
        "z": [(a, 0, 0), (0, 0, 0), (0, b, 0), (-a * d.real(0.4, 1), b, d.pick([0, a * 0.5]))],
        "hook": [(0, 0, 0), (0, b, 0), (a, b + a * 0.5, 0), (a * 1.4, b - a * 0.4, 0)],
        "offset": [(0, 0, 0), (0, b * 0.3, 0), (a, b * 0.5, 0), (a, b, 0), (a, b, a * d.real(0.5, 1.2))],
    }
    body = solid(sweep(rounded_path(choices[kind], d.real(4, 12)), circle(t, d.pick([6, 6, 16]))))
    if d.chance(0.4):
        body += brick(d.real(10, 18), d.real(30, 45), d.real(8, 14), 3, (0, b * 0.15, 0))
    return body


def cross_tool(d: Draw) -> Solid:
    """Wheel braces, tap wrenches and sockets with a sliding bar: unequal arms about a hub."""
    arms = d.pick([2, 3, 4, 4])
    body = ball(d.real(6, 10)) if d.chance() else rod(d.real(7, 11), d.real(10, 24))
    angles = np.arange(arms) * 360 / arms if arms != 3 else np.array([0, 90, 180]) + d.real(-10, 10)
    for angle in angles:
        long, r = d.ratio(18, 50), d.real(2.5, 5)
        arm = along(rod(r, long), "x").translate((long / 2, 0, 0))
        end = d.pick(["socket", "plain", "ball", "flat"])
        if end == "socket":
            arm += along(rod(r * 1.8, 12) - slab(disc(r * 1.2, sides=6), 30), "x").translate((long, 0, 0))
        elif end == "ball":
            arm += ball(r * 1.7, (long, 0, 0))
        elif end == "flat":
            arm += box(12, r * 3, 2.5, (long, 0, 0))
        body += arm.rotate((0, 0, angle))
    if d.chance(0.6):
        shaft = d.ratio(15, 60)
        body += rod(d.real(4, 7), shaft, (0, 0, -shaft / 2))
    return body


def t_handle(d: Draw) -> Solid:
    """A padded or oval crossbar on a shaft with a tip."""
    wide, long, r = d.ratio(30, 60), d.ratio(30, 80), d.real(5, 9)
    off = d.pick([0.0, 0.0, d.real(-0.25, 0.25)]) * wide
    body = brick(wide, 2.2 * r, d.real(1.2, 2.0) * r, r * 0.6, (off, 0, 0))
    body += rod(r * d.real(0.35, 0.6), long, (0, 0, -long / 2))
    tip = d.pick(["hex", "blade", "corkscrew", "eye"])
    if tip == "hex":
        body += slab(disc(r * 1.1, sides=6), long * d.real(0.15, 0.35), -long)
    elif tip == "blade":
        body += slab(odd_outline(d, 5, r * 2), 3).rotate((90, 0, 0)).translate((0, 0, -long))
    elif tip == "eye":
        body += along(slab(disc(r * 1.5) - disc(r * 0.8), r), "y").translate((0, 0, -long - r))
    else:
        t = np.linspace(0, 1, 60)
        helix = np.stack([r * 0.7 * np.cos(t * 20), r * 0.7 * np.sin(t * 20), -long - 25 * t], 1)
        body += solid(sweep(helix, circle(r * 0.3, 10), list(1.1 - t)))
    return body


def connector(d: Draw) -> Solid:
    """Plugs with pins, a shell and a cable."""
    x, y, z = d.ratio(18, 50), d.ratio(10, 22), d.ratio(15, 40)
    body = brick(x, y, z, 2) if d.chance() else slab(bar([rect(x, 2, (0, y / 2)), rect(x * 0.85, 2, (0, -y / 2))]), z)
    n, m = d.count(2, 6), d.count(1, 2)
    for a in np.linspace(-0.35, 0.35, n):
        for b in np.linspace(-0.2, 0.2, m) if m > 1 else [0.0]:
            body += box(x * 0.35 / n, y * 0.15, 14, (a * x, b * y, z / 2 + 5))
    if d.chance(0.5):
        body += slab(rect(x * 0.9, y * 0.9, corner=2) - rect(x * 0.8, y * 0.75, corner=2), 12, z / 2 + 5)
    if d.chance(0.6):
        body += slab(
            rect(x * 1.5, y * 0.7, corner=4) - disc(2.4, (x * 0.62, 0)) - disc(2.4, (-x * 0.62, 0)), 3, z * 0.2
        )
    if d.chance(0.6):
        way = [
            (d.real(-0.2, 0.2) * x, 0, -z * 0.4),
            (0, 0, -z * 0.9),
            (d.real(-15, 15), d.real(-15, 15), -z * 0.5 - d.real(20, 40)),
        ]
        body += solid(sweep(smooth_path(way, 10), circle(min(x, y) * 0.25, 16)))
    if d.chance(0.5):
        body += hull([box(x * 0.3, 1, 1, (0, y / 2, z * 0.4)), box(x * 0.3, 5, 1, (0, y / 2, -z * 0.1))])
    return body


def hook(d: Draw) -> Solid:
    r, t = d.real(14, 26), d.real(4, 7)
    angles = np.radians(np.linspace(d.real(-160, -100), 90, 30))
    arc = np.stack([r * np.cos(angles), r * np.sin(angles), 0 * angles], 1)
    stem = [(-d.real(5, 20), r + d.real(0, 5), 0), (-d.real(24, 45), r + d.real(-6, 14), 0)]
    sizes = np.concatenate([np.linspace(d.real(0.4, 0.8), 1.2, 30), [1.0, 0.9]])
    body = solid(sweep(np.concatenate([arc, stem]), circle(t, 16, d.real(0.7, 1.3)), list(sizes)))
    end = stem[-1]
    if d.chance():
        return body + slab(disc(t * 2.2) - disc(t), t * 1.2).rotate((d.pick([0, 90]), 0, 0)).translate(end)
    return body + along(slab(rect(30, 18, corner=4) - disc(2.5, (10, 0)) - disc(2.5, (-10, 0)), 4), "x").translate(end)


def tube(d: Draw) -> Solid:
    """A bent tube or hose, some with flanges or nuts at the ends."""
    n, r = d.count(3, 5), d.real(3.5, 9)
    points = np.cumsum(d.rng.uniform(-1, 1, (n, 3)) * [30, 30, 22] + [22, 0, 0], axis=0)
    path = rounded_path(points, 14, 8) if d.chance() else smooth_path(points, 10)
    body = solid(sweep(path, circle(r, 20)))
    if d.chance(0.6):
        ends = np.array([path[0], path[-1]]), np.array([path[0] - path[1], path[-1] - path[-2]])
        for end, way in zip(*ends, strict=True):
            cap = solid(
                sweep(
                    [end - way / np.linalg.norm(way) * 5, end + way / np.linalg.norm(way) * 3],
                    circle(r * d.real(1.3, 2.0), d.pick([6, 24])),
                )
            )
            body += cap
    if d.chance(0.7):
        body -= solid(
            sweep(
                np.concatenate([path[:1] * 2.2 - path[1:2] * 1.2, path, path[-1:] * 2.2 - path[-2:-1] * 1.2]),
                circle(r * 0.65, 14),
            )
        )
    return body


def latch(d: Draw) -> Solid:
    """A flat cam, pawl or striker with teeth or a notch."""
    shape: Outline = odd_outline(d, d.count(3, 5), 32)
    shape += bar([disc(6), disc(4, (d.real(35, 60), d.real(-20, 20)))])
    shape -= rect(d.real(6, 12), d.real(20, 40), (d.real(20, 30), d.real(18, 28)))
    body = slab(softened(shape, 0.8) - disc(d.real(3, 6)), d.ratio(4, 14))
    if d.chance(0.6):
        body += rod(d.real(3, 5), d.real(14, 30), (d.real(-12, 12), d.real(-14, -8), 8))
    if d.chance(0.4):
        body += box(8, 20, d.real(12, 24), (-16, 0, 6))
    return body


FAMILIES = {
    "lever": lever, "crank": crank, "fork": fork, "clamp": clamp, "screw-clamp": screw_clamp, "knob": knob,
    "bow-handle": bow_handle, "spanner": spanner, "pliers": pliers, "scissors": scissors, "screwdriver": screwdriver,
    "bent-key": bent_key, "cross-tool": cross_tool, "t-handle": t_handle, "connector": connector, "hook": hook,
    "tube": tube, "latch": latch,
}  # fmt: skip
