"""The objects of a run on one device, and their clean, centred views, which every stage shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codepose import geometry
from codepose.parts.symmetry_group import Symmetries
from codepose.rendering.renderer import Instances, Renderer
from codepose.rendering.shading import Lights, render_shaded
from codepose.settings.crop import ROI_PAD

if TYPE_CHECKING:
    from codepose.parts.mesh import Mesh
    from codepose.settings.schema import Settings


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """One object as the network learns it.

    Attributes:
        label: Name in results.
        mesh: The CAD model in mm, moved so that the middle of its bounding box is the origin of the poses inside.
        offset: (3,) mm, where that middle lies in the CAD file's own frame, in which poses are given out.
        axis: (3,) middle of the trained view directions, object frame.
        cone_deg: Half-angle of the trained views around it.
        opposite: Whether those around its opposite are trained, too.
        z_ref: Distance in mm of the reference view, at which the object's padded diameter fills a crop.
        declared: The symmetries that the settings name, frame of ``mesh``; None where they are to be found.
    """

    label: str
    mesh: Mesh
    offset: Tensor
    axis: Tensor
    cone_deg: float
    opposite: bool
    z_ref: float
    declared: Symmetries | None = None

    @cached_property
    def symmetries(self) -> Symmetries:
        """The rotations after which the part looks the same, frame of ``mesh``; finding them takes a second or two."""
        if self.declared is None:
            from codepose.parts.symmetry_search import find_symmetries

            return find_symmetries(self.mesh)
        return self.declared

    @cached_property
    def rests(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How it can lie, as ``parts/resting.py`` has it; finding that takes up to a second."""
        from codepose.parts.resting import rests

        return rests(self.mesh)

    def trains(self, R_view: Tensor) -> Tensor:
        """Says which views (B, 3, 3) lie among the trained ones, (B,) bool."""
        cosines = -R_view[:, 2] @ self.axis.to(R_view)
        cosines = cosines.abs() if self.opposite else cosines
        return cosines >= math.cos(math.radians(min(self.cone_deg, 180.0))) - 1e-5

    @property
    def cad_symmetries(self) -> Symmetries:
        """The same in the CAD file's own frame."""
        return self.symmetries.moved(self.offset.numpy())


class Objects:
    """Renders a run's objects.

    Args:
        settings: Name the camera and the crop's size.
        device: Where everything is rendered.
        objects: In the settings' order.

    Attributes:
        renderer: Of the objects alone.
        K: (3, 3) the scene camera.
        diameters: (n,) mm, the objects'.
    """

    def __init__(self, settings: Settings, device: torch.device | str, objects: Sequence[ObjectModel]) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.objects = list(objects)
        self.renderer = Renderer([o.mesh for o in self.objects], self.device)
        self._z_ref = torch.tensor([o.z_ref for o in self.objects], device=self.device)
        camera = settings.data.camera
        half = camera.image_size / 2
        self.K = geometry.camera_matrix(camera.focal, half, half).to(self.device)
        self.diameters = torch.tensor([o.mesh.diameter for o in self.objects], device=self.device)

    def reference_translations(self, objects: Tensor) -> Tensor:
        """Returns t (B, 3) of the reference views: on the optical axis at the object's reference distance."""
        t = torch.zeros(len(objects), 3, device=self.device)
        t[:, 2] = self._z_ref[objects]
        return t

    def boxes(self, objects: Tensor, R: Tensor, t: Tensor, K: Tensor | None = None) -> Tensor:
        """Returns the amodal boxes (B, 4) in the scene camera's image, or in that of K (3, 3)."""
        K = self.K if K is None else K
        return self.renderer.projected_boxes(Instances.single(objects, R, t), K.expand(len(R), 3, 3))

    def clean_views(
        self, objects: Tensor, R_view: Tensor, *, crop: int | None = None, canvas: int | None = None
    ) -> Tensor:
        """Renders the targets of Eq. 1: fixed light, black background, centred, the padded square = one crop.

        Args:
            objects: (B,) long, which object.
            R_view: (B, 3, 3) its rotation.
            crop: Side in pixels of the padded square; None = the settings'.
            canvas: Side in pixels of a larger black canvas around the crop; None = the crop alone.

        Returns:
            (B, 3, canvas, canvas) in [0, 1].
        """
        crop = crop or self.settings.network.crop
        canvas = canvas or crop
        t = self.reference_translations(objects)
        window = geometry.padded_square(self.boxes(objects, R_view, t), ROI_PAD)
        if canvas != crop:
            window = geometry.padded_square(window, canvas / crop)
        K = geometry.crop_camera(self.K, window, canvas)
        lights = Lights.fixed(len(R_view), self.device)
        tint = torch.ones(len(R_view), 3, device=self.device)
        instances = Instances.single(objects, R_view, t)
        antialias = self.settings.data.antialias
        rgba, _ = render_shaded(self.renderer, instances, K, canvas, lights, tint, antialias)
        return rgba[:, :3]
