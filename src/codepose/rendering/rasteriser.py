"""Runs the rasteriser's kernels: which vertices, faces and rows in which launch, on which thread.

Images are drawn in groups whose placed vertices fit a core's caches. Each thread of a CPU draws its own share of the
images, or of the rows of all images where there are fewer images than threads, with buffers of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import warp as wp
from torch import Tensor

from codepose.rendering.warp_runtime import cpu_pool, warp_device, warp_stream

from codepose.rendering import raster_kernels as kernels  # isort: skip  (Warp is started by the line before)

if TYPE_CHECKING:
    from codepose.parts.mesh import Mesh
    from codepose.rendering.renderer import Buffers, Instances


_GROUP, _GROUP_GPU = 1 << 16, 1 << 26
"""Vertices that are placed at a time, unless one image has more: what a core's caches hold."""
_BLOCK = 128
"""Vertices or faces of an instance that one thread of a launch handles on a CPU; on a GPU it is one."""
_SMALL = 1 << 14
"""Faces and pixels for which further CPU threads are not worth their start."""
_ENOUGH = 4
"""Images a thread; with fewer, threads share out the rows of all of them, and each places all vertices."""
_MARGIN = 1.0
"""Pixels around the instances that are drawn, too."""


@dataclass(frozen=True)
class _Scene:
    """What all launches of one call read and write, as Warp's arrays; ``raster_kernels.py`` has the tables' columns."""

    instances: Tensor  # (N + 1, 9) int64, on the CPU
    table: Any  # the same on the device
    vertex_blocks: Any  # (blocks,) the instance of each
    face_blocks: Any
    image_instances: Tensor  # (B + 1,) int64, instances before each image, on the CPU
    cameras: Any
    rotations: Any
    translations: Any
    scales: Any
    size: tuple[int, int]  # (width, height)
    layers: Any
    outputs: list[Any]  # depth, ids, normals, colours


