"""One camera, 64 x 48 pixels, in every format that calibration files have."""

from __future__ import annotations

import json

K = [70.5, 0.0, 31.25, 0.0, 71.5, 23.75, 0.0, 0.0, 1.0]
LENS = [-0.1, 0.01, 0.001, -0.002, 0.0]

_OPENCV_YAML = """%YAML:1.0
---
image_width: 64
image_height: 48
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 70.5, 0., 31.25, 0., 71.5, 23.75, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ -0.1, 0.01, 0.001, -0.002, 0. ]
"""
_ROS = """image_width: 64
image_height: 48
camera_name: narrow
camera_matrix:
  rows: 3
  cols: 3
  data: [70.5, 0, 31.25, 0, 71.5, 23.75, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.1, 0.01, 0.001, -0.002, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [70.5, 0, 31.25, 0, 0, 71.5, 23.75, 0, 0, 0, 1, 0]
"""
_CAMERA_INFO = """header:
  seq: 1
  stamp: {secs: 3, nsecs: 4}
  frame_id: camera
height: 48
width: 64
distortion_model: plumb_bob
D: [-0.1, 0.01, 0.001, -0.002, 0.0]
K: [70.5, 0.0, 31.25, 0.0, 71.5, 23.75, 0.0, 0.0, 1.0]
R: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
P: [70.5, 0.0, 31.25, 0.0, 0.0, 71.5, 23.75, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 0
binning_y: 0
roi: {x_offset: 0, y_offset: 0, height: 0, width: 0, do_rectify: false}
---
"""
_COLMAP = """# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
# Number of cameras: 1
1 OPENCV 64 48 70.5 71.5 31.75 24.25 -0.1 0.01 0.001 -0.002
"""
_BOP = {"cx": 31.25, "cy": 23.75, "depth_scale": 1.0, "fx": 70.5, "fy": 71.5, "height": 48, "width": 64}
_ROWS = {"K": [K[:3], K[3:6], K[6:]], "distortion": LENS, "width": 64, "height": 48, "model": "opencv"}
_OPENCV_JSON = {
    "image_width": 64,
    "image_height": 48,
    "camera_matrix": {"type_id": "opencv-matrix", "rows": 3, "cols": 3, "dt": "d", "data": K},
    "distortion_coefficients": {"type_id": "opencv-matrix", "rows": 1, "cols": 5, "dt": "d", "data": LENS},
}
_NAMED = {"fx": 70.5, "fy": 71.5, "cx": 31.25, "cy": 23.75, "k1": -0.1, "k2": 0.01, "p1": 0.001, "p2": -0.002}

TEXTS: dict[str, str] = {
    "opencv.yaml": _OPENCV_YAML,
    "ros.yaml": _ROS,
    "camera_info.yml": _CAMERA_INFO,
    "cameras.txt": _COLMAP,
}
JSONS: dict[str, object] = {
    "bop.json": _BOP,
    "rows.json": _ROWS,
    "opencv.json": _OPENCV_JSON,
    "named.json": _NAMED,
}
"""Names that say the format, and contents."""


def corpus() -> list[tuple[str, str]]:
    """Every format's text."""
    return [*TEXTS.items(), *((name, json.dumps(values, indent=1)) for name, values in JSONS.items())]
