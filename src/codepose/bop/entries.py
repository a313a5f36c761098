"""BOP's JSON files: their entries by number, each checked when it is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from codepose.cameras.camera import checked_intrinsics
from codepose.geometry import is_rotation
from codepose.settings.values import Positive

Array = NDArray[np.float64]

_ROUNDED = 1e-2
"""How far a matrix in a file may be from a rotation."""


class BopError(ValueError):
    """A BOP folder or result file that cannot be used; the text says what is missing."""


def _numbers(values: Any, *shape: int) -> Array:
    try:
        if any(type(value) not in (int, float) for value in np.asarray(values, dtype=object).flat):
            raise ValueError
        array: Array = np.asarray(values, dtype=np.float64).reshape(shape)
    except (ValueError, OverflowError):
        raise ValueError(f"it must hold {' x '.join(map(str, shape))} numbers") from None
    if not np.isfinite(array).all():
        raise ValueError("it holds numbers that are not finite")
    return array


def _rotation(values: Any) -> Array:
    R = _numbers(values, 3, 3)
    if not is_rotation(R, _ROUNDED):
        raise ValueError(f"{R.flatten().tolist()} is no rotation")
    return R


def _box(values: Any) -> Array | None:
    return None if values is None else _numbers(values, 4)


Number = Annotated[int, Field(strict=False)]
"""Also 1.0."""


class _Entry(BaseModel):
    """What a file says beyond these names is not looked at."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True)


class CameraEntry(_Entry):
    """An image's entry of scene_camera.json; ``cam_K`` (3, 3)."""

    cam_K: Annotated[Array, PlainValidator(lambda values: checked_intrinsics(_numbers(values, 3, 3)))]
    depth_scale: Positive | None = None


class Label(_Entry):
    """An instance's entry of scene_gt.json: (3, 3) and (3,) mm."""

    obj_id: Number
    cam_R_m2c: Annotated[Array, PlainValidator(_rotation)]
    cam_t_m2c: Annotated[Array, PlainValidator(lambda values: _numbers(values, 3))]


class LabelInfo(_Entry):
    """An instance's entry of scene_gt_info.json; boxes (4,) as x, y, w, h, None = not said."""

    visib_fract: float | None = None
    bbox_obj: Annotated[Array | None, PlainValidator(_box)] = None
    bbox_visib: Annotated[Array | None, PlainValidator(_box)] = None


class Turn(_Entry):
    """A continuous symmetry: any turn about the axis (3,) through the offset (3,), mm."""

    axis: Annotated[Array, PlainValidator(lambda values: _numbers(values, 3))]
    offset: Annotated[Array, PlainValidator(lambda values: _numbers(values, 3))]


class ModelEntry(_Entry):
    """An object's entry of models_info.json: its diameter in mm, and its symmetries, of which (4, 4) are discrete."""

    diameter: Positive
    symmetries_discrete: list[Annotated[Array, PlainValidator(lambda values: _numbers(values, 4, 4))]] | None = None
    symmetries_continuous: list[Turn] | None = None


class TargetEntry(_Entry):
    """A row of test_targets_bop19.json."""

    scene_id: Number
    im_id: Number
    obj_id: Number
    inst_count: Annotated[Number, Field(gt=0)]


class ImageEntry(_Entry):
    """A row of test_targets_bop24.json, the detection task's: it names images alone."""

    scene_id: Number
    im_id: Number


class SensorEntry(_Entry):
    """camera.json, as far as it is needed."""

    depth_scale: Positive | None = None


E = TypeVar("E", bound=_Entry)


def checked(kind: type[E], values: Any, where: str) -> E:
    """Returns an entry.

    Args:
        kind: What it must be.
        values: What the file holds.
        where: Of which file, and where in it, for the message.

    Raises:
        BopError: It is something else.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            words = f"there is no {name!r}"
        elif not name:
            words = f"it must hold names and values, not {excerpt(values)}"
        else:
            words = f"{name}: {message}"
        raise BopError(f"{where}: {words}; mend the file, or fetch it again") from None


def by_number(path: Path) -> dict[int, Any]:
    """Reads a file whose keys are numbers, with zeros before them or without.

    Raises:
        BopError: It cannot be read, a key is no number, or one is there twice.
    """
    found: dict[int, Any] = {}
    for key, value in read_json(path).items():
        if not re.fullmatch(r"[0-9]{1,18}", key):
            raise BopError(f"{path}: its keys must be numbers, not {key!r}; mend the file, or fetch it again")
        if int(key) in found:
            raise BopError(f"{path} holds number {int(key)} twice: keep one of the two entries")
        found[int(key)] = value
    return found


def read_json(path: Path, kind: type = dict) -> Any:
    """Reads a JSON file in any of Unicode's encodings, with or without a byte order mark.

    Raises:
        BopError: It cannot be read, holds a name twice, or something else than a ``kind``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BopError(f"{path} cannot be read: {error.strerror}") from None
    return parsed_json(content, path, kind)


def parsed_json(content: bytes, path: object, kind: type = dict) -> Any:
    """What a JSON file holds, whose name ``path`` is for the messages; see ``read_json``.

    Raises:
        BopError: It is no JSON, holds a name twice, or something else than a ``kind``.
    """
    try:
        values = json.loads(content, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise BopError(f"{path} is no text: fetch it again") from None
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise BopError(f"{path} is no valid JSON ({reason}): mend it, or fetch it again") from None
    if not isinstance(values, kind):
        wanted = "a list" if kind is list else "names and values"
        raise BopError(f"{path} must hold {wanted}, not {excerpt(values)}; fetch it again")
    return values


def excerpt(value: Any) -> str:
    """A value as it stands in a JSON file, its beginning."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it holds {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def to_bop_box(box: ArrayLike) -> list[float]:
    """Returns `x, y, w, h` of a box (4,) xyxy.

    BOP counts from pixel centre to pixel centre: a silhouette that covers n pixels is n - 1 wide.
    """
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64).tolist()
    return [x0, y0, x1 - x0 - 1.0, y1 - y0 - 1.0]


def from_bop_box(values: ArrayLike | None) -> Array | None:
    """Returns the box (4,) xyxy of BOP's `x, y, w, h`; None for a missing box or BOP's mark of an empty one."""
    if values is None or (x_y_w_h := np.asarray(values, dtype=np.float64).tolist()) == [-1, -1, -1, -1]:
        return None
    x, y, w, h = x_y_w_h
    return np.array([x, y, x + w + 1.0, y + h + 1.0])
