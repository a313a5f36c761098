"""Calibration files as people have them: JSON, XML, OpenCV's and ROS's YAML, COLMAP's cameras, a matrix as text."""

from __future__ import annotations

import codecs
import json
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from codepose.cameras.camera_entries import UNSUPPORTED, Calibration, CameraError, checked_side, named_camera, numbers

_COLMAP = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
"""The parameters of COLMAP's models, in its order."""
_COLMAP_NUMBERS = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV"),
    *("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE"),
)
"""Its models by their numbers in binary files."""
_LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_MOST_BYTES = 1_000_000
"""No calibration is longer."""
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
"""How Windows marks what a text is coded in."""


def read_calibration(path: Path) -> Calibration:
    """Reads a file with one of ``SUFFIXES``.

    Raises:
        CameraError: The file cannot be read, or is none of the formats.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CameraError(f"it cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise CameraError(f"it is too large: no camera takes more than {_MOST_BYTES // 1000} kB")
    suffix = path.suffix.lower()
    if suffix == ".bin":
        return _colmap_binary(content)
    if suffix not in _READERS:
        raise CameraError(f"{suffix or 'files without a suffix'} is not read: {', '.join(SUFFIXES)} are")
    return _READERS[suffix](_text(content))


def _text(content: bytes) -> str:
    """Whatever the comments are coded in: names and numbers are ASCII."""
    for mark, coding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(coding, errors="replace")
    if b"\0" in content:
        raise CameraError("it cannot be read: it is not text")
    return content.decode("utf-8", errors="replace")


def _json(content: str) -> Calibration:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CameraError(f"it is not valid JSON: {error}") from None
    return named_camera(values)


class _Loader(yaml.SafeLoader):
    """Reads OpenCV's matrices as mappings of rows, cols, dt and data."""


def _opencv_matrix(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> dict[Hashable, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("a matrix without rows, cols and data")
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("tag:yaml.org,2002:opencv-", _opencv_matrix)


def _yaml(content: str) -> Calibration:
    body = re.sub(r"\A\s*%YAML.*\n", "", content)  # OpenCV writes "%YAML:1.0", which YAML itself does not allow
    try:
        values = next(iter(yaml.load_all(body, _Loader)), None)  # `rostopic echo` ends messages with ---
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise CameraError(f"it is not valid YAML{where}: {error.problem}") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ):  # dates that there are not, and so on
        raise CameraError("it is not valid YAML: it holds what no file of numbers does") from None
    return named_camera(values)


def _xml(content: str) -> Calibration:
    """OpenCV's FileStorage."""
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise CameraError(f"it is not valid XML: {error}") from None
    if root.tag != "opencv_storage":
        raise CameraError(
            f"XML is read as OpenCV's FileStorage writes it, not {root.tag[:40]!r}: type the four numbers"
        )
    return named_camera({entry.tag: _xml_value(entry) for entry in root})


def _xml_value(entry: ET.Element) -> Any:
    data = entry.find("data")
    if data is not None:
        return (data.text or "").split()
    return (entry.text or "").strip().strip('"') or None


def _plain(content: str) -> Calibration:
    """COLMAP's cameras.txt, or the numbers of K alone, as NumPy and data sets write them."""
    words = re.sub("[,;]", " ", re.sub("#.*", "", content)).split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        return _colmap(content)
    if len(values) == 4:
        fx, fy, cx, cy = values
        return Calibration(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), None, None, ())
    if len(values) == 16:
        whole = values.reshape(4, 4)
        if np.array_equal(whole[3], (0, 0, 0, 1)) and not whole[:3, 3].any():
            values = whole[:3, :3].ravel()
    if len(values) != 9:
        raise CameraError(f"it must hold COLMAP's cameras, fx fy cx cy, or the 3 x 3 of K, not {len(values)} numbers")
    return named_camera({"K": values.tolist()})


def _colmap(content: str) -> Calibration:
    lines = [line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        raise CameraError(f"it must hold one camera, not {len(lines)}: keep the line of the photo's camera in a copy")
    if len(lines[0]) < 4:
        raise CameraError("it must hold a line CAMERA_ID MODEL WIDTH HEIGHT PARAMS...")
    _, model, width, height, *parameters = lines[0]
    return _colmap_camera(model, width, height, parameters)


def _colmap_binary(content: bytes) -> Calibration:
    """COLMAP's cameras.bin: how many, then each one's number, model, width, height and parameters."""
    try:
        count, _, model, width, height = struct.unpack_from("<QIiQQ", content)
    except struct.error:
        raise CameraError("it ends before its first camera: COLMAP's cameras.bin is longer") from None
    if count != 1:
        raise CameraError(f"it must hold one camera, not {count}: write COLMAP's text and keep one line of it")
    if not 0 <= model < len(_COLMAP_NUMBERS):
        raise CameraError(f"the lens model number {model} {UNSUPPORTED}; supported are {', '.join(_COLMAP)}")
    rest = content[struct.calcsize("<QIiQQ") :]
    if len(rest) % 8:
        raise CameraError("it breaks off in a number: COLMAP's cameras.bin ends with whole ones")
    parameters = list(struct.unpack(f"<{len(rest) // 8}d", rest))
    return _colmap_camera(_COLMAP_NUMBERS[model], width, height, parameters)


def _colmap_camera(model: str, width: Any, height: Any, parameters: list[Any]) -> Calibration:
    """COLMAP puts the first pixel's centre at (0.5, 0.5): its principal point is 0.5 larger than OpenCV's."""
    if model not in _COLMAP:
        raise CameraError(f"the lens model {model[:40]!r} {UNSUPPORTED}; supported are {', '.join(_COLMAP)}")
    names = _COLMAP[model]
    if len(parameters) != len(names):
        raise CameraError(f"{model} has {len(names)} parameters ({', '.join(names)}), not {len(parameters)}")
    given = dict(zip(names, numbers(parameters, model), strict=True))
    fx = given.get("f", given.get("fx", 0.0))
    fy = given.get("f", given.get("fy", 0.0))
    K = np.array([[fx, 0.0, given["cx"] - 0.5], [0.0, fy, given["cy"] - 0.5], [0.0, 0.0, 1.0]])
    lens = tuple(given.get(name, 0.0) for name in _LENS)
    return Calibration(K, checked_side(width, "WIDTH"), checked_side(height, "HEIGHT"), lens)


_READERS: dict[str, Callable[[str], Calibration]] = {
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".xml": _xml,
    ".txt": _plain,
}
SUFFIXES = (*_READERS, ".bin")
"""Of the files that ``read_calibration`` reads."""
