"""Calibration files as people have them: JSON, OpenCV's and ROS's YAML, COLMAP's text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from codepose.config_data import ConfigError

_COLMAP = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
"""The parameters of COLMAP's models, in its order."""
_LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_COEFFICIENTS = (
    *("distortioncoefficients", "distortioncoeffs", "distortioncoeff", "distortion"),
    *("distcoefficients", "distcoeffs", "distcoeff", "distcoefs", "distcoef", "dist", "d"),
    *("coefficients", "coeffs", "coefs", "distortionparameters", "distortionparams", "lensdistortion"),
)
"""Names under which their list is found."""
_POLYNOMIAL = ("plumbbob", "rationalpolynomial", "radtan", "brownconrady", "opencv", "fullopencv", "brown")
"""Names of OpenCV's own lens model, as letters; RealSense's is distortion.brown_conrady."""
_NO_LENS = ("", "none", "pinhole", "perspective", "simplepinhole", "rectified")
_RADIAL = ("simpleradial", "radial")
"""COLMAP's, of which OpenCV's is an extension."""
_NO_PINHOLE = {"fisheye", "equidistant", "kannala", "ftheta", "theta", "omni", "omnidirectional", "mei", "unified"}
_NO_PINHOLE |= {"scaramuzza", "spherical", "equirectangular", "division"}
_LENS_NAMES = re.compile(r"(lens|camera)?(dist(?!ance)|coef|radial|tangential)|k\d+$")
"""How names begin that speak of a lens."""
_UNSUPPORTED = "is not supported: undistort the photos first, and give the K of the result"


class CameraError(ConfigError):
    """A camera that cannot be used; the text says what to type."""


class Calibration(NamedTuple):
    """What a file says, with OpenCV's conventions.

    Attributes:
        K: (3, 3) in pixels; the centre of the first pixel is (0, 0).
        width: Of the calibration's images in pixels, or None.
        height: The same.
        distortion: OpenCV's coefficients in its order; empty = none.
    """

    K: NDArray[np.float64]
    width: int | None
    height: int | None
    distortion: tuple[float, ...]


