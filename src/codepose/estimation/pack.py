"""Makes a trained run small enough to hand on: float16 weights, codebooks, no logs."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from codepose.estimation.methods import STAGES, Method, load_codebooks, load_pipeline
from codepose.runtime.checkpoint import load_state, save_state
from codepose.runtime.run import Run, RunError
from codepose.settings.files import load_run_settings, override, save_run_settings


def pack(
    run: Run,
    out: Path,
    methods: Sequence[Method] = ("joint",),
    *,
    codebook_level: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Run:
    """Writes a run folder that holds only what inference needs, at half the size.

    Weights are rounded to float16 (about three digits); the codebooks are built from the rounded weights, so that both
    fit each other. Evaluate the packed run to see what the rounding costs.

    Args:
        run: Trained.
        out: New folder.
        methods: Which methods to keep.
        codebook_level: Icosphere subdivisions of the packed codebook, each one less a quarter of the size; None = the
            run's own. Refinement makes up for most of what a coarse one loses.
        progress: Is told, while a codebook is built, which share of it is there.

    Returns:
        The packed run.

    Raises:
        RunError: ``out`` exists, or a method is not trained.
    """
    if out.exists():
        raise RunError(f"{out} exists: choose another folder")
    missing = sorted({s for m in methods for s in STAGES[m] if not run.has(s)})
    if missing:
        raise RunError(f"{run.path} has no finished {', '.join(missing)}: finish it with `codepose train ... --resume`")
    settings = load_run_settings(run.path / "config.yaml")
    if codebook_level is not None:
        settings = override(settings, {"codebook.level": codebook_level})
    out.mkdir(parents=True)
    save_run_settings(out / "config.yaml", settings)
    if (run.path / "meshes").is_dir():
        shutil.copytree(run.path / "meshes", out / "meshes")
    packed = Run.open(out)
    for stage in sorted({s for m in methods for s in STAGES[m]}):
        weights = load_state(run.path / stage / "weights.safetensors")
        half = {k: v.half() if torch.is_floating_point(v) else v for k, v in weights.items()}
        save_state(packed.stage(stage) / "weights.safetensors", half)
    for method in methods:
        load_codebooks(packed, method, load_pipeline(packed, method, torch.device("cpu")), progress=progress)
    return packed


def unpack(run: Run, out: Path) -> Run:
    """Copies a run to a folder in which results can be written; results that are there already stay.

    Raises:
        RunError: The folder holds something else.
    """
    if not (out / "config.yaml").is_file():
        if out.exists() and any(out.iterdir()):
            raise RunError(f"{out} exists, is not empty, and holds no run: choose another --out")
        shutil.copytree(run.path, out, dirs_exist_ok=True)
    originals = [run.path / "config.yaml", *run.path.glob("*/weights.safetensors")]
    copies = [(path, out / path.relative_to(run.path)) for path in originals]
    if not all(copy.is_file() and filecmp.cmp(path, copy, shallow=False) for path, copy in copies):
        raise RunError(f"{out} holds another run, or an older one: remove it, or choose another --out")
    return Run.open(out)
