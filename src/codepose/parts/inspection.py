"""What is to know about a CAD file before training on it, and what to type where something is amiss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from codepose.parts.cad.files import body_names, listed, read_cad
from codepose.parts.cad.surface import ColorSource, Surface
from codepose.parts.mesh import Mesh, mesh_from_surface, signed_volume, surface_from_trimesh, to_trimesh
from codepose.parts.shapes import BUILTIN, resolve
from codepose.parts.symmetry_group import Symmetries
from codepose.parts.symmetry_search import find_symmetries
from codepose.parts.textures import painted
from codepose.parts.units import (
    MILLIMETRES,
    OWN_UNIT,
    TYPICAL_MM,
    file_unit,
    plausible_units,
    rounded,
    says_its_unit,
    unit_advice,
)
from codepose.settings.data import ObjectSettings, Unit

Winding = Literal["outward", "inward", "mixed"]


@dataclass(frozen=True, eq=False)
class MeshReport:
    """A CAD file as `inspect` found it.

    Attributes:
        name: The part's name.
        unit: The unit that the file was taken to be in.
        own_unit: Whether the file says its unit itself, so that there is no other; here in mm.
        plausible: Diameter in mm in each unit that makes a part for the hands, likeliest first.
        size: (x, y, z) mm, side lengths of the bounding box in ``unit``.
        diameter: mm, largest distance between two vertices, in ``unit``.
        faces: Triangles in the file.
        vertices: Places in the file; what is stored once for each side of an edge counts once.
        bodies: Pieces that share no vertex.
        names: What the file calls its bodies and assemblies; each can be had by itself.
        watertight: Whether no edge has one face alone; bodies may touch and cross.
        winding: "inward" = all faces are inside out, "mixed" = neighbours disagree; both are repaired when the
            file is read.
        origin_offset: (x, y, z) mm, the bounding box's middle in the file's own frame.
        colors: Where the colours come from, each source once.
        missing: Files with materials or pictures that the file names and that are not there.
        symmetries: Rotations after which the part looks the same, in mm and in the file's own frame.
        findings: What to know or to type, in words, the gravest first.
        mesh: The part in mm in ``unit``, its bounding box's middle at the origin.
    """

    name: str
    unit: Unit
    own_unit: bool
    plausible: dict[Unit, float]
    size: tuple[float, float, float]
    diameter: float
    faces: int
    vertices: int
    bodies: int
    names: tuple[str, ...]
    watertight: bool
    winding: Winding
    origin_offset: tuple[float, float, float]
    colors: tuple[ColorSource, ...]
    missing: tuple[str, ...]
    symmetries: Symmetries
    findings: tuple[str, ...]
    mesh: Mesh

    @property
    def usable(self) -> bool:
        """Whether the part can be trained on in this unit."""
        return self.unit in self.plausible

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for a JSON file."""
        return {
            "name": self.name,
            "usable": self.usable,
            "unit": self.unit,
            "own_unit": self.own_unit,
            "plausible_mm": {unit: round(mm, 3) for unit, mm in self.plausible.items()},
            "size_mm": [round(side, 3) for side in self.size],
            "diameter_mm": round(self.diameter, 3),
            "faces": self.faces,
            "vertices": self.vertices,
            "bodies": self.bodies,
            "names": list(self.names),
            "watertight": self.watertight,
            "winding": self.winding,
            "origin_offset_mm": [round(value, 3) for value in self.origin_offset],
            "colors": list(self.colors),
            "missing": list(self.missing),
            "symmetries": self.symmetries.to_bop(),
            "looks_the_same_after": symmetry_words(self.symmetries),
            "findings": list(self.findings),
        }


def inspect(path: str | Path, unit: Unit = "mm", body: str = "") -> MeshReport:
    """Look a CAD file over. An implausible size is a finding, no error.

    Args:
        path: A STEP, PLY, OBJ, STL, GLB or 3MF file, or the name of a built-in mesh.
        unit: What one unit of the file is; a built-in is in mm.
        body: Only the body that the file calls so; empty = all of it.

    Raises:
        MeshError: The file cannot be read, or holds no surface.
    """
    if str(path) in BUILTIN:
        unit, parts = "mm", [surface_from_trimesh(to_trimesh(resolve(path, body=body)))]
    else:
        unit, parts = file_unit(Path(path), unit), read_cad(Path(path), body)
    own_unit = says_its_unit(path)
    soup = painted(parts)
    low, high = soup.triangles.min(axis=(0, 1)), soup.triangles.max(axis=(0, 1))
    scale = TYPICAL_MM / max(float(np.linalg.norm(high - low)), 1e-300)  # any unit will do for a look at it
    middle = (low + high) / 2
    soup = replace(soup, triangles=(soup.triangles - middle) * scale)  # in double precision: it may be far away
    mesh = mesh_from_surface(soup, Path(path).stem, source=str(path))
    mm = MILLIMETRES[unit]
    welded = _welded(parts)
    report = MeshReport(
        name=mesh.name,
        unit=unit,
        own_unit=own_unit,
        plausible={
            unit: mm for unit, mm in plausible_units(mesh.diameter / scale).items() if unit == "mm" or not own_unit
        },
        size=_triple((high - low) * mm),
        diameter=mesh.diameter / scale * mm,
        faces=sum(len(part.triangles) for part in parts),
        vertices=len(welded.vertices),
        bodies=int(welded.body_count),
        names=body_names(parts),
        watertight=bool((np.bincount(welded.edges_unique_inverse) > 1).all()),
        winding=_winding(welded),
        origin_offset=_triple(middle * mm),
        colors=tuple(dict.fromkeys(part.source for part in parts)),
        missing=tuple(dict.fromkeys(name for part in parts for name in part.missing)),
        symmetries=find_symmetries(mesh).moved(middle * scale).scaled(mm / scale),
        findings=(),
        mesh=mesh.scaled(mm / scale),
    )
    return replace(report, findings=tuple(_findings(report)))


