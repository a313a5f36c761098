"""Standard parts of bd-warehouse (Apache-2.0): fasteners, bearings, flanges, pipes, gears, sprockets, threads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import trimesh
from bd_warehouse import bearing, bushing, fastener, flange, gear, open_builds, pipe, retaining_ring, sprocket, thread
from build123d import Compound, Cylinder, Edge, Pos, RegularPolygon, Rotation, Shape, Spline, extrude

from experiments.parts.draw import Draw
from experiments.parts.finish import RefusedError

ANGLES = (0.3, 0.45, 0.65)  # radians between neighbouring faces
FACES = 3500  # aimed at
CLASSES = (150, 300)  # of flanges


def tessellated(shape: Shape[Any]) -> trimesh.Trimesh:
    """The triangles of all bodies of a shape, to 0.3 % of its size and an angle at which they are not too many."""
    size = float(shape.bounding_box().diagonal)
    for angle in ANGLES:
        points, triangles = copy.deepcopy(shape).tessellate(size * 0.003, angle)  # a shape keeps its finest triangles
        if not triangles:
            raise RefusedError("it has no surface")
        if len(triangles) <= FACES:
            break
    return trimesh.Trimesh(np.array([tuple(point) for point in points]), np.array(triangles), process=False)


def _one(make: Callable[[Draw], Shape[Any]], d: Draw) -> trimesh.Trimesh:
    try:
        return tessellated(make(d))
    except RefusedError:
        raise
    except Exception as error:  # OpenCASCADE and bd-warehouse raise all kinds where a size cannot be built
        raise RefusedError(f"bd-warehouse: {type(error).__name__}: {str(error)[:80]}") from None


def _screw(kind: Any, d: Draw) -> Shape[Any]:
    standard = d.pick(sorted(kind.types()))
    size = d.pick([s for s in kind.sizes(standard) if not s.startswith("#")][2:14] or list(kind.sizes(standard))[:8])
    across = float(size.split("-")[0].lstrip("M")) if size.startswith("M") else 5.0
    long = across * d.ratio(1.2, 7) if kind is not fastener.ShoulderScrew else d.pick([25.0, 30.0, 40.0, 50.0])
    return kind(size=size, length=long, fastener_type=standard, simple=d.chance(0.6))


def _set_screw(d: Draw) -> Shape[Any]:
    size = d.pick(list(fastener.SetScrew.sizes("iso4026"))[4:14])
    return fastener.SetScrew(size=size, length=float(size.split("-")[0][1:]) * d.ratio(0.9, 4), simple=d.chance(0.4))


def _small(kind: Any, d: Draw) -> Shape[Any]:
    standard = d.pick(sorted(kind.types()))
    size = d.pick(list(kind.sizes(standard))[:20])
    threaded = issubclass(kind, fastener.Nut)
    return kind(size=size, fastener_type=standard, **({"simple": d.chance(0.7)} if threaded else {}))


def _bearing(kind: Any, d: Draw) -> Shape[Any]:
    return kind(size=d.pick(list(kind.sizes("SKT"))), bearing_type="SKT")


def _flange(kind: Any, d: Draw) -> Shape[Any]:
    nps = d.pick(["1/2", "3/4", "1", "1 1/2", "2", "3", "4", "6"])
    given = {"nps": nps, "flange_class": d.pick(CLASSES)}
    if kind is not flange.LappedFlange:
        given["face_type"] = d.pick(["Raised", "Flat", "Ring"])
    return kind(**given)


def _pipe(d: Draw) -> Shape[Any]:
    nps = d.pick(["1/2", "3/4", "1", "1 1/4", "2"])
    r = {"1/2": 11, "3/4": 13, "1": 17, "1 1/4": 21, "2": 30}[nps]
    n = d.count(2, 4)
    steps = np.array([[6.0 * r, 0.0, 0.0]] * n) + d.rng.uniform(-3.5 * r, 3.5 * r, (n, 3))
    points = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    path: Edge = Spline(*[tuple(map(float, p)) for p in points]).edge()
    return pipe.Pipe(nps=nps, material="copper", identifier=d.pick(["K", "M"]), path=path)


def _gear(kind: Any, d: Draw) -> Shape[Any]:
    teeth = d.count(10, 36)
    given: dict[str, Any] = {
        "module": 1.0,
        "tooth_count": teeth,
        "pressure_angle": d.pick([14.5, 20.0, 25.0]),
        "thickness": d.ratio(0.15, 1.0) * teeth,
    }
    if kind is gear.HelicalGear:
        given["helix_angle"] = d.real(10, 30)
    if kind is gear.RackGear:
        return kind(**given)
    body = kind(**given) - Cylinder(teeth * d.real(0.08, 0.25), 200)
    r, n = teeth / 2, d.count(3, 6)
    if d.chance(0.5) and teeth > 18:
        for k in range(n):
            body -= Rotation(0, 0, 360 * k / n) * Pos(r * 0.52, 0, 0) * Cylinder(r * 0.16, 200)
    return body


def _worm(d: Draw) -> Shape[Any]:
    return gear.Worm(module=1.0, starts=d.count(1, 4), diametral_quotient=d.real(7, 14), length=d.ratio(10, 40))


def _sprocket(d: Draw) -> Shape[Any]:
    teeth = d.count(9, 34)
    bolts = d.count(0, 6) if teeth > 14 else 0
    return sprocket.Sprocket(
        num_teeth=teeth, thickness=d.ratio(2, 12), bore_diameter=d.real(8, 2 * teeth) * 0.8,
        num_mount_bolts=bolts, mount_bolt_diameter=6.0 if bolts else 0.0,
        bolt_circle_diameter=3.1 * teeth if bolts else 0.0,
    )  # fmt: skip


def _threaded(d: Draw) -> Shape[Any]:
    """A rod with a thread over a part of it, some with a head."""
    pitch, long = d.real(1.5, 4), d.ratio(12, 50)
    turned = thread.IsoThread(major_diameter=16, pitch=pitch, length=long, external=True, end_finishes=("fade", "fade"))
    core = Pos(0, 0, long / 2) * Cylinder(turned.min_radius, long)
    parts = [turned, core]
    if d.chance(0.7):
        head = extrude(RegularPolygon(d.real(9, 14), d.pick([3, 4, 6, 8])), d.real(4, 14))
        parts.append(Pos(0, 0, -float(head.bounding_box().size.Z)) * head)
    if d.chance(0.5):
        parts.append(Pos(0, 0, long + 6) * Cylinder(d.real(3, 6.5), 12))
    return Compound(children=parts)


def _bushing(d: Draw) -> Shape[Any]:
    bore = d.real(5, 9)
    return bushing.HexFlangedEccentricBushing(
        bore_diameter=bore, body_diameter=bore + d.real(5, 9), body_length=d.ratio(5, 30), flange_height=d.real(3, 8),
        hex_size=bore + d.real(12, 18), eccentricity=d.real(0.5, 1.8),
    )  # fmt: skip


def _snap_ring(kind: Any, d: Draw) -> Shape[Any]:
    return kind(size=d.pick(list(kind.sizes())[:30]))


def _motor(d: Draw) -> Shape[Any]:
    return open_builds.StepperMotor(d.pick(["Nema17", "Nema23", "Nema23HighTorque"]), d.real(30, 90))


def _rail(d: Draw) -> Shape[Any]:
    return open_builds.VSlotLinearRail(d.pick(["20x20", "20x40", "20x60", "20x80", "40x40"]), d.ratio(20, 160))


FIXED: tuple[Callable[[], Shape[Any]], ...] = (
    open_builds.AcmeAntiBacklashNutBlock8mm, open_builds.CBeamEndMount, open_builds.CBeamGantryPlate,
    open_builds.CBeamGantryPlateXLarge, open_builds.CBeamRiserPlate, partial(open_builds.EccentricSpacer, "6mm"),
    partial(open_builds.FlexibleCoupler, "8mm"), open_builds.LBracket, partial(open_builds.LockCollar, "8mm"),
    partial(open_builds.RouterSpindleMount, "base"), open_builds.SpacerBlock, open_builds.TNut,
    open_builds.XtremeSolidVWheel, partial(open_builds.CBeamLinearRail, 90.0), open_builds.CBeamEndAssembly,
)  # fmt: skip


def _fixed(d: Draw) -> Shape[Any]:
    """OpenBuilds' parts have one size each: a number is one of them."""
    if d.number >= len(FIXED):
        raise RefusedError("there are no more of these")
    return FIXED[d.number]()


