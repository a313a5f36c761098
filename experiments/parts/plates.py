"""Brackets, plates, housings and what else is milled, bent or cast around flat faces."""

from __future__ import annotations

import numpy as np

from experiments.parts.draw import Draw
from experiments.parts.solids import (
    Outline,
    Solid,
    along,
    bar,
    bevelled,
    box,
    brick,
    disc,
    polygon,
    rect,
    ring,
    rod,
    rounded,
    slab,
    softened,
    union,
)


def holes(d: Draw, width: float, height: float, largest: float) -> Outline:
    """A pattern of holes and slots within a rectangle about the origin."""
    radius = largest * d.real(0.4, 0.9)
    x, y = width / 2 - 1.6 * radius, height / 2 - 1.6 * radius
    kind = d.pick(["corners", "row", "slot", "grid", "one", "odd"])
    if kind == "corners":
        cut = [disc(radius, (sx * x, sy * y)) for sx in (-1, 1) for sy in (-1, 1)]
    elif kind == "row":
        cut = [
            disc(radius * d.real(0.6, 1.0), (t * x, d.real(-0.3, 0.3) * y)) for t in np.linspace(-1, 1, d.count(2, 4))
        ]
    elif kind == "slot":
        at = d.real(-0.5, 0.5) * y
        cut = [bar([disc(radius, (-0.7 * x, at)), disc(radius, (0.6 * x * d.real(0.2, 1.0), at))])]
    elif kind == "grid":
        n, m = d.count(2, 4), d.count(2, 3)
        cut = [
            disc(min(radius, 0.3 * width / n), (a * x, b * y))
            for a in np.linspace(-1, 1, n)
            for b in np.linspace(-1, 1, m)
        ]
    elif kind == "one":
        cut = [disc(min(width, height) * d.real(0.15, 0.35), (d.real(-0.4, 0.4) * x, d.real(-0.3, 0.3) * y))]
    else:
        cut = [disc(radius, (-x, -y)), disc(0.7 * radius, (x, y)), disc(min(width, height) * 0.2, (0.1 * x, 0))]
    return sum_of(cut)


def sum_of(outlines: list[Outline]) -> Outline:
    """All outlines as one."""
    total = outlines[0]
    for other in outlines[1:]:
        total = total + other
    return total


def _plate(d: Draw, width: float, height: float, thick: float) -> Solid:
    shape = rect(width, height, corner=d.pick([0.0, 0.1, 0.25, 0.45]) * min(width, height))
    return slab(shape - holes(d, width, height, 0.16 * min(width, height)), thick)


def l_bracket(d: Draw) -> Solid:
    wide, foot, back, thick = d.ratio(12, 70), d.ratio(25, 60), d.ratio(25, 80), d.real(2.5, 8)
    body = _plate(d, wide, foot, thick).translate((0, foot / 2, thick / 2))
    body += _plate(d, wide, back, thick).rotate((90, 0, 0)).translate((0, thick / 2, back / 2))
    if d.chance(0.4):
        body += (
            slab(polygon([(0, 0), (0.7 * foot, 0), (0, 0.7 * back)]), thick)
            .rotate((90, 0, 90))
            .translate((d.pick([0.0, wide / 2 - thick / 2]), 0, 0))
        )
    return body


def u_bracket(d: Draw) -> Solid:
    wide, base, left, thick = d.ratio(12, 60), d.ratio(30, 80), d.ratio(20, 70), d.real(3, 7)
    right = left * d.pick([1.0, 1.0, d.real(0.4, 0.9)])
    body = _plate(d, base, wide, thick)
    for side, high in ((-1, left), (1, right)):
        wall = (
            _plate(d, high, wide, thick)
            .rotate((0, 90, 0))
            .translate((side * (base - thick) / 2, 0, high / 2 - thick / 2))
        )
        body += wall
    return body


def z_bracket(d: Draw) -> Solid:
    wide, low, high, top, thick = d.ratio(12, 60), d.ratio(20, 50), d.ratio(15, 60), d.ratio(15, 50), d.real(3, 7)
    body = _plate(d, low, wide, thick).translate((-low / 2 + thick / 2, 0, 0))
    body += box(thick, wide, high, (0, 0, high / 2 - thick / 2))
    return body + _plate(d, top, wide * d.pick([1.0, 0.6]), thick).translate((top / 2 - thick / 2, 0, high - thick))


