"""The commands' options, and what each does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from codepose.apps.options import Pack, Reproduce
from codepose.config import (
    PRESETS,
    ConfigError,
    ObjectSettings,
    Settings,
    load_preset,
    load_settings,
    override,
)

Method = Literal["joint", "extended", "original", "jitter"]
_ALL: tuple[Method, ...] = ("joint", "extended", "original")
_console = Console()


@dataclass
class Demo:
    """Train the quick preset on the built-in hammer, from nothing, and report."""

    out: Path = Path("runs/demo")
    """Run folder; an interrupted demo goes on from there."""
    pretrained: bool = False
    """Train nothing: show the trained network that codepose brings, on 24 scenes, within two minutes."""
    joint_only: bool = False
    """Leave out the two-network baselines."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Preview:
    """Draw a contact sheet of the training data: look at it before you train."""

    meshes: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """CAD files (PLY, OBJ, STL, GLB); none = the preset's."""
    out: Path = Path("preview.png")
    """PNG file to write."""
    count: int = 8
    """How many samples."""
    difficulty: float = 1.0
    """Of the curriculum, from 0 (clean) to 1."""
    preset: str = "quick"
    """One of the shipped presets, or a YAML file."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


@dataclass
class Train:
    """Train a network on your CAD model."""

    meshes: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """CAD files (PLY, OBJ, STL, GLB); none = the preset's. The first object's settings (--objects.0.unit m,
    --objects.0.view-cone-deg 180) hold for all of them."""
    out: Path = Path("runs/part")
    """Run folder."""
    methods: tuple[Method, ...] = ("joint",)
    """joint (the paper's), extended and original (its two-network baselines), jitter (extended, trained on jittered
    boxes)."""
    resume: bool = False
    """Go on with the run in this folder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    preset: str = "quick"
    """One of the shipped presets, or a YAML file."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


@dataclass
class Evaluate:
    """Measure a trained run on held-out scenes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    methods: tuple[Method, ...] = ()
    """Which methods; none = all that are trained."""
    images: int | None = None
    """How many scenes; None = the settings' test split."""
    split: Literal["test", "val"] = "test"
    """val for choosing anything, test for the final numbers."""
    refine: bool = False
    """Add a row a method with render-and-compare against its reconstructions."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Predict:
    """Find the part in photos, videos or a webcam's pictures."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Photos, folders of photos, quoted patterns ("photos/*.jpg"), videos, webcam or webcam:1."""
    K: str = ""
    """The camera: fx,fy,cx,cy in pixels of the upright photo (OpenCV's convention), fov=60 (horizontal, degrees), or
    a calibration file: JSON, OpenCV or ROS YAML, COLMAP cameras.txt. Lens distortion is taken out."""
    out: Path | None = None
    """Folder for predictions.jsonl, NAME.json and NAME.overlay.png or .mp4; None = beside the run, RUN/predictions."""
    method: Method = "joint"
    """Which of the trained methods."""
    min_score: float = 0.5
    """Leave out detections below."""
    max_detections: int | None = None
    """At most so many an image, best first; None = as many as the run's settings allow."""
    refine: bool = False
    """Refine rotations by render-and-compare with the network's reconstructions."""
    smooth: bool = False
    """Smooth the poses of a video over time."""
    max_frames: int | None = None
    """Stop a video or webcam after so many frames."""
    bop: Path | None = None
    """Also write a results file in BOP's CSV format."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Report:
    """Print a run's numbers and where its report is."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""


