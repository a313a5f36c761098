"""Built-in meshes made by code: the hammer of the examples, and the hand and the distractors that occlude it.

Every shape is a few closed parts that overlap, most of them lofts: a row of rings, each joined to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray

from codepose.parts.mesh import Mesh, MeshError, load_mesh, mesh_from_trimesh
from codepose.settings.data import Unit

Color = tuple[float, float, float]

STRIKING_FACE: Color = (0.80, 0.81, 0.83)
HEAD: Color = (0.40, 0.41, 0.44)
CLAW: Color = (0.58, 0.59, 0.61)
WOOD: Color = (0.79, 0.58, 0.32)
BAND: Color = (0.95, 0.80, 0.15)
RUBBER: Color = (0.52, 0.15, 0.09)
SKIN: Color = (0.80, 0.58, 0.46)
OFF_WHITE: Color = (0.92, 0.92, 0.92)

BAR_RADIUS = 16.0  # mm, what the hand is closed around
DISTRACTOR_DIAMETER = 100.0  # mm


def hammer() -> Mesh:
    """A claw hammer, 300 mm long, of a steel head and a wooden handle with a rubber grip.

    Returns:
        The part, its bounding box centred at the origin, lying flat: the head at -y with its striking face at
        +x and its claw at -x, the handle towards +y, the smallest extent along z. It mirrors onto itself in z
        only, so that no rotation but the identity maps it onto itself.
    """
    parts = [_hammer_head(), _claw_prong(+1.0), _claw_prong(-1.0), _handle()]
    whole = trimesh.Scene(parts).to_mesh()
    middle = whole.bounds.mean(axis=0)
    whole.apply_translation(-middle)
    grip = np.array([[0.0, 165.0, 0.0], [0.0, 245.0, 0.0]]) - middle
    return mesh_from_trimesh(whole, "hammer", grip=grip)


def hand() -> Mesh:
    """A right hand closed around a bar, with a stub of forearm.

    Returns:
        The hand, in the bar's frame: the bar's axis is +y through the origin and its radius `BAR_RADIUS`; the
        palm lies at -z, the fingers leave it at +x and close over +z, the thumb comes round -x; the index
        finger is at -y, the forearm leaves towards -x, -z and a little +y. Skin colour is one constant.
    """
    parts = [_palm(), _forearm()]
    parts += _finger(-31.0, 1.5, 9.6, (68.0, 72.0, 42.0), 12.0)
    parts += _finger(-10.5, 0.8, 10.0, (70.0, 74.0, 44.0), 13.0)
    parts += _finger(10.0, -0.6, 9.5, (74.0, 74.0, 46.0), 12.0)
    parts += _finger(29.5, -2.0, 8.2, (78.0, 72.0, 48.0), 9.0)
    parts += _thumb()
    grip = [[0.0, -35.0, 0.0], [0.0, 35.0, 0.0]]
    return mesh_from_trimesh(trimesh.Scene(parts).to_mesh(), "hand", grip=grip)


def distractors() -> tuple[Mesh, ...]:
    """Plain solids to put in front of a part, 100 mm in diameter, white so that a tint can be multiplied in.

    Returns:
        Box, cylinder, cone, ring, L-bracket and plate, each with its bounding box centred at the origin.
    """
    upright = trimesh.creation.box(extents=(20.0, 90.0, 40.0))
    foot = trimesh.creation.box(extents=(70.0, 18.0, 40.0)).apply_translation((25.0, 36.0, 0.0))
    solids = {
        "box": trimesh.creation.box(extents=(80.0, 55.0, 40.0)),
        "cylinder": trimesh.creation.cylinder(radius=20.0, height=90.0, sections=32),
        "cone": trimesh.creation.cone(radius=35.0, height=80.0, sections=32),
        "ring": trimesh.creation.torus(38.0, 12.0, major_sections=32, minor_sections=16),
        "l-bracket": trimesh.Scene([upright, foot]).to_mesh(),
        "plate": trimesh.creation.box(extents=(80.0, 60.0, 6.0)),
    }
    return tuple(_distractor(solid, name) for name, solid in solids.items())


BUILTIN: Mapping[str, Callable[[], Mesh]] = MappingProxyType({"hammer": hammer, "hand": hand})


def resolve(path_or_name: str | Path, *, unit: Unit = "mm", center: bool = True, body: str = "") -> Mesh:
    """The mesh that a person asked for: a built-in one by its name, any other by its path.

    Args:
        path_or_name: A key of `BUILTIN`, or a file; a file that is called like a built-in is `./hammer`.
        unit: What one unit of a file is; a built-in is in mm.
        center: Move the middle of a file's bounding box to the origin; a built-in keeps its own frame.
        body: Only the body that a file calls so; a built-in names none. Empty = all of the file.

    Returns:
        The part in mm.

    Raises:
        MeshError: Neither a built-in nor a file that can be used, or without such a body.
    """
    asked = str(path_or_name)
    if asked in BUILTIN:
        if body:
            raise MeshError(f"{asked} is built in and names no bodies: leave out --body {body}")
        return BUILTIN[asked]()
    if not Path(asked).exists() and not Path(asked).suffix:
        raise MeshError(f"{asked!r} is neither a file nor built in; type a path or {' or '.join(BUILTIN)}")
    return load_mesh(asked, unit=unit, center=center, body=body)


def _distractor(solid: trimesh.Trimesh, name: str) -> Mesh:
    corners = solid.vertices - solid.bounds.mean(axis=0)
    corners *= DISTRACTOR_DIAMETER / np.linalg.norm(corners[:, None] - corners[None], axis=2).max()
    colors = _rgba(np.tile(OFF_WHITE, (len(solid.faces), 1)))
    return mesh_from_trimesh(trimesh.Trimesh(corners, solid.faces, face_colors=colors, process=False), name)


# The hammer: x along the head, y along the handle, head axis at y = 0, before the bounding box is centred.


def _hammer_head() -> trimesh.Trimesh:
    """Striking face, neck and cheek: rings along x."""
    rows = np.array(
        [  # x, half height (y), half depth (z), roundness (2 = ellipse, 8 = nearly a box)
            [57.5, 11.5, 11.5, 2.0],
            [57.0, 13.5, 13.5, 2.0],
            [55.5, 14.5, 14.5, 2.0],
            [41.0, 14.5, 14.5, 2.0],
            [38.0, 11.0, 11.0, 2.0],
            [24.0, 10.5, 10.5, 2.1],
            [19.0, 12.5, 12.5, 3.5],
            [15.5, 13.3, 13.5, 6.0],
            [-13.5, 13.3, 13.5, 6.0],
            [-18.0, 11.5, 12.5, 4.0],
            [-22.0, 10.0, 11.5, 4.0],
        ]
    )
    x = np.array([1.0, 0.0, 0.0])
    y, z = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    rings = np.stack([_ring(row[0] * x, y * row[1], z * row[2], 24, row[3]) for row in rows])
    bands = [STRIKING_FACE] * 4 + [HEAD] * 6
    return _loft(rings, [STRIKING_FACE, *bands, HEAD])


def _claw_prong(side: float) -> trimesh.Trimesh:
    """The prong at +z or -z: rings along a curve towards the handle; a V parts it from the other prong."""
    t = np.linspace(0.0, 1.0, 13)
    start, pull, end = np.array([[-11.0, -1.5], [-48.0, -7.0], [-70.0, 27.0]])
    path = np.outer((1 - t) ** 2, start) + np.outer(2 * t * (1 - t), pull) + np.outer(t**2, end)
    along = np.outer(1 - t, pull - start) + np.outer(t, end - pull)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    inner = np.interp(t, [0.0, 0.3, 1.0], [-4.0, -3.0, 5.5])  # the V opens where this passes 0
    outer = np.interp(t, [0.0, 0.4, 1.0], [12.5, 13.0, 14.0])
    thick = np.interp(t, [0.0, 0.25, 0.6, 1.0], [10.0, 8.0, 4.6, 1.0])
    rings = []
    for k in range(len(t)):
        middle = np.array([path[k, 0], path[k, 1], side * (inner[k] + outer[k]) / 2])
        across = np.array([-along[k, 1], along[k, 0], 0.0]) * thick[k]
        sideways = np.array([0.0, 0.0, (outer[k] - inner[k]) / 2])
        rings.append(_ring(middle, across, sideways, 16, 4.0))
    return _loft(np.stack(rings), CLAW)


def _handle() -> trimesh.Trimesh:
    """An oval wooden handle through the head, with a band and a rubber grip: rings along y."""
    rows = np.array(
        [  # y, middle (x), half width (x), half depth (z)
            [-14.3, 0.0, 9.5, 7.5],
            [12.0, 0.0, 10.5, 8.0],
            [22.0, 0.0, 11.5, 8.8],
            [40.0, 0.0, 10.0, 8.2],
            [80.0, 0.0, 9.0, 7.8],
            [125.0, 0.3, 10.0, 8.4],
            [136.0, 0.3, 11.2, 9.2],
            [146.0, 0.3, 11.6, 9.4],
            [150.0, 0.3, 13.2, 10.4],
            [190.0, -1.6, 15.0, 11.4],
            [235.0, 0.0, 13.2, 10.4],
            [262.0, 1.8, 14.4, 11.0],
            [278.0, 2.8, 16.6, 12.0],
            [283.0, 2.8, 16.0, 11.5],
            [285.7, 2.8, 13.0, 9.0],
        ]
    )
    y, x, z = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    rings = np.stack([_ring(r[0] * y + r[1] * x, x * r[2], z * r[3], 20, 2.3) for r in rows])
    return _loft(rings, [WOOD] + [WOOD] * 6 + [BAND] + [RUBBER] * 7 + [RUBBER])


# The hand: the bar's frame. Angles of a finger run round the bar from its back (-z) over +x.


def _palm() -> trimesh.Trimesh:
    """The palm and the back of the hand, from the wrist to the knuckles: rings along x."""
    rows = np.array(
        [  # x, middle (y), middle (z), half width (y), half depth (z)
            [-52.0, 4.0, -33.0, 26.0, 12.0],
            [-44.0, 3.0, -33.0, 33.0, 14.5],
            [-28.0, 1.0, -32.5, 39.0, 15.5],
            [-10.0, 0.0, -31.0, 42.0, 14.0],
            [6.0, 0.0, -28.8, 42.0, 11.8],
            [16.0, 0.0, -26.6, 40.5, 9.6],
            [22.0, 0.0, -25.4, 38.0, 7.4],
        ]
    )
    y, z = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    rings = np.stack([_ring(np.array([r[0], r[1], r[2]]), y * r[3], z * r[4], 20, 3.2) for r in rows])
    return _loft(rings, SKIN)


def _forearm() -> trimesh.Trimesh:
    """A stub from the wrist away from the bar."""
    start, along = np.array([-38.0, 4.0, -33.0]), np.array([-0.88, 0.28, -0.38])
    along /= np.linalg.norm(along)
    flat = np.cross(along, (0.0, 1.0, 0.0))
    flat /= np.linalg.norm(flat)
    wide = np.cross(flat, along)
    rows = np.array([[0.0, 25.0, 13.0], [18.0, 27.0, 16.5], [45.0, 29.5, 20.5], [85.0, 34.0, 26.0]])
    rings = np.stack([_ring(start + r[0] * along, wide * r[1], flat * r[2], 16, 2.2) for r in rows])
    return _loft(rings, SKIN)


def _finger(
    y: float, drift: float, radius: float, bends: tuple[float, float, float], reach: float
) -> list[trimesh.Trimesh]:
    """Three phalanges round the bar, each touching it.

    Args:
        y: Of the knuckle, mm.
        drift: Added to y at every joint, mm.
        radius: At the knuckle, mm.
        bends: Degrees at the three joints.
        reach: Of the fingertip beyond the place where it touches the bar, mm.
    """
    distance = BAR_RADIUS + radius + 0.7  # from the bar's axis to every phalanx's own axis
    turn = np.radians(np.concatenate([[0.0], np.cumsum(bends)]))
    half = (turn[1:] + turn[:-1]) / 2
    far = distance / np.cos((turn[1:] - turn[:-1]) / 2)
    joints = [np.array([f * np.sin(h), 0.0, -f * np.cos(h)]) for f, h in zip(far, half, strict=True)]
    c, s = np.cos(turn[-1]), np.sin(turn[-1])
    tip = distance * np.array([s, 0.0, -c]) + reach * np.array([c, 0.0, s])
    points = [p + np.array([0.0, y + drift * k, 0.0]) for k, p in enumerate([*joints, tip])]
    return _limb(points, [1.12 * radius, radius, 0.95 * radius, 0.82 * radius])


def _thumb() -> list[trimesh.Trimesh]:
    """The ball of the thumb, then two phalanges over the fingertips; the heel of the hand across from it."""
    points = np.array([[-34.0, -12.0, -29.0], [-34.0, -36.0, -4.0], [-23.0, -37.0, 29.0], [4.0, -25.0, 42.5]])
    heel = _capsule(np.array([-40.0, 10.0, -28.0]), np.array([-28.0, 24.0, -28.0]), 14.0, 12.0)
    return [*_limb(list(points), [17.0, 12.5, 10.5, 8.5]), heel]


def _limb(points: Sequence[NDArray[np.float64]], radii: Sequence[float]) -> list[trimesh.Trimesh]:
    """A chain of capsules through (N, 3) points, mm."""
    return [_capsule(points[k], points[k + 1], radii[k], radii[k + 1]) for k in range(len(points) - 1)]


# Lofts


def _capsule(
    start: NDArray[np.float64], end: NDArray[np.float64], start_radius: float, end_radius: float
) -> trimesh.Trimesh:
    """A skin-coloured capsule between two points (mm) whose radius (mm) changes along it."""
    along = (end - start) / np.linalg.norm(end - start)
    u = np.cross(along, (0.0, 1.0, 0.0))  # the same reference for all, so that the rings of a chain line up
    u /= np.linalg.norm(u)
    v = np.cross(along, u)
    rings: list[NDArray[np.float64]] = []
    for angle in np.radians([-68.0, -50.0, 0.0, 0.0, 50.0, 68.0]):
        first = len(rings) < 3
        middle, radius = (start, start_radius) if first else (end, end_radius)
        across = radius * np.cos(angle)
        rings.append(_ring(middle + radius * np.sin(angle) * along, u * across, v * across, 10, 2.0))
    return _loft(np.stack(rings), SKIN)


def _ring(
    middle: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64], count: int, roundness: float
) -> NDArray[np.float64]:
    """(count, 3) points of a superellipse with half axes u and v, mm."""
    angle = (np.arange(count) + 0.5) * 2 * np.pi / count
    c, s = np.cos(angle), np.sin(angle)
    size = (np.abs(c) ** roundness + np.abs(s) ** roundness) ** (-1 / roundness)
    return middle + np.outer(size * c, u) + np.outer(size * s, v)


def _loft(rings: NDArray[np.float64], color: Color | Sequence[Color]) -> trimesh.Trimesh:
    """A closed part through rings, with fans as caps.

    Args:
        rings: (S, K, 3) mm.
        color: One for all, or S + 1 of them: the first cap, the S - 1 bands, the last cap.
    """
    count, sides = rings.shape[:2]
    k = np.arange(sides)
    after = (k + 1) % sides
    first, last, top = np.full(sides, count * sides), np.full(sides, count * sides + 1), (count - 1) * sides
    faces = [np.stack([after, k, first], axis=1)]
    for a in range(0, top, sides):
        b = a + sides
        faces.append(np.stack([a + k, a + after, b + after], axis=1))
        faces.append(np.stack([a + k, b + after, b + k], axis=1))
    faces.append(np.stack([top + k, top + after, last], axis=1))
    vertices = np.concatenate([rings.reshape(-1, 3), [rings[0].mean(axis=0)], [rings[-1].mean(axis=0)]])
    bands = np.broadcast_to(np.asarray(color, np.float64), (count + 1, 3))
    colors = _rgba(np.repeat(bands, [sides, *[2 * sides] * (count - 1), sides], axis=0))
    part = trimesh.Trimesh(vertices, np.concatenate(faces), face_colors=colors, process=False)
    if part.volume < 0:
        part.invert()
    return part


def _rgba(colors: ArrayLike) -> NDArray[np.uint8]:
    """(N, 3) in [0, 1] → (N, 4) uint8, opaque."""
    rgb = np.round(np.asarray(colors, np.float64) * 255).astype(np.uint8)
    return np.column_stack([rgb, np.full(len(rgb), 255, np.uint8)])