def gusset_bracket(d: Draw) -> Solid:
    wide, foot, back, thick = d.ratio(30, 80), d.ratio(30, 60), d.ratio(30, 80), d.real(3, 7)
    body = _plate(d, wide, foot, thick).translate((0, foot / 2, thick / 2))
    body += _plate(d, wide, back, thick).rotate((90, 0, 0)).translate((0, thick / 2, back / 2))
    rib = softened(polygon([(0, 0), (foot * d.real(0.5, 0.95), 0), (0, back * d.real(0.5, 0.95))]), 1.5)
    for x in np.linspace(-1, 1, d.count(2, 3)):
        body += slab(rib, thick * 0.8).rotate((90, 0, 90)).translate((x * (wide / 2 - thick / 2), 0, 0))
    return body


def corner_bracket(d: Draw) -> Solid:
    a, b, c, thick = d.ratio(25, 70), d.ratio(25, 70), d.ratio(25, 70), d.real(3, 8)
    body = _plate(d, a, b, thick).translate((a / 2, b / 2, thick / 2))
    body += _plate(d, a, c, thick).rotate((90, 0, 0)).translate((a / 2, thick / 2, c / 2))
    return body + _plate(d, c, b, thick).rotate((0, -90, 0)).translate((thick / 2, b / 2, c / 2))


def hole_plate(d: Draw) -> Solid:
    wide, high, thick = d.ratio(40, 90), d.ratio(25, 70), d.ratio(3, 14)
    body = _plate(d, wide, high, thick)
    if d.chance(0.5):
        body -= slab(holes(d, wide, high, 0.12 * min(wide, high)), 2 * thick)
    if d.chance(0.4):
        body += rod(0.12 * high, thick * d.real(1.5, 4), (d.real(-0.3, 0.3) * wide, d.real(-0.2, 0.2) * high, thick))
    if d.chance(0.4):
        body += box(0.8 * wide, thick, thick * d.real(1, 3), (0, d.real(-0.4, 0.4) * high, thick * 0.9))
    return body


