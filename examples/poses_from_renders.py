"""Finds the part in held-out renders of a trained run and compares with the truth.

python examples/poses_from_renders.py runs/part
"""

from __future__ import annotations

import sys

import torch

from codepose import PoseEstimator
from codepose.synthesis.scenes import SceneSource


def main(folder: str, count: int = 8) -> None:
    estimator = PoseEstimator.load(folder, device="cpu", refine=True)
    world = estimator.world
    scenes = SceneSource(world, "test").scenes(torch.arange(count), photos=True)
    images, K, _ = scenes.photographs()
    for i, found in enumerate(estimator.many(images, [K] * count)):
        number = int(scenes.objects[i])
        part = world.objects[number]
        scene = f"scene {i}, {part.label}, {scenes.visible_fraction[i]:.0%} visible"
        best = next((d for d in found if d.object_index == number), None)
        if best is None:
            print(f"{scene}: not found")
            continue
        R = torch.from_numpy(best.R_cam_obj).float()
        angle = part.symmetries.angles(R, scenes.R_cam_obj[i]).rad2deg()
        print(f"{scene}: score {best.score:.2f}, rotation off by {angle:.0f} degrees")


if __name__ == "__main__":
    main(sys.argv[1])
