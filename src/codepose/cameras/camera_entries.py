"""What a calibration file says: its matrix, size and lens under the names that BOP, OpenCV, ROS and others use."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codepose.settings.errors import ConfigError

_LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_COEFFICIENTS = (
    *("distortioncoefficients", "distortioncoeffs", "distortioncoeff", "distortion"),
    *("distcoefficients", "distcoeffs", "distcoeff", "distcoefs", "distcoef", "dist", "d"),
    *("coefficients", "coeffs", "coefs", "distortionparameters", "distortionparams", "lensdistortion"),
)
"""Names under which their list is found."""
_MATRIX = ("cameramatrix", "k", "camk", "intrinsics", "intrinsicmatrix")
_GROUPS = ("intrinsics", "intrinsic", "intrinsicparameters", "projectionparameters", *_COEFFICIENTS)
"""Names of mappings whose entries might as well stand beside them."""
_PRINCIPAL = {"ppx": "cx", "ppy": "cy"}
"""RealSense's names, and the others'."""
_POLYNOMIAL = ("plumbbob", "rationalpolynomial", "radtan", "brownconrady", "opencv", "fullopencv", "brown")
"""Names of OpenCV's own lens model, as letters; RealSense's is distortion.brown_conrady."""
_NO_LENS = ("", "none", "pinhole", "perspective", "simplepinhole", "rectified")
_RADIAL = ("simpleradial", "radial")
"""COLMAP's, of which OpenCV's is an extension."""
_NO_PINHOLE = {"theta", "omni", "mei", "unified", "spherical", "division", "ds", "ucm", "eucm", "kb", "scaramuzza"}
_NO_PINHOLE_LETTERS = ("fisheye", "equidistant", "kannala", "ftheta", "omnidirectional", "equirectangular", "sphere")
"""Other models by words of their names, and by what their names hold."""
_MODEL_NAMES = re.compile("(distortion|camera|lens|model|projection|intrinsics?|physical)*(model|type)")
_LENS_NAMES = re.compile(r"(lens|camera)?(dist(?!ance)|coef|radial|tangential)|k\d+$|xi$|fthetapoly")
"""How names begin that speak of a lens."""
UNSUPPORTED = "is not supported: undistort the photos first, and give the K of the result"
_MOST_PIXELS = 1_000_000
"""No image has longer sides."""


class CameraError(ConfigError):
    """A camera that cannot be used; the text says what to type."""


class Calibration(NamedTuple):
    """What a file says, with OpenCV's conventions.

    Attributes:
        K: (3, 3) in pixels; the centre of the first pixel is (0, 0).
        width: Of the calibration's images in pixels, or None.
        height: The same.
        distortion: OpenCV's coefficients in its order; empty = none.
        uncut: Width and height before a region of interest was cut out of them; None = it was not.
    """

    K: NDArray[np.float64]
    width: int | None
    height: int | None
    distortion: tuple[float, ...]
    uncut: tuple[int, int] | None = None


def named_camera(values: Any) -> Calibration:
    """Reads the names that BOP, OpenCV, ROS and others use, in any spelling: camera_matrix, cameraMatrix, K, k.

    Args:
        values: A mapping, or what else stood in the file.

    Raises:
        CameraError: It describes no camera, or one of a model that is not supported.
    """
    named = _by_name(values)
    lens = _lens(named)
    _check_model(named, lens)
    matrix = _first(named, *_MATRIX)
    if matrix is not None:
        K = _matrix(matrix)
    elif {"fx", "fy", "cx", "cy"} <= named.keys():
        fx, fy, cx, cy = (number(named[name], name) for name in ("fx", "fy", "cx", "cy"))
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    else:
        raise CameraError(f"it must hold fx, fy, cx, cy, or a 3 x 3 matrix named K or camera_matrix{_deeper(values)}")
    width, height = _first(named, "imagewidth", "width"), _first(named, "imageheight", "height")
    resolution = _first(named, "resolution", "imagesize")
    if width is None and height is None and isinstance(resolution, list) and len(resolution) == 2:
        width, height = resolution
    sides = [checked_side(side, name) if side else None for side, name in ((width, "width"), (height, "height"))]
    return _of_images(named, Calibration(K, sides[0], sides[1], lens))


def _by_name(values: Any) -> dict[str, Any]:
    """A file's entries by their names as letters and digits, those of groups among them."""
    if isinstance(values, dict) and len(values) == 1 and re.fullmatch(r"cam\d+", str(next(iter(values)))):
        values = next(iter(values.values()))  # Kalibr's chain of one camera
    named: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        name = _letters(key)
        if name in _GROUPS and isinstance(value, dict) and "data" not in value:
            named |= {_letters(inner): part for inner, part in value.items()}
        else:
            named[name] = value
    return {_PRINCIPAL.get(name, name): value for name, value in named.items()}


