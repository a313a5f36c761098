"""A learned judge of poses: a network for all parts sees photo and render side by side, ranks poses and moves them.

Each detection gets a crop camera of its own that looks straight at the box, so that the network never sees perspective
it was not trained on (``networks/pose_judge.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.networks.pose_judge import SIDE, Verdict, apply_motions, crop_cameras, render_channels
from codepose.refinement.edges import read_photos
from codepose.refinement.poses import Poses, Seen
from codepose.rendering.renderer import Instances
from codepose.runtime.vision import box_iou
from codepose.synthesis.lookalikes import spread_views
from codepose.synthesis.objects import Objects

ROUNDS = (16, 8, 4, 4)
_APART_DEG = 8.0
"""Poses turned more alike become one when they move."""
_LEAST_OVERLAP, _BESIDE = 0.5, 12.0
"""A pose whose box overlaps the detection's by less is another part's: what it loses for each share that is missing."""
PAD = 1.4
"""Side of a crop over the box's longer side."""
_BATCH, _BATCH_GPU = 32, 1024
"""Poses compared at a time."""
_MOST_SAMPLES = 4
"""Samples of the photo a pixel of the crop along each axis, at most."""


Compare = Callable[[Tensor, Tensor], Verdict]
"""Compares photos (M, 3, 128, 128) with renders (M, 8, 128, 128), as ``PoseJudge`` does."""


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
    seen = read_photos(images, which, at / size * 2.0 - 1.0, extent)
    return Crops(F.avg_pool2d(seen, samples), turn, 1.0 / across, objects)


class JudgeRefiner:
    """Ranks and moves poses by comparing photos with renders.

    Args:
        world: Meshes and renderer.
        network: Compares photos with renders.
        rounds: How many of the best poses go on after each comparison, moved; the last number is how many come back.
    """

    def __init__(
        self, world: Objects, network: Callable[[Tensor, Tensor], Verdict], rounds: tuple[int, ...] = ROUNDS
    ) -> None:
        self.world = world
        self.network = network
        self.rounds = rounds

    @torch.no_grad()
    def __call__(self, seen: Seen, poses: Poses) -> Poses:
        """Returns the best poses that were compared, best first; their scores are those of ``scores``."""
        home = poses.t.device
        seen, poses = seen.to(self.world.device), poses.to(self.world.device)
        crops, compared = self.crops(seen), []
        for count in (*self.rounds, None):
            verdict = self._compared(crops, poses)
            score = self._score(seen, poses, verdict)
            poses = replace(poses, judged=score, score=score)
            compared.append(poses)
            if count is not None:
                poses = self._apart(seen, self._apply(crops, poses, verdict), count)
        return self._apart(seen, reduce(Poses.joined, compared), self.rounds[-1]).to(home)

    @torch.no_grad()
    def scores(self, seen: Seen, poses: Poses) -> Tensor:
        """Returns how good poses (N, k) are, (N, k): the mean of four log-odds, less where the boxes do not agree."""
        there = seen.to(self.world.device), poses.to(self.world.device)
        return self._score(*there, self._compared(self.crops(there[0]), there[1])).to(poses.t.device)

    def _apart(self, seen: Seen, poses: Poses, count: int) -> Poses:
        """The best poses of which no two are turned alike, best first."""
        ranked = poses.best(poses.t.shape[1])
        symmetries = self.world.objects[int(seen.objects[0])].symmetries
        return ranked.picked(spread_views(ranked.R_view, count, _APART_DEG, symmetries))

    def _score(self, seen: Seen, poses: Poses, verdict: Verdict) -> Tensor:
        count = poses.t.shape[1]
        objects = seen.objects.repeat_interleave(count)
        boxes = self.world.boxes(objects, poses.R.flatten(0, 1), poses.t.flatten(0, 1), seen.K).nan_to_num()
        overlap = box_iou(boxes.view(-1, count, 4), seen.boxes[:, None]).squeeze(-1)
        beside: Tensor = (_LEAST_OVERLAP - overlap).clamp_min(0.0)
        return verdict.score.view(-1, count) - _BESIDE * beside

    def crops(self, seen: Seen) -> Crops:
        """Returns what the detections' crop cameras see, at the highest resolution there is."""
        fine = seen.to(self.world.device).in_photos()
        return crop(fine.images, fine.which, fine.boxes, fine.objects, fine.K, fine.extent)

    def _compared(self, crops: Crops, poses: Poses) -> Verdict:
        """What the network says of N k poses."""
        R, t, row = _in_crops(crops, poses)
        parts = []
        for some in torch.split(torch.arange(len(row), device=R.device), _BATCH_GPU if R.is_cuda else _BATCH):
            renders = self._renders(crops, row[some], R[some], t[some])
            parts.append(self.network(crops.photos[row[some]], renders))
        return Verdict(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _apply(self, crops: Crops, poses: Poses, verdict: Verdict) -> Poses:
        R, t, row = _in_crops(crops, poses)
        R, t = apply_motions(verdict, R, t, crops.focal[row])
        t = (crops.turn[row] @ t[..., None]).squeeze(-1)
        R_view = geometry.offaxis_rotation(t).mT @ crops.turn[row] @ R
        return replace(poses, R_view=R_view.view_as(poses.R_view), t=t.view_as(poses.t))

    def _renders(self, crops: Crops, row: Tensor, R: Tensor, t: Tensor) -> Tensor:
        objects = crops.objects[row]
        instances = Instances.single(objects, R, t)
        seen = self.world.renderer.render(instances, crop_cameras(crops.focal[row], SIDE), (SIDE, SIDE))
        return render_channels(seen.depth, seen.normal, seen.color, t[:, 2], self.world.diameters[objects])


def _in_crops(crops: Crops, poses: Poses) -> tuple[Tensor, Tensor, Tensor]:
    """Poses in the frames of the crop cameras, R (N k, 3, 3) and t (N k, 3) mm, and the detection (N k,) of each."""
    turn = crops.turn[:, None]
    R, t = turn.mT @ poses.R, (turn.mT @ poses.t[..., None]).squeeze(-1)
    row = torch.arange(len(R), device=R.device).repeat_interleave(R.shape[1])
    return R.flatten(0, 1), t.flatten(0, 1), row
