"""Reads cameras as people have them: four numbers, a field of view, JSON, OpenCV's and ROS's YAML, COLMAP."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from codepose.estimation.camera import Camera, CameraError, FieldOfView

_WAYS = (
    "type --K fx,fy,cx,cy in pixels, --K fov=60 (the horizontal field of view in degrees, a rough guess), or a "
    "calibration file: camera.json, camera.yaml (OpenCV, ROS) or cameras.txt (COLMAP)"
)

_COLMAP = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
"""The parameters of COLMAP's models, in its order."""


def read_camera(text: str) -> Camera | FieldOfView:
    """Reads a camera; ``for_size(width, height)`` then fits it to a photo.

    Args:
        text: "fx,fy,cx,cy" in pixels (OpenCV's convention), "fov=60" (horizontal, degrees), or a file: JSON (BOP's
            camera.json, or {"K": ..., "distortion": [...], "width": ..., "height": ...}), OpenCV's FileStorage YAML,
            ROS's camera_info YAML, COLMAP's cameras.txt.

    Raises:
        CameraError: It is none of these, or its lens model is not supported; the text says what to type.
    """
    text = text.strip()
    if not text:
        raise CameraError(f"give the photo's camera: {_WAYS}")
    if text.lower().startswith("fov="):
        return FieldOfView(_number(text[4:], "fov="))
    reader = _READERS.get(Path(text).suffix.lower())
    if reader is None:
        try:
            fx, fy, cx, cy = (float(part) for part in text.split(","))
        except ValueError:
            raise CameraError(f"--K {text} is not four numbers fx,fy,cx,cy with commas: {_WAYS}") from None
        return Camera(_matrix(fx, fy, cx, cy))
    try:
        content = Path(text).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CameraError(f"{text} cannot be read: {error}") from None
    try:
        return reader(content)
    except CameraError as error:
        raise CameraError(f"{text}: {error}") from None


def _json(content: str) -> Camera:
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        raise CameraError(f"it is not valid JSON: {error}") from None
    return _camera(values)


class _Loader(yaml.SafeLoader):
    """Reads OpenCV's matrices as mappings of rows, cols, dt and data."""


_Loader.add_constructor(
    "tag:yaml.org,2002:opencv-matrix", lambda loader, node: loader.construct_mapping(node, deep=True)
)


def _yaml(content: str) -> Camera:
    body = re.sub(r"\A\s*%YAML.*\n", "", content)  # OpenCV writes "%YAML:1.0", which YAML itself does not allow
    try:
        values = next(iter(yaml.load_all(body, _Loader)), None)  # `rostopic echo` ends messages with ---
    except yaml.YAMLError as error:
        raise CameraError(f"it is not valid YAML: {' '.join(str(error).split())}") from None
    return _camera(values)


def _camera(values: Any) -> Camera:
    """Reads the names that BOP, OpenCV and ROS use, whatever their spelling: camera_matrix, cameraMatrix, K, k."""
    if not isinstance(values, dict):
        values = {}
    named = {re.sub(r"[^a-z0-9]", "", str(key).lower()): value for key, value in values.items()}
    model = str(named.get("distortionmodel") or "plumb_bob").lower()
    if named.get("fisheyemodel") or model not in ("plumb_bob", "rational_polynomial", "none"):
        raise CameraError(f"the lens model {model if 'fisheyemodel' not in named else 'fisheye'!r} {_UNSUPPORTED}")
    matrix = _first(named, "cameramatrix", "k", "camk", "intrinsics", "intrinsicmatrix")
    if matrix is not None:
        K = np.array(_numbers(matrix, "K"))
        if K.size != 9:
            raise CameraError(f"K must hold 3 x 3 numbers, row after row, not {K.size}")
        K = K.reshape(3, 3)
    elif {"fx", "fy", "cx", "cy"} <= named.keys():
        K = _matrix(*(_number(named[name], name) for name in ("fx", "fy", "cx", "cy")))
    else:
        raise CameraError("it must hold fx, fy, cx, cy, or a 3 x 3 matrix named K or camera_matrix")
    lens = _first(named, "distortioncoefficients", "distcoeffs", "distortion", "d")
    width, height = _first(named, "imagewidth", "width"), _first(named, "imageheight", "height")
    return Camera(
        K,
        None if not width else int(_number(width, "width")),
        None if not height else int(_number(height, "height")),
        () if lens is None else tuple(_numbers(lens, "distortion")),
    )


def _colmap(content: str) -> Camera:
    """COLMAP puts the first pixel's centre at (0.5, 0.5): its principal point is 0.5 larger than OpenCV's."""
    lines = [line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        raise CameraError(f"it must hold one camera, not {len(lines)}: keep the line of the photo's camera in a copy")
    if len(lines[0]) < 4:
        raise CameraError("it must hold a line CAMERA_ID MODEL WIDTH HEIGHT PARAMS...")
    _, model, width, height, *parameters = lines[0]
    if model not in _COLMAP:
        raise CameraError(f"the lens model {model!r} {_UNSUPPORTED}; supported are {', '.join(_COLMAP)}")
    if len(parameters) != len(_COLMAP[model]):
        raise CameraError(f"{model} has {len(_COLMAP[model])} parameters, not {len(parameters)}")
    named = dict(zip(_COLMAP[model], _numbers(parameters, model), strict=True))
    fx, fy = named.get("fx", named.get("f", 0.0)), named.get("fy", named.get("f", 0.0))
    lens = tuple(named.get(name, 0.0) for name in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"))
    K = _matrix(fx, fy, named["cx"] - 0.5, named["cy"] - 0.5)
    return Camera(K, int(_number(width, "WIDTH")), int(_number(height, "HEIGHT")), lens)


_UNSUPPORTED = "is not supported: undistort the photos first, and give the K of the result"
_READERS: dict[str, Callable[[str], Camera]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".txt": _colmap}


def _matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _first(values: dict[str, Any], *names: str) -> Any:
    """The value of the first of these names that is there, or None."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def _number(value: Any, name: str) -> float:
    try:
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
