"""Where objects stand in a scene: views, places, and further instances beside the one that is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codepose import geometry
from codepose.parts.mesh import MeshError
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances
from codepose.settings.data import NEAREST
from codepose.synthesis.world import World

_TRIES = 4
_FEWEST = 10
"""Pixels of a part that a clean view shows at least."""
_LEAST = 4.0
"""So many pixels of each side of a truncated box stay in the image."""


def draw_objects(world: World, draws: Draws, tag: str = "") -> Tensor:
    """Returns which object is seen, (B,), all as often.

    Args:
        world: Its objects.
        draws: The items' random numbers.
        tag: Other tags draw other objects.
    """
    return draws.integer("object" + tag, len(world.objects))


def draw_views(world: World, draws: Draws, objects: Tensor, tag: str = "") -> Tensor:
    """Returns R_view (B, 3, 3), evenly over each object's trained views and all in-plane angles.

    Args:
        world: Says which views of each object are trained.
        draws: The items' random numbers.
        objects: (B,) which object is seen.
        tag: Other tags draw other views.
    """
    uniforms, in_plane = draws.uniform("view" + tag, 2), draws.uniform("in-plane" + tag, high=2 * torch.pi)
    axis, cone_deg, opposite = (values[objects] for values in world.cones)
    ahead = geometry.directions_in_cone(uniforms, axis, cone_deg)
    behind = draws.chance("behind" + tag, 0.5) & opposite
    return geometry.view_rotation(torch.where(behind[:, None], -ahead, ahead), in_plane)


def require_visible(world: World) -> None:
    """Refuses parts so thin that their pictures are black.

    Raises:
        MeshError: Half of an object's clean views, at Step 1's scale, show hardly a pixel of it.
    """
    for index, model in enumerate(world.objects):
        objects = torch.full((32,), index, device=world.device)
        draws = Draws(0, "visible", torch.arange(len(objects)), world.device)
        views = world.clean_views(objects, draw_views(world, draws, objects))
        seen = float((views.amax(1) > 0).flatten(1).sum(1).float().median())
        if seen < _FEWEST:
            raise MeshError(
                f"{model.label} is so thin that its pictures of {views.shape[-1]} x {views.shape[-1]} px show "
                f"{seen:.0f} px of it: is the surface whole (codepose mesh)? If so, raise network.crop, and "
                "data.camera.box_side with it"
            )


def place(world: World, draws: Draws, objects: Tensor, R_view: Tensor, tag: str = "") -> tuple[Tensor, Tensor]:
    """Puts objects where their boxes have the drawn size and centre: a few fixed-point steps.

    A slender part that points at the camera would have to be nearer than ``NEAREST`` of its diameters: its box is
    smaller than drawn.

    Args:
        world: Camera and meshes.
        draws: The items' random numbers.
        objects: (B,) which object.
        R_view: (B, 3, 3) its rotation as seen along the ray through its centre.
        tag: Other tags give other places.

    Returns:
        R_cam_obj (B, 3, 3) and t_cam_obj (B, 3) mm.
    """
    return _settled(world, objects, R_view, *_drawn_places(world, draws, tag))


def _drawn_places(world: World, draws: Draws, tag: str) -> tuple[Tensor, Tensor]:
    """The longer sides (B,) of boxes in pixels, and where they lie (B, 2), from one edge of the image to the other."""
    low, high = world.settings.data.camera.box_side
    return draws.uniform("box side" + tag, low=low, high=high), draws.uniform("place" + tag, 2)


def _settled(world: World, objects: Tensor, R_view: Tensor, side: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """R_cam_obj and t_cam_obj of objects whose boxes have these sides and places (``_drawn_places``)."""
    camera = world.settings.data.camera
    t, R = world.reference_translations(objects), R_view
    nearest = NEAREST * world.diameters[objects]
    for _ in range(12):
        boxes = world.boxes(objects, R, t)
        extent = geometry.box_size(boxes)
        # half the way, bounded: a part that points at a near camera grows much faster than it comes nearer
        farther = torch.maximum((extent.amax(1) / side).sqrt().clamp(0.5, 2.0), nearest / t[:, 2])[:, None]
        t, extent = t * farther, extent / farther
        margin = torch.maximum(1.0 - camera.truncation * extent, _LEAST - extent)
        wanted = extent / 2 + margin + where * (camera.image_size - extent - 2 * margin)
        moved = (wanted - geometry.box_center(boxes)) / camera.focal * t[:, 2:]
        t = torch.cat((t[:, :2] + moved, t[:, 2:]), 1)
        R = geometry.offaxis_rotation(t) @ R_view
    return R, t


@dataclass(frozen=True)
class Companions:
    """Further instances of the trained objects, at most n in each of B images.

    Attributes:
        objects: (B, n) which object, -1 where there is none.
        R: (B, n, 3, 3) R_cam_obj.
        t: (B, n, 3) t_cam_obj, mm.
        boxes: (B, n, 4) amodal boxes, clipped to the image; zeros where there is none.
    """

    objects: Tensor
    R: Tensor
    t: Tensor
    boxes: Tensor

    def select(self, keep: Tensor) -> Companions:
        """Returns those of some images."""
        return Companions(self.objects[keep], self.R[keep], self.t[keep], self.boxes[keep])

    def without(self, images: Tensor) -> Companions:
        """Returns a copy with none in these images (k,)."""
        objects, boxes = self.objects.clone(), self.boxes.clone()
        objects[images], boxes[images] = -1, 0.0
        return Companions(objects, self.R, self.t, boxes)

    def instances(self) -> tuple[Instances, Tensor]:
        """Returns them for the renderer, with their tints (N, 3): the CAD file's own colours."""
        image, slot = (self.objects >= 0).nonzero().unbind(1)
        ones = torch.ones(len(image), device=self.R.device)
        which = self.objects[image, slot]
        instances = Instances(image, which, self.R[image, slot], self.t[image, slot], ones, torch.full_like(image, -1))
        return instances, ones[:, None].expand(-1, 3)


