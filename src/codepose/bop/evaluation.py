"""A trained run measured on a BOP dataset: which of its objects are the run's, the numbers, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codepose.bop.benchmark import BopResults, evaluate_images
from codepose.bop.dataset import BopDataset
from codepose.bop.entries import BopError
from codepose.bop.models import numbered
from codepose.bop.results import results_name, write_boxes, write_results
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import Method
from codepose.runtime.progress import Display
from codepose.runtime.provenance import provenance
from codepose.runtime.run import Run, opened
from codepose.storage.checksums import write_json
from codepose.storage.replace import replacing_together, write_atomically


def evaluate_bop(
    run: str | Path | Run,
    dataset_path: str | Path,
    split: str = "test",
    *,
    method: Method = "joint",
    obj_ids: Sequence[int] | None = None,
    camera: str | None = None,
    images: int | None = None,
    min_score: float | None = None,
    refine: bool = False,
    depth: bool = False,
    tiles: int = 1,
    device: str = "auto",
) -> dict[str, Any]:
    """Measures a trained run on a BOP split, by BOP19's rules for localisation.

    The run must have been trained on the dataset's own models, or on CAD files in the same frame. Writes
    ``RUN/evaluation/DATASET-SPLIT/``, of a camera with a name ``DATASET-SPLIT-CAMERA/``: ``results.json``,
    ``per_image.csv`` (a line an instance), BOP's results file ``METHOD_DATASET-SPLIT.csv`` and its 2-D detections
    ``METHOD_DATASET-SPLIT.json``.

    Args:
        run: A trained run or its folder.
        dataset_path: A folder in BOP's layout.
        split: A folder of it, "test" or "test_primesense".
        method: "joint", "extended" or "original".
        obj_ids: The dataset's numbers of the run's objects, in the order of its settings; None = those in their names
            (obj_000005), else 1, 2, ... where the dataset has as many objects.
        camera: Which of the scenes' cameras, where they have several; None = the only one.
        images: Only the first so many target images; None = all.
        min_score: Leave out detections below; None = the run's own threshold.
        refine: Refine poses by render-and-compare.
        depth: Fit poses to the dataset's depth images.
        tiles: Besides each whole image, look at overlapping squares of 1/tiles of its longer side.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        The content of results.json: ``ar_vsd``, ``ar_mssd``, ``ar_mspd``, ``ar`` and ``add_recall_10`` in [0, 1],
        medians of the found instances, the same for each object under ``objects``, and what was measured on what.

    Raises:
        RunError: The folder is no run, or one that codepose brings, or the method's training is not finished.
        BopError: The dataset has no such split, camera or objects, it is damaged, or its labels are not public.
    """
    run = opened(run)
    run.require_own()
    dataset = BopDataset.open(dataset_path, camera=camera)
    dataset_name = re.sub(r"[^A-Za-z0-9]", "", Path(dataset_path).resolve().name) or "dataset"
    file_name = results_name(f"codepose-{method}", dataset_name, split)
    obj_ids = _own_ids(run, dataset) if obj_ids is None else _checked_ids(run, obj_ids)
    estimator = PoseEstimator.load(run, method, device, refine=refine)
    with Display(f"Evaluation on {dataset_name}, {split}") as display:
        results = evaluate_images(
            estimator,
            dataset,
            split,
            obj_ids,
            images=images,
            min_score=min_score,
            depth=depth,
            tiles=tiles,
            device=estimator.device,
            progress=lambda share: display.update(share, ""),
        )
    summary = results.summary() | {
        "method": method,
        "refined": refine,
        "depth": depth,
        "tiles": tiles,
        "dataset": dataset_name,
        "split": split,
        "camera": dataset.split_camera(split),
        **provenance(run, estimator.device),
    }
    _write(results, summary, run.stage("evaluation") / folder_name(summary), file_name)
    return summary


def folder_name(summary: Mapping[str, Any]) -> str:
    """Returns the folder of a measurement in the run's ``evaluation``: "lmo-test", "ipd-val-photoneo"."""
    return "-".join(filter(None, (summary["dataset"], summary["split"], summary["camera"])))


def _write(results: BopResults, summary: Mapping[str, Any], folder: Path, file_name: str) -> None:
    """Writes the four files; those for the BOP server are called ``file_name``, .csv and .json."""
    folder.mkdir(exist_ok=True)
    with replacing_together():  # results.json last: where it is, all the rest is there
        write_atomically(folder / "per_image.csv", results.csv())
        write_results(folder / file_name, results.poses)
        write_boxes((folder / file_name).with_suffix(".json"), results.boxes)
        write_json(folder / "results.json", summary)


def _own_ids(run: Run, dataset: BopDataset) -> list[int]:
    """The obj_ids in the objects' names; without any, 1, 2, ..., if these can only be the run's."""
    names = [one.name for one in run.settings.objects]
    ids = numbered(names)
    named = all(re.fullmatch(r"obj_\d+", name) for name in names)
    if not named and len(dataset.models) > len(names):
        raise BopError(
            f"{dataset.path} has the objects {', '.join(str(number) for number in dataset.models)}: which of them is "
            f"{names[0]!r}? Name one number for each of the run's objects: --obj-ids"
        )
    return ids


def _checked_ids(run: Run, obj_ids: Sequence[int]) -> Sequence[int]:
    """One obj_id an object of the run."""
    if len(obj_ids) != len(run.settings.objects):
        names = ", ".join(o.name for o in run.settings.objects)
        raise BopError(
            f"the run has {len(run.settings.objects)} objects ({names}) but {len(obj_ids)} obj_ids are given"
        )
    return obj_ids
