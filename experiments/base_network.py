"""Trains the base network: one joint network that knows parts, at which trainings on a user's part begin.

    python -m experiments.base_network --parts parts.npz --out runs/base --minutes 60

An interrupted training goes on with ``--resume``. What is in the run folder afterwards is a run as any other, of one
of the parts: ``--network.weights runs/base`` begins there.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.utils import save_image

from codepose.networks.autoencoder import ExtendedAutoencoder
from codepose.networks.build import build_extended
from codepose.parts.mesh import save_mesh
from codepose.runtime.checkpoint import load_state, save_state
from codepose.runtime.devices import make_fabric
from codepose.runtime.progress import Display
from codepose.runtime.run import Run, RunError, pretrained
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_run_settings
from codepose.settings.schema import Settings
from codepose.storage.replace import replacing
from codepose.synthesis.world import World
from codepose.training.initial import begin_with
from codepose.training.loop import fit
from experiments.base_stages import PartSource, base_settings, build_base, crops_stage, models_of, picture, scenes_stage
from experiments.parts.archive import Part, load_archive

STEP1 = 0.45
"""Share of the time for Step 1."""
LAST_SECONDS = 10.0
"""Kept for the last pictures."""
_FROZEN = ".encoder.model."
"""In the names of the weights of a timm backbone, whose norms' variances may be too small for float16."""
DEFAULTS = {"cuda": (512, 64, 500), "cpu": (32, 8, 50)}
"""Crops and scenes of an iteration, and iterations between checkpoints."""


def held_out(parts: Sequence[Part], families: int, seed: int = 0) -> tuple[list[Part], list[Part]]:
    """Divides the parts: all of some families are kept out of training, at most a fifth of all parts.

    Returns:
        Those to train on, and those kept out.
    """
    names = sorted({part.family for part in parts})
    out: set[str] = set()
    for name in np.random.default_rng(seed).permutation(names):
        if len(out) == families:
            break
        if sum(part.family in out | {name} for part in parts) <= len(parts) / 5:
            out.add(str(name))
    kept = [part for part in parts if part.family in out]
    if not kept:
        raise SystemExit(f"no {families} of the {len(names)} families hold a fifth of the parts or less: add parts")
    return [part for part in parts if part.family not in out], kept


class KeptRun(Run):
    """A run folder of which every checkpoint leaves a small copy elsewhere, itself a run folder, as one tar file.

    Attributes:
        copy: The file, or None. What was learned is float16; it holds no optimiser's state.
        heads: A joint network's run, with whose decoder, FC layers and detector's heads it begins; None = at random.
    """

    copy: Path | None = None
    heads: str | None = None

    def save_checkpoint(self, stage: str, state: dict[str, Any]) -> None:
        """Writes a stage's whole training state, and the copy."""
        super().save_checkpoint(stage, state)
        self.keep({stage: state["network"]})

    def keep(self, weights: dict[str, dict[str, torch.Tensor]]) -> None:
        """Writes the copy, with weights by stage."""
        if self.copy is None:
            return
        patterns = ("config.yaml", "meshes/*", "*.png", "*/metrics.jsonl")
        files = [path for pattern in patterns for path in self.path.glob(pattern)]
        with tempfile.TemporaryDirectory() as folder, replacing(self.copy) as new:
            for stage, tensors in weights.items():
                (Path(folder) / stage).mkdir()
                half = {
                    k: v.half() if torch.is_floating_point(v) and _FROZEN not in k else v for k, v in tensors.items()
                }
                save_state(Path(folder) / stage / "weights.safetensors", half)
            with tarfile.open(new, "w") as tar:
                for path in files:
                    tar.add(path, Path("base") / path.relative_to(self.path))
                for path in Path(folder).glob("*/*"):
                    tar.add(path, Path("base") / path.relative_to(folder))


