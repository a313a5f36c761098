"""Memory and time of the paper's cells on 1, 8 and 64 GPUs: computed, not measured.

Operations and the bytes that the backward pass keeps are counted here, on an iteration of one image; the speeds of GPU
and network are assumptions, printed with the table of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codepose.networks.precision import autocast
from codepose.paper.reproduce import fresh_stage
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.settings.training import Phase, StageSettings
from codepose.training.cost import measure
from codepose.training.plan import Stage, freeze

COUNTS = (1, 8, 64)
CELLS = {
    "joint, T1": ("step1", "step2"),
    "joint, T2": ("step1", "step2 in phases"),
    "extended": ("step1", "detector"),
    "original": ("original", "detector"),
}
FLOPS = 300e12
"""Operations a second in bf16: 30 % of an H100's peak."""
WITHIN, BETWEEN = 300e9, 50e9
"""Bytes a second of an all-reduce inside a machine of 8, and between machines with one 400 Gbit/s port each."""
_STATES = {"adabound": 2, "adam": 2, "adamw": 2, "sgd": 1, "muon": 1}


@dataclass(frozen=True)
class Load:
    """One stage's work: operations and kept bytes an image, kept bytes an iteration, parameters, and the plan."""

    flops: float
    kept: float
    fixed: float
    parameters: int
    plan: StageSettings
    items: int

    def batch(self, gpus: int) -> int:
        """Images an iteration: the settings', but one a GPU at least."""
        return max(self.plan.batch, gpus)

    def seconds(self, gpus: int) -> float:
        """Of the whole stage; nothing of the all-reduce is hidden behind the backward pass."""
        iterations = self.plan.epochs * self.items / self.batch(gpus)
        compute = math.ceil(self.batch(gpus) / gpus) * self.flops / FLOPS
        moved = 2.0 * (gpus - 1) / gpus * 4.0 * self.parameters
        return iterations * (compute + moved / (WITHIN if gpus <= 8 else BETWEEN))

    def memory(self, gpus: int) -> float:
        """Bytes of a GPU: weights, gradients, DDP's buckets, the optimiser's state, what the backward pass keeps."""
        copies = 2 + (gpus > 1) + _STATES[self.plan.optimizer.name]
        return 4.0 * copies * self.parameters + self.fixed + math.ceil(self.batch(gpus) / gpus) * self.kept


def load_of(settings: Settings, name: str) -> Load:
    """Counts one stage on the CPU: operations are the mean over its phases, bytes those of the fullest."""
    device = torch.device("cpu")
    stage = fresh_stage(settings, name, device)
    parameters = sum(p.numel() for p in stage.network.parameters())
    phases = stage.settings.phases or (Phase(epochs=1.0),)
    flops, kept, fixed = [], 0.0, 0.0
    for phase in phases:
        freeze(stage, phase)
        flops.append(phase.epochs * measure(stage, settings, device, batch=1).flops)
        one, two = (kept_bytes(stage, settings, images) for images in (1, 2))
        kept, fixed = max(kept, two - one), max(fixed, 2 * one - two)
    mean = sum(flops) / sum(phase.epochs for phase in phases)
    return Load(mean, kept, fixed, parameters, stage.settings, stage.items)


def kept_bytes(stage: Stage, settings: Settings, images: int) -> float:
    """Returns the bytes that the forward pass keeps for the backward pass: images and weights in bf16."""
    weights = {p.untyped_storage().data_ptr() for p in stage.network.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # alive, so that no address is used twice
        return tensor

    with torch.no_grad():
        batch = stage.batch(torch.arange(images), 1.0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), autocast(settings, torch.device("cpu")):
        stage.loss(stage.network, batch)
    return float(sum(size for size, _ in kept.values()))


def lines(loads: dict[tuple[str, int], Load]) -> list[str]:
    """Returns the table in Markdown."""
    heads = [f"{n} GPU{'s' if n > 1 else ''}" for n in COUNTS]
    found = [f"| cell | PFLOP | {' | '.join(heads)} |", "|---" * (2 + len(COUNTS)) + "|"]
    for latent in (128, 4096):
        for cell, names in CELLS.items():
            stages = [loads[name, latent] for name in names]
            work = sum(s.flops * s.plan.epochs * s.items for s in stages) / 1e15
            cells = []
            for gpus in COUNTS:
                memory = max(s.memory(gpus) for s in stages) / 2**30
                cells.append(f"{memory:.0f} GiB, {sum(s.seconds(gpus) for s in stages) / 3600:.2f} h")
            found.append(f"| {latent}-D, {cell} | {work:,.0f} | {' | '.join(cells)} |")
    return found


def main() -> None:
    """Prints what was counted, and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny networks: shows that it runs")
    quick = parser.parse_args().quick
    loads: dict[tuple[str, int], Load] = {}
    for latent in (128, 4096):
        settings = override(load_preset(f"paper-{latent}-t1"), {"precision": "bf16"})
        if quick:
            small = {"data.camera.image_size": 128, "data.camera.focal": 75.0, "data.camera.box_side": [20, 33]}
            settings = override(settings, small | {"network.width": 0.125, "network.crop": 32})
        phased = settings.step2.model_copy(update={"phases": load_preset(f"paper-{latent}-t2").step2.phases})
        for name in ("step1", "step2", "step2 in phases", "detector", "original"):
            shared = name in ("detector", "original") and latent == 4096
            own = settings.model_copy(update={"step2": phased}) if name == "step2 in phases" else settings
            load = loads[name, 128] if shared else load_of(own, name.split(" ")[0])
            loads[name, latent] = load
            if not shared:
                print(
                    f"{name}, {latent}-D: {load.flops / 1e9:.1f} GFLOP and {load.kept / 2**20:.0f} MiB an image, "
                    f"{load.fixed / 2**20:.0f} MiB an iteration, "
                    f"{load.parameters / 1e6:.1f} M parameters, {load.plan.epochs * load.items:,.0f} images"
                )
    print("\n".join(["", *lines(loads)]))


if __name__ == "__main__":
    main()
