"""Detections drawn over their photo."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from codepose import geometry
from codepose.estimation.detection import Detection
from codepose.rendering.renderer import Instances
from codepose.reports import draw
from codepose.synthesis.world import World

_LONGEST = 2560
"""Pixels of the longer side beyond which a photo is drawn on at a half, a third and so on of its size."""


class Overlay:
    """Draws detections over photos: contour of the mesh, axes, box, the best one's reconstruction.

    Args:
        world: The run's meshes, on the CPU.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(
        self, image: NDArray[np.uint8], camera: NDArray[np.float64], found: list[Detection]
    ) -> NDArray[np.uint8]:
        """Draws all detections of one photo.

        Args:
            image: (H, W, 3) uint8 without lens distortion.
            camera: (3, 3) K of the image, OpenCV's convention.
            found: Best first; the best is drawn last, over the others.

        Returns:
            A drawn copy, (H, W, 3) uint8; where a side has more than ``_LONGEST`` pixels, a smaller one.
        """
        K = geometry.from_opencv(torch.from_numpy(camera).float())
        factor = math.ceil(max(image.shape[:2]) / _LONGEST)
        if factor > 1:
            image = np.asarray(Image.fromarray(image).reduce(factor))
            K = geometry.scaled_camera(K, 1.0 / factor)
        picture = image
        for place, detection in reversed(list(enumerate(found))):
            model = self.world.objects[detection.object_index]
            R = torch.from_numpy(detection.R_cam_obj).float()
            t = torch.from_numpy(detection.t_cam_obj).float() + R @ model.offset  # of the bounding box's middle
            best = place == 0
            picture = draw.overlay(
                picture,
                K,
                detection.R_cam_obj,
                t,
                self._mask(detection.object_index, R, t, K, (image.shape[0], image.shape[1])),
                detection.box / factor,
                0.3 * model.mesh.diameter,
                inset=torch.from_numpy(detection.reconstruction)
                if best and detection.reconstruction is not None
                else None,
                text="\n".join(f"{d.name} {d.sureness}" for d in found) if best else "",
            )
        return picture.copy() if picture is image else picture

    def _mask(
        self, index: int, R: torch.Tensor, t: torch.Tensor, K: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """Which pixels the object covers, (H, W) bool; none if it is not wholly in front of the camera."""
        if float(t[2]) <= 0.5 * self.world.objects[index].mesh.diameter:
            return torch.zeros(size, dtype=torch.bool)
        instances = Instances.single(torch.tensor([index]), R[None], t[None])
        return self.world.renderer.depth(instances, K[None], size)[0] > 0
