"""One network on its part's photographs: BOP's errors, the chain of causes, times, and a picture of each photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photograph_chain import Looker
from benchmarks.photograph_links import RIGHT, Truth, links
from benchmarks.photograph_parts import Part
from benchmarks.photograph_tables import Recalls, Row
from codepose import geometry
from codepose.bop.benchmark import BopResults, evaluate_images
from codepose.bop.dataset import BopDataset
from codepose.bop.results import PoseResult
from codepose.bop.scenes import BopImage
from codepose.bop.scoring import BopRow, Judge
from codepose.estimation.estimator import PoseEstimator
from codepose.reports import draw
from codepose.runtime.run import Run

SPLIT = "test"
_TRUE, _RIGHT, _WRONG = (255, 255, 255), (40, 220, 60), (255, 60, 60)
_WIDE = 480
"""Pixels across a picture."""


@dataclass
class Measured:
    """What a network does on its part's photographs.

    Attributes:
        rows: One an instance.
        seconds: Of each photo, from pixels to refined poses.
        pictures: (H, W, 3) uint8 of each photo: the true outline white, estimates green where MSSD is right, else red.
    """

    rows: list[Row]
    seconds: list[float]
    pictures: list[draw.Picture]


def measure(name: str, seed: int, part: Part, run: Path, data: Path, tiles: int, device: str) -> Measured:
    """Measures a trained run as ``codepose evaluate --bop --refine --tiles`` does, and its chain of causes.

    Args:
        name: The part's.
        seed: The run's.
        part: Which photographs.
        run: The trained run's folder.
        data: The folder of BOP folders.
        tiles: As ``codepose mesh`` says.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        BopError: The photographs cannot be used.
        RunError: The folder is no run, or its training is not finished.
    """
    dataset, estimator = part.dataset(data), PoseEstimator.load(Run.open(run), device=device, refine=True)
    results = evaluate_images(estimator, dataset, SPLIT, [part.obj_id], tiles=tiles, device=estimator.device)
    looker, judge = Looker(estimator, tiles), Judge(dataset, [part.obj_id], torch.device("cpu"))
    measured = Measured([], results.seconds, [])
    recalls = iter([one for errors in results.errors[part.obj_id] for one in Recalls.of(errors)])
    for image, rows in _by_image(dataset, results):
        pixels, K = image.rgb(), geometry.from_opencv(torch.from_numpy(image.K))
        instances = [next(i for i in image.instances or () if i.index == row.gt_index) for row in rows]
        truth = Truth.of(instances, dataset.models[part.obj_id], estimator.world.objects[0])
        look = partial(looker, pixels, image.K)
        chain = links(truth, looker.boxes(pixels, image.K), look, K, pixels.shape[:2])
        for row, own in zip(rows, chain, strict=True):
            identity = (row.scene_id, row.im_id, row.gt_index, row.visible_fraction)
            measured.rows.append(Row(name, seed, *identity, next(recalls), replace(own, ranked_iou=row.box_iou)))
        found = [p for p in results.poses if (p.scene_id, p.im_id) == (image.scene_id, image.im_id)]
        measured.pictures.append(_picture(judge, image, pixels, truth, found))
    return measured


def _by_image(dataset: BopDataset, results: BopResults) -> Iterator[tuple[BopImage, list[BopRow]]]:
    for (scene_id, im_id), rows in groupby(results.rows, key=lambda row: (row.scene_id, row.im_id)):
        yield dataset.scene(SPLIT, scene_id).image(im_id), list(rows)


def _picture(
    judge: Judge, image: BopImage, pixels: NDArray[np.uint8], truth: Truth, found: Sequence[PoseResult]
) -> draw.Picture:
    """A photo with the outlines of the true and of the estimated poses."""
    view, obj_id, picture = judge.view(image, pixels), truth.model.obj_id, pixels.copy()
    width = max(1, round(pixels.shape[1] / _WIDE))

    def outline(R: NDArray[np.float64], t: NDArray[np.float64], color: draw.Color) -> None:
        picture[draw.contour(judge.depth(view, obj_id, R, t) > 0, width)] = color

    for R, t in zip(truth.R, truth.t - truth.R @ truth.offset, strict=True):
        outline(R.numpy(), t.numpy(), _TRUE)
    for one in reversed(found):
        R, t = torch.from_numpy(one.R_cam_obj), torch.from_numpy(one.t_cam_obj + one.R_cam_obj @ truth.offset.numpy())
        right = any(truth.select(i).mssd(R, t) < RIGHT for i in range(len(truth.R)))
        outline(one.R_cam_obj, one.t_cam_obj, _RIGHT if right else _WRONG)
    shape = (_WIDE, round(_WIDE * pixels.shape[0] / pixels.shape[1]))
    return np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.LANCZOS))
