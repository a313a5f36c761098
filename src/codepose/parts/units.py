"""Units of CAD files: which there are, which size of a part makes sense in each, and what to advise where none does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codepose.parts.cad.files import IN_MILLIMETRES
from codepose.parts.cad.surface import MeshError
from codepose.settings.data import Unit

SMALLEST_MM, LARGEST_MM = 5.0, 5000.0
"""How far across a part may be that somebody holds in hands."""
TYPICAL_MM = 150.0
"""The likeliest unit is the one that brings a part nearest to this."""

MILLIMETRES: dict[Unit, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
OWN_UNIT = "the file says its unit itself; export it again in the right one, or scale the model"
_PLURAL: dict[Unit, str] = {"mm": "millimetres", "cm": "centimetres", "m": "metres", "inch": "inches"}


def file_unit(path: Path, unit: Unit) -> Unit:
    """What one unit of a file is once it is read: mm where the file says its unit itself, else the one given."""
    return "mm" if says_its_unit(path) else unit


def says_its_unit(path: str | Path) -> bool:
    """Whether files of this kind say their unit themselves, as 3MF and STEP files do."""
    return Path(path).suffix.lower() in IN_MILLIMETRES


def check_unit(unit: Unit) -> Unit:
    """Returns the unit.

    Raises:
        MeshError: There is none of this name.
    """
    if unit not in MILLIMETRES:
        raise MeshError(f"unknown unit {unit!r}; type --unit with one of {', '.join(MILLIMETRES)}")
    return unit


def plausible_units(size: float) -> dict[Unit, float]:
    """The units in which a part ``size`` of them across can be held in hands, with its size in mm, likeliest first."""
    sizes = {unit: size * mm for unit, mm in MILLIMETRES.items() if SMALLEST_MM <= size * mm <= LARGEST_MM}
    return dict(sorted(sizes.items(), key=lambda item: abs(np.log(item[1] / TYPICAL_MM))))


def unit_advice(size: float) -> str:
    """What to type for a part ``size`` of the file's units across, in words."""
    likely = plausible_units(size)
    if not likely:
        return f"scale the model so that it is between {SMALLEST_MM:g} and {LARGEST_MM:,.0f} mm across"
    return ", ".join(
        f"if the file is in {_PLURAL[unit]} type --unit {unit} ({rounded(mm)} mm across)" for unit, mm in likely.items()
    )


def check_size(diameter: float, name: str, unit: Unit) -> None:
    """Refuse a diameter (mm) that no hand-held part has, and name the units that would make it plausible.

    Raises:
        MeshError: It is smaller than 5 mm or larger than 5 m.
    """
    if SMALLEST_MM <= diameter <= LARGEST_MM:
        return
    advice = OWN_UNIT if says_its_unit(name) else unit_advice(diameter / MILLIMETRES[unit])
    raise MeshError(f"{name}: taken as {_PLURAL[unit]} this part is {rounded(diameter)} mm across; {advice}")


def rounded(value: float) -> str:
    """A length as a person writes it: 3 digits, thousands apart."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
