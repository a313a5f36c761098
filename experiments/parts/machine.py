"""What turns, and what is turned: lathe profiles, shafts, wheels, gears, pipe fittings."""

from __future__ import annotations

import numpy as np
import trimesh

from experiments.parts import lofts
from experiments.parts.draw import Draw
from experiments.parts.plates import sum_of
from experiments.parts.solids import (
    Outline,
    Solid,
    along,
    ball,
    bar,
    bevelled,
    box,
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


def turned(d: Draw) -> Solid:
    """A random lathe profile, often with one flat, hole or tab that ends its symmetry."""
    steps = d.count(3, 8)
    r, h, profile = d.real(8, 25), 0.0, [(0.0, 0.0)]
    for _ in range(steps):
        profile.append((r, h))
        h += d.ratio(4, 22)
        r_new = d.real(6, 30)
        profile.append((r if d.chance(0.7) else r_new, h))
        r = r_new
    profile.append((0.0, h))
    body = lathe(profile)
    if d.chance(0.4):
        body -= rod(d.real(3, 5.5), 3 * h)
    if d.chance(0.6):
        body -= box(60, 60, h * d.real(0.2, 0.45), (30 + d.real(7, 12), 0, h * d.real(0.1, 0.9)))
    if d.chance(0.5):
        body -= rod(d.real(2.5, 5), 100, (0, 0, h * d.real(0.15, 0.85)), "x")
    return body


def shaft(d: Draw) -> Solid:
    body, z = rod(5, 4, (0, 0, 1)), 0.0
    for _ in range(d.count(2, 5)):
        long, r = d.ratio(8, 40), d.real(5, 13)
        body += (
            rod(r, long + 0.1, (0, 0, z + long / 2))
            if d.chance(0.85)
            else slab(disc(r, sides=d.pick([4, 6])), long + 0.1, z + long / 2)
        )
        if d.chance(0.45):
            body -= (
                slab(bar([disc(r * 0.25, (-long * 0.25, 0)), disc(r * 0.25, (long * 0.25, 0))]), r * 0.6, r)
                .rotate((0, -90, 0))
                .translate((0, 0, z + long / 2))
            )
        z += long
    if d.chance(0.4):
        body -= box(100, 100, 14, (50 + d.real(1, 4), 0, z - 6))
    return body


def pulley(d: Draw) -> Solid:
    r, wide, deep = d.real(22, 45), d.ratio(10, 40), d.real(0.15, 0.4)
    bore = r * d.real(0.12, 0.3)
    if d.chance():
        profile = [
            (bore, -wide / 2),
            (r, -wide / 2),
            (r, -wide * 0.38),
            (r * (1 - deep), 0),
            (r, wide * 0.38),
            (r, wide / 2),
            (bore, wide / 2),
        ]
    else:
        profile = [
            (bore, -wide / 2),
            (r, -wide / 2),
            (r, -wide * 0.4),
            (r * (1 - deep), -wide * 0.4),
            (r * (1 - deep), wide * 0.4),
            (r, wide * 0.4),
            (r, wide / 2),
            (bore, wide / 2),
        ]
    body = lathe(profile)
    if d.chance(0.5):
        body += rod(bore * 1.8, wide, (0, 0, wide * 0.6)) - rod(bore, 200)
    n = d.count(3, 6)
    if d.chance(0.6):
        body -= ring(rod(r * (1 - deep) * 0.2, 200, (r * 0.45, 0, 0)), n)
    if d.chance(0.6):
        body -= box(bore * 0.6, bore * 2.8, 300)
    return body


def spool(d: Draw) -> Solid:
    a, b, core, high = d.real(18, 40), d.real(14, 40), d.real(6, 12), d.ratio(20, 80)
    t = d.real(2.5, 6)
    body = rod(a, t, (0, 0, -high / 2)) + rod(b, t, (0, 0, high / 2)) + rod(core, high, top=core * d.pick([1, 1, 0.6]))
    if d.chance(0.7):
        body -= rod(core * 0.55, 300)
    if d.chance(0.5):
        body -= ring(rod(2.5, 20, (b * 0.7, 0, high / 2)), d.count(1, 5))
    if d.chance(0.4):
        body += rod(3, d.real(12, 25), (a * 0.75, 0, -high / 2 - 6))
    return body


def _teeth(d: Draw, r: float, count: int, depth: float, kind: str) -> Outline:
    step = 2 * np.pi / count
    marks = {
        "gear": [(-0.28, 0), (-0.13, 1), (0.13, 1), (0.28, 0)],
        "ratchet": [(-0.45, 0), (0.4, 1), (0.45, 0)],
        "belt": [(-0.22, 0), (-0.2, 1), (0.2, 1), (0.22, 0)],
        "chain": [(-0.35, 0), (-0.06, 1), (0.06, 1), (0.35, 0)],
    }[kind]
    points = [
        ((r + depth * (up - 0.5)) * np.cos(step * (k + at)), (r + depth * (up - 0.5)) * np.sin(step * (k + at)))
        for k in range(count)
        for at, up in marks
    ]
    return polygon(points)


def gear(d: Draw) -> Solid:
    r, count = d.real(25, 45), d.count(9, 32)
    kind = d.pick(["gear", "gear", "gear", "ratchet", "belt", "chain"])
    shape = _teeth(d, r, count, min(6.5 * r / count, r * 0.3), kind)
    wide, twist = d.ratio(4, 30), d.pick([0.0, 0.0, 1.0]) * d.real(8, 25)
    bore = r * d.real(0.1, 0.3)
    if d.chance(0.4):
        body = shape.extrude(wide, 6, twist, (1, 1)).translate((0, 0, -wide / 2))
    elif d.chance(0.35):
        s = d.real(0.5, 0.75)
        body = shape.extrude(wide * 0.8, 4, 0, (s, s)).translate((0, 0, -wide / 2))  # a bevel gear
    else:
        body = slab(shape, wide)
    if d.chance(0.5):
        body += rod(bore * 1.7, wide * d.real(1.2, 3), (0, 0, wide * 0.5))
    if d.chance(0.5):
        n = d.count(3, 6)
        body -= ring(rod(r * 0.17, 200, (r * 0.52, 0, 0)), n)
    body -= rod(bore, 300)
    if d.chance(0.4):
        body -= box(bore * 0.5, bore * 2.7, 300, (0, bore * 0.2, 0))
    return body


def sector(d: Draw) -> Solid:
    """A toothed quadrant or a short rack."""
    if d.chance(0.4):
        n, pitch, high, deep = d.count(6, 14), 8.0, d.real(8, 20), d.ratio(6, 20)
        points = (
            [(0.0, -high)]
            + [(pitch * (k + at), up * 5.5) for k in range(n) for at, up in [(0.1, 0), (0.3, 1), (0.6, 1), (0.8, 0)]]
            + [(pitch * n, -high)]
        )
        body = slab(polygon(points), deep)
        return (
            body
            - rod(3, 100, (pitch * n * d.real(0.1, 0.3), -high * 0.5, 0))
            + box(d.real(8, 20), high, deep * d.real(1, 2), (pitch * n, -high / 2, 0))
        )
    r, angle = d.real(40, 60), np.radians(d.real(50, 130))
    wedge = polygon([(0, 0), *[(2 * r * np.cos(a), 2 * r * np.sin(a)) for a in np.linspace(-angle / 2, angle / 2, 12)]])
    shape = (_teeth(d, r, d.count(26, 48), 5, "gear") ^ wedge) + disc(d.real(8, 13))
    if d.chance(0.6):
        shape -= (disc(r * 0.78) - disc(r * 0.42)) ^ wedge.offset(-5)
    return slab(shape, d.ratio(4, 12)) + rod(7, d.real(8, 24)) - rod(4, 60)


def spoked_wheel(d: Draw) -> Solid:
    r, t, n = d.real(35, 48), d.real(3, 6), d.count(2, 6)
    rim = lathe(
        [(r + t * np.cos(a), t * d.real(1, 1) * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 12, endpoint=False)]
    )
    lift = d.real(-8, 8)
    spoke = hull([rod(t * 0.8, 1, (6, 0, lift), "x"), rod(t * d.real(0.4, 0.8), 1, (r, 0, 0), "x")])
    body = rim + ring(spoke, n) + rod(d.real(7, 12), d.real(10, 22), (0, 0, lift)) - rod(d.real(3, 5), 200)
    if d.chance(0.6):
        body += lathe([(0, 0), (5, 0), (4, 8), (7, d.real(20, 30)), (0, 32)]).translate((r, 0, t * 0.5))
    return body


def fan(d: Draw) -> Solid:
    n, r, hub, high = d.count(2, 7), d.real(35, 50), d.real(7, 14), d.ratio(6, 22)
    pitch = d.real(15, 50)
    root, tip = d.real(8, 18), d.real(8, 26)
    blade = hull(
        [
            box(1, root, 2, (hub * 0.7, 0, 0)),
            box(1, tip * 0.8, 1.5, (r * 0.8, d.real(-4, 8), 0)),
            box(1, tip * 0.4, 1.2, (r, d.real(-4, 8), 0)),
        ]
    )
    body = ring(blade.rotate((pitch, 0, 0)), n) + rod(hub, high, top=hub * d.real(0.6, 1.0))
    if d.chance(0.3):
        body += lathe([(r - 2, -4), (r + 1, -4), (r + 1, 4), (r - 2, 4)])
    return body - rod(hub * 0.35, 100)


def impeller(d: Draw) -> Solid:
    """A disc with curved vanes on one side."""
    n, r = d.count(4, 9), d.real(35, 48)
    body = rod(r, 3) + lathe([(0, 0), (r * 0.35, 0), (r * 0.18, d.real(10, 22)), (0, d.real(22, 26))])
    angles = np.radians(np.linspace(0, d.real(40, 100), 10))
    inner, outer = r * 0.28, r * 0.97
    radii = np.linspace(inner, outer, 10)
    line = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    across = np.stack([-np.gradient(line[:, 1]), np.gradient(line[:, 0])], 1)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    vane = polygon(np.concatenate([line + across, (line - across)[::-1]]))
    vanes = sum_of([vane.rotate(360 * k / n) for k in range(n)]).extrude(d.real(8, 18))
    return body + vanes - rod(r * 0.1, 200)


def fitting(d: Draw) -> Solid:
    """Tees, crosses, elbows and valves of pipes with sockets."""
    r, long = d.real(8, 14), d.real(22, 45)
    arms = d.pick([["x", "-x", "z"], ["x", "z"], ["x", "-x", "z", "y"], ["x", "y", "z"], ["x", "-x", "y", "-y"]])
    outer, inner = [], []
    for arm in arms:
        reach, width = long * d.real(0.7, 1.2), r * d.pick([1.0, 1.0, 0.75])
        piece = rod(width, reach, (0, 0, reach / 2)) + rod(width * 1.25, reach * 0.35, (0, 0, reach * 0.85))
        if d.chance(0.25):
            piece += slab(disc(width * 1.5, sides=6), reach * 0.25, reach * 0.5)
        if d.chance(0.25):
            piece += slab(
                disc(width * 2.0) - sum_of([disc(2, (width * 1.65, 0)).rotate(90 * k) for k in range(4)]), 4, reach
            )
        turn = {"x": (0, 90, 0), "-x": (0, -90, 0), "y": (-90, 0, 0), "-y": (90, 0, 0), "z": (0, 0, 0)}[arm]
        outer.append(piece.rotate(turn))
        inner.append(rod(width * 0.75, reach * 3, (0, 0, reach * 1.5)).rotate(turn))
    body = sum(outer[1:], outer[0]) + ball(r * 1.05)
    for hole in inner:
        body -= hole
    if d.chance(0.35):  # a valve's stem and lever
        body += rod(r * 0.5, r * 3, (0, -r * 1.4, 0), "y")
        body += bevelled(r * d.real(2.5, 5), r * 0.4, r, 1, (r * d.pick([0.0, 1.2]), -r * 2.9, 0))
    return body


def cam(d: Draw) -> Solid:
    """An eccentric on a hub, or a shaft with several."""
    n = d.pick([1, 1, 2, 3])
    body = rod(d.real(4, 7), 14 + 18 * n)
    for k in range(n):
        shape = bar([disc(d.real(12, 18)), disc(d.real(4, 9), (d.real(14, 24), 0))]).rotate(d.real(0, 360))
        body += slab(shape, d.real(6, 12), (k - (n - 1) / 2) * 18)
    if d.chance(0.5):
        body -= rod(2.5, 200) + box(2, 8, 200)
    return body


def coupling(d: Draw) -> Solid:
    """A jaw coupling's half, a collar or a castle nut."""
    r, high, n = d.real(16, 28), d.real(14, 34), d.count(2, 6)
    body = rod(r, high)
    claws = ring(box(2 * r, r * d.real(0.4, 0.9), high * 0.5, (r, 0, high * 0.5)), n)
    body = body - claws if d.chance() else body + (claws ^ (rod(r, 3 * high) - rod(r * 0.5, 4 * high)))
    body += rod(r * d.real(0.5, 0.8), high * d.real(0.8, 1.6), (0, 0, -high * 0.7))
    body -= rod(r * d.real(0.25, 0.4), 300)
    for _ in range(d.count(0, 2)):
        body -= rod(2.6, 100, (0, 0, -high * d.real(0.2, 0.9)), "x")
    return body


def motor(d: Draw) -> Solid:
    """A can or a square body with a shaft, a flange, a terminal box and feet."""
    r, long = d.real(16, 24), d.ratio(25, 60)
    body = rod(r, long) if d.chance() else bevelled(1.8 * r, 1.8 * r, long, 3)
    if d.chance(0.4):
        body += ring(box(r * 0.3, 1.6, long * 0.8, (r * 1.02, 0, 0)), d.count(10, 20))
    body += rod(r * 0.4, 5, (0, 0, long / 2 + 2)) + rod(r * d.real(0.1, 0.2), d.real(12, 30), (0, 0, long / 2 + 10))
    if d.chance(0.7):
        body += bevelled(
            r * 0.7, r * d.real(0.8, 1.2), long * d.real(0.3, 0.6), 2, (r * 1.05, 0, d.real(-0.15, 0.15) * long)
        )
    if d.chance(0.5):
        for side in (-1, 1):
            body += box(4, r * 0.9, long * 0.7, (-r * 1.1, side * r * 0.75, 0)) + box(
                r * 0.5, 4, long * 0.6, (-r * 0.85, side * r * 0.6, 0)
            )
    if d.chance(0.4):
        body += rod(r * 0.85, long * 0.25, (0, 0, -long * 0.6), top=r)
    return body


def nut(d: Draw) -> trimesh.Trimesh:
    """Nuts of an unusual number of sides."""
    sides = d.pick([3, 4, 5, 6, 8])
    return lofts.nut(sides, 20, 20 * d.real(0.35, 0.75), d.ratio(6, 40))


def chain_link(d: Draw) -> Solid:
    long, r, t = d.real(20, 40), d.real(9, 14), d.real(3.5, 7)
    turns = [0, 90][: d.count(1, 2)]
    links = []
    for k, turn in enumerate(turns):
        a = np.linspace(-np.pi / 2, np.pi / 2, 12)
        end = np.stack([long / 2 + r * np.cos(a), r * np.sin(a), 0 * a], 1)
        loop = np.concatenate([end, -end * [1, 1, 1]])
        section = lofts.circle(t, 14)
        tangents = np.roll(loop, -1, 0) - np.roll(loop, 1, 0)
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        side = np.cross(tangents, [0, 0, 1.0])
        rings = loop[:, None] + section[None, :, :1] * side[:, None] + section[None, :, 1:] * np.array([0, 0, 1.0])
        link = solid(lofts.loft(rings, closed=True)).rotate((turn, 0, 0))
        links.append(link.translate((k * (long + 2 * r - 2 * t), 0, 0)))
    body = union(links)
    if d.chance(0.5):
        body += along(rod(t * 1.6, d.real(12, 25)), "x").translate((-long / 2 - r, 0, 0))
    return body


def crown(d: Draw) -> Solid:
    """A thick tube with slots, windows and a lip: bushes, cages and housings that are turned, then milled."""
    r, wall, high = d.real(18, 34), d.real(3, 7), d.ratio(14, 80)
    body = rod(r, high) + rod(r * d.real(1.1, 1.4), d.real(3, 8), (0, 0, -high / 2 + 3))
    body -= rod(r - wall, 3 * high)
    n = d.count(1, 6)
    body -= ring(box(r, r * d.real(0.2, 0.6), high * d.real(0.3, 0.6), (r, 0, high * d.pick([0.0, 0.45]))), n)
    if d.chance(0.5):
        body -= rod(r * 0.2, 200, (0, 0, -high * 0.2), "y")
    if d.chance(0.3):
        body += slab(
            softened(rect(r * 2.9, r * 0.7, corner=5), 1)
            - disc(r * 0.9)
            - disc(3, (r * 1.25, 0))
            - disc(3, (-r * 1.25, 0)),
            5,
            -high / 2 + 3,
        )
    return body


FAMILIES = {
    "turned": turned, "shaft": shaft, "pulley": pulley, "spool": spool, "gear": gear, "sector": sector,
    "spoked-wheel": spoked_wheel, "fan": fan, "impeller": impeller, "fitting": fitting, "cam": cam,
    "coupling": coupling, "motor": motor, "nut": nut, "chain-link": chain_link, "crown": crown,
}  # fmt: skip
