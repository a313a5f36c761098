"""The mesh doctor: looks a CAD file over before training, draws it, and writes a mended copy."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codepose.apps.options import MeshDoctor

if TYPE_CHECKING:
    from codepose.synthesis.inspection import MeshReport

_console = Console(highlight=False)


def mesh(options: MeshDoctor) -> int:
    """Prints what is to know about a CAD file and draws it; returns 1 where its unit cannot be right.

    Raises:
        MeshError: The file cannot be read, holds no surface, or --save names no PLY file, or the file itself.
    """
    from PIL import Image

    from codepose.evaluation.six_views import six_views
    from codepose.synthesis.decimation import decimate
    from codepose.synthesis.inspection import inspect
    from codepose.synthesis.mesh import MeshError, save_mesh
    from codepose.synthesis.shapes import resolve

    if options.save is not None and options.save.suffix.lower() != ".ply":
        raise MeshError(f"{options.save}: type --save NAME.ply; only PLY files are written")
    if options.save is not None and options.save.resolve() == options.mesh.resolve():
        raise MeshError(f"--save {options.save} is the CAD file itself, whose frame would be lost: name another file")
    report = inspect(options.mesh, options.unit)
    _print_report(report)
    if not report.usable:
        return 1
    centered = options.center or options.save is None  # the sheet shows it in the middle, wherever it lies
    part = decimate(resolve(options.mesh, unit=report.unit, center=centered), options.faces)
    if options.center:
        part = part.moved(-part.center)
    title = f"{part.name}: {_size(report.size)} mm, {len(part.faces):,} faces"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(six_views(part, title)).save(options.out)
    _console.out(f"wrote {options.out}")
    if options.save is not None:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        save_mesh(part, options.save)
        _console.out(f"wrote {options.save}: {len(part.faces):,} faces, mm")
    _console.out(f"train: {_training_line(options, report)}")
    return 0


def _training_line(options: MeshDoctor, report: MeshReport) -> str:
    """The command that trains on the file, or on the copy of it that was written."""
    words = ["codepose", "train", str(options.save or options.mesh)]
    if options.save is None and report.unit != "mm":
        words += ["--unit", report.unit]
    return shlex.join([*words, "--out", f"runs/{report.name}"])


def _print_report(report: MeshReport) -> None:
    from codepose.synthesis.inspection import symmetry_words
    from codepose.synthesis.mesh import plain

    table = Table(title=Text(report.name), show_header=False, title_justify="left")
    units = ", ".join(f"{unit} ({plain(mm)} mm across)" for unit, mm in report.plausible.items()) or "none"
    away = ", ".join(plain(v) for v in report.origin_offset)
    rows = {
        "size": f"{_size(report.size)} mm, {plain(report.diameter)} mm across",
        "unit": f"taken as {report.unit}; plausible: {units}",
        "faces, vertices": f"{report.faces:,}, {report.vertices:,}",
        "bodies": f"{report.bodies}",
        "surface": f"{'closed' if report.watertight else 'with holes'}, faces {report.winding}",
        "middle of the box": f"({away}) mm in the file's frame",
        "colours from": ", ".join(report.colors),
        "looks the same after": symmetry_words(report.symmetries),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    _console.print(table)
    for finding in report.findings:
        _console.out(f"- {finding}")


def _size(size: tuple[float, float, float]) -> str:
    from codepose.synthesis.mesh import plain

    return " x ".join(plain(v) for v in size)
