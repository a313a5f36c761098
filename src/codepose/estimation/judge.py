"""A learned judge of poses: a network for all parts sees photo and render side by side, ranks poses and moves them.

Each detection gets a crop camera of its own that looks straight at the box, so that the network never sees perspective
it was not trained on (``networks/pose_judge.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.networks.pose_judge import SIDE, PoseJudge, Verdict, moved, render_channels
from codepose.synthesis.renderer import Instances
from codepose.synthesis.world import World

PAD = 1.4
"""Side of a crop over the box's longer side."""
_BATCH, _BATCH_GPU = 32, 1024
"""Poses compared at a time."""
_MOST_SAMPLES = 4
"""Samples of the photo a pixel of the crop along each axis, at most."""


@dataclass(frozen=True)
class Crops:
    """N detections as their crop cameras see them.

    Attributes:
        photos: (N, 3, 128, 128) in [0, 1].
        turn: (N, 3, 3) from the crop camera's frame to that of the photo's camera.
        focal: (N,) focal length over the crop's side.
        objects: (N,) which object.
    """

    photos: Tensor
    turn: Tensor
    focal: Tensor
    objects: Tensor


def crop(images: Tensor, which: Tensor, boxes: Tensor, objects: Tensor, K: Tensor, extent: Tensor) -> Crops:
    """Cuts what crop cameras see out of photos.

    Args:
        images: (B, 3, H, W) in [0, 1].
        which: (N,) the image each detection is in.
        boxes: (N, 4) amodal, unpadded, in pixels.
        objects: (N,) which object.
        K: (3, 3) the images' camera, pixel centres at integer + 0.5.
        extent: (2,) pixels across and down of what the images show; beyond, the photo goes on as it ends.
    """
    ray = geometry.from_pixels(geometry.box_center(boxes), torch.ones_like(boxes[:, 0]), K)
    turn = geometry.offaxis_rotation(ray)
    across = (geometry.box_size(boxes) / K.diagonal()[:2]).amax(1) * PAD / ray.norm(dim=1)
    pixels = float((geometry.box_size(boxes).amax(1)).max()) * PAD / SIDE
    samples = min(_MOST_SAMPLES, max(1, math.ceil(pixels)))
    line = (torch.arange(SIDE * samples, device=boxes.device) + 0.5) / (SIDE * samples) - 0.5
    v, u = torch.meshgrid(line, line, indexing="ij")
    rays = torch.stack((u, v, torch.ones_like(u)), -1)[None].repeat(len(boxes), 1, 1, 1)
    rays[..., :2] *= across[:, None, None, None]
    at = geometry.to_pixels(torch.einsum("nij,nhwj->nhwi", turn, rays), K)
    size = K.new_tensor([images.shape[3], images.shape[2]])
    last = (2.0 * extent.to(K) - 1.0) / size - 1.0  # the last pixels' centres
    grid = torch.minimum(at / size * 2.0 - 1.0, last)
    seen = F.grid_sample(images[which], grid, padding_mode="border", align_corners=False)
    return Crops(F.avg_pool2d(seen, samples), turn, 1.0 / across, objects)


class JudgeRefiner:
    """Ranks and moves poses by comparing photos with renders.

    Args:
        world: Meshes and renderer.
        network: The trained network; it is put into evaluation mode on the world's device.
    """

    def __init__(self, world: World, network: PoseJudge) -> None:
        self.world = world
        self.network = network.to(world.device).to(memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def __call__(self, crops: Crops, R: Tensor, t: Tensor, rounds: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Finds better poses near given ones.

        Args:
            crops: N detections.
            R: (N, k, 3, 3) R_cam_obj in the photo's camera.
            t: (N, k, 3) mm.
            rounds: How many of the best poses go on after each comparison, moved; the last number is how many are
                returned.

        Returns:
            The best poses compared, best first: R (N, m, 3, 3), t (N, m, 3), scores (N, m) in [0, 1].
        """
        turn = crops.turn[:, None]
        R, t = turn.mT @ R, (turn.mT @ t[..., None]).squeeze(-1)
        known: list[tuple[Tensor, Tensor, Tensor]] = []
        for count in rounds:
            verdict, new_R, new_t = self._compared(crops, R, t)
            score = verdict.score.view(R.shape[:2])
            known.append((R, t, score))
            R, t, _ = _best(new_R, new_t, score, count)
        known.append((R, t, self._compared(crops, R, t)[0].score.view(R.shape[:2])))
        every_R, every_t, scores = (torch.cat(values, 1) for values in zip(*known, strict=True))
        R, t, score = _best(every_R, every_t, scores, rounds[-1])
        return turn @ R, (turn @ t[..., None]).squeeze(-1), score

    @torch.no_grad()
    def scores(self, crops: Crops, R: Tensor, t: Tensor) -> Tensor:
        """Returns how good poses (N, k, 3, 3) and (N, k, 3) mm in the photo's camera are, (N, k) in [0, 1]."""
        turn = crops.turn[:, None]
        said = self._compared(crops, turn.mT @ R, (turn.mT @ t[..., None]).squeeze(-1))[0]
        return said.score.view(R.shape[:2])

    def _compared(self, crops: Crops, R: Tensor, t: Tensor) -> tuple[Verdict, Tensor, Tensor]:
        """What the network says of poses (N, k) in the crop cameras, flat, and where it moves them."""
        count = R.shape[1]
        row = torch.arange(len(R), device=R.device).repeat_interleave(count)
        flat_R, flat_t = R.flatten(0, 1), t.flatten(0, 1)
        size = _BATCH_GPU if R.is_cuda else _BATCH
        parts = []
        for some in torch.split(torch.arange(len(row), device=R.device), size):
            renders = self._renders(crops, row[some], flat_R[some], flat_t[some])
            parts.append(self.network(crops.photos[row[some]], renders))
        verdict = Verdict(*(torch.cat(values) for values in zip(*parts, strict=True)))
        new_R, new_t = moved(verdict, flat_R, flat_t, crops.focal[row])
        return verdict, new_R.view_as(R), new_t.view_as(t)

    def _renders(self, crops: Crops, row: Tensor, R: Tensor, t: Tensor) -> Tensor:
        K = torch.zeros(len(row), 3, 3, device=R.device)
        K[:, 0, 0] = K[:, 1, 1] = crops.focal[row] * SIDE
        K[:, :2, 2], K[:, 2, 2] = SIDE / 2, 1.0
        objects = crops.objects[row]
        instances = Instances.single(objects, R, t)
        seen = self.world.renderer.render(instances, K, (SIDE, SIDE))
        return render_channels(seen.depth, seen.normal, seen.color, t[:, 2], self.world.diameters[objects])


def _best(R: Tensor, t: Tensor, score: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The poses (N, k) of the ``count`` best scores, best first."""
    top = score.topk(min(count, score.shape[1]), dim=1)
    rows = torch.arange(len(R), device=R.device)[:, None]
    return R[rows, top.indices], t[rows, top.indices], top.values


@cache
def load_network(path: Path) -> PoseJudge:
    """Returns the network of a weights file."""
    network = PoseJudge()
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return network.eval().requires_grad_(False)