def _letters(key: Any) -> str:
    """A name as letters and digits; ORB-SLAM's begin with "Camera.", those of its first camera with "Camera1."."""
    return re.sub(r"^camera1?\.|[^a-z0-9]", "", str(key).lower())


def _deeper(values: Any) -> str:
    """Where cameras lie deeper in a file, for a message."""
    found: list[str] = []
    level = [("", values)] if isinstance(values, dict | list) else []
    for _ in range(5):
        level = [
            (f"{path}.{key}".lstrip("."), value)
            for path, inside in level[:100]
            for key, value in (inside.items() if isinstance(inside, dict) else enumerate(inside))
            if isinstance(value, dict | list)
        ]
        found += [path for path, value in level if isinstance(value, dict) and _is_camera(value)]
    if not found:
        return ""
    places = ", ".join(path[:60] for path in found[:3]) + (" ..." if len(found) > 3 else "")
    return f"; what lies in {places} looks like one: give a file with that alone"


def _is_camera(values: dict[Any, Any]) -> bool:
    names = {_PRINCIPAL.get(_letters(key), _letters(key)) for key in values}
    return {"fx", "fy", "cx", "cy"} <= names or any(name in names for name in _MATRIX)


def _matrix(value: Any) -> NDArray[np.float64]:
    """K from 3 x 3 numbers, row after row or, as Open3D and MATLAB write it, column after column; or Kalibr's four."""
    given = numbers(value, "K")
    if len(given) == 4:
        return np.array([[given[0], 0.0, given[2]], [0.0, given[1], given[3]], [0.0, 0.0, 1.0]])
    if len(given) != 9:
        raise CameraError(f"K must hold 3 x 3 numbers, row after row, not {len(given)}")
    K = np.array(given).reshape(3, 3)
    by_columns = tuple(K[:, 2]) == (0.0, 0.0, 1.0) and tuple(K[2]) != (0.0, 0.0, 1.0)
    return K.T.copy() if by_columns else K


def _of_images(named: dict[str, Any], whole: Calibration) -> Calibration:
    """The camera of the images themselves: ROS's camera_info (REP 104) describes the sensor, of which they show a
    region of interest, whose pixels are binned."""
    region = named.get("roi") if isinstance(named.get("roi"), dict) else {}
    part = {_letters(key): value for key, value in (region or {}).items()}
    left, top, across, down = (_whole(part.get(name), name) for name in ("xoffset", "yoffset", "width", "height"))
    bins = [max(1, _whole(named.get(name), name)) for name in ("binningx", "binningy")]
    width, height, K = whole.width, whole.height, whole.K.copy()
    if left or top or across or down:
        if not (across and down):
            raise CameraError("its roi has an offset but no width and height: write those of the photos into it")
        if width and height and (left + across > width or top + down > height):
            raise CameraError(f"its roi reaches beyond the {width} x {height} pixels of the whole image")
        K[:2, 2] -= left, top
        width, height = across, down
    if width and height:
        width, height = width // bins[0], height // bins[1]
    K[:2] /= np.array(bins)[:, None]
    K[:2, 2] += 0.5 / np.array(bins) - 0.5  # pixels scale around the image's corner, not around the first one's centre
    if whole.width and whole.height and width and height and (width, height) != (whole.width, whole.height):
        off, as_it_is = (
            np.abs(whole.K[:2, 2] / np.maximum(size, 1) - 0.5).sum()
            for size in ((whole.width, whole.height), (width, height))
        )
        if as_it_is < off:
            raise CameraError(
                f"its K is not that of {whole.width} x {whole.height} pixels, as ROS's REP 104 wants it beside roi and "
                f"binning, but seems to be that of the photos: leave both out, and write the photos' width and height"
            )
    cut = bool(across and (across, down) != (whole.width, whole.height))
    uncut = (whole.width, whole.height) if cut and whole.width and whole.height else None
    return Calibration(K, width, height, whole.distortion, uncut)


