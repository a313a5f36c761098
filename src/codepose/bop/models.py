"""The objects of a BOP dataset: their files, sizes, symmetries and numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from torch import Tensor

from codepose.bop.entries import Array, BopError, ModelEntry, by_number, checked
from codepose.evaluation.pose_errors import symmetry_transforms
from codepose.parts.mesh import Mesh, MeshError, load_mesh
from codepose.parts.units import SMALLEST_MM, rounded

_MODEL_FOLDERS = ("models_eval", "models", "models_cad")
_LOOSE = 0.9  # a diameter may be of the model before it was resampled
_IN_MM = "BOP's models are in mm"


@dataclass(frozen=True, eq=False)
class BopModel:
    """One object of a dataset.

    Attributes:
        obj_id: Its number, from 1.
        path: The PLY file, mm.
        diameter: Largest distance between two vertices, mm.
        symmetries: (S, 4, 4) float64 from `models_info.json`, the identity first.
    """

    obj_id: int
    path: Path
    diameter: float
    symmetries: Tensor

    @property
    def symmetric(self) -> bool:
        """Whether anything but the identity maps the object onto itself."""
        return len(self.symmetries) > 1

    def mesh(self) -> Mesh:
        """Reads the PLY file for rendering, in its own frame.

        Raises:
            BopError: It is no surface of a part, or of no plausible size.
        """
        try:
            return load_mesh(self.path, center=False)
        except MeshError as error:
            raise BopError(f"{error} ({_IN_MM})") from None

    def vertices(self) -> Array:
        """Reads the vertices as they stand in the file, (V, 3) mm: what the vertex-wise errors are defined on.

        Raises:
            BopError: There is no such file, it is damaged, or not of the size that models_info.json says.
        """
        if not self.path.is_file():
            raise BopError(f"{self.path} is missing, but its models_info.json names it")
        try:
            loaded: Any = trimesh.load(str(self.path), process=False, fix_texture=False, skip_materials=True)
            vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
        except Exception:  # the parser raises whatever a damaged file makes it raise
            raise BopError(f"{self.path} is damaged: fetch the dataset's models again") from None
        if len(vertices) == 0 or not np.isfinite(vertices).all():
            what = "holds no vertices" if len(vertices) == 0 else "holds vertices that are not finite"
            raise BopError(f"{self.path} {what}: fetch the dataset's models again")
        sides = np.ptp(vertices, axis=0)
        if not _LOOSE * sides.max() <= self.diameter <= np.linalg.norm(sides) / _LOOSE:
            raise BopError(
                f"{self.path} is {' x '.join(map(rounded, sides))} mm, but its diameter in models_info.json is "
                f"{rounded(self.diameter)} mm: {_IN_MM}, so scale what is in another unit"
            )
        if self.diameter < SMALLEST_MM:
            raise BopError(
                f"{self.path} is {rounded(self.diameter)} mm across: {_IN_MM}; are these in metres? Scale the PLY file "
                "and models_info.json by 1000"
            )
        return vertices


def read_models(path: Path, models: str | None = None) -> dict[int, BopModel]:
    """Reads the list of a dataset's objects, by number.

    Args:
        path: The dataset's folder.
        models: As in ``BopDataset.open``.

    Raises:
        BopError: There is no `models_info.json`, or it is damaged.
    """
    names = (*_MODEL_FOLDERS, *sorted(p.name for p in path.glob("models_*"))) if models is None else (models,)
    file = next((file for name in names if (file := path / name / "models_info.json").is_file()), None)
    if file is None:
        known = " or ".join(_MODEL_FOLDERS if models is None else names)
        raise BopError(f"{path} is no BOP dataset: there is no {known} with a models_info.json; fetch its models")
    plys = {int(p.stem[4:]): p for p in file.parent.glob("obj_*.ply") if re.fullmatch(r"obj_[0-9]{1,18}", p.stem)}
    found = {}
    for number, values in by_number(file).items():
        where = f"{file}, object {number}"
        entry = checked(ModelEntry, values, where)
        try:
            symmetries = symmetry_transforms(entry.model_dump())
        except ValueError as error:
            raise BopError(f"{where}: {error}; mend the file, or fetch it again") from None
        ply = plys.get(number, file.with_name(f"obj_{number:06d}.ply"))
        found[number] = BopModel(number, ply, entry.diameter, symmetries)
    return dict(sorted(found.items()))


def numbered(names: Sequence[str]) -> list[int]:
    """Returns the `obj_id` of a run's objects: the numbers in names such as obj_000005, else 1, 2, ..."""
    found = [int(match[1]) for name in names if (match := re.fullmatch(r"obj_(\d+)", name))]
    return found if len(set(found)) == len(names) else list(range(1, len(names) + 1))
