"""The judge and the edges together: it ranks and moves poses, they place the best ones, and it has the last word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from codepose.refinement.edge_fit import EdgeFit
from codepose.refinement.judge import Compare, JudgeRefiner
from codepose.refinement.poses import InTurn, Poses, Refiner, Seen, Stages
from codepose.refinement.render_and_compare import ContourRefiner
from codepose.settings.errors import ConfigError

if TYPE_CHECKING:
    from codepose.settings.inference import RefinementSettings
    from codepose.synthesis.objects import Objects
    from codepose.synthesis.world import World

_CONTOUR = 20.0
"""Log-odds for a contour that matches wholly: edges tell front from back where the judge hardly can."""


class JudgedContours:
    """Refines poses that the judge has ranked, each by the photo's edges; the judge chooses among all.

    The judge tells apart how a part lies where edges cannot; edges place it to a fraction of a pixel. Where two poses
    differ by a tilt and the distance, as those of flat parts do, it can tell only once both lie on the edges.

    Args:
        judge: By which the poses are ranked.
        contours: Refines a single pose of each detection.
        fit: Pulls the poses onto the photo's edges.
    """

    def __init__(self, judge: JudgeRefiner, contours: Refiner, fit: Refiner) -> None:
        self.judge = judge
        self.contours = contours
        self.fit = fit

    @torch.no_grad()
    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        """Returns as many poses, best first, each refined by edges where the judge holds that for no worse."""
        count = poses.t.shape[1]
        rows = torch.arange(len(poses.t), device=poses.t.device).repeat_interleave(count)
        deep = self.contours(seen.select(rows), poses.reshaped(len(rows), 1)).best(1).reshaped(len(poses.t), count)
        deep = replace(deep, judged=self.judge.scores(seen, deep))
        finer = deep.where(deep.judged >= poses.judged, replace(poses, contour=deep.contour, agreement=deep.agreement))
        fitted = self.fit(seen, finer)
        fitted = replace(fitted, judged=self.judge.scores(seen, fitted))
        return replace(fitted, score=fitted.judged + _CONTOUR * fitted.contour).best(count)


def contours_judged_by(network: Callable[[], Compare], world: Objects, settings: RefinementSettings) -> Refiner:
    """Returns codepose's own refiner.

    Args:
        network: Loads the judge's network, where the judge is asked.
        world: Meshes and renderer.
        settings: How many views the judge compares: 0 = it is not asked.
    """
    contours, fit = ContourRefiner(world, settings), EdgeFit(world)
    if settings.judged == 0:
        return InTurn(contours, fit)
    judge = JudgeRefiner(world, network())
    return Stages(judge, JudgedContours(judge, contours, fit))


def _contours(world: World, settings: RefinementSettings) -> Refiner:
    def network() -> Compare:
        from codepose.refinement.judge_weights import shipped_judge

        return shipped_judge(world.settings, world.device)

    return contours_judged_by(network, world, settings)


REFINERS: dict[str, Callable[[World, RefinementSettings], Refiner]] = {"contours": _contours}
"""What ``refinement.refiner`` may name."""


def refiner_of(world: World, settings: RefinementSettings) -> Refiner:
    """Returns the refiner that the settings ask for.

    Raises:
        ConfigError: There is none of this name.
    """
    if settings.refiner not in REFINERS:
        raise ConfigError(
            f"refinement.refiner: no refiner is called {settings.refiner!r}; there are {', '.join(sorted(REFINERS))}"
        )
    return REFINERS[settings.refiner](world, settings)
