"""The rotations after which a part looks the same: their form in files, and poses that they make equal.

Wherever an object's pose is R_cam_obj, t_cam_obj and g one of its symmetries, the pose after g cannot be told from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from codepose import geometry
from codepose.geometry import is_rotation
from codepose.settings.errors import ConfigError
from codepose.storage.checksums import DamagedError, read_json

if TYPE_CHECKING:
    from codepose.settings.data import ObjectSettings

_DISCRETE, _CONTINUOUS = "symmetries_discrete", "symmetries_continuous"  # as BOP's models_info.json calls them
_ROUNDED = 1e-2  # how far a matrix in a file may be from a rotation
_DIGITS = 9  # written to files: nanometres


@dataclass(frozen=True, eq=False)
class ContinuousSymmetry:
    """Any turn about the line through ``offset`` (3,) mm along the unit vector ``axis`` (3,), object frame."""

    axis: NDArray[np.float64]
    offset: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Symmetries:
    """The rotations after which a part looks the same, as BOP's models_info.json gives them.

    Attributes:
        discrete: (S, 4, 4) rigid transforms of object coordinates in mm, without the identity.
        continuous: None, one axis, or several, which make a ball: any rotation about its middle.
    """

    discrete: NDArray[np.float64]
    continuous: tuple[ContinuousSymmetry, ...] = ()

    @classmethod
    def none(cls) -> Symmetries:
        """Those of a part that looks different after any turn."""
        return cls(np.zeros((0, 4, 4)))

    @classmethod
    def from_bop(cls, entry: Mapping[str, Any]) -> Symmetries:
        """Reads an object's entry of a models_info.json; what else is in it is not looked at.

        Raises:
            ValueError: A matrix is no rotation with a translation, or an axis has no direction.
        """
        rigid = [_rigid(values) for values in entry.get(_DISCRETE) or ()]
        turns = [matrix for matrix in rigid if not np.allclose(matrix, np.eye(4), atol=1e-6)]
        axes = [_axis(values) for values in entry.get(_CONTINUOUS) or ()]
        return cls(np.stack(turns) if turns else np.zeros((0, 4, 4)), tuple(axes))

    def to_bop(self) -> dict[str, list[list[float]] | list[dict[str, list[float]]]]:
        """The entries ``symmetries_discrete`` (row by row) and ``symmetries_continuous``, each where there is one."""
        entries: dict[str, list[list[float]] | list[dict[str, list[float]]]] = {}
        if len(self.discrete):
            entries[_DISCRETE] = _plain(self.discrete.reshape(-1, 16))
        if self.continuous:
            entries[_CONTINUOUS] = [{"axis": _plain(c.axis), "offset": _plain(c.offset)} for c in self.continuous]
        return entries

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(len(self.discrete)) or bool(self.continuous)

    @property
    def ball(self) -> bool:
        """Whether the part looks the same after any rotation about its middle."""
        return len(self.continuous) > 1

    def scaled(self, factor: float) -> Symmetries:
        """Those of the part at ``factor`` times its size."""
        discrete = self.discrete.copy()
        discrete[:, :3, 3] *= factor
        return Symmetries(discrete, tuple(replace(c, offset=c.offset * factor) for c in self.continuous))

    def moved(self, by: ArrayLike) -> Symmetries:
        """Those of the part shifted by (3,) mm."""
        step = np.asarray(by, dtype=np.float64)
        discrete = self.discrete.copy()
        discrete[:, :3, 3] += step - discrete[:, :3, :3] @ step
        return Symmetries(discrete, tuple(replace(c, offset=c.offset + step) for c in self.continuous))

    def angles(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the least angle between rotations (..., 3, 3), one of them after any symmetry: radians, (...).

        float64, and of rotations in float32 good to about 0.03 degrees.
        """
        trace = self._nearest(a.double().mT @ b.double())[0]
        return ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos()

    def nearest(self, R: Tensor, R_gt: Tensor, t_gt: Tensor) -> tuple[Tensor, Tensor]:
        """Of the poses that look like the true ones, those nearest in rotation to others.

        Args:
            R: (N, 3, 3) R_cam_obj to come near to.
            R_gt: (N, 3, 3) the true ones, of the frame in which these symmetries are.
            t_gt: (N, 3) mm.

        Returns:
            R_cam_obj (N, 3, 3) and t_cam_obj (N, 3), float64; without symmetries the true poses as they are.
        """
        if not self.any:
            return R_gt, t_gt
        R, R_gt, t_gt = R.double(), R_gt.double(), t_gt.double()
        if self.ball:
            return R, t_gt + (R_gt - R) @ self._tensor(self.continuous[0].offset, R)
        _, which, angle = self._nearest(R.mT @ R_gt)
        motion = self._tensor(np.concatenate([np.eye(4)[None], self.discrete]), R)[which]  # (N, 4, 4)
        turned, shift = motion[:, :3, :3], motion[:, :3, 3]
        if self.continuous:
            axis = self._tensor(self.continuous[0].axis, R)
            offset = self._tensor(self.continuous[0].offset, R)
            spin = torch.linalg.matrix_exp(angle[:, None, None] * geometry.cross_matrix(axis))
            turned, shift = spin @ turned, (spin @ (shift - offset)[..., None])[..., 0] + offset
        return R_gt @ turned, t_gt + (R_gt @ shift[..., None])[..., 0]

    def _nearest(self, relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The largest trace of ``relative`` (..., 3, 3) @ turn @ fixed, and where it is reached.

        A turn by s about the unit axis u is uu' + cos s (1 - uu') + sin s [u]x: the best s is that of an arc tangent.

        Returns:
            (...) the trace, (...) which fixed symmetry, 0 = the identity, and (...) the turn's angle.
        """
        if self.ball:
            same = torch.zeros_like(relative[..., 0, 0])
            return same + 3.0, same.long(), same
        fixed = self._tensor(np.concatenate([np.eye(3)[None], self.discrete[:, :3, :3]]), relative)  # (S, 3, 3)

        def traces(turn: Tensor) -> Tensor:
            products: Tensor = relative.flatten(-2) @ (turn @ fixed).mT.flatten(-2).T  # (..., S)
            return products

        whole = traces(torch.eye(3, dtype=relative.dtype, device=relative.device))
        if not self.continuous:
            best = whole.max(-1)
            return best.values, best.indices, torch.zeros_like(best.values)
        axis = self._tensor(self.continuous[0].axis, relative)
        along, sine = traces(torch.outer(axis, axis)), traces(geometry.cross_matrix(axis))
        cosine = whole - along
        best = (along + torch.hypot(cosine, sine)).max(-1)
        angle = torch.atan2(sine, cosine).gather(-1, best.indices[..., None])[..., 0]
        return best.values, best.indices, angle

    @staticmethod
    def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like, non_blocking=True)  # a few numbers: a GPU need not be waited for


def least_angles(groups: Sequence[Symmetries], which: Tensor, rotations: Tensor) -> Tensor:
    """Returns the least angle between every two views, the second one after any symmetry of its part.

    Args:
        groups: Each part's symmetries.
        which: (B,) the part of each view.
        rotations: (B, 3, 3).

    Returns:
        (B, B) radians, float64; what it says of views of different parts means nothing. ``Symmetries.angles`` of all
        parts in one go: with hundreds of them, one after the other takes longer than a network's step.
    """
    R = rotations.double()
    fixed, axis, ball = (
        torch.from_numpy(values).to(R.device, non_blocking=True)[which] for values in _tables(tuple(groups))
    )
    still = torch.eye(3, dtype=R.dtype, device=R.device).expand(len(R), 3, 3)
    turns = torch.stack((still, axis[:, :, None] * axis[:, None], geometry.cross_matrix(axis)), 1)  # (B, 3, 3, 3)
    moved = (R[:, None] @ turns)[:, None] @ fixed[:, :, None]  # (B, S, 3, 3, 3)
    whole, along, sine = (R.flatten(1) @ moved.flatten(-2).flatten(0, 2).T).view(len(R), len(R), -1, 3).unbind(-1)
    spun = along + torch.hypot(whole - along, sine)  # see Symmetries._nearest
    trace = torch.where(axis.any(1)[:, None], spun, whole).amax(-1).masked_fill(ball, 3.0)
    return ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos()


@lru_cache(maxsize=4)
def _tables(groups: tuple[Symmetries, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Fixed turns (P, S, 3, 3), the identity where a part has fewer; axes (P, 3), zero for none; balls (P,)."""
    fixed = np.tile(np.eye(3), (len(groups), 1 + max(len(group.discrete) for group in groups), 1, 1))
    axis = np.zeros((len(groups), 3))
    for part, group in enumerate(groups):
        fixed[part, 1 : 1 + len(group.discrete)] = group.discrete[:, :3, :3]
        if group.continuous:
            axis[part] = group.continuous[0].axis
    return fixed, axis, np.array([group.ball for group in groups])


