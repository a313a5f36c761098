"""Answers as OpenAPI shows them."""

from __future__ import annotations

from typing import Any

DETECTION: dict[str, Any] = {
    "label": "bracket",
    "score": 0.987654,
    "confidence": 0.93,
    "similarity": 0.981,
    "agreement": 0.94,
    "contour": 0.62,
    "judged": 2.7,
    "box_xyxy": [201.5, 140.2, 310.9, 262.0],
    "R_cam_obj": [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]],
    "t_cam_obj_mm": [-52.1, -33.4, 512.8],
}
POSES: dict[str, Any] = {
    "file": "photo.png",
    "width": 640,
    "height": 480,
    "K": [[615.2, 0.0, 322.1], [0.0, 615.4, 241.8], [0.0, 0.0, 1.0]],
    "detections": [DETECTION],
    "time_ms": 231.7,
}
MODEL: dict[str, Any] = {
    "name": "part",
    "objects": [
        {
            "index": 0,
            "label": "bracket",
            "diameter_mm": 141.4,
            "size_mm": [100.0, 80.0, 60.0],
            "center_mm": [50.0, 40.0, 30.0],
            "mesh": "v1/models/part/objects/0.ply",
        }
    ],
    "refined": True,
    "calibrated": True,
    "device": "cpu",
    "image_size": 512,
}
TRAINING: dict[str, Any] = {
    "name": "bracket",
    "file": "bracket.step",
    "state": "training",
    "begun": True,
    "message": "",
    "unit": "mm",
    "body": "",
    "minutes": 20.0,
    "report": {"name": "given", "usable": True, "size_mm": [100.0, 40.0, 70.0], "diameter_mm": 128.5, "findings": []},
    "pictures": ["sheet", "preview"],
    "progress": {"phase": "Step 1: extended AAE", "share": 0.42, "left": "6:58"},
}
CURVES: dict[str, Any] = {
    "charts": [
        {
            "stage": "step1",
            "title": "Step 1: error of the reconstruction",
            "scale": "log",
            "lines": [{"name": "training", "steps": [20, 40], "values": [0.061, 0.048]}],
        }
    ],
    "picture": {"stage": "step1", "step": 40},
}
