"""BOP datasets in and out: render one from CAD models, evaluate a run on one."""

from __future__ import annotations

from pathlib import Path

from codepose.cli.chosen import with_meshes
from codepose.cli.options import Evaluate, Render
from codepose.runtime.outcome import Outcome
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings


def render(options: Render) -> Outcome:
    """Writes a BOP dataset of synthetic scenes.

    Raises:
        BopError: The split is already there, or the folder holds other objects.
        ConfigError: The symmetries cannot be used.
        MeshError: A CAD file cannot be used.
    """
    from rich.console import Console

    from codepose.bop.models import numbered
    from codepose.bop.writer import write_dataset
    from codepose.parts.symmetry_group import read_symmetries
    from codepose.runtime.devices import current_device
    from codepose.runtime.progress import Display
    from codepose.synthesis.world import World

    world = World(_settings(options), current_device(options.device))
    numbers = numbered([one.label for one in world.objects])
    given = options.symmetries
    symmetries = None if given is None else [read_symmetries(given, number).to_bop() for number in numbers]
    with Display(f"Rendering {options.split}") as display:
        folder = write_dataset(
            world,
            options.bop,
            split=options.split,
            images=options.images,
            symmetries=symmetries,
            progress=lambda share: display.update(share, ""),
        )
    Console().out(f"wrote {options.images} images to {folder}", highlight=False)
    return Outcome({"folder": folder, "images": options.images})


def _settings(options: Render) -> Settings:
    """The run's settings, or the preset's with the given meshes."""
    from codepose.runtime.run import Run

    if len(options.meshes) == 1 and options.meshes[0].is_dir():
        return Run.open(options.meshes[0]).settings
    return with_meshes(options.settings, options.meshes, options.unit, options.body)


def evaluate(options: Evaluate, dataset: Path) -> Outcome:
    """Measures a run on a BOP dataset and prints its scores.

    Raises:
        ConfigError: Options do not go together.
    """
    from rich.console import Console

    from codepose.bop.evaluation import evaluate_bop, folder_name
    from codepose.networks.windows import require_tiles
    from codepose.runtime.ranks import layout

    if layout(options.devices, options.nodes) != (1, 1):
        raise ConfigError("--bop measures on one device: leave out --devices and --nodes, and torchrun")
    if len(options.methods) > 1:
        raise ConfigError("--bop measures one method at a time: --methods joint")
    require_tiles(options.tiles)
    summary = evaluate_bop(
        options.run,
        dataset,
        options.split,
        method=(*options.methods, "joint")[0],
        obj_ids=options.obj_ids or None,
        camera=options.camera or None,
        images=options.images,
        refine=options.refine,
        depth=options.depth,
        tiles=options.tiles,
        device=options.device,
    )
    console = Console(highlight=False)
    for name in ("ar", "ar_vsd", "ar_mssd", "ar_mspd", "add_recall_10", "box_iou_mean"):
        value = summary[name]
        console.out(f"{name}: {'not measured' if value is None else f'{value:.3f}'}")
    console.out(f"results: {options.run / 'evaluation' / folder_name(summary)}")
    return Outcome(summary)