def declared_symmetries(settings: ObjectSettings, number: int) -> Symmetries | None:
    """What an object's settings say of its symmetries, in mm, in the CAD file's own frame; None = find them.

    Args:
        settings: The object's.
        number: Its place among the run's objects, from 1: its entry in a models_info.json, unless the mesh has a
            number of its own, as BOP names them.

    Raises:
        ConfigError: The file that they name cannot be used.
    """
    if settings.symmetries == "auto":
        return None
    if settings.symmetries == "none":
        return Symmetries.none()
    named = re.fullmatch(r"obj_(\d{6})", Path(settings.mesh).stem)
    return read_symmetries(settings.symmetries, int(named[1]) if named else number)


def read_symmetries(path: str | Path, number: int) -> Symmetries:
    """An object's symmetries from a file in the form of BOP's models_info.json, or with one entry of it alone.

    Args:
        path: The file.
        number: Which entry; makes no difference where there is only one, without a number.

    Raises:
        ConfigError: The file cannot be read, has no such entry, or what is no symmetry.
    """
    try:
        found: Any = read_json(Path(path))
    except OSError as error:
        raise ConfigError(f"symmetries: {path} cannot be read: {error.strerror}") from None
    except DamagedError as error:
        raise ConfigError(f"symmetries: {error}; it must hold a models_info.json's entries") from None
    if any(key.isdigit() for key in found):
        if str(number) not in found:
            raise ConfigError(
                f'symmetries: {path} has no entry "{number}", only {", ".join(found)}; an object without symmetries '
                f'has the entry "{number}": {{}}'
            )
        found = found[str(number)]
    elif found and not found.keys() & {_DISCRETE, _CONTINUOUS}:
        raise ConfigError(f"symmetries: {path} has neither numbered entries nor {_DISCRETE} nor {_CONTINUOUS}")
    try:
        return Symmetries.from_bop(found)
    except ValueError as error:
        raise ConfigError(f"symmetries: {path}, object {number}: {error}") from None
    except (AttributeError, KeyError, TypeError):
        raise ConfigError(f"symmetries: {path}, object {number}: its entry is not as in a models_info.json") from None