def odd_outline(d: Draw, corners: int, size: float) -> Outline:
    """An irregular polygon with round corners."""
    angles = np.sort((np.arange(corners) + d.rng.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners)
    radii = size * d.rng.uniform(0.45, 1.0, corners)
    shape = polygon(np.stack([radii * np.cos(angles), d.real(0.6, 1.2) * radii * np.sin(angles)], 1))
    return softened(shape, d.real(0.02, 0.12) * size)


def odd_plate(d: Draw) -> Solid:
    shape = odd_outline(d, d.count(4, 8), 45)
    for _ in range(d.count(1, 4)):
        shape = shape - disc(d.real(2, 8), (d.real(-20, 20), d.real(-18, 18)))
    return slab(shape, d.ratio(4, 15))


def odd_block(d: Draw) -> Solid:
    """A thick irregular extrusion with a pocket or a step."""
    high = d.ratio(20, 60)
    body = slab(odd_outline(d, d.count(3, 8), 40), high)
    if d.chance(0.6):
        body -= slab(
            rect(d.real(15, 40), d.real(8, 25), (d.real(-15, 15), d.real(-15, 15)), 2), high, high * d.real(0.5, 0.8)
        )
    if d.chance(0.6):
        body -= rod(d.real(4, 9), 200, (0, d.real(-8, 8), d.real(-0.2, 0.2) * high), d.pick(["x", "y"]))
    if d.chance(0.5):
        body -= box(60, 120, 60, (d.pick([-1, 1]) * d.real(40, 50), 0, d.real(0.2, 0.6) * high + 30))
    return body


def housing(d: Draw) -> Solid:
    x, y, z, wall = d.ratio(45, 90), d.ratio(30, 70), d.ratio(15, 50), d.real(2.5, 5)
    body = slab(rect(x, y, corner=d.real(1, 12)), z) - slab(
        rect(x - 2 * wall, y - 2 * wall, corner=d.real(1, 8)), z, wall
    )
    for sx in (-1, 1):
        for sy in (-1, 1):
            if d.chance(0.75):
                at = (sx * (x / 2 - wall - 3), sy * (y / 2 - wall - 3))
                body += slab(disc(4.5, at) - disc(1.8, at), z * d.real(0.5, 0.9), -z * 0.05)
    for _ in range(d.count(1, 3)):
        side = d.pick([-1, 1])
        if d.chance():
            body -= rod(
                d.real(0.12, 0.3) * z, 4 * wall, (side * x / 2, d.real(-0.3, 0.3) * y, d.real(-0.1, 0.15) * z), "x"
            )
        else:
            body -= box(
                d.real(0.15, 0.4) * x, 4 * wall, z * d.real(0.2, 0.5), (d.real(-0.3, 0.3) * x, side * y / 2, 0.1 * z)
            )
    for t in np.linspace(-0.7, 0.7, d.count(2, 5)) if d.chance(0.5) else ():
        body += box(wall * 0.7, y + 4, z * 0.8, (t * x / 2, 0, 0)) - box(x, y - wall, 2 * z)
    return body


def flanged_box(d: Draw) -> Solid:
    x, y, z = d.ratio(30, 60), d.ratio(25, 50), d.ratio(20, 45)
    body = brick(x, y, z, d.real(1, 6)) if d.chance() else bevelled(x, y, z, d.real(1, 6))
    ears = rect(x + d.real(12, 30), y * d.real(0.5, 1.0), corner=4) - disc(3, (x / 2 + 6, 0)) - disc(3, (-x / 2 - 6, 0))
    body = (body + slab(ears, 4, -z / 2 + 2)) - box(200, 200, 50, (0, 0, -z / 2 - 25))
    body += rod(d.real(0.15, 0.35) * y, d.real(8, 25), (d.real(-0.25, 0.25) * x, 0, z / 2 + 4))
    if d.chance():
        body += rod(d.real(0.1, 0.25) * z, 14, (x / 2 + 5, d.real(-0.2, 0.2) * y, 0), "x")
    if d.chance():
        body -= box(d.real(0.3, 0.6) * x, 6, 0.5 * z, (0, -y / 2, 0))
    return body


def bearing_block(d: Draw) -> Solid:
    bore, deep, wide = d.real(9, 22), d.ratio(14, 40), d.real(70, 95)
    high = bore + d.real(12, 22)
    boss = bore + d.real(5, 10)
    side = bar([disc(boss, (0, high)), rect(wide * d.real(0.4, 0.7), 4, (0, 2))])
    foot = rect(wide, d.real(8, 13), (0, 5), 2)
    body = slab(side + foot - disc(bore, (0, high)), deep).rotate((90, 0, 0))
    for sx in (-1, 1):
        body -= rod(3.5, 60, (sx * (wide / 2 - 7), 0, 10))
    if d.chance(0.6):
        body += rod(4, 8, (d.pick([0.0, 0.0, 4.0]), 0, high + boss))
    return body - along(rod(bore, 100), "y").translate((0, 0, high))


def drilled_block(d: Draw) -> Solid:
    x, y, z = d.ratio(35, 80), d.ratio(25, 60), d.ratio(18, 50)
    body = bevelled(x, y, z, d.real(0.5, 5)) if d.chance() else box(x, y, z)
    for _ in range(d.count(2, 6)):
        axis = d.pick(["x", "y", "z"])
        at = (d.real(-0.35, 0.35) * x, d.real(-0.35, 0.35) * y, d.real(-0.3, 0.3) * z)
        reach = d.pick([200.0, min(x, y, z)])
        shift = {"x": (x / 2, 0, 0), "y": (0, y / 2, 0), "z": (0, 0, z / 2)}[axis]
        body -= rod(min(x, y, z) * d.real(0.08, 0.24), reach, tuple(np.add(at, shift)), axis)
    if d.chance(0.5):
        body -= box(x * d.real(0.2, 0.5), 300, z * d.real(0.3, 0.6), (d.real(-0.4, 0.4) * x, 0, z / 2))
    return body


def heat_sink(d: Draw) -> Solid:
    x, y, base, high = d.ratio(40, 80), d.ratio(30, 80), d.real(3, 8), d.ratio(10, 40)
    count = d.count(4, 11)
    pitch = x / count
    body = box(x, y, base, (0, 0, -base / 2))
    for i in range(count):
        tall = high * (1 if d.chance(0.8) else d.real(0.5, 0.9))
        body += box(pitch * 0.4, y, tall + 1, (-x / 2 + (i + 0.5) * pitch, 0, tall / 2 - 0.5))
    if d.chance(0.6):
        body -= box(x * d.real(0.3, 0.5), y * d.real(0.15, 0.3), 3 * high, (0, d.real(-0.3, 0.3) * y, high * 1.6))
    if d.chance(0.5):
        body += box(10, 10, base, (x / 2 + 4, d.real(-0.4, 0.4) * y, -base / 2)) - rod(2.5, 40, (x / 2 + 4, 0, 0))
    return body


def profile(d: Draw) -> Solid:
    """A length of an extruded section: channel, T, I, angle or slotted."""
    a, b, t, long = d.real(18, 40), d.real(15, 40), d.real(2.5, 7), d.ratio(30, 120)
    kind = d.pick(["c", "t", "i", "slot", "hat", "dovetail"])
    if kind == "c":
        shape = rect(a, b) - rect(a, b - 2 * t, (t, 0))
    elif kind == "t":
        shape = rect(a, t, (0, b / 2)) + rect(t, b)
    elif kind == "i":
        shape = rect(a, t, (0, b / 2)) + rect(a * d.real(0.5, 1), t, (0, -b / 2)) + rect(t, b)
    elif kind == "slot":
        a = b = d.real(20, 32)
        shape = rect(a, a, corner=1.5) - disc(a * 0.1)
        for k in range(4):
            shape -= (rect(a * 0.2, a * 0.3, (0, a * 0.45)) + rect(a * 0.42, a * 0.12, (0, a * 0.34))).rotate(90 * k)
    elif kind == "hat":
        shape = rect(a * 0.6, b) - rect(a * 0.6 - 2 * t, b, (0, -t)) + rect(a * 0.5, t, (a * 0.5, -b / 2 + t / 2))
        shape += rect(a * d.real(0.3, 0.6), t, (-a * 0.5, -b / 2 + t / 2))
    else:
        shape = rect(a, b * 0.5, (0, -b * 0.4)) + polygon(
            [(-a * 0.2, -b * 0.2), (a * 0.2, -b * 0.2), (a * 0.35, b * 0.2), (-a * 0.35, b * 0.2)]
        )
    body = along(slab(shape, long), "y")
    for _ in range(d.count(0, 3)):
        body -= rod(d.real(2, 4), 200, (d.real(-0.2, 0.2) * a, d.real(-0.4, 0.4) * long, 0), d.pick(["x", "z"]))
    return body


def hinge(d: Draw) -> Solid:
    long, wide, thick, pin = d.real(40, 80), d.real(18, 35), d.real(2, 4), d.real(3, 6)
    opened = d.pick([0.0, 0.0, 45.0, 90.0])
    knuckles = d.count(3, 5)
    body = along(rod(pin * 0.6, long + 4), "y").translate((0, 0, 0))
    for k in range(knuckles):
        at = long * ((k + 0.5) / knuckles - 0.5)
        body += along(rod(pin, long / knuckles * 0.96), "y").translate((0, at, 0))
    leaf = slab(rect(wide, long, corner=d.pick([0.0, 4.0])) - holes(d, wide * 0.8, long * 0.9, 4), thick).translate(
        (wide / 2, 0, 0)
    )
    other = slab(rect(wide * d.pick([1.0, 0.7]), long, corner=2) - holes(d, wide * 0.7, long * 0.9, 4), thick)
    other = other.translate((-wide * 0.5, 0, 0))
    return body + leaf + other.rotate((0, opened, 0))


def cover(d: Draw) -> Solid:
    """A round or oval cap with bolt ears."""
    r, high, n = d.real(22, 40), d.real(5, 16), d.count(2, 6)
    shape = disc(r)
    ears = [disc(d.real(5, 8), (r, 0)).rotate(360 * k / n + d.real(-8, 8)) for k in range(n)]
    body = slab(rounded(softened(shape + sum_of(ears), 2), 0.5), high * 0.5)
    body += rod(r * d.real(0.6, 0.85), high, (0, 0, high * 0.6), top=r * d.real(0.4, 0.6))
    for k in range(n):
        body -= rod(2.6, 60).translate((r, 0, 0)).rotate((0, 0, 360 * k / n))
    if d.chance(0.6):
        body += rod(r * 0.25, high, (d.real(-0.2, 0.2) * r, 0, high * 1.3)) - rod(r * 0.14, 100)
    if d.chance(0.4):
        body += ring(box(r * 0.8, 2.5, high * 0.8, (r * 0.45, 0, high * 0.5)), d.count(3, 6), 30)
    return body


def stepped_block(d: Draw) -> Solid:
    """A stack of boxes off their middles, as fixtures and stops are."""
    parts, z, x, y = [], 0.0, d.ratio(40, 80), d.ratio(25, 60)
    for _ in range(d.count(2, 4)):
        high = d.ratio(6, 25)
        parts.append(bevelled(x, y, high + 0.1, 1.0, (d.real(-0.12, 0.12) * x, d.real(-0.12, 0.12) * y, z + high / 2)))
        z, x, y = z + high, x * d.real(0.45, 0.9), y * d.real(0.5, 1.0)
    body = union(parts)
    for _ in range(d.count(0, 2)):
        body -= rod(d.real(2.5, 6), 300, (d.real(-12, 12), d.real(-8, 8), d.real(4, 12)), d.pick(["x", "y", "z"]))
    return body


FAMILIES = {
    "l-bracket": l_bracket, "u-bracket": u_bracket, "z-bracket": z_bracket, "gusset-bracket": gusset_bracket,
    "corner-bracket": corner_bracket, "hole-plate": hole_plate, "odd-plate": odd_plate, "odd-block": odd_block,
    "housing": housing, "flanged-box": flanged_box, "bearing-block": bearing_block, "drilled-block": drilled_block,
    "heat-sink": heat_sink, "profile": profile, "hinge": hinge, "cover": cover, "stepped-block": stepped_block,
}  # fmt: skip