def run(command: str, arguments: list[str], description: str) -> int:
    """Parses a command's options and runs it; returns the exit status.

    Errors that a user can mend end in one line on stderr and status 1.
    """
    kind, action = COMMAND_OPTIONS[command], _ACTIONS[command]
    try:
        default: Any = tyro.MISSING_NONPROP
        if command in ("train", "preview"):
            default = kind(settings=_starting_settings(arguments))
        options = tyro.cli(kind, args=arguments, prog=f"codepose {command}", description=description, default=default)
        return action(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        print(f"codepose {command}: {error}", file=sys.stderr)
        return 1


def _user_errors() -> tuple[type[Exception], ...]:
    from codepose.estimation.codebook import CodebookError
    from codepose.synthesis.mesh import MeshError
    from codepose.training.checkpoint import CheckpointError
    from codepose.training.loop import NonFiniteLossError
    from codepose.training.run import RunError

    return (
        ConfigError,
        MeshError,
        RunError,
        CheckpointError,
        CodebookError,
        NonFiniteLossError,
        FileNotFoundError,
    )


def _starting_settings(arguments: list[str]) -> Settings:
    """The preset that --preset names: its values are the options' defaults."""
    peek = argparse.ArgumentParser(add_help=False)
    peek.add_argument("--preset", default="quick")
    name = peek.parse_known_args(arguments)[0].preset
    if name not in PRESETS and (Path(name).suffix in (".yaml", ".yml") or Path(name).exists()):
        return load_settings(name)
    return load_preset(name)


def _with_meshes(settings: Settings, meshes: tuple[Path, ...]) -> Settings:
    """Puts the given CAD files in the place of the preset's objects, with its first object's other settings."""
    from codepose.synthesis.shapes import BUILTIN

    if not meshes:
        return settings
    template = settings.objects[0]
    objects: list[ObjectSettings] = []
    for mesh in meshes:
        name = str(mesh) if str(mesh) in BUILTIN else str(mesh.resolve())
        objects.append(template.model_copy(update={"mesh": name, "label": template.label or mesh.stem}))
    return settings.model_copy(update={"objects": tuple(objects)})


def demo(options: Demo) -> int:
    """Runs the whole loop on the built-in hammer."""
    from codepose.apps.workflow import evaluate_run, train, trained_methods
    from codepose.training.run import Run

    if options.pretrained:
        return _show_pretrained(options)
    settings = load_preset("quick")
    limits = {"step1": 350.0, "step2": 200.0, "detector": 170.0, "original": 170.0}
    settings = override(settings, {f"{stage}.time_limit": limit for stage, limit in limits.items()})
    methods = ("joint",) if options.joint_only else _ALL
    run = Run.create(options.out, settings, resume=True)
    train(run, methods, device=options.device)
    wanted = [m for m in trained_methods(run) if m in methods]
    evaluation = evaluate_run(run, wanted, refine=True, device=options.device)
    _print_numbers(evaluation.summary)
    _console.print(f"report: {run.path / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def _show_pretrained(options: Demo) -> int:
    from codepose.apps.pack import unpack
    from codepose.apps.workflow import evaluate_run
    from codepose.training.run import Run

    out = options.out if options.out != Demo().out else Path("runs/pretrained")
    run = unpack(Run.open("hammer"), out)
    evaluation = evaluate_run(run, ["joint"], images=24, refine=True, device=options.device)
    _print_numbers(evaluation.summary)
    _console.print(f"report: {run.path / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def preview(options: Preview) -> int:
    """Writes a contact sheet."""
    from PIL import Image

    from codepose.apps.workflow import preview as sheet

    settings = _with_meshes(options.settings, options.meshes)
    Image.fromarray(sheet(settings, count=options.count, difficulty=options.difficulty)).save(options.out)
    _console.print(f"wrote {options.out}", highlight=False, soft_wrap=True)
    return 0


def train(options: Train) -> int:
    """Trains a run."""
    from codepose.apps import workflow
    from codepose.synthesis.world import World
    from codepose.training.run import Run

    settings = _with_meshes(options.settings, options.meshes)
    for model in World(settings).objects:  # a mesh that cannot be used is refused before anything is written
        size = " x ".join(f"{v:.0f}" for v in model.mesh.extents)
        _console.print(f"{model.label}: {size} mm, {len(model.mesh.faces)} faces", highlight=False)
        if model.cone_deg < 180:
            axis = ", ".join(f"{v:.0f}" for v in model.axis.tolist())
            _console.print(
                f"  only views within {model.cone_deg:.0f} degrees of direction ({axis}) are learned: type "
                "--objects.0.view-direction X Y Z for another side, --objects.0.view-cone-deg 180 for all (longer)",
                highlight=False,
            )
    run = Run.create(options.out, settings, resume=options.resume)
    workflow.train(run, options.methods, device=options.device)
    _console.print(f"trained: {run.path}\nnext: codepose evaluate {run.path}", highlight=False, soft_wrap=True)
    _console.print(f"      codepose predict {run.path} photo.png --K fx,fy,cx,cy", highlight=False, soft_wrap=True)
    return 0


def evaluate(options: Evaluate) -> int:
    """Evaluates a run and prints its table."""
    from codepose.apps.workflow import evaluate_run
    from codepose.training.run import Run

    done = evaluate_run(
        Run.open(options.run),
        options.methods or None,
        images=options.images,
        split=options.split,
        refine=options.refine,
        device=options.device,
    )
    _print_numbers(done.summary)
    _console.print(f"report: {options.run / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def predict(options: Predict) -> int:
    """Predicts on an image or a folder."""
    from codepose.apps.prediction import predict_images

    return predict_images(options)


def report(options: Report) -> int:
    """Prints what ``evaluate`` found."""
    from codepose.training.run import RunError

    path = options.run / "evaluation" / "results.json"
    if not path.is_file():
        raise RunError(f"{options.run} has not been evaluated: type codepose evaluate {options.run}")
    _print_numbers(json.loads(path.read_text()))
    _console.print(f"report: {options.run / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def _print_numbers(summary: dict[str, Any]) -> None:
    table = Table(title=f"{summary['images']} held-out scenes, preset {summary['preset']}")
    columns = {
        "AUC": ("auc", ".1f"),
        "AUC/N": ("auc_fraction", ".3f"),
        "recall@0.3": ("recall_03", ".3f"),
        "IoU": ("mean_iou", ".3f"),
        "rotation (median)": ("rotation_median_deg", ".1f"),
        "translation (median)": ("translation_median_mm", ".1f"),
    }
    table.add_column("method")
    for name in columns:
        table.add_column(name, justify="right")
    units = {"rotation (median)": "\u00b0", "translation (median)": " mm"}
    for method, numbers in summary["methods"].items():
        cells = []
        for name, (key, form) in columns.items():
            value = numbers[key]
            cells.append("-" if value is None else f"{value:{form}}{units.get(name, '')}")
        table.add_row(method, *cells)
    _console.print(table)


def reproduce(options: Reproduce) -> int:
    """Runs the paper's experiment."""
    from codepose.apps.reproduce import reproduce as run_experiment

    return run_experiment(options)


def pack(options: Pack) -> int:
    """Packs a run."""
    from codepose.apps.pack import pack as pack_run
    from codepose.training.run import Run

    packed = pack_run(Run.open(options.run), options.out)
    size = sum(p.stat().st_size for p in packed.path.rglob("*") if p.is_file()) / 1e6
    _console.print(f"packed: {packed.path}, {size:.1f} MB", highlight=False, soft_wrap=True)
    return 0


COMMAND_OPTIONS: dict[str, Any] = {
    "demo": Demo,
    "preview": Preview,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "report": Report,
    "reproduce": Reproduce,
    "pack": Pack,
}
_ACTIONS: dict[str, Callable[[Any], int]] = {
    "demo": demo,
    "preview": preview,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "reproduce": reproduce,
    "pack": pack,
}
