"""What each command does: a few lines over a public function."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from codepose.cli import options as o
from codepose.cli.chosen import with_meshes
from codepose.cli.hub import pull, push
from codepose.cli.results_table import results_tables
from codepose.runtime.complaints import complain
from codepose.runtime.extras import require_training
from codepose.runtime.outcome import Outcome
from codepose.serve.options import Serve
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_preset, override

if TYPE_CHECKING:
    from codepose.synthesis.world import World

_console = Console(highlight=False)
_DEMO_SCENES = 24
"""Scenes on which a demo shows what its networks find: refined poses take seconds."""
_DEMO_CALIBRATION = 16
"""Scenes on which it fits its confidence."""
_DEMO_SECONDS = {"step1": 100.0, "step2": 150.0, "detector": 80.0, "original": 80.0}
"""What the demo's stages may take; on a slower machine they learn less."""


def demo(options: o.Demo) -> Outcome:
    """Runs the whole loop on the built-in hammer, or shows the network that is trained already."""
    require_training("the demo")
    if options.pretrained:
        return _demo_pretrained(options)
    from codepose import api
    from codepose.estimation.methods import METHODS
    from codepose.runtime.run import Run, RunError

    changes: dict[str, Any] = {f"{stage}.time_limit": seconds for stage, seconds in _DEMO_SECONDS.items()}
    settings = override(load_preset("quick"), changes)
    methods = ("joint",) if options.joint_only else METHODS
    run = Run.create(options.out or Path("runs/demo"), settings, resume=True)
    api.train_stages(run, methods, device=options.device)
    try:
        api.calibrate(run, images=_DEMO_CALIBRATION, device=options.device, again=False)
    except RunError as error:  # one that finds nothing yet is no reason to fail
        complain(f"codepose: {error}")
    wanted = [m for m in api.trained_methods(run) if m in methods]
    evaluation = api.evaluate(run, wanted, images=_DEMO_SCENES, refine=["joint"], device=options.device)
    _print_evaluation(evaluation.summary, run.path)
    return Outcome(evaluation.summary)


def _demo_pretrained(options: o.Demo) -> Outcome:
    from codepose import api
    from codepose.estimation.pack import unpack
    from codepose.runtime.run import Run, pretrained

    # results are written beside the run's weights: not into the installed package
    run = unpack(Run.open(pretrained()["hammer"]), options.out or Path("runs/pretrained"))
    evaluation = api.evaluate(run, images=_DEMO_SCENES, refine=True, device=options.device)
    _print_evaluation(evaluation.summary, run.path)
    return Outcome(evaluation.summary)


def preview(options: o.Preview) -> Outcome:
    """Writes a contact sheet."""
    from PIL import Image

    from codepose import api

    settings = with_meshes(options.settings, options.meshes, options.unit, options.body)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with _console.status("rendering"):
        sheet = api.preview(settings, count=options.count, difficulty=options.difficulty)
    Image.fromarray(sheet).save(options.out)
    _console.out(f"wrote {options.out}")
    return Outcome({"sheet": options.out})


def train(options: o.Train) -> Outcome:
    """Trains a run."""
    from codepose import api
    from codepose.runtime.devices import make_fabric
    from codepose.runtime.ranks import rank, world_size

    require_training("training")
    make_fabric(options.device, options.devices, options.nodes)  # starts the other processes
    _console.quiet = rank() > 0
    settings = with_meshes(options.settings, options.meshes, options.unit, options.body)
    if options.resume and not (options.out / "config.yaml").is_file():
        _console.out(f"{options.out} holds no run yet: it is begun there")
    run = api.train(
        settings,
        options.out,
        options.methods,
        resume=options.resume,
        device=options.device,
        devices=options.devices,
        nodes=options.nodes,
        before=_describe,
    )
    for method in options.methods if world_size() > 1 else ():
        words = ["codepose", "calibrate", str(run.path), "--method", method]
        _console.out(f"not calibrated: type {shlex.join(words)}")
    _console.out(f"trained: {run.path}")
    _console.out(f"next: {shlex.join(['codepose', 'evaluate', str(run.path), '--refine'])}")
    which = [] if "joint" in options.methods else ["--method", options.methods[0]]
    command = ["codepose", "predict", str(run.path), "photo.png", "--K", "fx,fy,cx,cy", *which]
    _console.out(f"      {shlex.join(command)}")
    return Outcome({"run": run.path, "methods": options.methods})


