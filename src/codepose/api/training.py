"""Training a run: what is asked for is checked before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codepose.api.evaluation import calibrate
from codepose.estimation.methods import METHODS, STAGES, Method
from codepose.runtime.devices import make_fabric
from codepose.runtime.extras import require_training
from codepose.runtime.ranks import world_size
from codepose.runtime.run import Run, RunError
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.synthesis.backgrounds import require_photos
from codepose.synthesis.placement import require_visible
from codepose.synthesis.world import World
from codepose.training.initial import require_initial
from codepose.training.memory import require_memory
from codepose.training.stages import FROM_STEP1, train_detector, train_original, train_step1

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_CALIBRATION_SCENES = 32
"""Validation scenes on which a training fits its confidence: in a cluttered one refined poses take ten seconds."""


def train(
    settings: Settings,
    out: str | Path,
    methods: Sequence[Method] = ("joint",),
    *,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    before: Callable[[World], None] | None = None,
) -> Run:
    """Trains networks on CAD parts and calibrates them: all that ``codepose train`` does.

    What cannot be trained is refused before anything is written. With several devices nothing is calibrated: call
    ``calibrate`` in one process afterwards.

    Args:
        settings: As ``load_preset`` returns them; ``objects`` names the CAD files.
        out: The run's folder; it must not hold a run unless ``resume`` is set.
        methods: Which of "joint", "extended", "original".
        resume: Goes on where the folder's run stopped, or begins it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``.
        before: Is shown the parts once all is checked, before anything is written.

    Returns:
        The trained run.

    Raises:
        ConfigError: Settings that cannot be trained, no method, more memory than there is, or no such device.
        MeshError: A CAD file that cannot be used.
        RunError: The folder holds another run, or another process trains it.
        StorageError: The disk is full; the run can be resumed.

    Warns:
        UserWarning: A network finds nothing yet, so it cannot be calibrated.
    """
    require_training("training")
    if not methods:
        raise ConfigError(f"methods: name one or more of {', '.join(METHODS)}")
    make_fabric(device, devices, nodes)  # with several devices, starts the other processes
    begun = resume and (Path(out) / "config.yaml").is_file()
    run = Run.create(out, settings, resume=True) if begun else None
    world = _trainable(run.settings if run else settings, nodes, begun=begun)
    if before is not None:
        before(world)
    run = run or Run.create(out, settings)
    train_stages(run, methods, device=device, devices=devices, nodes=nodes)
    if world_size() == 1:
        _calibrate(run, methods, device)
    return run


def _calibrate(run: Run, methods: Sequence[Method], device: str) -> None:
    """Fits the confidence of each method that finds something."""
    scenes = min(_CALIBRATION_SCENES, run.settings.data.val_images)
    for method in methods:
        try:
            calibrate(run, method, images=scenes, device=device, again=False)
        except RunError as error:
            warnings.warn(str(error))


def _trainable(settings: Settings, nodes: int, *, begun: bool) -> World:
    """Returns the parts of settings that can be trained, and refuses others; a begun run has its first weights."""
    require_memory(settings, nodes)
    if not begun:
        require_initial(settings)
    require_photos(settings.data)
    world = World(settings)
    require_visible(world)
    return world


def train_stages(
    run: Run, methods: Sequence[Method] = METHODS, *, device: str = "auto", devices: int = 1, nodes: int = 1
) -> None:
    """Trains, or goes on training, every stage that the methods need, joint network first.

    Args:
        run: Its settings say what and how. They are not checked again.
        methods: Which of "joint", "extended", "original".
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices, nodes: See ``make_fabric``; call that before ``Run.create`` where there are several.

    Raises:
        RunError: Another process trains the run.
        StorageError: The disk is full; the run can be resumed.
    """
    fabric = make_fabric(device, devices, nodes)
    with run.training():
        _train(run, {stage for method in methods for stage in STAGES[method]}, fabric)


def _train(run: Run, needed: set[str], fabric: Fabric) -> None:
    world = World(run.settings, fabric.device)
    if needed & {"step1", *FROM_STEP1}:
        extended = train_step1(run, world, fabric)
        for stage, train_on in FROM_STEP1.items():
            if stage in needed:
                train_on(run, world, fabric, extended)
    if "detector" in needed:
        train_detector(run, world, fabric)
    if "original" in needed:
        train_original(run, world, fabric)
