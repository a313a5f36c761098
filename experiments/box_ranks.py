"""``python -m experiments.box_ranks DATA PART RUN``: where a part's boxes stand among all of the detector's.

By the log-odds of the score + k x cosine of the code with the codebook's nearest view, for several k: the rank of the
first box that overlaps each part's true one by IoU > 0.5, photo by photo, and how many have one among the first. Also
the score of that box, and the best IoU among the ten best-scored boxes for each part.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.photograph_judge import SPLIT
from benchmarks.photograph_parts import PARTS
from codepose.estimation.methods import load_codebooks, load_pipeline
from codepose.estimation.photo import Photo
from codepose.estimation.window_boxes import detected_boxes
from codepose.runtime.run import Run
from codepose.settings.files import override

FOUND = 0.5
WEIGHTS = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0, 1e6)
"""k; 0 = by the score alone, the last by the cosine alone."""
TEN = 10
"""Boxes for each part that a photo shows, from which those that get a pose are chosen."""
FIRST = (1, 2, 3)
"""Boxes for each part that a photo shows."""


@torch.no_grad()
def ranks(run: Run, part: str, data: Path) -> list[list[list[float]]]:
    """Returns the ranks by weight, photo and part, from 0; infinite where no box is right. Prints them, too."""
    device = torch.device("cpu")
    pipeline = load_pipeline(run, "joint", device)
    (book,) = load_codebooks(run, "joint", pipeline)
    dataset, tiles = PARTS[part].dataset(data), PARTS[part].framing(data).tiles
    size = run.settings.data.camera.image_size
    result: list[list[list[float]]] = [[] for _ in WEIGHTS]
    for image in dataset.images(SPLIT):
        true = [i.box for i in image.instances or () if i.obj_id == PARTS[part].obj_id and i.box is not None]
        if not true:
            continue
        (views,) = detected_boxes(pipeline, [Photo.of(image.rgb(), image.K, device)], tiles)
        odds, cosines, places = [], [], [torch.zeros(0, 4)]
        for view in views:
            latents = pipeline.latents(view.prepared, view.boxes, torch.zeros_like(view.objects))
            cosines.append(book.search(latents, 1)[0][:, 0])
            odds.append(torch.logit(view.scores.float(), eps=1e-4))
            places.append(view.in_photo(size)["boxes"])
        iou = box_iou(torch.from_numpy(np.array(true)).float(), torch.cat(places))  # (parts, boxes)
        right = iou > FOUND
        for weight, photos in zip(WEIGHTS, result, strict=True):
            worth = torch.cat([o + weight * c for o, c in zip(odds, cosines, strict=True)] or [torch.zeros(0)])
            photos.append([_first(row) for row in right[:, worth.argsort(descending=True)]])
        shown = "  ".join(
            f"k {k:g}: {' '.join(f'{rank:g}' for rank in sorted(photos[-1]))}"
            for k, photos in zip(WEIGHTS, result, strict=True)
        )
        print(f"photo {image.im_id}, {right.shape[1]} boxes: {shown}", flush=True)
        scores = torch.cat([view.scores.float() for view in views] or [torch.zeros(0)])
        best = scores.argsort(descending=True)[: TEN * len(true)]
        said = [f"{float(one.max()):.2f}" for one in (right * scores) if len(one)]
        near = [f"{float(one.max()):.2f}" for one in iou[:, best] if len(one)]
        print(f"  score of a right box: {' '.join(said)}; IoU of the nearest of ten: {' '.join(near)}", flush=True)
    return result


def _first(right: Tensor) -> float:
    """The first place (n,) that is right."""
    places = right.nonzero()
    return float(places[0]) if len(places) else math.inf


def main() -> None:
    """Measures, and prints a line for each photo, then the shares by weight."""
    parser = argparse.ArgumentParser(prog="python -m experiments.box_ranks", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of BOP folders, as for benchmarks.photographs")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("run", type=Path, help="a trained run of this part alone")
    options = parser.parse_args()
    run = Run.open(options.run)
    settings = override(run.settings, {"detection.score": 0.02, "detection.per_object": 1000})
    for weight, photos in zip(WEIGHTS, ranks(Run(run.path, settings), options.part, options.data), strict=True):
        shares = np.array([rank / len(photo) for photo in photos for rank in photo])
        print(f"k {weight:g}:", *(f"{np.mean(shares < n):.2f} among the first {n} a part" for n in FIRST), sep="  ")


if __name__ == "__main__":
    main()
