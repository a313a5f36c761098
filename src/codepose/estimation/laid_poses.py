"""Poses of a photo's parts, chosen by the plane on which they lie (``support_plane.py``).

Each detection has a few poses that judge and edges hold for nearly as good. Where a plane is likely, poses on it are
proposed as well, refined and judged as the others were, and of all of them the likeliest is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from codepose.estimation.box_poses import Looked, RefinedPoses
from codepose.estimation.support_plane import (
    Array,
    Candidates,
    Plane,
    Rests,
    find_plane,
    highest_prior,
    laid,
    log_prior,
)
from codepose.refinement.poses import Poses
from codepose.synthesis.objects import Objects

_HOPE = 1.0
"""Log-odds of the judge from which a detection is a part, and bears witness for a plane."""
_LIKELY = 0.3
"""A plane that is less probable is not looked at further."""
_PROPOSED = 4
"""Poses on the plane that are tried for a detection."""
_FINEST = 642
"""Corners of a hull, at most, that say how deep a part lies."""
_NEVER = -1e6
"""Log-odds of what is no pose."""
_ENOUGH = 0.25
"""None is tried where the plane speaks for the best known pose by that much less, at most, than it can for any."""


@dataclass(frozen=True, eq=False)
class Place:
    """A detection: one of the boxes that were looked at together, by its row, and the poses (1, k) it may have."""

    looked: Looked
    row: int
    poses: Poses

    @classmethod
    def of(cls, looked: Looked, row: int) -> Place:
        """Returns one with the poses that looking at its box led to."""
        return cls(looked, row, looked.poses.select(torch.tensor([row])))


class LaidPoses:
    """Chooses among the poses of detections that a judge has looked at.

    Args:
        world: The run's objects.
        refined: Refines what is proposed.
    """

    def __init__(self, world: Objects, refined: RefinedPoses) -> None:
        self._world, self._refined = world, refined
        self._rests: dict[int, Rests] = {}  # of each object that was asked for

    @torch.no_grad()
    def __call__(self, places: Sequence[Place]) -> list[Poses | None]:
        """Returns each detection's pose (1, 1); None where no plane says anything of it.

        Args:
            places: A photo's detections, each part once, or one would bear witness for itself.
        """
        judged = [float(place.poses.judged[0].nan_to_num(nan=_NEVER).max()) for place in places]
        parts = [i for i, says in enumerate(judged) if says >= _HOPE]
        chosen: list[Poses | None] = [None] * len(places)
        if len(parts) < 2 or self._refined.judge is None:
            return chosen
        known = [self._candidates(places[i]) for i in parts]
        plane = find_plane(known)
        if plane is None or plane.probability < _LIKELY:
            return chosen
        more = self._with_proposals([places[i] for i in parts], [self._on(plane, one) for one in known])
        for i, place in zip(parts, more, strict=True):
            candidates = self._candidates(place)
            likeliest = int(np.argmax(candidates.score + log_prior(plane, candidates)))
            chosen[i] = place.poses.picked(torch.tensor([[likeliest]]))
        return chosen

    @staticmethod
    def _on(plane: Plane, one: Candidates) -> tuple[Array, Array] | None:
        """Poses on the plane that are worth trying for a detection; None = there is none."""
        said = log_prior(plane, one)
        best = int(np.argmax(one.score + said))
        near = said[best] >= highest_prior(plane, one)[best] - _ENOUGH
        return None if near else laid(plane, one, _PROPOSED)

    def _candidates(self, place: Place) -> Candidates:
        """A detection's poses as the plane takes them; one that is no pose is never the likeliest."""
        R, t, score = (getattr(place.poses, name)[0].double().cpu().numpy() for name in ("R", "t", "score"))
        finite = np.isfinite(R).all((1, 2)) & np.isfinite(t).all(1) & np.isfinite(score)
        R, t = np.where(finite[:, None, None], R, np.eye(3)), np.where(finite[:, None], t, [0.0, 0.0, 1.0])
        score = np.where(finite, score, _NEVER)
        return Candidates(R, t, score, self._rests_of(int(place.looked.seen.objects[place.row])))

    def _rests_of(self, number: int) -> Rests:
        """How an object can lie; of a fine hull its outermost corners are enough."""
        if number not in self._rests:
            model = self._world.objects[number]
            hull = model.mesh.hull.astype(np.float64)
            if len(hull) > _FINEST:
                ways = np.random.default_rng(0).standard_normal((_FINEST, 3))
                hull = hull[np.unique((ways @ hull.T).argmax(1))]
            self._rests[number] = Rests(hull, *model.rests, model.mesh.diameter)
        return self._rests[number]

    def _with_proposals(self, places: Sequence[Place], proposed: Sequence[tuple[Array, Array] | None]) -> list[Place]:
        """The same detections, with what is proposed for each, refined, among their poses."""
        more = list(places)
        for looked in {id(place.looked): place.looked for place in places}.values():
            own = [i for i, place in enumerate(places) if place.looked is looked and proposed[i] is not None]
            if not own:
                continue
            rows = torch.tensor([places[i].row for i in own])
            R, t = (
                torch.from_numpy(np.stack(values)).to(looked.poses.t)
                for values in zip(*(proposed[i] for i in own if proposed[i] is not None), strict=True)
            )
            refined = self._refined.proposed(looked.seen.select(rows), R, t, looked.poses.similarity[rows, 0])
            for k, i in enumerate(own):
                more[i] = replace(places[i], poses=places[i].poses.joined(refined.select(torch.tensor([k]))))
        return more
