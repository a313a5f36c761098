"""The mesh doctor: looks a CAD file over before training, draws it, and writes a mended copy."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codepose.cli.options import MeshDoctor
from codepose.runtime.outcome import Outcome
from codepose.settings.errors import ConfigError

if TYPE_CHECKING:
    from codepose.networks.framing import Framing
    from codepose.parts.inspection import MeshReport

_console = Console(highlight=False)
_NAMED = {"preview": "look", "train": "train", "predict": "find"}
_THIN = 3.0
"""Pixels across that a rod has at least where the network can see it."""


def mesh(options: MeshDoctor) -> Outcome:
    """Prints what is to know about a CAD file and draws it.

    Returns:
        The report, the files that were written, and the commands to type next.

    Raises:
        MeshError: The file cannot be read, holds no surface, its unit cannot be right, or --save names no PLY file, or
            the file itself.
        ConfigError: --K and --distance do not go together, or make no sense for this part.
        CameraError: --K cannot be read.
    """
    from codepose.parts.inspection import inspect
    from codepose.parts.mesh import MeshError

    _require_sensible(options)
    with _console.status("looking it over"):
        report = inspect(options.mesh, options.unit, options.body)
    _print_report(report)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    if not report.usable:
        raise MeshError(f"{options.mesh}: {report.findings[0]}")
    seen = _framing(options, report)
    _draw(options, report)
    if seen is not None:
        _print_framing(options, report, seen)
    commands = _commands(options, report, seen)
    for name, line in commands.items():
        _console.out(f"{_NAMED[name]}: {line}")
    return Outcome({**report.to_json(), "sheet": options.out, "saved": options.save, "commands": commands})


def _require_sensible(options: MeshDoctor) -> None:
    """Refuses options that cannot be followed, before anything is looked at."""
    from codepose.parts.mesh import MeshError

    if options.save is not None and options.save.suffix.lower() != ".ply":
        raise MeshError(f"{options.save}: type --save NAME.ply; only PLY files are written")
    if options.save is not None and options.save.resolve() == options.mesh.resolve():
        raise MeshError(f"--save {options.save} is the CAD file itself, whose frame would be lost: name another file")
    if bool(options.K) != (options.distance is not None):
        raise ConfigError("--K and --distance go together: --K fov=60 --distance 400 700, in mm")


def _draw(options: MeshDoctor, report: MeshReport) -> None:
    """Writes the sheet of six views and, with --save, the mended copy."""
    from PIL import Image

    from codepose.parts.decimation import decimate
    from codepose.parts.mesh import save_mesh
    from codepose.parts.shapes import resolve
    from codepose.reports.six_views import six_views

    part = report.mesh  # the sheet shows it in the middle, wherever it lies
    if options.save is not None and not options.center:
        part = resolve(options.mesh, unit=report.unit, center=False, body=options.body)
    part = decimate(part, options.faces)
    if options.center:  # without some of its faces its middle may lie elsewhere
        part = part.moved(-part.center)
    title = f"{part.name}: {_size(report.size)} mm, {len(part.faces):,} faces"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(six_views(part, title)).save(options.out)
    _console.out(f"wrote {options.out}")
    if options.save is not None:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        save_mesh(part, options.save)
        _console.out(f"wrote {options.save}: {len(part.faces):,} faces, mm")


def _framing(options: MeshDoctor, report: MeshReport) -> Framing | None:
    """How large the part is in the camera's photos; None where nothing is known of it."""
    from codepose.cameras.camera import read_camera
    from codepose.networks.framing import framing
    from codepose.settings.files import DEFAULT_PRESET, load_preset

    if options.distance is None:
        return None
    return framing(read_camera(options.K), report.diameter, options.distance, load_preset(DEFAULT_PRESET))


def _print_framing(options: MeshDoctor, report: MeshReport, seen: Framing) -> None:
    """How large the part is in the photos of a known camera."""
    small, large = (f"{share:.0%}" for share in seen.share)
    _console.out(f"with this camera its box takes {small} to {large} of the photo's longer side")
    assert options.distance is not None
    wide = sorted(report.size)[1] * seen.focal / options.distance[1]
    if wide < _THIN:
        _console.out(
            f"- at {options.distance[1]:g} mm it is {wide:.1f} pixels wide for the network, which will hardly see "
            f"it: go nearer, or raise image-size, focal and box-side below together"
        )


def _commands(options: MeshDoctor, report: MeshReport, seen: Framing | None) -> dict[str, str]:
    """What to type next, by command; of a known camera, with the settings for it."""
    out, more = f"runs/{report.name}", [] if seen is None else seen.options()
    lines = {
        "preview": _line("preview", options, report, more),
        "train": _line("train", options, report, [*more, "--out", out]),
    }
    if seen is not None:
        assert options.distance is not None
        words = ["--K", options.K, "--distance", *(f"{mm:g}" for mm in options.distance)]
        words += [] if seen.tiles == 1 else ["--tiles", str(seen.tiles)]
        lines["predict"] = shlex.join(["codepose", "predict", out, "PHOTO", *words])
    return lines


def _line(command: str, options: MeshDoctor, report: MeshReport, more: list[str]) -> str:
    """A command on the file, or on the copy of it that was written."""
    words = ["codepose", command, str(options.save or options.mesh)]
    if options.save is None and report.unit != "mm":
        words += ["--unit", report.unit]
    if options.save is None and options.body:
        words += ["--body", options.body]
    return shlex.join([*words, *more])


def _print_report(report: MeshReport) -> None:
    from codepose.parts.inspection import symmetry_words
    from codepose.parts.units import rounded

    table = Table(title=Text(report.name), show_header=False, title_justify="left")
    units = ", ".join(f"{unit} ({rounded(mm)} mm across)" for unit, mm in report.plausible.items()) or "none"
    away = ", ".join(rounded(v) for v in report.origin_offset)
    rows = {
        "size": f"{_size(report.size)} mm, {rounded(report.diameter)} mm across",
        "unit": "the file says it; here mm" if report.own_unit else f"taken as {report.unit}; plausible: {units}",
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
    for finding in report.findings[not report.usable :]:  # the gravest is said at the end
        _console.out(f"- {finding}")


def _size(size: tuple[float, float, float]) -> str:
    from codepose.parts.units import rounded

    return " x ".join(rounded(v) for v in size)