def place_companions(
    world: World, draws: Draws, objects: Tensor, boxes: Tensor, kinds: Callable[[str], Tensor], *, same: bool
) -> Companions:
    """Puts further instances beside the objects of a batch; one for which no free place is found is left out.

    Args:
        world: Camera and meshes; its settings say how many at most.
        draws: The items' random numbers.
        objects: (B,) the objects that are there already.
        boxes: (B, 4) their boxes.
        kinds: Tag -> (B,) which object a further instance is of; other tags give other ones.
        same: Whether they may be of the same object; in evaluation they may not: which of two is meant?
    """
    settings, size = world.settings.data.occlusion, world.settings.data.camera.image_size
    taken = boxes[:, None]  # (B, 1 + k, 4)
    companions: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for k in range(settings.companions):
        tag = f" companion {k}"
        kind = kinds(tag)
        wanted = draws.chance("there" + tag, 0.5)
        wanted = wanted if same else wanted & (kind != objects)
        R_view = draw_views(world, draws, kind, tag)
        chosen = torch.full_like(kind, -1)
        R, t, box = torch.zeros_like(R_view), world.reference_translations(kind), torch.zeros_like(boxes)
        # all places in one go: a call takes as long for eight images as for thirty-two
        places = zip(*(_drawn_places(world, draws, f"{tag}#{attempt}") for attempt in range(_TRIES)), strict=True)
        tried = _settled(
            world, kind.repeat(_TRIES), R_view.repeat(_TRIES, 1, 1), *(torch.cat(drawn) for drawn in places)
        )
        tried_boxes = world.boxes(kind.repeat(_TRIES), *tried).clamp(0, size)
        for R_new, t_new, new in zip(*(x.chunk(_TRIES) for x in (*tried, tried_boxes)), strict=True):
            free = wanted & (chosen < 0) & (_shared(new, taken) <= settings.overlap)
            chosen = torch.where(free, kind, chosen)
            R = torch.where(free[:, None, None], R_new, R)
            t, box = torch.where(free[:, None], t_new, t), torch.where(free[:, None], new, box)
        taken = torch.cat((taken, box[:, None]), 1)
        companions.append((chosen, R, t, box))
    return Companions(*(torch.stack(part, 1) for part in zip(*companions, strict=True)))


def _shared(boxes: Tensor, others: Tensor) -> Tensor:
    """The largest share of the smaller box (B, 4) or (B, k, 4) that lies in the other, (B,)."""
    low = torch.maximum(boxes[:, None, :2], others[..., :2])
    high = torch.minimum(boxes[:, None, 2:], others[..., 2:])
    inside = (high - low).clamp_min(0).prod(-1)  # (B, k)
    area = torch.minimum(geometry.box_size(boxes).prod(-1)[:, None], geometry.box_size(others).prod(-1))
    return (inside / area.clamp_min(1e-6)).amax(1)
