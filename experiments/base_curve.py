"""What beginning at a base network is worth, on parts that it never learned: the same minutes from here and from there.

    python -m experiments.base_curve --parts parts.npz --base runs/base --out runs/curve --minutes 0 5 15

Trains preset ``quick`` on each part, every view of it, from each start and for each time, and compares the AUC on the
part's own test scenes, with and without refinement, image by image. What is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codepose.api import evaluate, train_stages
from codepose.networks.build import build_joint
from codepose.paper.comparison import Errors, auc_difference, read_errors
from codepose.parts.mesh import save_mesh
from codepose.runtime.run import Run
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.storage.replace import write_atomically
from codepose.training.initial import begin_with
from experiments.base_network import held_out
from experiments.parts.archive import Part, load_archive

STEP1 = 0.6
"""Share of a part's time for Step 1."""
ROWS = ("joint", "joint + refinement")


def chosen(parts: Sequence[Part], count: int, seed: int = 0) -> list[Part]:
    """Returns so many of the parts kept out, from as many families as there are."""
    rng = np.random.default_rng(seed)
    by_family: dict[str, list[Part]] = {}
    for place in rng.permutation(len(parts)):
        by_family.setdefault(parts[place].family, []).append(parts[place])
    rows = [[own[k] for own in by_family.values() if len(own) > k] for k in range(len(parts))]
    return [part for row in rows for part in row][:count]


def settings_for(mesh: Path, start: str, minutes: float, images: int, level: int) -> Settings:
    """Returns preset ``quick`` on one part, over all of SO(3), for so long."""
    changes: dict[str, Any] = {
        "objects.0.mesh": str(mesh),
        "objects.0.view_cone_deg": 180.0,
        "network.weights": start,
        "data.test_images": images,
        "codebook.level": level,
        "step1.time_limit": 60.0 * STEP1 * minutes,
        "step2.time_limit": 60.0 * (1.0 - STEP1) * minutes,
    }
    return override(load_preset("quick"), changes)


def measured(part: Part, start: str, minutes: float, folder: Path, images: int, level: int) -> dict[str, Errors]:
    """Trains and evaluates one run, or reads what it found; 0 minutes: the start itself, with a codebook."""
    table = folder / "evaluation" / "per_image.csv"
    if not (folder / "evaluation" / "results.json").is_file():
        with tempfile.TemporaryDirectory() as place:
            mesh = Path(place) / f"{part.mesh.name}.ply"
            save_mesh(part.mesh, mesh)
            run = Run.create(folder, settings_for(mesh, start, minutes, images, level), resume=True)
        if minutes > 0:
            train_stages(run, ["joint"], device="cpu")
        elif not run.has("step2"):
            network = build_joint(run.settings)
            begin_with(network, start)
            run.save_weights("step2", network)
        evaluate(run, ["joint"], refine=True, device="cpu")
    return read_errors(table)


def lines(found: dict[str, dict[str, dict[str, Errors]]], minutes: Sequence[float], base: str) -> list[str]:
    """Returns a table in Markdown: AUC from the hammer and from the base, and the difference with its interval.

    Args:
        found: By name of the part, by "start minutes", by method.
        minutes: Which were trained.
        base: The base's name in ``found``.
    """
    rows = ["| part | minutes | method | hammer | base | difference, 95 % |", "|---|---|---|---|---|---|"]
    for name, own in found.items():
        for time in minutes:
            for method in ROWS:
                a, b = own[f"{base} {time:g}"][method], own[f"hammer {time:g}"][method]
                gain = auc_difference([a], [b])
                shares = [float(np.mean(1.0 - one.vsd)) for one in (b, a)]
                spread = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
                rows.append(f"| {name} | {time:g} | {method} | {shares[0]:.3f} | {shares[1]:.3f} | {spread} |")
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="archive of parts, the one the base was trained on")
    parser.add_argument("--base", type=Path, required=True, help="run folder of the base network")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and table.md")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 15.0], help="of training; 0 = none")
    parser.add_argument("--count", type=int, default=5, help="parts")
    parser.add_argument("--names", nargs="+", help="which of those kept out, instead of so many")
    parser.add_argument("--held-out", type=int, default=6, help="families kept out, as the base was told")
    parser.add_argument("--level", type=int, default=3, help="icosphere subdivisions of the codebook; 2 = in a hurry")
    parser.add_argument("--images", type=int, default=120, help="test scenes of each part")
    return parser.parse_args()


def main() -> None:
    """Trains, evaluates, prints and writes the table, part by part."""
    options = _options()
    _, kept = held_out(load_archive(options.parts), options.held_out)
    starts = {"hammer": "hammer", "base": str(options.base.resolve())}
    found: dict[str, dict[str, dict[str, Errors]]] = {}
    named = [part for part in kept if part.mesh.name in (options.names or ())]
    for part in named or chosen(kept, options.count):
        own: dict[str, dict[str, Errors]] = {}
        for time in options.minutes:
            for name, start in starts.items():
                folder = options.out / f"{part.mesh.name}-{name}-{time:g}"
                folder.parent.mkdir(parents=True, exist_ok=True)
                own[f"{name} {time:g}"] = measured(part, start, time, folder, options.images, options.level)
                summary = json.loads((folder / "evaluation" / "results.json").read_text())["methods"]
                shown = "  ".join(f"{row} {summary[row]['auc_fraction']:.3f}" for row in ROWS)
                print(f"{part.mesh.name} ({part.family}) from {name}, {time:g} minutes: {shown}", flush=True)
        found[part.mesh.name] = own
        write_atomically(options.out / "table.md", "\n".join(lines(found, options.minutes, "base")) + "\n")
    print("\n".join(lines(found, options.minutes, "base")))


if __name__ == "__main__":
    main()
