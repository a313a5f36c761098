"""VSD with its renders, batched, against plain numpy over the full frame, one image at a time.

With renders there are two peers: numpy's VSD of our renders, and numpy alone, with a z-buffer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.subjects import build_world, chosen
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from benchmarks.vsd_numpy import depth_numpy, vsd_numpy
from codepose import geometry
from codepose.evaluation.vsd import vsd
from codepose.rendering.renderer import Instances
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


def run(options: Options) -> Report:
    """Times the paper's scenes at 512 px and at half their size."""
    report = Report("vsd")
    for size in (128,) if options.quick else (256, 512):
        half = {
            "data.camera.image_size": 256,
            "data.camera.focal": 150.0,
            "data.camera.box_side": [40.0, 66.5],
        }
        settings = chosen("paper-128-t1", options, half if size == 256 else {})
        world = build_world(settings, options)
        count = 4 if options.quick else 32
        scenes = SceneSource(world, "test").scenes(torch.arange(count), depth=True)
        report.cases += _cases(_Poses.of(world, scenes), f"{count} images of {size} px", options)
    return report


@dataclass(frozen=True)
class _Poses:
    """Scenes with a true and an estimated pose each."""

    world: World
    scenes: SceneBatch
    R: Tensor
    t: Tensor
    K_bop: Tensor

    @classmethod
    def of(cls, world: World, scenes: SceneBatch) -> _Poses:
        """Returns estimates that are a few degrees and a centimetre off."""
        generator = torch.Generator().manual_seed(0)
        axis = torch.randn(len(scenes.index), 3, generator=generator).to(scenes.R_cam_obj) * 0.1
        turn = torch.linalg.matrix_exp(geometry.cross_matrix(axis))
        shift = torch.randn(len(scenes.index), 3, generator=generator).to(scenes.t_cam_obj) * 10.0
        K = geometry.to_opencv(scenes.K)
        return cls(world, scenes, turn @ scenes.R_cam_obj, scenes.t_cam_obj + shift, K)

    def depth(self, R: Tensor, t: Tensor, which: slice) -> Tensor:
        """Renders the object alone in some of the scenes."""
        size = self.scenes.images.shape[-1]
        instances = Instances.single(self.scenes.objects[which], R[which], t[which])
        return self.world.renderer.depth(instances, self.scenes.K.expand(len(R[which]), 3, 3), (size, size))

    def both(self, which: slice) -> tuple[Tensor, Tensor]:
        """Depth at the estimated and at the true pose."""
        return self.depth(self.R, self.t, which), self.depth(self.scenes.R_cam_obj, self.scenes.t_cam_obj, which)


def _batched(poses: _Poses, renders: tuple[Tensor, Tensor] | None = None) -> Tensor:
    estimated, gt = renders or poses.both(slice(None))
    assert poses.scenes.depth is not None
    return vsd(estimated, gt, poses.scenes.depth, poses.K_bop)[:, 0]


def _one_by_one(poses: _Poses, renders: list[tuple[NDArray[Any], NDArray[Any]]] | None = None) -> list[float]:
    assert poses.scenes.depth is not None
    K = poses.K_bop.double().cpu().numpy()
    values = []
    for i, test in enumerate(poses.scenes.depth[: len(renders or poses.scenes.depth)]):
        if renders is not None:
            estimated, gt = renders[i]
        else:
            estimated, gt = (d[0].cpu().numpy() for d in poses.both(slice(i, i + 1)))
        values += vsd_numpy(estimated, gt, test.cpu().numpy(), K)
    return values


_FEW = 4
"""Images that numpy renders by itself: each of them takes it a second."""


def _numpy_renders(poses: _Poses) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    size, K = poses.scenes.images.shape[-1], poses.scenes.K.double().cpu().numpy()
    pairs = []
    for i, which in enumerate(poses.scenes.objects[:_FEW].tolist()):
        mesh = poses.world.objects[which].mesh
        both = ((poses.R, poses.t), (poses.scenes.R_cam_obj, poses.scenes.t_cam_obj))
        depths = [
            depth_numpy(mesh.vertices, mesh.faces, R[i].double().cpu().numpy(), t[i].double().cpu().numpy(), K, size)
            for R, t in both
        ]
        pairs.append((depths[0], depths[1]))
    return pairs


def _cases(poses: _Poses, name: str, options: Options) -> list[Case]:
    ours, theirs = _batched(poses).cpu().numpy(), np.asarray(_one_by_one(poses))
    painted = np.asarray(_one_by_one(poses, _numpy_renders(poses)))
    difference: dict[str, float | str] = {
        "largest difference": f"{np.abs(ours - theirs).max():.1g}",
        "with its own renders": f"{np.abs(ours[: len(painted)] - painted).max():.1g}",
    }
    count = len(theirs)
    estimated, gt = poses.both(slice(None))
    pairs = [(e.cpu().numpy(), g.cpu().numpy()) for e, g in zip(estimated, gt, strict=True)]
    whole = [
        Contestant("codepose, batched", lambda: _batched(poses), count),
        Contestant("numpy, our renders", lambda: _one_by_one(poses), count),
        Contestant("numpy, its own renders", lambda: _one_by_one(poses, _numpy_renders(poses)), min(count, _FEW)),
    ]
    alone = [
        Contestant("codepose, batched", lambda: _batched(poses, (estimated, gt)), count),
        Contestant("numpy, one by one", lambda: _one_by_one(poses, pairs), count),
    ]
    timings = interleaved(whole, options)
    difference["seconds for 800 images"] = 800 / timings[0].rate.median
    return [
        Case(f"VSD with renders, {name}", "images/s", timings, facts=difference),
        Case(f"VSD alone, {name}", "images/s", interleaved(alone, options)),
    ]


if __name__ == "__main__":
    command(run, description=__doc__)
