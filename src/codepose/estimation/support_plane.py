"""Parts that lie on one plane: what that says of poses which a photo alone can hardly tell apart.

A photo tells badly whether a flat part is tilted to this side or to that, and how far away it is. But parts lie: on a
table, in a tray, on a belt. Where several in one photo agree on a plane, each of them on one of the sides on which it
can come to rest, the plane says more of each pose than the photo does. How likely a pose is on the plane, over how
likely it is anywhere, adds as a prior to the log-odds of judge and edges. The plane is found as MLESAC finds models
(Torr and Zisserman, CVIU 2000): of those under each of the poses, that by which all of the photo's detections are
likeliest, where any of them may be an outlier that does not lie on it. NumPy, float64, lengths in mm, all in the
camera's frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TILT = math.radians(8.0)
"""How far a part's rest is off the plane: parts lean on each other, and poses are a few degrees off."""
_HEIGHT = 0.05
"""How far its lowest point is off the plane, in diameters."""
_DISTANCE = 0.1
"""How far off a pose's distance is where nothing is known of a plane: a share of it."""
_LYING = 0.8
"""Share of the parts in a photo that lie on its plane."""
_SURPRISE = 5.0
"""Log-odds against a plane before the poses are looked at: of many directions and heights one always fits somehow."""
_STEEPEST = 0.25
"""Cosine between the way up from a plane and the ray to the camera, at least: one seen from its edge says nothing."""
_STARTS = 24
"""So many rests of a pose, at most, show where the plane may be."""
_AT_A_TIME = 256
"""Planes that are compared together: memory for a fine hull's points before each of them."""
_FARTHEST, _GROWTH = math.radians(50.0), 0.35
"""A pose is laid onto the plane where that turns it by less, and moves it by a smaller log of its distance."""
_SAME, _BESIDE = math.radians(6.0), 0.08
"""Laid poses that differ by less, in angle and diameters, are one."""


@dataclass(frozen=True)
class Rests:
    """How a part can lie.

    Attributes:
        hull: (V, 3) vertices of its convex hull, from its middle, object frame.
        down: (K, 3) unit, object frame: what points down when it rests.
        share: (K,) how often it comes to rest so, in all 1.
        diameter: Of the part.
    """

    hull: Array
    down: Array
    share: Array
    diameter: float


@dataclass(frozen=True)
class Candidates:
    """k poses that one detection may have.

    Attributes:
        R: (k, 3, 3) R_cam_obj.
        t: (k, 3) the part's middle.
        score: (k,) log-odds by which each is held for right.
        rests: The part's.
    """

    R: Array
    t: Array
    score: Array
    rests: Rests


@dataclass(frozen=True)
class Plane:
    """A plane on which parts lie.

    Attributes:
        up: (3,) unit, its normal on the parts' side.
        height: ``up`` times each of its points.
        probability: That there is such a plane.
    """

    up: Array
    height: float
    probability: float


def find_plane(detections: Sequence[Candidates]) -> Plane | None:
    """Returns the plane on which a photo's parts lie likeliest; None for fewer than two, or where none is below any.

    Args:
        detections: Of one photo, of any objects.
    """
    starts = [_planes_below(one) for one in detections]
    if len(detections) < 2 or not any(len(ups) for ups, _ in starts):
        return None
    ups, heights = (np.concatenate(values) for values in zip(*starts, strict=True))
    some = (slice(first, first + _AT_A_TIME) for first in range(0, len(ups), _AT_A_TIME))
    evidence = np.concatenate([sum(_evidence(one, ups[s], heights[s]) for one in detections) for s in some])
    best = int(np.argmax(evidence))
    odds = float(evidence[best]) - _SURPRISE
    return Plane(ups[best], float(heights[best]), math.exp(-float(np.logaddexp(0.0, -odds))))


def log_prior(plane: Plane, one: Candidates) -> Array:
    """Returns by what log-odds the plane speaks for each of a detection's poses, (k,)."""
    lying = _log_odds(one, plane.up[None], np.array([plane.height]))[:, 0]
    return _mixed(lying, plane.probability)


def highest_prior(plane: Plane, one: Candidates) -> Array:
    """Returns by what log-odds the plane would speak for each of the poses, (k,), did it lie just as parts most do."""
    near, far = _widths(one)
    perfect = math.log(2.0 / _TILT**2) + math.log(one.rests.share.max()) + np.log(far / near)
    return _mixed(_mixed(perfect, _LYING), plane.probability)


