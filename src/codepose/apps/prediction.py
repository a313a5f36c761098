"""Photos in, overlays and JSON out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from codepose import geometry
from codepose.config import ConfigError
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation import draw
from codepose.synthesis.renderer import Instances
from codepose.synthesis.world import World
from codepose.training.run import Run, write_atomically

if TYPE_CHECKING:
    from codepose.apps.commands import Predict

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def read_camera(text: str) -> NDArray[np.float64]:
    """Returns K (3, 3) from "fx,fy,cx,cy" or from a JSON file.

    Raises:
        ConfigError: It is neither; the text says what is.
    """
    if not text:
        raise ConfigError("give the photo's intrinsics: --K fx,fy,cx,cy in pixels, or --K camera.json")
    path = Path(text)
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        if isinstance(values, dict) and "K" in values:
            K = np.asarray(values["K"], dtype=np.float64)
            if K.size == 9:
                return K.reshape(3, 3)
        if isinstance(values, dict) and {"fx", "fy", "cx", "cy"} <= values.keys():
            return _matrix([float(values[k]) for k in ("fx", "fy", "cx", "cy")])
        raise ConfigError(f"{path} must hold fx, fy, cx, cy, or K as a 3 x 3 matrix")
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise ConfigError(f"--K must be four numbers fx,fy,cx,cy with commas and no spaces, not {text!r}")
    return _matrix(numbers)


def _matrix(numbers: list[float]) -> NDArray[np.float64]:
    fx, fy, cx, cy = numbers
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def read_image(path: Path) -> NDArray[np.uint8]:
    """Returns (H, W, 3) uint8 RGB, turned as the photo's EXIF data says; transparency becomes black.

    Raises:
        OSError: The file is no image.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image, dtype=np.float64)
            peak = 65535.0 if values.max() > 255 else 255.0
            image = Image.fromarray((values / peak * 255.0).round().clip(0, 255).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
        return np.array(image.convert("RGB"))


class Overlay:
    """Draws detections over photos: contour, axes, box, reconstruction."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(
        self, image: NDArray[np.uint8], camera: NDArray[np.float64], found: list[Detection]
    ) -> NDArray[np.uint8]:
        """Returns a copy of the image (H, W, 3) with all detections drawn; ``camera`` in OpenCV's convention."""
        K = geometry.from_opencv(torch.from_numpy(camera).float())
        for detection in reversed(found):
            index = torch.tensor([detection.object_index])
            model = self.world.objects[detection.object_index]
            R = torch.from_numpy(detection.R_cam_obj).float()
            t = torch.from_numpy(detection.t_cam_obj).float() + R @ model.offset  # of the bounding box's middle
            instances = Instances.single(index, R[None], t[None])
            size = (image.shape[0], image.shape[1])
            in_front = float(t[2]) > 0.5 * model.mesh.diameter
            mask = torch.zeros(size, dtype=torch.bool)
            if in_front:
                mask = self.world.renderer.render(instances, K[None], size).depth[0] > 0
            image = draw.overlay(
                image,
                K,
                detection.R_cam_obj,
                t,
                mask,
                detection.box,
                0.3 * model.mesh.diameter,
                inset=None if detection.reconstruction is None else torch.from_numpy(detection.reconstruction),
                text=f"{detection.label} {detection.score:.2f}",
            )
        return image


def predict_images(options: Predict) -> int:
    """Predicts on an image or a folder of images; a bad file is reported and skipped. Returns the exit status."""
    camera = read_camera(options.K)
    files = [options.image]
    if options.image.is_dir():
        files = sorted(p for p in options.image.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files or not files[0].exists():
        raise ConfigError(f"{options.image} holds no image" if not files else f"{options.image} does not exist")
    run = Run.open(options.run)
    estimator = PoseEstimator.load(run, options.method, options.device)
    overlay = Overlay(World(run.settings))
    out = options.out or run.path / "predictions"
    out.mkdir(parents=True, exist_ok=True)
    console, failed = Console(), 0
    for path in track(files, "predicting", console=console, disable=len(files) == 1 or not console.is_terminal):
        try:
            image = read_image(path)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            print(f"codepose predict: {path} skipped: {error}", file=sys.stderr)
            failed += 1
            continue
        found = estimator(image, camera, min_score=options.min_score)
        picture = overlay(image, camera, found)
        Image.fromarray(picture).save(out / f"{path.stem}.overlay.png")
        result = {"image": path.name, "K": camera.tolist(), "detections": [d.to_json() for d in found]}
        write_atomically(out / f"{path.stem}.json", json.dumps(result, indent=2) + "\n")
        words = [f"{d.label} {d.score:.2f} at {d.t_cam_obj.round().astype(int).tolist()} mm" for d in found]
        console.print(f"{path.name}: {', '.join(words) or 'nothing found'}", highlight=False, soft_wrap=True)
    console.print(f"overlays and JSON in {out}", highlight=False, soft_wrap=True)
    return 1 if failed else 0
