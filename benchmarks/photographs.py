"""Photographs with ground truth: how good the poses of parts are that nobody tuned for, and which step fails.

Each part is learned as ``codepose mesh --K --distance`` says, by the default preset and in a fixed time, and judged
on its photos: BOP's average recalls, and the chain of causes, step by step. The photographs are a folder of BOP
folders, which does not come with codepose. What is done is kept in the output folder: the same command goes on there.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from PIL import Image

import codepose
from benchmarks.environment import describe
from benchmarks.photograph_judge import Measured, measure
from benchmarks.photograph_parts import HEADLINE, PARTS, Part
from benchmarks.photograph_tables import Row, by_instance, differences, read_rows, summary, table, to_csv
from codepose.bop.entries import BopError
from codepose.cameras.camera_entries import CameraError
from codepose.parts.mesh import MeshError
from codepose.reports import draw
from codepose.runtime.provenance import identity
from codepose.runtime.run import Run, RunError
from codepose.settings.errors import ConfigError
from codepose.storage.replace import write_atomically

_STEP1 = 0.6
"""Share of the time that Step 1 gets, Step 2 the rest."""
_INSTANCES = "instances.csv"
_TINY = (
    "--data.step1-images 8 --data.scene-images 4 --data.val-images 2 --data.textures 4 --step1.batch 4 --step2.batch 2 "
    "--network.backbone vgg16 --network.no-frozen --network.weights none --network.width 0.125 --network.latent 16 "
    "--codebook.level 1 --codebook.in-plane 4 "
    "--losses.look-alikes 0 --refinement.judged 4 --refinement.looks 2 --refinement.rounds 1"
)
"""Trains in seconds, and learns nothing."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Annotated[Path, tyro.conf.Positional] = Path("../shared/data/real")
    """Folder of BOP folders."""
    out: Path = Path("runs/photographs")
    """Where trained networks, what is measured and the tables are kept."""
    parts: str = ",".join(HEADLINE)
    """Which parts, with commas; "all" = every part there is."""
    seeds: str = "0"
    """Of the trainings, with commas."""
    minutes: float = 20.0
    """Of training a part, both steps together."""
    more: str = ""
    """Further options of codepose train, for experiments: "--objects.0.view-cone-deg 180"."""
    runs: Path | None = None
    """Train nothing: a folder of trained runs, PART-SEED."""
    compare: Path | None = None
    """The output folder of another measurement: differences, instance by instance, are added."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quick: bool = False
    """Networks that learn nothing: shows that everything runs."""


def main(arguments: list[str] | None = None) -> int:
    """Trains what is not trained, measures what is not measured, and writes the tables; returns the exit status."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    try:
        _run(options)
    except (BopError, CameraError, ConfigError, MeshError, RunError, OSError) as error:
        print(f"photographs: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: Options) -> None:
    chosen = _chosen(options.parts)
    seeds = _seeds(options.seeds)
    others = None if options.compare is None else _read(options.compare / _INSTANCES)  # refused before all the work
    results: dict[str, Measured] = {}
    for seed in seeds:
        for name in chosen:
            run = _trained(options, name, seed)
            results[f"{name}-{seed}"] = _measured(options, name, seed, run)
            _write(options, results, others)
    rows = [row for one in results.values() for row in one.rows]
    times = ", ".join(f"{run} {1e3 * float(np.median(one.seconds)):,.0f}" for run, one in results.items())
    print(f"\n{table(summary(rows))}\n\nms a photo: {times}")
    if others is not None:
        against = differences(rows, others)
        said = table(against, signed=True) if against else "no instance was measured in both"
        print(f"\nagainst {options.compare}:\n\n{said}")
    print(f"\nwrote {options.out / 'results.json'}, {_INSTANCES}, parts.csv and sheet.png")


def _chosen(text: str) -> list[str]:
    names = list(PARTS) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise ConfigError(f"there is no part {', '.join(map(repr, unknown))}; there are {', '.join(PARTS)}")
    return names


def _seeds(text: str) -> list[int]:
    if not all(word.isdecimal() for word in text.split(",")):
        raise ConfigError(f"--seeds takes numbers with commas, such as 0,1, not {text!r}")
    return [int(word) for word in text.split(",")]


def training_words(part: Part, data: Path, seed: int, minutes: float, more: str = "") -> list[str]:
    """Returns the options of ``codepose train``: the part's file, what ``codepose mesh`` says, seed and time.

    Raises:
        BopError: The part's folder is missing or damaged.
    """
    limits = {"step1": _STEP1, "step2": 1.0 - _STEP1}
    return [
        str(part.dataset(data).models[part.obj_id].path),
        *part.framing(data).options(),
        *("--seed", f"{seed}", "--data.seed", f"{seed}"),
        *(word for step, share in limits.items() for word in (f"--{step}.time-limit", f"{60 * minutes * share:g}")),
        *shlex.split(more),
    ]


def _trained(options: Options, name: str, seed: int) -> Path:
    """The folder of a trained run; trains it where it is not yet trained."""
    if options.runs is not None:
        return options.runs / f"{name}-{seed}"
    run = options.out / "runs" / f"{name}-{seed}"
    if (run / "config.yaml").is_file() and Run.open(run).has("step2"):
        return run
    more = f"{_TINY} {options.more}" if options.quick else options.more
    words = training_words(PARTS[name], options.data, seed, options.minutes, more)
    command = ["train", *words, "--out", str(run), "--resume", "--device", options.device]
    print(f"{name}-{seed}: codepose {shlex.join(command)}", flush=True)
    if subprocess.run([sys.executable, "-m", "codepose", *command]).returncode != 0:
        raise RunError(f"{run}: its training ended early; type the same command again to go on")
    return run


def _measured(options: Options, name: str, seed: int, run: Path) -> Measured:
    """What a run does on its photographs; read where the same code has measured the same run already."""
    part, folder = PARTS[name], options.out / "measured" / f"{name}-{seed}"
    tiles = part.framing(options.data).tiles
    key = {"code": _code(), "run": identity(Run.open(run))["sha256"], "tiles": tiles, "part": repr(part)}
    kept = _kept(folder, key)
    if kept is not None:
        return kept
    found = measure(name, seed, part, run, options.data, tiles, options.device)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "measured.json").unlink(missing_ok=True)  # where it is, all the rest is there
    for place, picture in enumerate(found.pictures):
        write_atomically(folder / f"{place:03d}.png", draw.to_png(picture))
    values = {"key": key, "rows": [row.to_flat() for row in found.rows], "seconds": found.seconds}
    write_atomically(folder / "measured.json", json.dumps(values, indent=1) + "\n")
    numbers = {k: v.mean for k, v in summary(found.rows)["all"].items()}
    print(f"{name}-{seed}: {len(found.rows)} instances, " + ", ".join(f"{k} {v:.3f}" for k, v in numbers.items()))
    return found