def train(run: KeptRun, world: World, device: str, trained: range, kept: range) -> None:
    """Trains, or goes on training, both steps."""
    settings, fabric = run.settings, make_fabric(device)
    torch.manual_seed(settings.seed)
    extended = build_extended(settings)
    if run.has("step1"):
        run.load_weights("step1", extended)
    else:
        if not run.begun("step1"):
            begin_with(extended, settings.network.weights)
            _begin_behind_encoder(extended, run.heads)
        stage = crops_stage(settings, world, extended, trained, kept)
        fit(stage, run, fabric, seed=settings.seed, display=Display("step 1"))
        run.keep({"step1": extended.state_dict()})
    torch.manual_seed(settings.seed + 1)
    joint = build_base(settings)
    _begin_behind_encoder(joint, run.heads)
    joint.autoencoder.load_state_dict(extended.state_dict())
    if run.has("step2"):
        run.load_weights("step2", joint)
        joint.to(fabric.device)
    else:
        stage = scenes_stage(settings, world, joint, trained, kept)
        fit(stage, run, fabric, seed=settings.seed, display=Display("step 2"))
    joint.eval()
    rows = [picture(settings, world, joint, parts) for parts in (trained, kept)]
    save_image(torch.cat(rows), run.path / "reconstructions.png", nrow=len(rows[0]) // 3)
    run.keep({"step1": extended.state_dict(), "step2": joint.state_dict()})


def _begin_behind_encoder(network: nn.Module, weights: str | None) -> None:
    """Loads all that is behind another joint network's encoder, which may be another one."""
    if weights is None:
        return
    state = load_state(Run.open(pretrained().get(weights, weights)).path / "step2" / "weights.safetensors")
    if isinstance(network, ExtendedAutoencoder):
        state = {key.removeprefix("autoencoder."): value for key, value in state.items()}
    own = network.state_dict()
    behind = {k: v for k, v in state.items() if k in own and not k.startswith(("encoder.", "autoencoder.encoder."))}
    network.load_state_dict(behind, strict=False)


def prepared(options: argparse.Namespace, began: float) -> tuple[KeptRun, World, range, range]:
    """Loads the parts, starts the renderer, and makes or opens the run folder."""
    parts, kept = held_out(load_archive(options.parts), options.held_out)
    print(f"{len(parts)} parts to train on, {len(kept)} of {options.held_out} families kept out", flush=True)
    every = [*parts, *kept]
    with tempfile.TemporaryDirectory() as folder:
        mesh = Path(folder) / "part.ply"
        save_mesh(every[0].mesh, mesh)
        settings = _settings(options, str(mesh), (1.0, 1.0))
        world = World(settings, make_fabric(options.device).device, models_of(every, settings))
        _told("loaded", began)
        ranges = range(len(parts)), range(len(parts), len(every))
        for part, split in zip(ranges, ("train", "val"), strict=True):  # compiles kernels, draws textures
            source = PartSource(world, split, part)  # type: ignore[arg-type]
            source.crops(torch.arange(8))
            source.scenes(torch.arange(8))
        _told("pictures come", began)
        left = 60.0 * options.minutes - LAST_SECONDS - (time.monotonic() - began)
        config = options.out / "config.yaml"
        if options.resume and config.exists():
            settings = load_run_settings(config)
        else:
            settings = _settings(options, str(mesh), (STEP1 * left, (1.0 - STEP1) * left))
        run = KeptRun.create(options.out, settings, resume=options.resume)
    run.copy, run.heads = options.copy, options.heads
    return run, world, *ranges


def _settings(options: argparse.Namespace, mesh: str, seconds: tuple[float, float]) -> Settings:
    rates = (options.crop_rate, options.scene_rate)
    batches = {"crops": options.crops, "scenes": options.scenes, "every": options.checkpoint_every}
    return base_settings(options.preset, mesh, **batches, rates=rates, seconds=seconds)


def _told(what: str, began: float) -> None:
    print(f"{what} after {time.monotonic() - began:.1f} s", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="archive of parts")
    parser.add_argument("--preset", choices=("quick", "photos"), default="photos", help="whose base it is to be")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--minutes", type=float, required=True, help="in all, from the start of the program")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="go on with a run as it was begun")
    parser.add_argument(
        "--copy", type=Path, help="tar file that every checkpoint leaves, without the optimiser's state"
    )
    parser.add_argument("--heads", help="run of a base with another backbone, from which all behind it is taken")
    parser.add_argument("--held-out", type=int, default=6, help="families of parts kept out of training")
    parser.add_argument("--crops", type=int, help="a batch of Step 1: 512 on a GPU, 32 on a CPU")
    parser.add_argument("--scenes", type=int, help="a batch of Step 2: 64, 8")
    parser.add_argument("--checkpoint-every", type=int, help="iterations: 500, 50")
    parser.add_argument("--crop-rate", type=float, default=3e-3, help="learning rate of Step 1")
    parser.add_argument("--scene-rate", type=float, default=2e-3, help="learning rate of Step 2")
    options = parser.parse_args()
    defaults = DEFAULTS[torch.device(options.device).type]
    for name, value in zip(("crops", "scenes", "checkpoint_every"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Trains what the command line says."""
    began, options = time.monotonic(), _options()
    try:
        run, world, trained, kept = prepared(options, began)
        with run.training():
            train(run, world, options.device, trained, kept)
    except (RunError, ConfigError, OSError) as error:
        raise SystemExit(str(error)) from None
    _told("done", began)


if __name__ == "__main__":
    main()
