"""A ray caster on Warp: meshes, poses and cameras in; depth, normals, colours and ids out, as torch tensors.

It needs no display and no OpenGL, and runs the same kernel on CPU and CUDA. Rays are cast only inside the union of
the instances' projected boxes of each image, and only against the instances whose own box holds the pixel. On the
CPU the rays are split over threads (Warp's CPU launch uses one thread and releases the GIL).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch
import warp as wp
from torch import Tensor

from codepose import geometry
from codepose.storage.caches import use_writable_caches
from codepose.synthesis.mesh import Mesh
from codepose.synthesis.raycast import cast_rays


def _start_warp() -> None:
    """Starts Warp without its greeting, and without its complaint on machines that have no CUDA driver."""
    use_writable_caches()
    wp.config.log_level = wp.LOG_ERROR
    if torch.cuda.is_available():
        wp.init()
        return
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        wp.init()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


_start_warp()


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
        """One instance an image, each in a layer of its own."""
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
        self._warp_device = wp.get_device(_warp_name(self.device))
        # compiled once, before several threads ask for it
        wp.load_module("codepose.synthesis.raycast", device=self._warp_device)
        self._threads = (threads or torch.get_num_threads()) if self.device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._hulls = [torch.from_numpy(m.hull).to(self.device) for m in meshes]
        with wp.ScopedDevice(self._warp_device):
            self._meshes = [
                wp.Mesh(
                    points=wp.array(m.vertices, dtype=wp.vec3),
                    indices=wp.array(m.faces.reshape(-1), dtype=wp.int32),
                )
                for m in meshes
            ]
        wp.synchronize_device(self._warp_device)  # built on Warp's own stream, read on torch's
        handles = [int(m.id) for m in self._meshes]
        # torch has no unsigned 64-bit arithmetic to speak of: the bits travel as int64
        self._handles = torch.tensor([h - 2**64 if h >= 2**63 else h for h in handles], device=self.device)
        sizes = torch.tensor([0] + [len(m.vertices) for m in meshes[:-1]])
        self._vertex_offsets = sizes.cumsum(0).to(self.device, torch.int32)
        self._normals = torch.cat([torch.from_numpy(m.normals) for m in meshes]).to(self.device).contiguous()
        self._colors = torch.cat([torch.from_numpy(m.colors) for m in meshes]).to(self.device).contiguous()

    def hull(self, mesh: int) -> Tensor:
        """Returns the convex-hull vertices of a mesh, (H, 3) mm, on the device."""
        return self._hulls[mesh]

    def projected_boxes(self, instances: Instances, K: Tensor) -> Tensor:
        """Returns the amodal boxes (N, 4) of the instances; K is (B, 3, 3)."""
        boxes = torch.empty(len(instances.R), 4, device=self.device)
        for index in torch.unique(instances.mesh).tolist():
            mine = instances.mesh == index
            R = instances.R[mine] * instances.scale[mine, None, None]
            boxes[mine] = geometry.projected_box(self._hulls[index], R, instances.t[mine], K[instances.image[mine]])
        return boxes

    def nearest_depths(self, instances: Instances) -> Tensor:
        """Returns the depth (N,) in mm of each instance's nearest point; below 0 it reaches behind the camera."""
        depths = torch.empty(len(instances.R), device=self.device)
        for index in torch.unique(instances.mesh).tolist():
            mine = instances.mesh == index
            row = instances.R[mine, 2] * instances.scale[mine, None]
            depths[mine] = (row @ self._hulls[index].T).amin(1) + instances.t[mine, 2]
        return depths

    def render(self, instances: Instances, K: Tensor, size: tuple[int, int]) -> Buffers:
        """Renders B = len(K) images.

        Args:
            instances: What stands in them; every instance must be in front of the camera.
            K: (B, 3, 3) pinhole cameras, pixel centres at integer + 0.5.
            size: (height, width) in pixels.

        Returns:
            Buffers on the renderer's device.
        """
        height, width = size
        count, layers = len(K), int(instances.layer.max()) + 1 if len(instances.R) else 0
        where = self.device
        out = Buffers(
            depth=torch.zeros(count, height, width, device=where),
            instance=torch.full((count, height, width), -1, dtype=torch.int32, device=where),
            normal=torch.zeros(count, height, width, 3, device=where),
            color=torch.zeros(count, height, width, 3, device=where),
            layers=torch.zeros(max(layers, 0), height, width, device=where),
        )
        if len(instances.R) == 0:
            return out
        limit = torch.tensor([width, height, width, height], device=self.device)
        boxes = self.projected_boxes(instances, K)
        boxes = torch.cat((boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1), 1).clamp_min(0).minimum(limit)
        windows, ray_offsets = _image_windows(boxes, instances.image, count)
        rays = int(ray_offsets[-1])
        per_image = torch.bincount(instances.image, minlength=count)
        inputs = [
            ray_offsets,
            windows,
            torch.stack((K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]), 1).float().contiguous(),
            _offsets(per_image),
            boxes.int().contiguous(),
            self._handles[instances.mesh],
            self._vertex_offsets[instances.mesh],
            instances.layer.int(),
            instances.R.float().contiguous(),
            instances.t.float().contiguous(),
            instances.scale.float().contiguous(),
            self._normals,
            self._colors,
        ]
        self._launch(rays, inputs, (width, height), out)
        return out

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
        depth = self.render(Instances.single(mesh, R, t), K.expand(len(R), 3, 3), size).depth
        return depth * before[:, None, None]  # at any distance a part may still hit a pixel's centre

    def _launch(self, rays: int, inputs: list[Tensor], size: tuple[int, int], out: Buffers) -> None:
        kinds = [wp.int32, wp.int32, wp.float32, wp.int32, wp.int32, wp.uint64, wp.int32, wp.int32]
        kinds += [wp.mat33, wp.vec3, wp.float32, wp.vec3, wp.vec3]
        arrays = [wp.from_torch(x, dtype=kind) for x, kind in zip(inputs, kinds, strict=True)]
        outputs = [
            wp.from_torch(out.depth.view(-1)),
            wp.from_torch(out.instance.view(-1)),
            wp.from_torch(out.normal.view(-1, 3), dtype=wp.vec3),
            wp.from_torch(out.color.view(-1, 3), dtype=wp.vec3),
            wp.from_torch(out.layers.view(-1)),
        ]

        # torch's current stream: the two libraries need not wait for each other
        stream = None if self.device.type == "cpu" else wp.stream_from_torch(self.device)

        def cast(first: int, last: int) -> None:
            if last > first:
                wp.launch(
                    cast_rays,
                    dim=last - first,
                    inputs=[first, *arrays, *size, *outputs],
                    device=self._warp_device,
                    stream=stream,
                )

        if self._pool is None or rays < 4096:
            cast(0, rays)
            return
        edges = [rays * i // self._threads for i in range(self._threads + 1)]
        list(self._pool.map(cast, edges[:-1], edges[1:]))


def _warp_name(device: torch.device) -> str:
    """Returns what Warp calls a torch device; without a number it is torch's current one."""
    if device.type != "cuda":
        return "cpu"
    return f"cuda:{torch.cuda.current_device() if device.index is None else device.index}"


def _offsets(counts: Tensor) -> Tensor:
    """Returns exclusive prefix sums with the total last, (B + 1,) int32."""
    return torch.cat((counts.new_zeros(1), counts.cumsum(0))).int()


def _image_windows(boxes: Tensor, image: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns each image's union box (B, 4) int32 and the ray offsets (B + 1,) int32."""
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1, keepdim=True)
    low = torch.where(empty, 1e9, boxes[:, :2])
    high = torch.where(empty, -1e9, boxes[:, 2:])
    index = image[:, None].expand(-1, 2)
    start = boxes.new_full((count, 2), 1e9).scatter_reduce(0, index, low, "amin")
    end = boxes.new_full((count, 2), -1e9).scatter_reduce(0, index, high, "amax")
    span = (end - start).clamp_min(0)
    start = torch.where(span > 0, start, 0.0)
    windows = torch.cat((start, start + span), 1).int().contiguous()
    return windows, _offsets((span[:, 0] * span[:, 1]).long())