def _rigid(values: ArrayLike) -> NDArray[np.float64]:
    """(4, 4) from 16 numbers, row by row."""
    matrix = _numbers(values)
    if matrix.size != 16:
        raise ValueError(f"{_DISCRETE} must hold 4 x 4 matrices of 16 numbers, not of {matrix.size}")
    matrix = matrix.reshape(4, 4)
    affine = np.allclose(matrix[3], [0.0, 0.0, 0.0, 1.0]) and np.isfinite(matrix).all()
    if not affine or not is_rotation(matrix[:3, :3], _ROUNDED):
        raise ValueError(f"{_DISCRETE} must hold rotations with a translation, not {matrix.reshape(16).tolist()}")
    return matrix


def _axis(values: Mapping[str, Any]) -> ContinuousSymmetry:
    if not {"axis", "offset"} <= values.keys():
        raise ValueError(f"{_CONTINUOUS} must hold an axis and an offset of three numbers, not {str(values)[:60]}")
    axis, offset = (_numbers(values[key]) for key in ("axis", "offset"))
    length = float(np.linalg.norm(axis))
    if axis.shape != (3,) or offset.shape != (3,) or not 0.0 < length < np.inf or not np.isfinite(offset).all():
        raise ValueError(f"{_CONTINUOUS} must hold an axis and an offset of three numbers, not {dict(values)}")
    return ContinuousSymmetry(axis / length, offset)


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    try:
        found = np.asarray(values, dtype=np.float64)
        return np.where(np.abs(found) < 1e12, found, np.nan)  # what is absurd is refused like what is no number
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"numbers should stand where {str(values)[:60]} is") from None


def _plain(values: NDArray[np.float64]) -> Any:
    """Nested lists of numbers, without the renders' last digits and without minus zeros."""
    return (np.round(values, _DIGITS) + 0.0).tolist()