def _whole(value: Any, name: str) -> int:
    """A number of pixels that may be 0 or missing."""
    return checked_side(value, name) if value else 0


def _check_model(named: dict[str, Any], lens: tuple[float, ...]) -> None:
    """Refuses lenses that OpenCV's polynomials do not describe; without coefficients any pinhole's is one."""
    for key, value in named.items():
        if not _MODEL_NAMES.fullmatch(key) or not isinstance(value, str):
            continue
        words = re.findall("[a-z]+", value.lower())
        letters = "".join(words).removeprefix("distortion")
        other = key.startswith("distortion") and letters not in (*_POLYNOMIAL, *_NO_LENS, *_RADIAL)
        inverse = {"inverse", "modified"} & set(words)
        foreign = _NO_PINHOLE & set(words) or any(name in letters for name in _NO_PINHOLE_LETTERS)
        if foreign or (any(lens) and (other or inverse)):
            raise CameraError(f"the lens model {value[:60]!r} {UNSUPPORTED}")
    if named.get("fisheyemodel"):
        raise CameraError(f"the lens model 'fisheye' {UNSUPPORTED}")


def _lens(named: dict[str, Any]) -> tuple[float, ...]:
    """OpenCV's coefficients, from one list of any usual name or from k1, k2, p1 and so on; empty = none."""
    listed = _first(named, *_COEFFICIENTS)
    if listed is not None:
        return tuple(numbers(listed, "distortion"))
    for name in sorted(named.keys() - set(_LENS)):
        if _LENS_NAMES.match(name) and not _MODEL_NAMES.fullmatch(name) and _says_something(named[name]):
            raise CameraError(f"the lens is described by {name!r}, which is unknown: name it distortion_coefficients")
    if not any(named.get(name) for name in _LENS):
        return ()
    return tuple(number(named.get(name) or 0.0, name) for name in _LENS)


def _says_something(value: Any, deep: int = 3) -> bool:
    """Whether a value holds a number other than 0."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return deep == 0 or any(_says_something(item, deep - 1) for item in inside)
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


def _first(values: dict[str, Any], *names: str) -> Any:
    """The value of the first of these names that is there, or None."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def checked_side(value: Any, name: str) -> int:
    """Returns a number of pixels.

    Raises:
        CameraError: It is none.
    """
    pixels = number(value, name)
    if not (0 < pixels <= _MOST_PIXELS and pixels.is_integer()):
        raise CameraError(f"{name} must be a number of pixels, not {_excerpt(value)}")
    return int(pixels)


def number(value: Any, name: str) -> float:
    """Returns a value as a number.

    Raises:
        CameraError: It is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"{name} must be a number, not {_excerpt(value)}") from None


def numbers(value: Any, name: str) -> list[float]:
    """Flattens a list, a list of rows, or a mapping that keeps them under "data".

    Raises:
        CameraError: There are others among them.
    """
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list):
        raise CameraError(f"{name} must be a list of numbers, not {_excerpt(value)}")
    rows = [row if isinstance(row, list) else [row] for row in value]
    return [number(item, name) for row in rows for item in row]


def _excerpt(value: Any) -> str:
    """A value for a message, shortened."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "one of more than forty digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
