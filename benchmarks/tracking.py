"""How well parts of a video are followed: a rendered sequence of hammers whose poses are known, with a gap.

One hammer rests, two pass each other. ``python -m benchmarks.tracking`` prints how often a part changed its number,
after how many images it had it again behind the gap, and how much the resting one trembled.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from benchmarks.environment import describe
from codepose.cameras.camera import Camera
from codepose.estimation.answers import Wishes, look
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.smoothing import PoseSmoother
from codepose.predict.prediction import tracker_of
from codepose.rendering.renderer import Instances
from codepose.rendering.shading import Lights, render_shaded
from codepose.synthesis.backgrounds import build_backgrounds
from codepose.synthesis.world import World

SIZE, FOCAL = 512, 300.0
K = np.array([[FOCAL, 0.0, SIZE / 2 - 0.5], [0.0, FOCAL, SIZE / 2 - 0.5], [0.0, 0.0, 1.0]])
RESTING = 0
GAP = (0.5, 0.65)
"""Of the sequence, which images do not come."""
_SAME = 0.5
"""Diameters between a pose and the part that it is of, at most."""
_NOISE = 0.02


@dataclass(frozen=True, eq=False)
class Truth:
    """Known poses: (F, P, 3, 3) R_cam_obj and (F, P, 3) mm, the parts' middles."""

    R: NDArray[np.float64]
    t: NDArray[np.float64]


def known_poses(frames: int) -> Truth:
    """One part rests; of two others one goes to the right and one to the left, turning and coming nearer."""
    share = np.linspace(0.0, 1.0, frames)
    across = 420 * (share - 0.5)
    t = np.stack(
        [
            np.tile([-20.0, 250.0, 850.0], (frames, 1)),
            np.stack([across, np.full(frames, -260.0), 850 - 60 * share], 1),
            np.stack([-across, np.full(frames, -20.0), 800 + 60 * share], 1),
        ],
        1,
    )
    turns = np.stack([np.full(frames, 90.0), 60 + 30 * share, 120 - 30 * share], 1)
    tilts = np.stack([np.full(frames, 10.0), 10 * np.sin(3 * share), -12 * np.cos(3 * share)], 1)
    R = Rotation.from_euler("xz", np.stack([180 + tilts, turns], 2).reshape(-1, 2), degrees=True).as_matrix()
    return Truth(R.reshape(frames, 3, 3, 3), t)


def pictures(world: World, truth: Truth, seed: int) -> list[NDArray[np.uint8]]:
    """(512, 512, 3) uint8 RGB each: the parts before one background, with the noise of a sensor."""
    side = torch.nn.functional.interpolate(
        build_backgrounds(None, "test", 1, seed=seed, side=SIZE).bank.float(), (SIZE, SIZE)
    )
    K_ours = torch.tensor([[[FOCAL, 0.0, SIZE / 2], [0.0, FOCAL, SIZE / 2], [0.0, 0.0, 1.0]]])
    rng, made = np.random.default_rng(seed), []
    for R, t in zip(truth.R, truth.t, strict=True):
        count = len(R)
        zeros, ones = torch.zeros(count, dtype=torch.long), torch.ones(count)
        parts = Instances(zeros, zeros, torch.from_numpy(R).float(), torch.from_numpy(t).float(), ones, zeros - 1)
        lights, tint = Lights.fixed(1, torch.device("cpu")), torch.ones(count, 3)
        rgba, _ = render_shaded(world.renderer, parts, K_ours, SIZE, lights, tint, 2)
        image = (rgba[0, :3] + (1 - rgba[0, 3:]) * side[0] / 255).permute(1, 2, 0).numpy()
        noisy = image + rng.normal(0.0, _NOISE, image.shape)
        made.append((noisy.clip(0, 1) * 255).round().astype(np.uint8))
    return made


def owners(
    found: Sequence[Detection], places: NDArray[np.float64], middle: NDArray[np.float64], size: float
) -> list[int]:
    """Which known part (P, 3) each pose is of, -1 = none; lost ones are of none."""
    own = [-1] * len(found)
    seen = [i for i, one in enumerate(found) if not one.lost]
    if not seen:
        return own
    away = np.array([[np.linalg.norm(found[i].to_camera(middle) - place) for place in places] for i in seen]) / size
    for row, column in zip(*linear_sum_assignment(np.minimum(away, _SAME)), strict=True):
        if away[row, column] < _SAME:
            own[seen[row]] = int(column)
    return own