def _kept(folder: Path, key: dict[str, Any]) -> Measured | None:
    try:
        values = json.loads((folder / "measured.json").read_text())
    except (OSError, ValueError):
        return None
    if values["key"] != key:
        return None
    files = sorted(folder.glob("*.png"))[: len(values["seconds"])]
    rows = [Row.from_flat(flat) for flat in values["rows"]]
    return Measured(rows, values["seconds"], [np.asarray(Image.open(file)) for file in files])


def _code() -> str:
    """A hash of the code that measures: what other code has measured is measured anew."""
    digest = hashlib.sha256()
    package = Path(codepose.__file__).parent
    for path in sorted([*package.rglob("*.py"), *Path(__file__).parent.glob("photograph*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> list[Row]:
    try:
        return read_rows(path.read_text())
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path} is no table of instances of this benchmark ({error}): measure it again") from None


def _write(options: Options, results: dict[str, Measured], others: list[Row] | None) -> None:
    """Writes the tables and the sheet of what is measured so far."""
    rows = [row for one in results.values() for row in one.rows]
    numbers = summary(rows)
    milliseconds = {run: 1e3 * float(np.median(one.seconds)) for run, one in results.items()}
    runs = {run: {k: v.mean for k, v in summary(one.rows)["all"].items()} for run, one in results.items()}
    values = {
        "environment": describe(torch.device("cpu"), torch.get_num_threads(), quick=options.quick),
        "minutes": None if options.runs else options.minutes,
        "more": options.more,
        "instances": {part: len(own) for part, own in by_instance(rows).items()},
        "parts": {part: {k: v._asdict() for k, v in own.items()} for part, own in numbers.items()},
        "runs": {run: {**own, "ms a photo": milliseconds[run]} for run, own in runs.items()},
    }
    if others is not None:
        against = {part: {k: v._asdict() for k, v in own.items()} for part, own in differences(rows, others).items()}
        values["differences"] = {"from": str(options.compare), "parts": against}
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / _INSTANCES, to_csv(row.to_flat() for row in rows))
    parts = [{"run": run, "ms a photo": milliseconds[run], **own} for run, own in runs.items()]
    write_atomically(options.out / "parts.csv", to_csv(parts))
    write_atomically(options.out / "results.json", json.dumps(values, indent=1) + "\n")
    write_atomically(options.out / "sheet.png", draw.to_png(_sheet(results)))


def _sheet(results: dict[str, Measured]) -> draw.Picture:
    """All photos, a row a run."""
    strips = []
    for run, one in results.items():
        numbers = summary(one.rows)["all"]
        right = sum(row.recalls.mspd_20 for row in one.rows)
        label = f"{run}: AR {numbers['AR'].mean:.2f}, {right:.0f} of {len(one.rows)} within 20 px"
        images = torch.stack([torch.from_numpy(p).permute(2, 0, 1).float() / 255.0 for p in _alike(one.pictures)])
        strips.append((f"{label}; white: true, green: right, red: wrong", images))
    return draw.contact_sheet(strips)


def _alike(pictures: list[draw.Picture]) -> list[draw.Picture]:
    """Pictures of one height, the lower ones white below."""
    height = max(picture.shape[0] for picture in pictures)
    return [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in pictures]


if __name__ == "__main__":
    sys.exit(main())
