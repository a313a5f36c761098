"""A rasteriser on Warp: meshes, poses and cameras in; depth, normals, colours and ids out, as torch tensors.

It needs no display and no OpenGL, and runs the same kernels on CPU and CUDA (``raster_kernels.py``). On the CPU the
images, or the rows of a few, are split over threads: Warp's CPU launch uses one thread and releases the GIL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codepose.rendering.hulls import Hulls
from codepose.rendering.rasteriser import Rasteriser

if TYPE_CHECKING:
    from codepose.parts.mesh import Mesh

_UNSEEN_MM = 1e9
"""Too far away to be seen."""


@dataclass(frozen=True)
class Instances:
    """N mesh instances spread over B images.

    Attributes:
        image: (N,) long, the image each belongs to, ascending.
        mesh: (N,) long, index into the renderer's meshes.
        R: (N, 3, 3) R_cam_obj.
        t: (N, 3) t_cam_obj in mm.
        scale: (N,) factor on the mesh's size.
        layer: (N,) long, the amodal depth layer the instance is also drawn into alone, or -1.
    """

    image: Tensor
    mesh: Tensor
    R: Tensor
    t: Tensor
    scale: Tensor
    layer: Tensor

    @classmethod
    def single(cls, mesh: Tensor, R: Tensor, t: Tensor) -> Instances:
        """One instance an image, each in a layer of its own.

        Args:
            mesh: (B,) which of the renderer's meshes.
            R: (B, 3, 3) R_cam_obj.
            t: (B, 3) mm.
        """
        order = torch.arange(len(R), device=R.device)
        return cls(order, mesh, R, t, torch.ones(len(R), device=R.device), order)

    @classmethod
    def merge(cls, parts: Sequence[Instances]) -> Instances:
        """Joins several sets of instances of the same images; the sort is stable."""
        names = [f.name for f in fields(cls)]
        joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in names}
        order = torch.argsort(joined["image"], stable=True)
        return cls(**{name: value[order] for name, value in joined.items()})

    def select(self, keep: Tensor) -> Instances:
        """Returns the instances where the mask or index ``keep`` says so."""
        return Instances(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})


@dataclass(frozen=True)
class Buffers:
    """What a render returns.

    Attributes:
        depth: (B, H, W) mm along the optical axis, 0 where nothing was hit.
        instance: (B, H, W) int32, index of the nearest instance, -1 where there is none.
        normal: (B, H, W, 3) unit vectors in the camera frame, towards the camera.
        color: (B, H, W, 3) RGB in [0, 1], unlit.
        layers: (L, H, W) mm, depth of each layer's instance as if it were alone.
    """

    depth: Tensor
    instance: Tensor
    normal: Tensor
    color: Tensor
    layers: Tensor


class Renderer:
    """Holds meshes on one device and renders batches of scenes of them.

    Args:
        meshes: What ``Instances.mesh`` counts.
        device: A torch device.
        threads: CPU threads; None = as many as torch uses.
    """

    def __init__(self, meshes: Sequence[Mesh], device: torch.device | str = "cpu", threads: int | None = None) -> None:
        self.device = torch.device(device)
        self._hulls = Hulls(meshes, self.device)
        self._rasteriser = Rasteriser(meshes, self.device, threads)

    def hull(self, mesh: int) -> Tensor:
        """Returns the convex-hull vertices of a mesh, (H, 3) mm, on the device."""
        return self._hulls[mesh]

    def projected_boxes(self, instances: Instances, K: Tensor) -> Tensor:
        """Returns the amodal boxes (N, 4) of the instances; K is (B, 3, 3)."""
        R = instances.R * instances.scale[:, None, None]
        return self._hulls.boxes(instances.mesh, R, instances.t, K[instances.image])

    def nearest_depths(self, instances: Instances) -> Tensor:
        """Returns the depth (N,) in mm of each instance's nearest point; below 0 it reaches behind the camera."""
        return instances.scale * self.lowest(instances.mesh, instances.R[:, 2]) + instances.t[:, 2]

    def lowest(self, mesh: Tensor, direction: Tensor) -> Tensor:
        """Returns how far (N,) in mm each of meshes (N,) reaches along directions (N, 3) of its own frame, at least."""
        return self._hulls.lowest(mesh, direction)

    def render(self, instances: Instances, K: Tensor, size: tuple[int, int]) -> Buffers:
        """Renders B = len(K) images.

        Args:
            instances: What stands in them. What is nearer than 0.1 mm, or behind the camera, is cut off.
            K: (B, 3, 3) pinhole cameras, pixel centres at integer + 0.5.
            size: (height, width) in pixels.

        Returns:
            Buffers on the renderer's device.
        """
        return self._drawn(instances, K, size, shaded=True)

    def depth(self, instances: Instances, K: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns the depth alone, (B, H, W) mm along the optical axis, 0 = nothing there.

        Args:
            instances, K, size: As ``render`` takes them.
        """
        unlayered = replace(instances, layer=torch.full_like(instances.layer, -1))
        return self._drawn(unlayered, K, size, shaded=False).depth

    def depth_alone(self, mesh: Tensor, R: Tensor, t: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
        """Renders each object alone, wherever an estimator puts it.

        Args:
            mesh: (B,) long, index into the renderer's meshes.
            R: (B, 3, 3) R_cam_obj.
            t: (B, 3) t_cam_obj in mm; one at or behind the camera draws nothing.
            K: (3, 3) or (B, 3, 3), pixel centres at integer + 0.5.
            size: (height, width) in pixels.

        Returns:
            (B, H, W) mm along the optical axis, 0 where nothing was hit.
        """
        before = t[:, 2] > 1.0
        t = torch.where(before[:, None], t, t.new_tensor([0.0, 0.0, _UNSEEN_MM]))
        depth = self.depth(Instances.single(mesh, R, t), K.expand(len(R), 3, 3), size)
        return depth * before[:, None, None]  # at any distance a part may still hit a pixel's centre

    def _drawn(self, instances: Instances, K: Tensor, size: tuple[int, int], *, shaded: bool) -> Buffers:
        count, layers = len(K), int(instances.layer.max()) + 1 if len(instances.R) else 0
        where, surface = self.device, size if shaded else (0, 0)
        out = Buffers(
            depth=_zeros((count, *size), where),
            instance=torch.full((count, *size), -1, dtype=torch.int32, device=where),
            normal=_zeros((count, *surface, 3), where),
            color=_zeros((count, *surface, 3), where),
            layers=torch.full((layers, *size), torch.inf, device=where),
        )
        if len(instances.R):
            # what stands alone in its image is its own layer
            alone = (torch.bincount(instances.image, minlength=count)[instances.image] == 1) & (instances.layer >= 0)
            self._rasteriser.draw(instances, K, torch.where(alone, -1, instances.layer), out)
            out.layers[instances.layer[alone]] = out.depth[instances.image[alone]]
        out.layers.masked_fill_(out.layers.isinf(), 0.0)
        return out


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zeros; on a CPU NumPy's, whose pages the system clears when they are first touched: torch.zeros clears all."""
    return torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)