def figures(tracked: Sequence[Sequence[Detection]], own: Sequence[Sequence[int]], gap: range) -> dict[str, Any]:
    """What is told of a sequence.

    Args:
        tracked: Each image's detections with their tracks.
        own: Which known part each is of.
        gap: The images that did not come.
    """
    numbers = [
        {part: d.track for d, part in zip(ds, parts, strict=True) if part >= 0}
        for ds, parts in zip(tracked, own, strict=True)
    ]
    parts = sorted({part for frame in numbers for part in frame})
    histories = {part: [frame[part] for frame in numbers if part in frame] for part in parts}
    before = {part: next((f[part] for f in reversed(numbers[: gap.start]) if part in f), None) for part in parts}
    recovery = {
        part: next(
            (k for k, frame in enumerate(numbers[gap.stop :]) if part in frame and frame[part] == before[part]), None
        )
        for part in parts
    }
    seen = len(numbers) - len(gap)
    resting = [d for ds, ps in zip(tracked, own, strict=True) for d, p in zip(ds, ps, strict=True) if p == RESTING]
    return {
        "found": {part: len(history) / seen for part, history in histories.items()},
        "switches": sum(a != b for history in histories.values() for a, b in pairwise(history)),
        "images to recover": recovery,
        "other tracks": len({d.track for ds in tracked for d in ds} - {n for h in histories.values() for n in h}),
        **_trembling(resting),
    }


def _trembling(resting: Sequence[Detection]) -> dict[str, float]:
    """Root mean square of a resting part's places, mm, and rotations, degrees, around their means."""
    if not resting:
        return {}
    t = np.array([d.t_cam_obj for d in resting])
    R = Rotation.from_matrix([d.R_cam_obj for d in resting])
    turned = (R.mean().inv() * R).magnitude()
    return {
        "trembling, mm": float(np.sqrt(((t - t.mean(0)) ** 2).sum(1).mean())),
        "trembling, degrees": float(np.degrees(np.sqrt((turned**2).mean()))),
    }


def followed(
    estimator: PoseEstimator, detections: Sequence[list[Detection]], truth: Truth, gap: range, *, smooth: bool
) -> dict[str, Any]:
    """The figures of a sequence that is tracked."""
    part = estimator.world.objects[0]
    middle = part.offset.numpy().astype(np.float64)
    tracker = tracker_of(estimator)
    smoother = PoseSmoother([part.cad_symmetries], [middle])
    tracked = [tracker(smoother(found) if smooth else found, K) for found in detections]
    own = [owners(ds, places, middle, float(part.mesh.diameter)) for ds, places in zip(tracked, truth.t, strict=True)]
    return figures(tracked, own, gap)


def main(arguments: Sequence[str] | None = None) -> int:
    """Looks at the sequence once, and tracks what was found with and without smoothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("hammer"), help="a network that knows the hammer")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-refine", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the sequence's images")
    options = parser.parse_args(arguments)
    estimator = PoseEstimator.load(options.run, device="cpu", refine=not options.no_refine)
    truth = known_poses(options.frames)
    images = pictures(estimator.world, truth, options.seed)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(options.pictures / f"{number:04d}.png")
    gap = range(*(round(share * options.frames) for share in GAP))
    camera, detections = Camera(K, SIZE, SIZE), list[list[Detection]]()
    for number, image in enumerate(images):
        detections.append([] if number in gap else look(estimator, image, camera, Wishes())[0])
        print(f"{number + 1} of {len(images)}: {len(detections[-1])} found", file=sys.stderr, flush=True)
    told = {
        name: followed(estimator, detections, truth, gap, smooth=smooth)
        for name, smooth in (("--track", False), ("--smooth --track", True))
    }
    print(
        f"{options.frames} images, {gap.start} to {gap.stop - 1} missing, {'plain' if options.no_refine else 'refined'}"
    )
    for name, values in told.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in _rounded(values).items()))
    if options.json:
        environment = describe(torch.device("cpu"), torch.get_num_threads(), quick=False)
        options.json.write_text(json.dumps({"environment": environment, **told}, indent=1) + "\n")
    return 0


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    return round(values, 2) if isinstance(values, float) else values


if __name__ == "__main__":
    sys.exit(main())
