"""Depth and normals of 128 x 128 views: ours against moderngl and Embree."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.render_peers import Peer, embree_peer, moderngl_peer
from benchmarks.subjects import camera
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from codepose import geometry
from codepose.parts.mesh import Mesh, mesh_from_trimesh
from codepose.parts.shapes import hammer
from codepose.rendering.renderer import Buffers, Instances, Renderer

_FOCAL = 300.0
_PAD = 1.2


def run(options: Options) -> Report:
    """Times the rasteriser on spheres of few and of many faces, which fill half of the frame, and on the hammer."""
    report = Report("render")
    size, views = (32, 4) if options.quick else (128, 64)
    spheres = [
        mesh_from_trimesh(trimesh.creation.icosphere(level, radius=100.0), "sphere")
        for level in ((2,) if options.quick else (2, 4, 6))
    ]
    focal = _FOCAL * size / 128
    # the silhouette's radius in pixels is focal * r / sqrt(z^2 - r^2): half of the frame's area
    away = focal * 100.0 / (size / math.sqrt(2.0 * math.pi))
    tool = hammer()
    distances = {"sphere": math.hypot(away, 100.0), "hammer": focal * _PAD * tool.diameter / size}
    for mesh in (*spheres, tool):
        report.cases.append(_case(mesh, distances[mesh.name], focal, size, views, options, report))
    return report


def _case(mesh: Mesh, distance: float, focal: float, size: int, views: int, options: Options, report: Report) -> Case:
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(views, 3, generator=generator), dim=1)
    R = geometry.view_rotation(directions, torch.rand(views, generator=generator) * 2 * torch.pi)
    t = torch.tensor([0.0, 0.0, distance]).expand(views, 3)
    K = camera(focal, size, options.place)
    contestants, depth = _ours(mesh, R, t, K, size, options)
    arrays = (R.contiguous().numpy(), t.contiguous().numpy(), K.cpu().numpy())
    facts: dict[str, float | str] = {"covered": f"{float((depth > 0).float().mean()):.0%} of the pixels"}
    for make in (partial(moderngl_peer, mesh, options.cores), partial(embree_peer, mesh)):
        peer, name = _made(make, report)
        if peer is not None:
            facts[f"same depth as {name}"] = f"{_agreement(peer(*arrays, size)[0], depth.cpu().numpy()):.2%}"
            contestants.append(Contestant(name, partial(peer, *arrays, size), views))
    name = f"{mesh.name}, {len(mesh.faces):,} faces, {size} px"
    return Case(name, "views/s", interleaved(contestants, options), facts=facts)


def _ours(mesh: Mesh, R: Tensor, t: Tensor, K: Tensor, size: int, options: Options) -> tuple[list[Contestant], Tensor]:
    """Returns ours with all threads and, if these are several, with one; and the depth it renders."""
    order = torch.arange(len(R), device=options.place)
    no_layer = torch.full_like(order, -1)
    ones = torch.ones(len(R), device=options.place)
    instances = Instances(order, torch.zeros_like(order), R.to(options.place), t.to(options.place), ones, no_layer)
    cameras = K.expand(len(R), 3, 3)

    def draw(renderer: Renderer) -> Buffers:
        return renderer.render(instances, cameras, (size, size))

    if options.place.type == "cuda":
        counts = {"codepose, CUDA": 1}
    else:
        counts = {f"codepose, {n} thread{'s' * (n > 1)}": n for n in sorted({options.cores, 1}, reverse=True)}
    renderers = {name: Renderer([mesh], options.place, threads=n) for name, n in counts.items()}
    contestants = [Contestant(name, partial(draw, one), len(R)) for name, one in renderers.items()]
    return contestants, draw(next(iter(renderers.values()))).depth


def _made(make: partial[tuple[Peer, str]], report: Report) -> tuple[Peer | None, str]:
    """Returns a peer, or None and a line in the report where it is not to be had."""
    try:
        return make()
    except Exception as error:  # a missing module, a missing display, a missing driver: each has its own kind
        reason = f"{make.func.__name__.removesuffix('_peer')}: {type(error).__name__}: {error}"
        if reason not in report.skipped:
            report.skipped.append(reason)
        return None, ""


def _agreement(theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> float:
    """Returns the share of the covered pixels in which both depths agree to 0.5 mm.

    Raises:
        AssertionError: It is so small that not the same thing is rendered.
    """
    covered = (theirs > 0) | (ours > 0)
    share = float((np.abs(theirs - ours)[covered] < 0.5).mean())
    assert share > 0.95, f"only {share:.1%} of the pixels agree"
    return share


if __name__ == "__main__":
    command(run, description=__doc__)