def _describe(world: World) -> None:
    """Says which parts are trained, from which sides, and at which weights the training begins."""
    for model in world.objects:
        size = " x ".join(f"{v:.0f}" for v in model.mesh.extents)
        _console.out(f"{model.label}: {size} mm, {len(model.mesh.faces)} faces")
        if model.cone_deg < 180:
            axis = ", ".join(f"{v:.0f}" for v in model.axis.tolist())
            both = " and its opposite" if model.opposite else ""
            _console.out(
                f"  only views within {model.cone_deg:.0f} degrees of direction ({axis}){both} are learned: type "
                "--objects.0.view-direction X Y Z for another side, --objects.0.view-opposite for the other side as "
                "well, --objects.0.view-cone-deg 180 for all (longer)"
            )
    network = world.settings.network
    if network.weights == "imagenet":
        _console.out(f"begins at {network.backbone} as it was learned from photographs (ImageNet)")
    elif network.weights != "none":
        _console.out(f"begins at the weights of {network.weights}; type --network.weights none to begin at random ones")


def calibrate(options: o.Calibrate) -> Outcome:
    """Fits the confidence of a trained run."""
    from codepose import api

    fitted = api.calibrate(options.run, options.method, images=options.images, device=options.device)
    named = {"refined" if refined else "plain": confidence for refined, confidence in fitted.items()}
    for name, confidence in named.items():
        _console.out(f"{name}: {confidence.correct} of {confidence.detections} detections were right")
    return Outcome({name: confidence.model_dump(mode="json") for name, confidence in named.items()})


def evaluate(options: o.Evaluate) -> Outcome:
    """Evaluates a run and prints its table."""
    from codepose import api
    from codepose.runtime.ranks import rank

    if options.bop is not None:
        from codepose.cli.bop_commands import evaluate as evaluate_bop

        return evaluate_bop(options, options.bop)
    if options.camera:
        raise ConfigError("--camera goes with --bop: it is the settings' own camera that sees the synthetic scenes")
    if options.tiles != 1:
        raise ConfigError("--tiles goes with --bop: the synthetic scenes have the network's own scale")
    if options.obj_ids:
        raise ConfigError("--obj-ids goes with --bop: the synthetic scenes hold the run's own objects")
    done = api.evaluate(
        options.run,
        options.methods or None,
        images=options.images,
        split=options.split,
        refine=options.refine,
        depth=options.depth,
        device=options.device,
        devices=options.devices,
        nodes=options.nodes,
    )
    if rank() == 0:
        _print_evaluation(done.summary, options.run)
    return Outcome(done.summary)


def mesh(options: o.MeshDoctor) -> Outcome:
    """Looks a CAD file over."""
    from codepose.cli.mesh_doctor import mesh as look

    return look(options)


def render(options: o.Render) -> Outcome:
    """Writes a BOP dataset."""
    from codepose.cli.bop_commands import render as write

    return write(options)


def predict(options: o.Predict) -> Outcome:
    """Predicts on photos, folders, videos or a webcam."""
    from codepose.predict.prediction import predict_images

    return predict_images(options)


def bag(options: o.Bag) -> Outcome:
    """Predicts on a ROS bag's images."""
    from codepose.cli.bag import bag as look_through

    return look_through(options)


def serve(options: Serve) -> Outcome:
    """Answers over HTTP."""
    from codepose.serve.command import serve as answer

    return answer(options)


def settings(options: o.ShowSettings) -> Outcome:
    """Prints settings."""
    from codepose.cli.settings_page import show

    return show(options)


