"""Finds the part in a photo with an exported network: NumPy, Pillow and ONNX Runtime, no PyTorch, no codepose.

codepose export runs/part part.onnx
python examples/onnx_pose.py part.onnx photo.png 615.2,615.4,322.1,241.8

The photo has eight bits a channel, and no lens distortion; K is that of the upright photo.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def letterbox(photo: Image.Image, K: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photo scaled until its longer side is ``size``, black to the right of it and below; its camera; the scale."""
    scale = size / max(photo.size)
    shape = tuple(max(1, round(side * scale)) for side in photo.size)
    image = np.zeros((size, size, 3), np.float32)
    image[: shape[1], : shape[0]] = np.asarray(photo.resize(shape, Image.Resampling.BILINEAR), np.float32) / 255.0
    scales = np.divide(shape, photo.size)
    camera = K.copy()
    camera[[0, 1], [0, 1]] *= scales
    camera[:2, 2] = (K[:2, 2] + 0.5) * scales - 0.5  # the centre of the first pixel is (0, 0), before and after
    return image.transpose(2, 0, 1)[None], camera.astype(np.float32), scales


def upright(path: str) -> Image.Image:
    """The photo as RGB, turned as its EXIF data say."""
    photo = ImageOps.exif_transpose(Image.open(path))
    if photo.mode.startswith("I") or photo.mode == "F":
        raise SystemExit(f"{path} has more than eight bits a channel: convert it first")
    return photo.convert("RGB")


def find(model: str, photo: str, intrinsics: str, min_score: float = 0.5) -> list[dict[str, Any]]:
    """The detections, best first: label, score, box in the photo's pixels, R_cam_obj, t_cam_obj in mm, confidence."""
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map
    fx, fy, cx, cy = map(float, intrinsics.split(","))
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    picture = upright(photo)
    image, camera, scales = letterbox(picture, K, int(about["image_size"]))
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": image, "camera": camera}), strict=True))
    labels = json.loads(about["names"])
    return [
        {
            "label": labels[found["labels"][i] - 1],
            "score": float(found["scores"][i]),
            "box": found["boxes"][i] / np.tile(scales, 2),
            "R_cam_obj": found["R_cam_obj"][i],
            "t_cam_obj": found["t_cam_obj"][i],
            "confidence": float(found["confidence"][i]),
        }
        for i in range(len(found["labels"]))
        if found["scores"][i] >= min_score
    ]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: python onnx_pose.py MODEL.onnx PHOTO fx,fy,cx,cy")
    for one in find(*sys.argv[1:4]):
        print(
            {name: value.round(3).tolist() if isinstance(value, np.ndarray) else value for name, value in one.items()}
        )
