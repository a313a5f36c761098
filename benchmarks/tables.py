"""What it is worth that a photo's parts lie on one plane: rendered tables with a few parts of one kind on each.

Each photo is looked at twice, once with the plane that the parts show and once without. ``python -m benchmarks.tables``
prints the share of right poses, with the interval of the difference; ``--hanging`` lets the parts hang anyhow in the
air instead, where no plane should be believed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from benchmarks.environment import describe
from codepose import geometry
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation.pose_errors import mssd, symmetry_transforms
from codepose.randomness import Draws
from codepose.rendering.renderer import Instances
from codepose.rendering.shading import Lights, render_shaded
from codepose.settings.data import AugmentationSettings
from codepose.synthesis.objects import ObjectModel
from codepose.synthesis.placement import draw_views
from codepose.synthesis.surfaces import surface
from codepose.synthesis.world import World

SIZE = 640
_MOST_TILT = math.radians(40.0)
"""Between the table's normal and the optical axis."""
_PARTS = (3, 6)
_TRIES = 100
_OVERLAP = 0.15
"""Of a part's box that may lie in another one's."""
_NOISE = 0.015
_RIGHT = (0.05, 0.1, 0.2)
"""Poses are right whose farthest point is off by less, in diameters."""


@dataclass(frozen=True, eq=False)
class Table:
    """A photo (640, 640, 3) uint8, OpenCV's K (3, 3), and its parts: R (N, 3, 3), t (N, 3) mm of their middles."""

    image: NDArray[np.uint8]
    K: NDArray[np.float64]
    R: NDArray[np.float64]
    t: NDArray[np.float64]


def table(world: World, rng: np.random.Generator, *, hanging: bool) -> Table:
    """A photo of a table from above, or from up to 40 degrees beside that."""
    camera, part = world.settings.data.camera, world.objects[0]
    focal = camera.focal * SIZE / camera.image_size
    K = geometry.camera_matrix(focal, SIZE / 2, SIZE / 2)
    away = camera.focal * part.mesh.diameter / float(np.mean(camera.box_side))
    tilt, way = rng.uniform(0.0, _MOST_TILT), rng.uniform(0.0, 2.0 * math.pi)
    up = np.array([math.sin(tilt) * math.cos(way), math.sin(tilt) * math.sin(way), -math.cos(tilt)])
    wanted = int(rng.integers(*_PARTS, endpoint=True))
    boxes: list[NDArray[np.float64]] = []
    poses: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(_TRIES):
        if len(poses) == wanted:
            break
        R = _hanging(world, rng) if hanging else _resting(part, up, rng)
        ray = np.array([*rng.uniform(-0.5, 0.5, 2) * SIZE / focal, 1.0])
        lowest = float((part.mesh.hull @ R.T @ up).min())
        t = ray * (away * rng.uniform(0.75, 1.3) if hanging else (away * up[2] - lowest) / (ray @ up))
        box = geometry.projected_box(torch.from_numpy(part.mesh.hull).double(), *_one(R, t), K.double())[0].numpy()
        inside = box.min() > 4 and box.max() < SIZE - 4 and t[2] > 0
        if inside and all(_shared(box, other) < _OVERLAP for other in boxes):
            boxes.append(box)
            poses.append((R, t))
    R, t = np.array([R for R, _ in poses]), np.array([t for _, t in poses])
    return Table(_picture(world, R, t, K, rng), geometry.to_opencv(K).double().numpy(), R, t)