def report(options: o.Report) -> Outcome:
    """Prints what ``evaluate`` found."""
    from codepose import api
    from codepose.evaluation.results import read_summary
    from codepose.runtime.run import Run, RunError

    run = Run.open(options.run)
    path = run.path / "evaluation" / "results.json"
    if not path.is_file():
        run.require_own()
        if not api.trained_methods(run):
            raise RunError(f"{options.run} is not trained to the end: type {run.resume_command}")
        again = shlex.join(["codepose", "evaluate", str(options.run)])
        raise RunError(f"{options.run} has not been evaluated: type {again}")
    summary = read_summary(path)
    _print_evaluation(summary, run.path)
    return Outcome(summary)


def _print_evaluation(summary: dict[str, Any], run: Path) -> None:
    """Prints the tables of an evaluation, and where its report is."""
    for table in results_tables(summary):
        _console.print(table, highlight=True)
    _console.out(f"report: {run / 'report.html'}")


def reproduce(options: o.Reproduce) -> Outcome:
    """Runs the paper's experiment."""
    require_training("the experiment")
    from codepose.paper.reproduce import reproduce as run_experiment

    return run_experiment(options)


def pack(options: o.Pack) -> Outcome:
    """Packs a run."""
    from codepose.estimation.pack import pack as pack_run
    from codepose.runtime.progress import shown_if_any
    from codepose.runtime.run import Run

    with shown_if_any("codebook") as progress:
        run = Run.open(options.run)
        packed = pack_run(run, options.out, codebook_level=options.codebook_level, progress=progress)
    size = sum(p.stat().st_size for p in packed.path.rglob("*") if p.is_file())
    _console.out(f"packed: {packed.path}, {size / 1e6:.1f} MB")
    # the rounded weights and the coarser codebook are another network: the run's own calibration is not theirs
    _console.out(f"next: {shlex.join(['codepose', 'calibrate', str(packed.path)])}")
    return Outcome({"run": packed.path, "bytes": size})


def export(options: o.Export) -> Outcome:
    """Writes an ONNX file, or a folder for ``codepose-runtime``."""
    if not options.out.suffix:
        return _export_folder(options)
    from codepose import api

    with _console.status("writing the graph and comparing it with PyTorch: half a minute"):
        done = api.export(options.run, options.out)
    _console.out(f"wrote {done.path}, {done.path.stat().st_size / 1e6:.1f} MB")
    agree = f"{done.detections} detections in {done.scenes} scenes, boxes within {done.difference:.2g} px of PyTorch's"
    _console.out(f"checked with ONNX Runtime: {agree}")
    _console.out(f"in: image (1, 3, {done.image_size}, {done.image_size}), camera (3, 3)")
    _console.out(f"out: {', '.join(done.outputs)}")
    _console.out("poses are not refined; docs/deployment.md says what that costs")
    return Outcome(vars(done))


def _export_folder(options: o.Export) -> Outcome:
    from codepose.estimation.runner_folder import export_run

    with _console.status("writing graphs, codebooks and meshes: a minute"):
        export_run(options.run, options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file())
    _console.out(f"wrote {options.out}, {size / 1e6:.1f} MB")
    _console.out(f"next: {shlex.join(['codepose-runtime', str(options.out), 'photo.png', '--K', 'fx,fy,cx,cy'])}")
    return Outcome({"folder": options.out, "bytes": size})


def completion(options: o.Completion) -> Outcome:
    """Prints a shell's script."""
    from codepose.cli.completion import complete

    return complete(options)


ACTIONS: dict[str, Callable[[Any], Outcome]] = {
    "demo": demo,
    "mesh": mesh,
    "preview": preview,
    "settings": settings,
    "train": train,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "predict": predict,
    "bag": bag,
    "serve": serve,
    "report": report,
    "reproduce": reproduce,
    "pack": pack,
    "export": export,
    "push": push,
    "pull": pull,
    "render": render,
    "completion": completion,
}
