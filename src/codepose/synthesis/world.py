"""Everything that stands in a run's scenes, on one device: its objects, what hides them, backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from codepose.parts.decimation import decimate
from codepose.parts.mesh import Mesh
from codepose.parts.shapes import distractors, hand, resolve
from codepose.parts.symmetry_group import declared_symmetries
from codepose.parts.things import things
from codepose.rendering.renderer import Renderer
from codepose.settings.crop import ROI_PAD
from codepose.settings.data import ObjectSettings
from codepose.settings.schema import Settings
from codepose.synthesis.backgrounds import Backgrounds, build_backgrounds, side_for
from codepose.synthesis.objects import ObjectModel, Objects

_FAR = 5000.0
"""Depth in mm of the background plane; farther behind parts so large that they would reach it."""
_THINGS = 48
"""How many different things stand around the objects of a run."""


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


class World(Objects):
    """The objects of a run, the occluders, and the renderers that hold them.

    Args:
        settings: Names the meshes, the camera and the crop's size.
        device: Where everything is rendered.
        objects: Others than those that the settings name.

    Attributes:
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
        super().__init__(settings, device, objects or objects_of(settings))
        self.hand_index = len(self.objects)
        self.first_other = self.hand_index + 1
        self._backgrounds: dict[tuple[str, int], Backgrounds] = {}
        camera, largest = settings.data.camera, max(o.mesh.diameter for o in self.objects)
        self.far = max(_FAR, (1.5 * camera.focal / camera.box_side[0] + 1.0) * largest)

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
