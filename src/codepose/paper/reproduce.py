"""The paper's experiment by one command: plan, train what is missing, evaluate, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from codepose.api import evaluate, train_stages
from codepose.estimation.methods import STAGES
from codepose.evaluation.results import read_summary
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.networks.detector import Detector
from codepose.networks.joint import JointNetwork
from codepose.paper.experiment_report import write_grid_report
from codepose.paper.grid import DEFAULT_SEEDS, Cell, cells, share, stage_key, training_stages
from codepose.paper.jitter import jitter_stage
from codepose.runtime.devices import make_fabric
from codepose.runtime.outcome import Outcome
from codepose.runtime.progress import Display
from codepose.runtime.ranks import from_first, rank
from codepose.runtime.run import Run, RunError
from codepose.settings.files import load_run_settings
from codepose.settings.schema import Settings
from codepose.synthesis.world import World
from codepose.training.cost import Cost, measure
from codepose.training.plan import Stage
from codepose.training.stages import detector_stage, step1_stage, step2_stage

if TYPE_CHECKING:
    from codepose.cli.options import Reproduce, Scale


def reproduce(options: Reproduce) -> Outcome:
    """Runs, resumes or plans the experiment; returns its plan, or where its report is."""
    if not options.dry_run:
        make_fabric(options.device)  # with torchrun, the processes find each other
    console = Console(quiet=rank() > 0)
    seeds = range(options.seeds or DEFAULT_SEEDS[options.scale])
    if options.dry_run:
        stages = plan(options.scale, options.cells, options.device)
        console.print(plan_table(stages, options.scale, len(seeds)))
        return Outcome({"seeds": len(seeds), "stages": [vars(one) for one in stages]})
    for seed in seeds:
        run_seed(options.out, options.scale, seed, options.cells, console, options.device)
        report = from_first(lambda: write_grid_report(options.out))
        console.out(f"report: {report}", highlight=False)
    return Outcome({"folder": options.out, "report": report})


def run_seed(
    out: Path, scale: Scale, seed: int, patterns: Sequence[str], console: Console, device: str = "auto"
) -> None:
    """Trains and evaluates one seed's cells; what earlier calls did is left as it is."""
    folder = out / f"seed-{seed}"
    homes = _finished(folder, scale, seed)
    groups: dict[str, list[Cell]] = {}
    for cell in cells(scale, seed, patterns):
        groups.setdefault(cell.group, []).append(cell)
    for group, members in groups.items():
        run = Run.create(folder / group, members[0].settings, resume=True)
        for cell in members:
            console.rule(f"seed {seed}, {cell.name}")
            for stage in training_stages(cell):
                home = homes.get(stage_key(cell, stage), run)
                from_first(partial(share, stage, home, run))
            train_stages(run, [cell.method], device=device)
            for stage in training_stages(cell):
                homes.setdefault(stage_key(cell, stage), run)
        _evaluate(run, members, device)


def _finished(folder: Path, scale: Scale, seed: int) -> dict[str, Run]:
    """The runs on disk that hold a finished stage of these settings, by what the stage depends on."""
    homes: dict[str, Run] = {}
    for cell in cells(scale, seed):
        config = folder / cell.group / "config.yaml"
        if not config.is_file() or load_run_settings(config) != cell.settings:
            continue
        run = Run.open(config.parent)
        for stage in training_stages(cell):
            if run.has(stage):
                homes.setdefault(stage_key(cell, stage), run)
    return homes


def _evaluate(run: Run, members: Sequence[Cell], device: str) -> None:
    """Evaluates a group's methods, unless the results on disk hold them all; those that they hold stay in them."""
    done = from_first(lambda: _evaluated(run))
    wanted = {cell.method for cell in members}
    if not wanted | {f"{method} + refinement" for method in wanted} <= done:
        evaluate(run, [m for m in STAGES if m in wanted | done], refine=True, device=device)


def _evaluated(run: Run) -> set[str]:
    """The rows of a run's results; none where these are damaged, or of other scenes, such as validation's."""
    path = run.path / "evaluation" / "results.json"
    if not path.is_file():
        return set()
    try:
        results = read_summary(path)
    except RunError:
        return set()
    whole = results["split"] == "test" and results["images"] == run.settings.data.test_images
    return set(results["methods"]) if whole else set()


@dataclass(frozen=True)
class Planned:
    """A stage that the experiment trains.

    Attributes:
        cell: The first that needs it.
        stage: Its name.
        images: Shown in all.
        gflop_an_image: Of forward and backward pass.
        hours: Estimated from an iteration done now, on this device.
    """

    cell: str
    stage: str
    images: int
    gflop_an_image: float
    hours: float


def plan(scale: Scale, patterns: Sequence[str], device: str = "auto") -> list[Planned]:
    """Returns the stages that one seed trains, each once."""
    where = make_fabric(device).device
    first: dict[str, tuple[Cell, str]] = {}
    for cell in cells(scale, 0, patterns):
        for stage in training_stages(cell):
            first.setdefault(stage_key(cell, stage), (cell, stage))
    stages = []
    with Display("an iteration of each stage") as display:
        for cell, stage in first.values():
            cost = stage_cost(cell.settings, stage, where)
            hours = cost.images * cost.seconds / 3600.0
            stages.append(Planned(cell.name, stage, cost.images, cost.flops / 1e9, hours))
            display.update(len(stages) / len(first), "")
    return stages


def plan_table(stages: Sequence[Planned], scale: Scale, seeds: int) -> Table:
    """Returns the plan of the experiment for reading."""
    table = Table(title=f"scale {scale}, {seeds} seed{'s' if seeds > 1 else ''}")
    for name in ("cell", "stage", "images", "GFLOP an image", "PFLOP in all", "hours (estimated)"):
        table.add_column(name, justify="left" if name in ("cell", "stage") else "right")
    for one in stages:
        total = one.images * one.gflop_an_image / 1e6
        row = (f"{one.images:,}", f"{one.gflop_an_image:.2f}", f"{total:.3f}", f"{one.hours:.2f}")
        table.add_row(one.cell, one.stage, *row)
    table.add_section()
    flops, hours = sum(one.images * one.gflop_an_image / 1e6 for one in stages), sum(one.hours for one in stages)
    table.add_row("one seed", "", "", "", f"{flops:.3f}", f"{hours:.2f}")
    table.add_row("all seeds", "", "", "", f"{flops * seeds:.3f}", f"{hours * seeds:.2f}")
    return table


def stage_cost(settings: Settings, name: str, device: torch.device) -> Cost:
    """Returns what one stage of a run costs on this device, from an iteration done now."""
    return measure(fresh_stage(settings, name, device), settings, device)


def fresh_stage(settings: Settings, name: str, device: torch.device) -> Stage:
    """Returns a stage by its name, with new weights."""
    world = World(settings, device)
    if name == "step1":
        return step1_stage(settings, world, build_extended(settings))
    if name == "original":
        return step1_stage(settings, world, build_original(settings), original=True)
    if name == "detector":
        detector: Detector = build_detector(settings)
        return detector_stage(settings, world, detector)
    if name == "jitter":
        return jitter_stage(settings, world, build_extended(settings))
    joint: JointNetwork = build_joint(settings)
    return step2_stage(settings, world, joint)
