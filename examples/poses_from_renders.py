"""Finds the part in held-out renders of a trained run and compares with the truth.

python examples/poses_from_renders.py runs/part
"""

from __future__ import annotations

import sys

import torch

from codepose import PoseEstimator
from codepose.refinement.poses import Photos
from codepose.refinement.render_and_compare import useful_size
from codepose.runtime.run import Run
from codepose.synthesis.scenes import SceneSource


def main(folder: str, count: int = 8) -> None:
    run = Run.open(folder)
    estimator = PoseEstimator.load(run, device="cpu", refine=True)
    world = estimator.world
    scenes = SceneSource(world, "test").scenes(torch.arange(count), photos=True)
    photos = Photos.of(scenes, useful_size(run.settings.data.camera))
    for i, found in enumerate(estimator.estimate(scenes.images, scenes.K, photos=photos)):
        number = int(scenes.objects[i])
        part = world.objects[number]
        scene = f"scene {i}, {part.label}, {scenes.visible_fraction[i]:.0%} visible"
        mine = [one for one in found if one.object_index == number]
        if not mine:
            print(f"{scene}: not found")
            continue
        R = torch.from_numpy(mine[0].R_cam_obj).float()
        angle = part.symmetries.angles(R, scenes.R_cam_obj[i]).rad2deg()
        print(f"{scene}: score {mine[0].score:.2f}, rotation off by {angle:.0f} degrees")


if __name__ == "__main__":
    main(sys.argv[1])