def laid(plane: Plane, one: Candidates, count: int) -> tuple[Array, Array] | None:
    """Returns poses on the plane near a detection's: as little turned as possible, on the rays on which they were.

    Args:
        plane: On which the part may lie.
        one: The poses.
        count: How many come back, the least turned ones first; where there are fewer, the last one again.

    Returns:
        R (count, 3, 3) and t (count, 3); None where all poses are too far from the plane.
    """
    found: list[tuple[float, Array, Array]] = []
    for row in np.argsort(-one.score):
        for side in one.rests.down:
            angle, turn = _turn_between(one.R[row] @ side, -plane.up)
            R = turn @ one.R[row]
            t = _put(plane, one.rests, R, one.t[row]) if angle < _FARTHEST else None
            if t is not None and not any(_alike((R, t), other[1:], one.rests) for other in found):
                found.append((angle, R, t))
    if not found:
        return None
    found.sort(key=lambda pose: pose[0])
    chosen = [found[min(place, len(found) - 1)] for place in range(count)]
    return np.stack([R for _, R, _ in chosen]), np.stack([t for _, _, t in chosen])


def _planes_below(one: Candidates) -> tuple[Array, Array]:
    """The planes on which each pose would lie, seen from above: ups (H, 3) and heights (H,)."""
    ups = -np.einsum("kij,nj->kni", one.R, one.rests.down)  # (k, K, 3)
    rays = one.t / np.linalg.norm(one.t, axis=1, keepdims=True)
    facing = -np.einsum("kni,ki->kn", ups, rays)
    likely = facing * one.rests.share
    least = np.sort(likely, axis=1)[:, -_STARTS:].min(1, keepdims=True)  # of what is round, the sides that are seen
    row, rest = np.nonzero((facing > _STEEPEST) & (likely >= least))
    chosen = ups[row, rest]
    lowest = np.einsum("hij,vj->hvi", one.R[row], one.rests.hull) + one.t[row, None]
    return chosen, np.einsum("hvi,hi->hv", lowest, chosen).min(1)


def _lying(one: Candidates, ups: Array, heights: Array) -> Array:
    """Log-odds (k, K, H) that poses rest so on planes, over that they are anywhere."""
    downs = np.einsum("kij,nj->kni", one.R, one.rests.down)
    angles = np.arccos(np.clip(-downs @ ups.T, -1.0, 1.0))
    tilts = math.log(2.0 / _TILT**2) - 0.5 * np.square(angles / _TILT) + np.log(one.rests.share)[:, None]
    points = np.einsum("kij,vj->kvi", one.R, one.rests.hull) + one.t[:, None]
    lowest = (points @ ups.T).min(1)
    near, far = _widths(one)
    above = np.log(far / near)[:, None] - 0.5 * np.square((lowest - heights) / near)
    lying: Array = tilts + above[:, None]
    return lying


def _widths(one: Candidates) -> tuple[float, Array]:
    """How far off poses (k,) are along their rays, mm: on a plane, and where none is known."""
    near = _HEIGHT * one.rests.diameter
    return near, np.maximum(_DISTANCE * np.linalg.norm(one.t, axis=1), near)


def _log_odds(one: Candidates, ups: Array, heights: Array) -> Array:
    """By what log-odds planes speak for poses, (k, H); a pose that is on none is as likely as without them."""
    return _mixed(np.logaddexp.reduce(_lying(one, ups, heights), axis=1), _LYING)


def _evidence(one: Candidates, ups: Array, heights: Array) -> Array:
    """By what log-odds a detection speaks for planes, (H,)."""
    score = one.score - np.logaddexp.reduce(one.score)
    odds: Array = np.logaddexp.reduce(score[:, None] + _log_odds(one, ups, heights), axis=0)
    return odds


def _mixed(odds: Array, share: float) -> Array:
    """Log-odds where they hold for a share of all only."""
    mixed: Array = np.logaddexp(math.log(max(share, 1e-12)) + odds, math.log(max(1.0 - share, 1e-12)))
    return mixed


def _turn_between(a: Array, b: Array) -> tuple[float, Array]:
    """The smallest turn that brings one unit vector (3,) to another: radians, and the turn (3, 3)."""
    axis, cosine = np.cross(a, b), float(np.clip(a @ b, -1.0, 1.0))
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return math.acos(cosine), np.eye(3) + cross + cross @ cross / max(1.0 + cosine, 1e-9)


def _put(plane: Plane, rests: Rests, R: Array, t: Array) -> Array | None:
    """Where on its ray a part lies on the plane, (3,); None where that is too far from where it was."""
    slope = float(plane.up @ t)
    if slope > -_STEEPEST * float(np.linalg.norm(t)):
        return None
    scale = (plane.height - float((rests.hull @ R.T @ plane.up).min())) / slope
    return scale * t if scale > 0 and abs(math.log(scale)) < _GROWTH else None


def _alike(a: Sequence[Array], b: Sequence[Array], rests: Rests) -> bool:
    """Whether two poses, R (3, 3) and t (3,), are as good as one."""
    angle = math.acos(np.clip((np.trace(a[0].T @ b[0]) - 1.0) / 2.0, -1.0, 1.0))
    return angle < _SAME and float(np.linalg.norm(a[1] - b[1])) < _BESIDE * rests.diameter
