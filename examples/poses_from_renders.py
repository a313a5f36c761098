"""Finds the part in held-out renders of a trained run and compares with the truth.

python examples/poses_from_renders.py runs/part
"""

from __future__ import annotations

import sys

import torch

from codepose import PoseEstimator
from codepose.geometry import geodesic_angle
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.run import Run


def main(folder: str, count: int = 8) -> None:
    run = Run.open(folder)
    estimator = PoseEstimator.load(run, device="cpu")
    scenes = SceneSource(World(run.settings), "test").scenes(torch.arange(count))
    for i, found in enumerate(estimator.estimate(scenes.images, scenes.K)):
        visible = f"scene {i}, {scenes.visible_fraction[i]:.0%} visible"
        if not found:
            print(f"{visible}: nothing found")
            continue
        best = found[0]
        R = torch.from_numpy(best.R_cam_obj).float()
        angle = geodesic_angle(R, scenes.R_cam_obj[i]).rad2deg()
        print(f"{visible}: score {best.score:.2f}, rotation off by {angle:.0f} degrees")


if __name__ == "__main__":
    main(sys.argv[1])
