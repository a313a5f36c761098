"""``python -m experiments.parts --out DIR``: several hundred parts in one archive; goes on where it was stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.parts import catalogue
from experiments.parts.archive import Part, load_archive, save_archive
from experiments.parts.draw import Draw
from experiments.parts.finish import RefusedError, any_turn, finished, turned
from experiments.parts.sheet import save_sheet
from experiments.parts.symmetric import confirmed_symmetries

MOST = {"machined": 5000, "freeform": 2400, "warehouse": 4500}  # faces
PACK_EVERY = 50  # parts
ON_SHEET = 196  # thumbnails


def main() -> int:
    """Make what is missing, then write DIR/parts.npz and DIR/sheet_*.png."""
    parser = argparse.ArgumentParser(prog="python -m experiments.parts", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the archive and of the single parts")
    parser.add_argument("--count", type=int, default=560, help="parts to make (default 560)")
    options = parser.parse_args()
    try:
        groups = catalogue.groups()
    except ImportError as error:
        print(f"{error.name} is missing; experiments/README.md says what to install", file=sys.stderr)
        return 1
    (options.out / "single").mkdir(parents=True, exist_ok=True)
    parts = make_all(groups, options.out, options.count)
    for first in range(0, len(parts), ON_SHEET):
        save_sheet([part.mesh for part in parts[first : first + ON_SHEET]], options.out / f"sheet_{first:04d}.png")
    return 0


def make_all(groups: dict[str, dict[str, catalogue.Maker]], out: Path, count: int) -> list[Part]:
    """Make parts in the catalogue's order until there are ``count``, and write the archive now and then."""
    parts: list[Part] = []
    known: dict[str, list[catalogue.Descriptor]] = {}
    for family, number in catalogue.order(groups):
        group = next(name for name, families in groups.items() if family in families)
        path = out / "single" / f"{family}-{number:03d}.npz"
        new = not path.exists()
        part = _made(groups[group][family], family, number, MOST[group], path)
        if part is None:
            continue
        shape = catalogue.descriptor(part.mesh)
        if catalogue.is_alike(shape, known.setdefault(family, [])):
            print(f"{family}-{number}: looks like one before it", flush=True)
            continue
        known[family].append(shape)
        parts.append(part)
        if len(parts) == count or (new and len(parts) % PACK_EVERY == 0):
            save_archive(parts, out / "parts.npz")
            print(f"{len(parts)} parts", flush=True)
        if len(parts) == count:
            return parts
    return parts


def _made(maker: catalogue.Maker, family: str, number: int, most: int, path: Path) -> Part | None:
    """A part, from its file if there is one, or None where it is or was refused; the file beside it says why."""
    refused = path.with_suffix(".txt")
    if refused.exists():
        return None
    if not path.exists():
        try:
            mesh = finished(catalogue.made(maker, family, number), path.stem, most=most)
            mesh = turned(mesh, any_turn(Draw(path.stem, number).rng))
            save_archive([Part(family, mesh, confirmed_symmetries(mesh))], path)
        except RefusedError as error:
            refused.write_text(f"{error}\n")
            print(f"{path.stem}: {error}", flush=True)
            return None
    return load_archive(path)[0]


if __name__ == "__main__":
    raise SystemExit(main())