class Rasteriser:
    """Holds meshes on one device and draws instances of them into buffers.

    Args:
        meshes: What ``Instances.mesh`` counts.
        device: A torch device.
        threads: CPU threads; None = as many as torch uses.
    """

    def __init__(self, meshes: Sequence[Mesh], device: torch.device, threads: int | None = None) -> None:
        self.device = device
        self._warp_device = warp_device(device)
        wp.load_module(kernels.__name__, device=self._warp_device)  # compiled once, before several threads ask for it
        on_cpu = device.type == "cpu"
        self._threads = (threads or torch.get_num_threads()) if on_cpu else 1
        self._block, self._group = (_BLOCK, _GROUP) if on_cpu else (1, _GROUP_GPU)
        self._points, self._normals, self._colors = (
            _joined([getattr(m, name) for m in meshes], device, wp.vec3) for name in ("vertices", "normals", "colors")
        )
        self._faces = _joined([m.faces for m in meshes], device, wp.vec3i)
        # (M, 2): vertices and faces of each mesh, and where they begin
        self._counts = torch.tensor([[len(m.vertices), len(m.faces)] for m in meshes])
        self._starts = _before(self._counts)
        self._closed = torch.tensor([m.closed for m in meshes])
        corners = [_box_corners(torch.from_numpy(m.vertices)) for m in meshes]
        self._corners = torch.stack(corners).to(device)  # (M, 8, 3)

    def draw(self, instances: Instances, K: Tensor, layers: Tensor, out: Buffers) -> None:
        """Draws the instances; pixels where there is nothing stay as they are.

        Args:
            instances: N >= 1 of them in B images.
            K: (B, 3, 3) pinhole cameras, pixel centres at integer + 0.5.
            layers: (N,) the layer of ``out`` that each is drawn into alone, or -1.
            out: Depth, ids and layers, and, where they are not empty, normals and colours.
        """
        height, width = out.depth.shape[1:]
        windows, before = self._windows(instances, K, (width, height))
        scene = self._scene(instances, K, layers, out, self._closed[instances.mesh.cpu()] & before)
        shares = self._shares(scene, windows)
        if len(shares) == 1:
            self._draw_share(scene, *shares[0])
        else:
            list(cpu_pool(self._threads).map(lambda share: self._draw_share(scene, *share), shares))

    def _windows(self, instances: Instances, K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Returns the pixels (B, 4) xyxy int64 that the instances of each image may cover.

        And which of them (N,) stand before the camera as a whole; both are on the CPU.
        """
        corners = self._corners[instances.mesh] * instances.scale[:, None, None]
        placed = corners @ instances.R.mT + instances.t[:, None]  # (N, 8, 3)
        seen = placed @ K[instances.image].to(placed).mT
        pixels = seen[..., :2] / seen[..., 2:]
        low, high = pixels.amin(1).floor() - _MARGIN, pixels.amax(1).ceil() + _MARGIN
        before = placed[..., 2].amin(1, keepdim=True) > kernels.NEAR_MM
        limit = torch.tensor(size, device=self.device, dtype=low.dtype)
        low = torch.where(before, low, 0.0).clamp_min(0.0).minimum(limit)
        high = torch.where(before, high, limit).clamp_min(0.0).minimum(limit)
        index = instances.image[:, None].expand(-1, 2)
        start = limit.expand(len(K), 2).scatter_reduce(0, index, low, "amin")
        end = torch.zeros_like(start).scatter_reduce(0, index, high, "amax")
        return torch.cat((start.minimum(end), end), 1).long().cpu(), before[:, 0].cpu()

    def _scene(self, instances: Instances, K: Tensor, layers: Tensor, out: Buffers, solid: Tensor) -> _Scene:
        mesh, image = instances.mesh.cpu(), instances.image.cpu()
        counts = self._counts[mesh]  # (N, 2)
        blocks = -(-counts // self._block)
        table = torch.zeros(len(mesh) + 1, 9, dtype=torch.long)
        table[:, :2], table[:, 2:4] = _before(counts), _before(blocks)
        table[:-1, 4:6], table[:-1, 6], table[:-1, 7] = self._starts[mesh], image, layers.cpu()
        table[:-1, 8] = solid
        order, whole = torch.arange(len(mesh), dtype=torch.int32, device=self.device), blocks.sum(0).tolist()
        blocks = blocks.to(self.device)

        def to_warp(values: Tensor, kind: Any) -> Any:
            return wp.from_torch(values.to(self.device).contiguous(), dtype=kind)

        outputs = [(out.depth, wp.float32), (out.instance, wp.int32), (out.normal, wp.vec3), (out.color, wp.vec3)]
        return _Scene(
            instances=table,
            table=to_warp(table, wp.int64),
            vertex_blocks=to_warp(order.repeat_interleave(blocks[:, 0], output_size=whole[0]), wp.int32),
            face_blocks=to_warp(order.repeat_interleave(blocks[:, 1], output_size=whole[1]), wp.int32),
            image_instances=_before(torch.bincount(image, minlength=len(K))[:, None])[:, 0],
            cameras=to_warp(
                torch.stack((1.0 / K[:, 0, 0], 1.0 / K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]), 1).float(), wp.vec4
            ),
            rotations=to_warp(instances.R.float(), wp.mat33),
            translations=to_warp(instances.t.float(), wp.vec3),
            scales=to_warp(instances.scale.float(), wp.float32),
            size=(out.depth.shape[2], out.depth.shape[1]),
            layers=wp.from_torch(out.layers.view(-1)),
            outputs=[wp.from_torch(x.view(-1, 3) if x.ndim == 4 else x.view(-1), dtype=kind) for x, kind in outputs],
        )

    def _shares(self, scene: _Scene, windows: Tensor) -> list[tuple[Tensor, int, int]]:
        """Returns what each thread draws: windows, and a range of images."""
        count = len(windows)
        sides = windows[:, 2:] - windows[:, :2]
        faces = scene.instances[scene.image_instances, 1]
        work = faces + _before(sides.prod(1, keepdim=True))[:, 0]  # (B + 1,) before each image
        threads = self._threads if int(work[-1]) > _SMALL else 1
        if threads == 1:
            return [(windows, 0, count)]
        if count >= _ENOUGH * threads:
            goals = work[-1] * torch.arange(1, threads) // threads
            edges = [0, *torch.searchsorted(work, goals).tolist(), count]
            return [(windows, *edge) for edge in pairwise(edges)]
        shares = []
        for k in range(threads):
            band = windows.clone()
            band[:, 1] = windows[:, 1] + sides[:, 1] * k // threads
            band[:, 3] = windows[:, 1] + sides[:, 1] * (k + 1) // threads
            shares.append((band, 0, count))
        return shares

    def _draw_share(self, scene: _Scene, windows: Tensor, first: int, last: int) -> None:
        """Draws images [first, last), group by group."""
        sides = windows[:, 2:] - windows[:, :2]
        pixels = _before(torch.stack((sides[:, 1], sides.prod(1)), 1))  # (B + 1, 2) rows and pixels before each image
        windows = torch.cat((windows, windows.new_zeros(1, 4)))
        images = torch.cat((windows, pixels, scene.image_instances[:, None]), 1)  # (B + 1, 7)
        own = scene.instances[scene.image_instances]  # (B + 1, 9): what comes before each image
        groups = _groups(own[:, 0] + images[:, 5], first, last, self._group)
        starts, ends = torch.tensor(groups).unbind(1)
        most = [int((counted[ends] - counted[starts]).max()) for counted in (own[:, 0], images[:, 5])]
        columns = scene.size[0] if self.device.type == "cpu" else 1
        place, draw, read = self._launches(scene, images, most, columns)
        for start, end in groups:
            vertices, faces, vertex_blocks, face_blocks = own[start, :4].tolist()
            rows, rays = images[start, 4:6].tolist()
            lines = int(images[end, 4]) - rows
            if lines == 0:
                continue
            place(int(own[end, 2]) - vertex_blocks, vertex_blocks, vertices)
            draw(int(own[end, 3]) - face_blocks, face_blocks, vertices, faces, rays)
            read((lines, -(-scene.size[0] // columns)), rows, vertices, faces, rays)

    def _launches(self, scene: _Scene, images: Tensor, most: Sequence[int], columns: int) -> list[_Launch]:
        """Returns launches of the three kernels, with buffers for the most vertices and pixels of a group."""
        placed, pixels = (torch.empty(most[0], n, device=self.device) for n in (3, 2))
        # torch has no unsigned 64-bit numbers to speak of: in -1, too, all bits are set
        keys = torch.full((most[1],), -1, dtype=torch.long, device=self.device)
        placed, pixels = wp.from_torch(placed, dtype=wp.vec3), wp.from_torch(pixels, dtype=wp.vec2)
        keys, images = wp.from_torch(keys, dtype=wp.uint64), wp.from_torch(images.to(self.device), dtype=wp.int64)
        to = [placed, pixels]
        posed = [scene.cameras, scene.rotations, scene.translations, scene.scales]
        surface = [scene.cameras, scene.rotations, self._faces, self._normals, self._colors, placed]
        drawn = [scene.cameras, self._faces, *to, *scene.size, keys, scene.layers]
        inputs: list[tuple[Any, list[Any]]] = [
            (kernels.place_vertices, [self._block, scene.vertex_blocks, scene.table, *posed, self._points, *to]),
            (kernels.draw_faces, [self._block, scene.face_blocks, scene.table, images, *drawn]),
            (kernels.read_surface, [columns, scene.table, images, *surface, *scene.size, keys, *scene.outputs]),
        ]
        return [_Launch(kernel, values, self._warp_device, self.device) for kernel, values in inputs]


class _Launch:
    """A kernel with all its inputs but the first ones, which say where a group begins: packed once, launched often."""

    def __init__(self, kernel: Any, inputs: list[Any], warp_device: Any, device: torch.device) -> None:
        firsts = len(kernel.adj.args) - len(inputs)
        options = {"inputs": [*[0] * firsts, *inputs], "device": warp_device, "record_cmd": True}
        self._command = wp.launch(kernel, dim=1, **options)
        self._stream = warp_stream(device)

    def __call__(self, dim: int | tuple[int, int], *firsts: int) -> None:
        for index, value in enumerate(firsts):
            self._command.set_param_at_index(index, value)
        self._command.set_dim(dim)
        self._command.launch(stream=self._stream)


def _groups(vertices: Tensor, first: int, last: int, most: int) -> list[tuple[int, int]]:
    """Cuts images [first, last) where their vertices, counted up to each image in (B + 1,), pass a limit."""
    groups, start, counted = [], first, vertices.tolist()
    for image in range(first, last):
        if counted[image + 1] - counted[start] > most and image > start:
            groups.append((start, image))
            start = image
    return [*groups, (start, last)]


def _joined(arrays: Sequence[Any], device: torch.device, kind: Any) -> Any:
    return wp.from_torch(torch.cat([torch.from_numpy(a) for a in arrays]).to(device).contiguous(), dtype=kind)


def _before(counts: Tensor) -> Tensor:
    """Returns the sums (N + 1, C) of counts (N, C) before each row, with the totals last."""
    return torch.cat((counts.new_zeros(1, counts.shape[1]), counts.cumsum(0)))


def _box_corners(points: Tensor) -> Tensor:
    """Returns the corners (8, 3) of the bounding box of points."""
    return torch.cartesian_prod(*torch.stack((points.amin(0), points.amax(0)), 1))
