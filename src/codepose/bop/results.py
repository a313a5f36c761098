"""BOP's result files: poses as CSV, 2-D detections as COCO-style JSON.

Source: https://bop.felk.cvut.cz/challenges, "Formats of results".
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codepose.bop.entries import Array, BopError, to_bop_box
from codepose.storage.replace import write_atomically

RESULTS_HEADER = "scene_id,im_id,obj_id,score,R,t,time"


@dataclass(frozen=True, eq=False)
class PoseResult:
    """One line of a results file: R (3, 3), t (3,) mm; `time` in seconds for the whole image, -1 = not measured."""

    scene_id: int
    im_id: int
    obj_id: int
    score: float
    R_cam_obj: Array
    t_cam_obj: Array
    time: float = -1.0


@dataclass(frozen=True, eq=False)
class BoxResult:
    """One 2-D detection: amodal box (4,) xyxy; `time` as in `PoseResult`."""

    scene_id: int
    im_id: int
    obj_id: int
    score: float
    box: Array
    time: float = -1.0


def results_name(method: str, dataset: str, split: str) -> str:
    """Returns the name that BOP asks for, METHOD_DATASET-SPLIT.csv.

    Raises:
        BopError: A name holds what BOP takes for a separator.
    """
    split = split.replace("_", "-")  # test_primesense: split and type
    for what, name, allowed in (("method", method, "-"), ("dataset", dataset, ""), ("split", split, "-")):
        if not re.fullmatch(rf"[A-Za-z0-9.{allowed}]+", name):
            also = f" and {allowed!r}" if allowed else ""
            raise BopError(f"a {what} may hold letters, digits, '.'{also}, not be {name!r}: BOP splits at '_' and '-'")
    return f"{method}_{dataset}-{split}.csv"


def write_results(path: str | Path, results: Iterable[PoseResult]) -> None:
    """Writes a results CSV; see ``results_name`` for its name.

    Raises:
        BopError: The poses of an image have different times.
    """
    lines, times = [RESULTS_HEADER], dict[tuple[int, int], float]()
    for r in results:
        if times.setdefault((r.scene_id, r.im_id), r.time) != r.time:
            raise BopError(f"scene {r.scene_id}, image {r.im_id}: all poses of an image must have the same time")
        R, t = (" ".join(repr(v) for v in np.asarray(x, float).flatten().tolist()) for x in (r.R_cam_obj, r.t_cam_obj))
        numbers = f"{int(r.scene_id)},{int(r.im_id)},{int(r.obj_id)},{float(r.score)!r}"  # NumPy's repr has its type
        lines.append(f"{numbers},{R},{t},{float(r.time)!r}")
    write_atomically(Path(path), "\n".join(lines) + "\n")


def read_results(path: str | Path) -> list[PoseResult]:
    """Reads a results CSV, with or without its header.

    Raises:
        BopError: It is no text, or a line has not the seven fields or holds what is not finite; the text names it.
        OSError: It cannot be read.
    """
    results = []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BopError(f"{path} is no text in UTF-8: {error}; write it again as {RESULTS_HEADER}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.strip().startswith("scene_id")):
            continue
        try:
            scene_id, im_id, obj_id, score, R, t, time = next(csv.reader([line]))
            numbers = [np.array(text.split(), dtype=np.float64) for text in (R, t)]
            pose = numbers[0].reshape(3, 3), numbers[1].reshape(3)
            if not all(np.isfinite(values).all() for values in (*pose, float(score), float(time))):
                raise ValueError("a number is not finite")
            results.append(PoseResult(int(scene_id), int(im_id), int(obj_id), float(score), *pose, float(time)))
        except (ValueError, csv.Error) as error:
            raise BopError(f"{path}, line {number} is not {RESULTS_HEADER}: {error}") from None
    return results


def write_boxes(path: str | Path, results: Sequence[BoxResult]) -> None:
    """Writes 2-D detections as the COCO-style JSON list of BOP's detection task."""
    rows = [
        {
            "scene_id": r.scene_id,
            "image_id": r.im_id,
            "category_id": r.obj_id,
            "score": float(r.score),
            "bbox": to_bop_box(r.box),
            "time": float(r.time),
        }
        for r in results
    ]
    write_atomically(Path(path), json_lines(rows))


def json_lines(content: Mapping[str, Any] | Sequence[Any]) -> str:
    """Returns JSON text with one line an entry, as BOP's own files have it."""
    if isinstance(content, Mapping):
        lines = [f'  "{key}": {json.dumps(value)}' for key, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"
    return "[\n" + ",\n".join(f"  {json.dumps(value)}" for value in content) + "\n]\n"