def read_calibration(path: Path) -> Calibration:
    """Reads a file with one of ``SUFFIXES``.

    Raises:
        CameraError: The file cannot be read, or is none of the formats.
    """
    try:
        content = path.read_text()
    except OSError as error:
        raise CameraError(f"it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CameraError("it cannot be read: it is not text") from None
    return _READERS[path.suffix.lower()](content)


def _json(content: str) -> Calibration:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CameraError(f"it is not valid JSON: {error}") from None
    return _named(values)


class _Loader(yaml.SafeLoader):
    """Reads OpenCV's matrices as mappings of rows, cols, dt and data."""


def _opencv_matrix(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _opencv_matrix)


def _yaml(content: str) -> Calibration:
    body = re.sub(r"\A\s*%YAML.*\n", "", content)  # OpenCV writes "%YAML:1.0", which YAML itself does not allow
    try:
        values = next(iter(yaml.load_all(body, _Loader)), None)  # `rostopic echo` ends messages with ---
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: dates that there are not
        raise CameraError(f"it is not valid YAML: {' '.join(str(error).split())}") from None
    return _named(values)


def _named(values: Any) -> Calibration:
    """Reads the names that BOP, OpenCV and ROS use, in any spelling: camera_matrix, cameraMatrix, K, k."""
    if not isinstance(values, dict):
        values = {}
    named = {re.sub(r"[^a-z0-9]", "", str(key).lower()): value for key, value in values.items()}
    lens = _lens(named)
    _check_model(named, lens)
    matrix = _first(named, "cameramatrix", "k", "camk", "intrinsics", "intrinsicmatrix")
    if matrix is not None:
        numbers = _numbers(matrix, "K")
        if len(numbers) != 9:
            raise CameraError(f"K must hold 3 x 3 numbers, row after row, not {len(numbers)}")
        K = np.array(numbers).reshape(3, 3)
    elif {"fx", "fy", "cx", "cy"} <= named.keys():
        fx, fy, cx, cy = (_number(named[name], name) for name in ("fx", "fy", "cx", "cy"))
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    else:
        raise CameraError("it must hold fx, fy, cx, cy, or a 3 x 3 matrix named K or camera_matrix")
    width, height = _first(named, "imagewidth", "width"), _first(named, "imageheight", "height")
    return Calibration(K, _side(width, "width") if width else None, _side(height, "height") if height else None, lens)


def _check_model(named: dict[str, Any], lens: tuple[float, ...]) -> None:
    """Refuses lenses that OpenCV's polynomials do not describe; without coefficients any pinhole's is one."""
    for key in ("distortionmodel", "cameramodel", "projectiontype", "lensmodel", "model"):
        words = re.findall("[a-z]+", str(named.get(key) or "").lower())
        letters = "".join(words).removeprefix("distortion")
        other = key == "distortionmodel" and letters not in (*_POLYNOMIAL, *_NO_LENS, *_RADIAL)
        inverse = {"inverse", "modified"} & set(words)
        if _NO_PINHOLE & set(words) or (any(lens) and (other or inverse)):
            raise CameraError(f"the lens model {named[key]!r} {_UNSUPPORTED}")
    if named.get("fisheyemodel"):
        raise CameraError(f"the lens model 'fisheye' {_UNSUPPORTED}")


def _lens(named: dict[str, Any]) -> tuple[float, ...]:
    """OpenCV's coefficients, from one list of any usual name or from k1, k2, p1 and so on; empty = none."""
    listed = _first(named, *_COEFFICIENTS)
    if listed is not None:
        return tuple(_numbers(listed, "distortion"))
    for name in sorted(named.keys() - set(_LENS)):
        if _LENS_NAMES.match(name) and _says_something(named[name]):
            raise CameraError(f"the lens is described by {name!r}, which is unknown: name it distortion_coefficients")
    if not any(named.get(name) for name in _LENS):
        return ()
    return tuple(_number(named.get(name) or 0.0, name) for name in _LENS)


def _says_something(value: Any) -> bool:
    """Whether a value holds a number other than 0."""
    if isinstance(value, dict | list):
        return any(_says_something(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


def _colmap(content: str) -> Calibration:
    """COLMAP puts the first pixel's centre at (0.5, 0.5): its principal point is 0.5 larger than OpenCV's."""
    lines = [line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        raise CameraError(f"it must hold one camera, not {len(lines)}: keep the line of the photo's camera in a copy")
    if len(lines[0]) < 4:
        raise CameraError("it must hold a line CAMERA_ID MODEL WIDTH HEIGHT PARAMS...")
    _, model, width, height, *parameters = lines[0]
    if model not in _COLMAP:
        raise CameraError(f"the lens model {model!r} {_UNSUPPORTED}; supported are {', '.join(_COLMAP)}")
    names = _COLMAP[model]
    if len(parameters) != len(names):
        raise CameraError(f"{model} has {len(names)} parameters ({', '.join(names)}), not {len(parameters)}")
    given = dict(zip(names, _numbers(parameters, model), strict=True))
    fx = given.get("f", given.get("fx", 0.0))
    fy = given.get("f", given.get("fy", 0.0))
    K = np.array([[fx, 0.0, given["cx"] - 0.5], [0.0, fy, given["cy"] - 0.5], [0.0, 0.0, 1.0]])
    lens = tuple(given.get(name, 0.0) for name in _LENS)
    return Calibration(K, _side(width, "WIDTH"), _side(height, "HEIGHT"), lens)


_READERS: dict[str, Callable[[str], Calibration]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".txt": _colmap}
SUFFIXES = tuple(_READERS)
"""Of the files that ``read_calibration`` reads."""


def _first(values: dict[str, Any], *names: str) -> Any:
    """The value of the first of these names that is there, or None."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def _side(value: Any, name: str) -> int:
    """A number of pixels."""
    number = _number(value, name)
    if not (number > 0 and number.is_integer()):
        raise CameraError(f"{name} must be a number of pixels, not {value!r}")
    return int(number)


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise CameraError(f"{name} must be a number, not {value!r}") from None


def _numbers(value: Any, name: str) -> list[float]:
    """Flattens a list, a list of rows, or a mapping that keeps them under "data"."""
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list):
        raise CameraError(f"{name} must be a list of numbers, not {value!r}")
    rows = [row if isinstance(row, list) else [row] for row in value]
    return [_number(item, name) for row in rows for item in row]
