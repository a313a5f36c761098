"""Many parts on one device: what the judge's training draws from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from torch.nn import functional as F

from codepose.parts.mesh import Mesh
from codepose.rendering.renderer import Renderer
from experiments.parts.archive import equivalent, load_archive

POINTS = 64
"""Surface points of a part by which pose errors are measured."""
_MOST_SYMMETRIES = 72


@dataclass(frozen=True)
class Parts:
    """P parts of one diameter.

    Attributes:
        renderer: Holds their meshes.
        points: (P, 64, 3) mm, the outermost vertices along that many directions.
        turns, shifts: (P, S, 3, 3), (P, S, 3) mm, motions after which each looks the same, the identity first and as
            filling.
        diameters: (P,) mm.
    """

    renderer: Renderer
    points: Tensor
    turns: Tensor
    shifts: Tensor
    diameters: Tensor

    @classmethod
    def of(cls, meshes: Sequence[Mesh], symmetries: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Parts:
        """Puts meshes, with their symmetries (S, 3, 3) and (S, 3) mm, on a device."""
        directions = _directions(POINTS)
        points = []
        for mesh in meshes:
            hull = torch.from_numpy(mesh.hull)
            points.append(hull[(hull @ directions.T).argmax(0)])
        most = min(_MOST_SYMMETRIES, max(len(R) for R, _ in symmetries))
        turns = torch.eye(3).repeat(len(meshes), most, 1, 1)
        shifts = torch.zeros(len(meshes), most, 3)
        for index, (R, t) in enumerate(symmetries):
            count = min(most, len(R))
            turns[index, :count], shifts[index, :count] = R[:count].float(), t[:count].float()
        return cls(
            Renderer(meshes, device),
            torch.stack(points).to(device),
            turns.to(device),
            shifts.to(device),
            torch.tensor([m.diameter for m in meshes], device=device),
        )

    @classmethod
    def load(cls, archive: Path, device: torch.device) -> Parts:
        """Reads an archive of ``experiments.parts``."""
        parts = load_archive(archive)
        groups = [equivalent(part.symmetries) for part in parts]
        symmetries = [(torch.from_numpy(R), torch.from_numpy(t)) for R, t in groups]
        return cls.of([part.mesh for part in parts], symmetries, device)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.points.device

    def boxes(self, part: Tensor, R: Tensor, t: Tensor) -> Tensor:
        """Returns boxes (B, 4) xyxy in units of the focal length around the optical axis."""
        placed = self.points[part] @ R.mT + t[:, None]
        seen = placed[..., :2] / placed[..., 2:].clamp_min(1e-3)
        return torch.cat((seen.amin(1), seen.amax(1)), 1)


def _directions(count: int) -> Tensor:
    """Directions (count, 3), spread evenly: a Fibonacci sphere."""
    index = torch.arange(count) + 0.5
    height = 1.0 - 2.0 * index / count
    turn = index * (np.pi * (1.0 + 5.0**0.5))
    radius = (1.0 - height.square()).sqrt()
    return torch.stack((radius * turn.cos(), radius * turn.sin(), height), 1)


def random_rotations(count: int, device: torch.device) -> Tensor:
    """Returns rotations (count, 3, 3), uniform over SO(3), from random quaternions."""
    w, x, y, z = F.normalize(torch.randn(count, 4, device=device), dim=1).unbind(1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)), 1),
        torch.stack((2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)), 1),
        torch.stack((2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)), 1),
    )
    return torch.stack(rows, 1)


def small_turns(sigma: Tensor) -> Tensor:
    """Returns rotations (M, 3, 3) by normal rotation vectors of standard deviations sigma (M,) in radians."""
    turns: Tensor = axis_angle_to_rotation_matrix(torch.randn(len(sigma), 3, device=sigma.device) * sigma[:, None])
    return turns
