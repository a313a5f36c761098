"""The parts of which there are photographs, and what is typed to learn each: what ``codepose mesh`` says, no more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from codepose.bop.dataset import BopDataset
from codepose.bop.entries import BopError
from codepose.cameras.camera import read_camera
from codepose.evaluation.pose_errors import symmetry_transforms
from codepose.networks.framing import Framing, framing
from codepose.settings.files import DEFAULT_PRESET, load_preset

Motion = tuple[float, ...]
"""A rigid motion as models_info.json has it: sixteen numbers, row by row."""


def _turned(degrees: float) -> Motion:
    """A turn about the z axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, -s, 0, 0, s, c, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)


def _flipped(degrees: float, height: float) -> Motion:
    """Half a turn about the horizontal axis in this direction, half way up a part of a height that stands on z = 0."""
    c, s = math.cos(math.radians(2 * degrees)), math.sin(math.radians(2 * degrees))
    return (c, s, 0, 0, s, -c, 0, 0, 0, 0, -1, height, 0, 0, 0, 1)


@dataclass(frozen=True)
class Part:
    """One object of one BOP folder.

    Attributes:
        folder: The folder's name.
        obj_id: The object's number there.
        distance: What one who took the photos would call the nearest and the farthest distance, mm, in round numbers.
        looks_same_after: Motions after which the part looks the same, where the folder's models_info.json leaves
            them out.
    """

    folder: str
    obj_id: int
    distance: tuple[float, float]
    looks_same_after: tuple[Motion, ...] = ()

    def dataset(self, data: Path) -> BopDataset:
        """Opens its folder, with this object's symmetries.

        Raises:
            BopError: It is no BOP dataset, or has no such object.
        """
        found = BopDataset.open(data / self.folder)
        if self.obj_id not in found.models:
            raise BopError(f"{found.path} has no object {self.obj_id}: fetch its models again")
        if not self.looks_same_after:
            return found
        same = [np.array(motion).reshape(4, 4) for motion in self.looks_same_after]
        symmetries = symmetry_transforms({"symmetries_discrete": same})
        model = replace(found.models[self.obj_id], symmetries=symmetries)
        return replace(found, models={**found.models, self.obj_id: model})

    def framing(self, data: Path) -> Framing:
        """Returns what ``codepose mesh --K camera.json --distance NEAR FAR`` chooses.

        Raises:
            BopError: The folder or the object is missing.
            CameraError: The folder's camera.json cannot be read.
        """
        model = self.dataset(data).models[self.obj_id]
        camera = read_camera(str(data / self.folder / "camera.json"))
        return framing(camera, model.mesh().diameter, self.distance, load_preset(DEFAULT_PRESET))


HEADLINE = ("key", "camera", "cat", "driller", "can", "triangle")
"""The parts by which codepose is judged."""

_SIX_WAYS = (_turned(120), _turned(240), _flipped(0, 12), _flipped(120, 12), _flipped(240, 12))

PARTS = {
    "key": Part("sygrid", 7, (300, 400)),
    "camera": Part("linemod_camera", 4, (700, 1050)),
    "cat": Part("linemod_cat", 6, (900, 1150)),
    "driller": Part("lmo_frame", 8, (900, 1200)),
    "can": Part("lmo_frame", 5, (900, 1200)),
    "triangle": Part("m3t_triangle", 1, (500, 700), _SIX_WAYS),
    "nozzle": Part("sygrid", 1, (300, 400)),
    "nut": Part("sygrid", 2, (300, 400)),
    "screw": Part("sygrid", 3, (300, 400)),
    "drill": Part("ycbv_000629", 15, (800, 1100)),
    "duck": Part("lmo_frame", 9, (900, 1200)),
    "eggbox": Part("lmo_frame", 10, (900, 1200), (_turned(180),)),
    "glue": Part("lmo_frame", 11, (900, 1200), (_turned(180),)),
    "holepuncher": Part("lmo_frame", 12, (900, 1200)),
}
"""Those of the photographs with labels, by the names that --parts takes; the headline's come first."""
