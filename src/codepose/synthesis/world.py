"""The meshes of a run on one device, and the clean, centred views of its objects that every stage shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codepose import geometry
from codepose.parts.decimation import decimate
from codepose.parts.mesh import Mesh
from codepose.parts.shapes import distractors, hand, resolve
from codepose.parts.symmetry_group import Symmetries, declared_symmetries
from codepose.parts.symmetry_search import find_symmetries
from codepose.parts.things import things
from codepose.rendering.renderer import Instances, Renderer
from codepose.rendering.shading import Lights, render_shaded
from codepose.settings.data import ObjectSettings
from codepose.settings.network import ROI_PAD
from codepose.settings.schema import Settings
from codepose.synthesis.backgrounds import Backgrounds, build_backgrounds, side_for

_FAR = 5000.0
"""Depth in mm of the background plane; farther behind parts so large that they would reach it."""
_THINGS = 48
"""How many different things stand around the objects of a run."""


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
        return find_symmetries(self.mesh) if self.declared is None else self.declared

    def trains(self, R_view: Tensor) -> Tensor:
        """Says which views (B, 3, 3) lie among the trained ones, (B,) bool."""
        cosines = -R_view[:, 2] @ self.axis.to(R_view)
        cosines = cosines.abs() if self.opposite else cosines
        return cosines >= math.cos(math.radians(min(self.cone_deg, 180.0))) - 1e-5

    @property
    def cad_symmetries(self) -> Symmetries:
        """The same in the CAD file's own frame."""
        return self.symmetries.moved(self.offset.numpy())


def reference_distance(settings: Settings, mesh: Mesh) -> float:
    """Returns the distance in mm of a part's reference view: there its padded diameter fills a crop."""
    return settings.data.camera.focal * ROI_PAD * mesh.diameter / settings.network.crop


def _model(settings: ObjectSettings, whole: Settings, number: int) -> ObjectModel:
    original = resolve(settings.mesh, unit=settings.unit, center=False, body=settings.body)
    # moved by the original's middle: the frame of the poses does not depend on how many faces are kept
    mesh = decimate(original, settings.max_faces).moved(-original.center)
    if settings.view_direction is None:
        axis = torch.zeros(3)
        axis[int(mesh.extents.argmin())] = 1.0
    else:
        axis = torch.nn.functional.normalize(torch.tensor(settings.view_direction), dim=0)
    declared = declared_symmetries(settings, number)
    return ObjectModel(
        label=settings.name,
        mesh=mesh,
        offset=torch.from_numpy(original.center),
        axis=axis,
        cone_deg=settings.view_cone_deg,
        opposite=settings.view_opposite,
        z_ref=reference_distance(whole, mesh),
        declared=None if declared is None else declared.moved(-original.center),
    )


def objects_of(settings: Settings) -> list[ObjectModel]:
    """Returns the objects that the settings name; raises what ``World`` does."""
    return [_model(o, settings, number) for number, o in enumerate(settings.objects, start=1)]


class World:
    """The objects of a run, the occluders, and the renderers that hold them.

    Args:
        settings: Names the meshes, the camera and the crop's size.
        device: Where everything is rendered.
        objects: Others than those that the settings name.

    Attributes:
        renderer: Of the objects alone.
        K: (3, 3) the scene camera.
        diameters: (n,) mm, the objects'.
        far: Depth in mm of the background plane, behind the farthest place of the largest object.

    Raises:
        MeshError: A mesh cannot be used; the text says what to type.
        ConfigError: A file of symmetries cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device | str = "cpu",
        objects: Sequence[ObjectModel] | None = None,
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.objects = list(objects or objects_of(settings))
        self.renderer = Renderer([o.mesh for o in self.objects], self.device)
        self.hand_index = len(self.objects)
        self.first_other = self.hand_index + 1
        self._backgrounds: dict[tuple[str, int], Backgrounds] = {}
        self._z_ref = torch.tensor([o.z_ref for o in self.objects], device=self.device)
        camera = settings.data.camera
        half = camera.image_size / 2
        self.K = geometry.camera_matrix(camera.focal, half, half).to(self.device)
        diameters = [o.mesh.diameter for o in self.objects]
        self.diameters = torch.tensor(diameters, device=self.device)
        self.far = max(_FAR, (1.5 * camera.focal / camera.box_side[0] + 1.0) * max(diameters))

    def backgrounds(self, split: str, pixels: int) -> Backgrounds:
        """Returns background pictures for images of ``pixels`` x ``pixels`` of "train", "val" or "test".

        Made once for each size, which takes seconds.
        """
        side = side_for(pixels)
        if (split, side) not in self._backgrounds:
            data = self.settings.data
            self._backgrounds[split, side] = build_backgrounds(
                data.backgrounds, split, data.textures, seed=data.seed, side=side, device=self.device
            )
        return self._backgrounds[split, side]

    @cached_property
    def other_meshes(self) -> tuple[Mesh, ...]:
        """What stands around the objects in scenes, or before them."""
        data = self.settings.data
        return distractors() if data.occlusion.shapes == "solids" else things(_THINGS, [data.seed])

    @cached_property
    def scene_renderer(self) -> Renderer:
        """A renderer of the objects, the hand and the other meshes; made when scenes are first asked for."""
        return Renderer([*(o.mesh for o in self.objects), hand(), *self.other_meshes], self.device)

    @cached_property
    def cones(self) -> tuple[Tensor, Tensor, Tensor]:
        """The objects' trained views: axes (n, 3), half-angles (n,) in degrees, whether the opposite's, too (n,)."""
        axes = torch.stack([o.axis for o in self.objects]).to(self.device)
        half_angles = torch.tensor([o.cone_deg for o in self.objects], device=self.device)
        return axes, half_angles, torch.tensor([o.opposite for o in self.objects], device=self.device)

    def reference_translations(self, objects: Tensor) -> Tensor:
        """Returns t (B, 3) of the reference views: on the optical axis at the object's reference distance."""
        t = torch.zeros(len(objects), 3, device=self.device)
        t[:, 2] = self._z_ref[objects]
        return t

    def boxes(self, objects: Tensor, R: Tensor, t: Tensor, K: Tensor | None = None) -> Tensor:
        """Returns the amodal boxes (B, 4), xyxy in pixels.

        Args:
            objects: (B,) which object.
            R: (B, 3, 3) R_cam_obj.
            t: (B, 3) mm, of the object's own middle.
            K: (3, 3) the camera; None = that of the scenes.
        """
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
