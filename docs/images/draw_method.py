"""Draws docs/images/method.png from a finished demo: python docs/images/draw_method.py runs/demo."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from torch import Tensor

from codepose.estimation.estimator import PoseEstimator
from codepose.runtime.run import Run
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

INK, SOFT, ORANGE, BLUE = "#23262b", "#667", "#f08018", "#2e6cbe"


def picture(axes, image: Tensor, x: float, y: float, size: float) -> None:
    """Shows (3, h, w) with its lower left corner at (x, y)."""
    axes.imshow(image.permute(1, 2, 0).numpy(), extent=(x, x + size, y, y + size), zorder=2)
    axes.add_patch(Rectangle((x, y), size, size, fill=False, lw=0.8, ec=INK, zorder=3))


def network(axes, x: float, y: float, w: float, h: float, text: str, *, narrow: str = "right", color=BLUE) -> None:
    """A trapezoid: an encoder narrows to the right, a decoder to the left."""
    a, b = (h, 0.45 * h) if narrow == "right" else (0.45 * h, h)
    corners = [(x, y - a / 2), (x, y + a / 2), (x + w, y + b / 2), (x + w, y - b / 2)]
    axes.add_patch(Polygon(corners, fc=color, ec="none", alpha=0.18))
    axes.add_patch(Polygon(corners, fill=False, ec=color, lw=1.2))
    axes.text(x + w / 2, y, text, ha="center", va="center", fontsize=9, color=INK, zorder=4)


def block(axes, x: float, y: float, w: float, h: float, text: str, color: str = SOFT) -> None:
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y - h / 2), w, h, boxstyle=style, fc="white", ec=color, lw=1.2, zorder=3))
    axes.text(x + w / 2, y, text, ha="center", va="center", fontsize=9, color=INK, zorder=4)


def arrow(axes, start, end, *, color=INK, curve: float = 0.0, dashed: bool = False) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 10, "lw": 1.3, "color": color, "zorder": 1}
    line = "--" if dashed else "-"
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={curve}", ls=line, **style))


def main(folder: str) -> None:
    run = Run.open(folder)
    world = World(run.settings)
    estimator = PoseEstimator.load(run, device="cpu")
    with torch.no_grad():
        crop = SceneSource(world, "test").crops(torch.arange(8))
        i = int((crop.visible_fraction - 0.75).abs().argmin())
        scenes = SceneSource(world, "test").scenes(torch.arange(12))
        images, K, _ = scenes.photographs()
        found = list(estimator.many(images, [K] * len(images)))
        j = max(
            (k for k, f in enumerate(found) if f and scenes.visible_fraction[k] < 0.9), key=lambda k: found[k][0].score
        )
        first = found[j][0]
    assert first.reconstruction is not None
    figure = Figure(figsize=(10.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10.5), ylim=(0, 5.0), aspect="equal")
    axes.axis("off")

    axes.text(0.1, 4.75, "Step 1: extended AAE", fontsize=11, weight="bold", color=INK)
    picture(axes, crop.inputs[i], 0.1, 3.25, 1.2)
    axes.text(0.7, 3.08, "input", ha="center", fontsize=8, color=SOFT)
    network(axes, 1.6, 3.85, 1.4, 1.2, "VGG16\nencoder")
    block(axes, 3.3, 3.85, 0.7, 0.5, "latent")
    network(axes, 4.3, 3.85, 1.4, 1.2, "mirrored\ndecoder", narrow="left")
    picture(axes, crop.targets[i], 6.0, 3.25, 1.2)
    axes.text(6.6, 3.08, "clean target", ha="center", fontsize=8, color=SOFT)
    for a, b in (
        ((1.3, 3.85), (1.6, 3.85)),
        ((3.0, 3.85), (3.3, 3.85)),
        ((4.0, 3.85), (4.3, 3.85)),
        ((5.7, 3.85), (6.0, 3.85)),
    ):
        arrow(axes, a, b)
    axes.text(7.5, 3.85, "Eq. 4:  L_mse + λ₁ L_angle + λ₂ L_cos", fontsize=9, va="center", color=INK)

    axes.text(0.1, 2.55, "Step 2: joint network", fontsize=11, weight="bold", color=INK)
    image = scenes.images[j].clone()
    picture(axes, image, 0.1, 0.55, 1.7)
    scale = 1.7 / image.shape[-1]
    x0, y0, x1, y1 = first.box * scale
    axes.add_patch(Rectangle((0.1 + x0, 2.25 - y1), x1 - x0, y1 - y0, fill=False, ec=ORANGE, lw=1.5, zorder=4))
    network(axes, 2.1, 1.4, 1.3, 1.2, "VGG16\nencoder")
    block(axes, 3.75, 1.9, 1.3, 0.5, "RPN, box head", ORANGE)
    block(axes, 3.75, 0.9, 1.3, 0.5, "RoIAlign 8×8")
    block(axes, 5.35, 0.9, 0.7, 0.5, "latent")
    network(axes, 6.35, 0.9, 1.2, 1.0, "decoder", narrow="left")
    picture(axes, torch.from_numpy(np.ascontiguousarray(first.reconstruction)), 7.85, 0.4, 1.0)
    block(axes, 6.35, 2.05, 1.3, 0.5, "codebook → R")
    block(axes, 8.0, 2.05, 0.9, 0.5, "box → t")
    arrow(axes, (1.8, 1.4), (2.1, 1.4))
    arrow(axes, (3.4, 1.5), (3.75, 1.85))
    arrow(axes, (3.4, 1.3), (3.75, 0.95))
    arrow(axes, (4.4, 1.65), (4.4, 1.15), color=ORANGE)
    axes.text(4.47, 1.4, "the detected box", fontsize=8, color=ORANGE, va="center")
    arrow(axes, (5.05, 0.9), (5.35, 0.9))
    arrow(axes, (6.05, 0.9), (6.35, 0.9))
    arrow(axes, (7.55, 0.9), (7.85, 0.9))
    arrow(axes, (5.7, 1.15), (6.4, 1.8))
    arrow(axes, (5.05, 2.0), (8.0, 2.2), color=ORANGE, curve=-0.12)
    arrow(axes, (2.3, 3.2), (2.7, 2.05), color=BLUE, dashed=True)
    arrow(axes, (5.0, 3.2), (6.9, 1.5), color=BLUE, dashed=True, curve=-0.08)
    axes.text(2.75, 2.7, "weights", fontsize=8, color=BLUE)
    axes.text(9.05, 0.9, "Eq. 5:\nL_faster + λ L_mse", fontsize=9, va="center", color=INK)
    figure.savefig(Path(__file__).with_name("method.png"), dpi=150)


if __name__ == "__main__":
    main(sys.argv[1])