def _named(kinds: tuple[Any, ...], make: Callable[[Any, Draw], Shape[Any]]) -> dict[str, Callable[[Draw], Shape[Any]]]:
    return {kind.__name__: partial(make, kind) for kind in kinds}


_MAKERS: dict[str, Callable[[Draw], Shape[Any]]] = {
    **_named((fastener.HexHeadScrew, fastener.SocketHeadCapScrew, fastener.CounterSunkScrew, fastener.PanHeadScrew,
              fastener.HexHeadWithFlangeScrew, fastener.ButtonHeadWithCollarScrew, fastener.ShoulderScrew), _screw),
    "SetScrew": _set_screw,
    **_named((fastener.DomedCapNut, fastener.HexNut, fastener.HexNutWithFlange, fastener.SquareNut, fastener.HeatSetNut,
              fastener.InternalToothLockWasher), _small),
    **_named((bearing.SingleRowDeepGrooveBallBearing, bearing.SingleRowAngularContactBallBearing,
              bearing.SingleRowCylindricalRollerBearing, bearing.SingleRowTaperedRollerBearing), _bearing),
    **_named((flange.BlindFlange, flange.LappedFlange, flange.SlipOnFlange, flange.SocketWeldFlange,
              flange.WeldNeckFlange), _flange),
    "Pipe": _pipe, "Worm": _worm, "Sprocket": _sprocket, "ThreadedRod": _threaded, "Bushing": _bushing,
    **_named((gear.SpurGear, gear.HelicalGear, gear.RackGear), _gear),
    **_named((retaining_ring.ExternalSnapRing, retaining_ring.InternalSnapRing), _snap_ring),
    "StepperMotor": _motor, "Rail": _rail, "OpenBuilds": _fixed,
}  # fmt: skip
FAMILIES = {f"bd-{name}": partial(_one, make) for name, make in _MAKERS.items()}