def symmetry_words(symmetries: Symmetries) -> str:
    """The symmetries in words: "any turn about z; 180 degrees about x"."""
    words = [f"any turn about {_axis_words(c.axis)}" for c in symmetries.continuous]
    if len(words) == 3:
        return "any turn at all"
    by_axis: dict[str, list[int]] = {}
    for transform in symmetries.discrete:
        vector = Rotation.from_matrix(transform[:3, :3]).as_rotvec()
        angle = float(np.linalg.norm(vector))
        by_axis.setdefault(_axis_words(vector / angle), []).append(round(np.degrees(angle)))
    words += [f"{min(angles)} degrees about {axis}" for axis, angles in by_axis.items()]
    return "; ".join(words) or "none"


def _axis_words(axis: NDArray[np.float64]) -> str:
    for name, along in zip("xyz", np.eye(3), strict=True):
        if abs(float(axis @ along)) > 0.9999:
            return name
    axis = axis * (1.0 if axis[np.abs(axis).argmax()] > 0 else -1.0)
    return "(" + ", ".join(f"{v + 0.0:.2f}" for v in np.round(axis, 2)) + ")"


def _findings(report: MeshReport) -> Iterator[str]:
    """What a person should know or type, the gravest first."""
    across = report.diameter / MILLIMETRES[report.unit]
    if not report.usable:
        advice = OWN_UNIT if report.own_unit else unit_advice(across)
        yield f"taken as {report.unit} the part is {rounded(report.diameter)} mm across: {advice}"
    if report.missing:
        yield (
            f"{', '.join(report.missing)}, named in the file, {'is' if len(report.missing) == 1 else 'are'} not there: "
            "without it the part has other colours, and may seem to look the same from more sides"
        )
    elif report.colors == ("none",):
        yield (
            "no colours: the part is shown in neutral grey; give it its material's colour in the CAD program and "
            "export OBJ or GLB, or vary it in training: type --data.augmentation.tint 0.6"
        )
    if report.winding != "outward":
        what = "all faces are inside out" if report.winding == "inward" else "some faces are inside out"
        yield f"{what}: turned when the file is read; nothing to do if the sheet looks right"
    if not report.watertight:
        yield "the surface has holes: look for missing faces in the sheet and export it again as a solid"
    if report.bodies > 1:
        yield (
            f"{report.bodies} separate bodies: an assembly is fine if nothing in it moves; take out what does not "
            f"belong to the part{_by_name(report.names)}"
        )
    limit = ObjectSettings().max_faces
    if report.faces > limit:
        yield (
            f"{report.faces:,} faces: training reduces them to {limit:,}; type --faces 50000 --save "
            f"{report.name}-light.ply for a lighter file, --objects.0.max-faces 0 in training to keep them all"
        )
    away = float(np.linalg.norm(report.origin_offset))
    if away > 0.5 * report.diameter:
        yield (
            f"the file's origin is {away:,.0f} mm from the part's middle, and poses are given for that origin: type "
            f"--center --save {report.name}-centered.ply for a copy whose origin is the middle"
        )
    if report.symmetries.any:
        yield (
            f"looks the same after: {symmetry_words(report.symmetries)}. No photo tells these rotations apart: "
            "training and evaluation take them for one; type --objects.0.symmetries none if that is wrong, or the path "
            "of a models_info.json with the right ones"
        )


def _by_name(names: Sequence[str]) -> str:
    """How to have one of several bodies."""
    if len(names) < 2:
        return ""
    return f", or type --body with one of the names in it: {listed(names)}"


def _welded(parts: Sequence[Surface]) -> trimesh.Trimesh:
    """All faces with area, their corners joined where they meet, in units of the part's size."""
    corners = np.concatenate([part.triangles.reshape(-1, 3) for part in parts])
    corners = (corners - corners.mean(axis=0)) / np.ptp(corners, axis=0).max()
    body = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    body.merge_vertices(digits_vertex=6)
    body.update_faces(body.nondegenerate_faces())
    body.remove_unreferenced_vertices()
    return body


def _winding(body: trimesh.Trimesh) -> Winding:
    if not body.is_winding_consistent:
        return "mixed"
    return "inward" if signed_volume(body) < -1e-6 else "outward"


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