def _resting(part: ObjectModel, up: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """R_cam_obj (3, 3) of a part that has come to rest on a plane."""
    downs, shares = part.rests
    down = Rotation.align_vectors([-up], [downs[rng.choice(len(downs), p=shares)]])[0]
    turned: NDArray[np.float64] = (Rotation.from_rotvec(rng.uniform(0.0, 2.0 * math.pi) * up) * down).as_matrix()
    return turned


def _hanging(world: World, rng: np.random.Generator) -> NDArray[np.float64]:
    """R_cam_obj (3, 3), one of the views that were trained."""
    draws = Draws(int(rng.integers(2**31)), "hanging", torch.arange(1))
    return draw_views(world, draws, torch.zeros(1, dtype=torch.long))[0].double().numpy()


def _one(R: NDArray[np.float64], t: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(R)[None], torch.from_numpy(t)[None]


def _shared(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The share of a box (4,) that lies in another."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(sides.clip(0.0)) / np.prod(a[2:] - a[:2]))


def _picture(
    world: World, R: NDArray[np.float64], t: NDArray[np.float64], K: Tensor, rng: np.random.Generator
) -> NDArray[np.uint8]:
    nothing, ones = torch.zeros(len(R), dtype=torch.long), torch.ones(len(R))
    parts = Instances(nothing, nothing, torch.from_numpy(R).float(), torch.from_numpy(t).float(), ones, nothing - 1)
    lights = Lights.draw(Draws(int(rng.integers(2**31)), "tables", torch.arange(1)), AugmentationSettings())
    rgba, _ = render_shaded(world.renderer, parts, K[None], SIZE, lights, torch.ones(len(R), 3), 2)
    seen = rgba[0, :3] + (1.0 - rgba[0, 3:]) * surface(rng, SIZE, 2)
    noisy = seen.permute(1, 2, 0).numpy() + rng.normal(0.0, _NOISE, (SIZE, SIZE, 3))
    return (noisy.clip(0.0, 1.0) * 255).round().astype(np.uint8)


def errors(part: ObjectModel, shown: Table, found: Sequence[Detection]) -> list[float]:
    """How far the farthest point is off, in diameters, of the best pose of each part; 1 = farther, or none."""
    hull, middle = torch.from_numpy(part.mesh.hull).double(), part.offset.double().numpy()
    symmetries = symmetry_transforms(part.symmetries.to_bop())
    best = np.ones(len(shown.R))
    for one in found:
        R, t = (torch.from_numpy(np.stack([x] * len(best))) for x in (one.R_cam_obj, one.to_camera(middle)))
        off = mssd(hull, R, t, torch.from_numpy(shown.R), torch.from_numpy(shown.t), symmetries)
        best = np.minimum(best, off.numpy() / part.mesh.diameter)
    return [float(value) for value in best]


def summary(without: Sequence[Sequence[float]], by_plane: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Shares of right poses, and the differences with their 95 % intervals over photos that are drawn anew."""
    rng, told = np.random.default_rng(0), {}
    counts = np.array([len(one) for one in without])
    for limit in _RIGHT:
        both = np.array([[np.sum(np.array(x) < limit) for x in pair] for pair in zip(without, by_plane, strict=True)])
        drawn = rng.integers(0, len(counts), (2000, len(counts)))
        differences = (both[drawn, 1] - both[drawn, 0]).sum(1) / counts[drawn].sum(1)
        shares = both.sum(0) / counts.sum()
        interval = np.quantile(differences, (0.025, 0.975))
        told[f"within {limit:g}"] = {
            "without": float(shares[0]),
            "by plane": float(shares[1]),
            "difference": float(shares[1] - shares[0]),
            "interval": interval.tolist(),
        }
    return {"photos": len(counts), "parts": int(counts.sum()), **told}


def main(arguments: Sequence[str] | None = None) -> int:
    """Looks at each table with and without its plane."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("hammer"), help="a trained network; its first part is used")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hanging", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the photos")
    options = parser.parse_args(arguments)
    estimator = PoseEstimator.load(options.run, device="cpu", refine=True)
    world = estimator.world
    told: dict[bool, list[list[float]]] = {False: [], True: []}
    for number in range(options.photos):
        shown = table(world, np.random.default_rng([options.seed, number]), hanging=options.hanging)
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown.image).save(options.pictures / f"{number:04d}.png")
        for by_plane, rows in told.items():
            estimator.by_plane = by_plane
            rows.append(errors(world.objects[0], shown, estimator(shown.image, shown.K, min_score=0.05)))
        off = ["/".join(f"{row[-1][i]:.2f}" for row in told.values()) for i in range(len(shown.R))]
        print(f"{number + 1} of {options.photos}: {', '.join(off)}", file=sys.stderr, flush=True)
    result = summary(told[False], told[True])
    print(f"{result['photos']} photos, {result['parts']} parts {'in the air' if options.hanging else 'on tables'}")
    for name, one in result.items():
        if isinstance(one, dict):
            low, high = one["interval"]
            shares = f"{one['without']:.3f} without the plane, {one['by plane']:.3f} with it"
            print(f"{name} diameters: {shares}, {one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
    if options.json:
        environment = describe(torch.device("cpu"), torch.get_num_threads(), quick=False)
        options.json.write_text(json.dumps({"environment": environment, **result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
