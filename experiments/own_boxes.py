"""``python -m experiments.own_boxes DATA PART RUN``: what a detector's boxes on photographs are worth.

How many true boxes are among the detector's, by rank and by score; and, for each part that shows, the pose in the best
of its boxes, in the box of that pose, in the box of the pose found there, and in the true box.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.photograph_chain import Looker
from benchmarks.photograph_judge import SPLIT
from benchmarks.photograph_links import Truth
from benchmarks.photograph_parts import PARTS
from codepose import geometry
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.photo import Photo
from codepose.estimation.window_boxes import detected_boxes
from codepose.runtime.run import Run
from codepose.settings.files import override

FOUND = 0.5
LOOKS = 3


def detected(estimator: PoseEstimator, photo: Photo, tiles: int) -> tuple[Tensor, Tensor]:
    """All boxes (N, 4) of a photo and their scores (N,), best first, whatever they score."""
    (views,) = detected_boxes(estimator.pipeline, [photo], tiles)
    if not views:
        return torch.zeros(0, 4), torch.zeros(0)
    several = [view.in_photo(estimator.settings.data.camera.image_size) for view in views]
    boxes, scores = (torch.cat([found[name] for found in several]) for name in ("boxes", "scores"))
    order = scores.argsort(descending=True)
    return boxes[order], scores[order]


def main() -> None:
    """Measures, and prints a row for each part that shows, then the shares."""
    parser = argparse.ArgumentParser(prog="python -m experiments.own_boxes", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of BOP folders, as for benchmarks.photographs")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("run", type=Path, help="a trained run")
    options = parser.parse_args()
    part, run = PARTS[options.part], Run.open(options.run)
    dataset, tiles = part.dataset(options.data), part.framing(options.data).tiles
    changes = {"refinement.looks": 1, "detection.score": 0.0, "detection.per_object": 1000}
    estimator = PoseEstimator.load(Run(run.path, override(run.settings, changes)), device="cpu", refine=True)
    look, rows = Looker(estimator, tiles), []
    for image in dataset.images(SPLIT):
        shown = [i for i in image.instances or () if i.obj_id == part.obj_id and i.box is not None]
        if not shown:
            continue
        pixels, K = image.rgb(), geometry.from_opencv(torch.from_numpy(image.K)).float()
        truth = Truth.of(shown, dataset.models[part.obj_id], estimator.world.objects[0])
        boxes, scores = detected(estimator, Photo.of(pixels, image.K, estimator.device), tiles)
        for number, instance in enumerate(shown):
            true, own = torch.tensor(instance.box)[None].float(), truth.select(number)
            iou = box_iou(true, boxes)[0] if len(boxes) else torch.zeros(1)
            good = (iou > FOUND).nonzero().flatten()
            first = int(good[0]) if len(good) else -1
            row = [first / len(shown) if len(good) else np.inf, float(scores[first]) if len(good) else 0.0]
            box = boxes[iou.argmax()] if len(boxes) else true[0]
            for _ in range(LOOKS):
                seen = look(pixels, image.K, box)
                row += [float(box_iou(true, box[None])), float(own.mssd(seen.R, seen.t))]
                box = estimator.world.boxes(torch.zeros(1).long(), seen.R[None].float(), seen.t[None].float(), K)[0]
            seen = look(pixels, image.K, true[0])
            rows.append([*row, float(own.mssd(seen.R, seen.t))])
            print(" ".join(f"{value:.2f}" for value in rows[-1]), flush=True)
    table = np.array(rows)
    print(f"{len(table)} parts; a box with IoU > {FOUND}: {np.isfinite(table[:, 0]).mean():.2f}")
    print(f"among as many best-scored boxes as parts: {(table[:, 0] < 1).mean():.2f}")
    print("with a score above 0.05, 0.3, 0.5:", *(f"{(table[:, 1] > s).mean():.2f}" for s in (0.05, 0.3, 0.5)))
    print("IoU of the box, median, by looks:", *(f"{v:.2f}" for v in np.median(table[:, 2:-1:2], axis=0)))
    print(
        "right (MSSD < 0.2), by looks, and in the true box:",
        *((table[:, 3::2] < 0.2).sum(0)),
        (table[:, -1] < 0.2).sum(),
    )


if __name__ == "__main__":
    main()
