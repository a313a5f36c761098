"""What an evaluation finds: every method's numbers for every image, and some scenes to look at."""

from __future__ import annotations

import csv
import io
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from codepose.estimation.detection import Detection
from codepose.evaluation.metrics import summarise_columns
from codepose.runtime.run import RunError
from codepose.storage.checksums import DamagedError, read_json


@dataclass
class Row:
    """One method's numbers, one entry an image; NaN where nothing was detected.

    Attributes:
        vsd: Full pose, step cost, tau 20 mm, delta 15 mm.
        vsd_rotation: With the true translation: what the rotation alone costs.
        vsd_translation: With the true rotation.
        vsd_tlinear: Full pose, tlinear cost, same tau.
        vsd_10, vsd_20, vsd_50: Full pose, step cost, tau = 10, 20, 50 % of the diameter.
        ar_vsd: BOP19's average recall of the image.
        iou, score: Of the best detection; the score of a given box is 1.
        rotation_deg, translation_mm: Of its pose, against the equivalent true pose whose rotation is nearest.
        mssd_mm, mspd_px: BOP's maximum symmetry-aware distances, of the surface and of its projection.
        mssd_share: MSSD as a share of the diameter.
        confidence: Calibrated probability that the pose is right; NaN where the method is not calibrated.
    """

    vsd: list[float] = field(default_factory=list)
    vsd_rotation: list[float] = field(default_factory=list)
    vsd_translation: list[float] = field(default_factory=list)
    vsd_tlinear: list[float] = field(default_factory=list)
    vsd_10: list[float] = field(default_factory=list)
    vsd_20: list[float] = field(default_factory=list)
    vsd_50: list[float] = field(default_factory=list)
    ar_vsd: list[float] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)
    rotation_deg: list[float] = field(default_factory=list)
    translation_mm: list[float] = field(default_factory=list)
    mssd_mm: list[float] = field(default_factory=list)
    mssd_share: list[float] = field(default_factory=list)
    mspd_px: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)

    def array(self, name: str) -> NDArray[np.float64]:
        """Returns one column, (N,)."""
        return np.asarray(getattr(self, name), dtype=np.float64)

    def columns(self) -> list[str]:
        """Returns the columns' names."""
        return list(self.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class Example:
    """A scene with every method's detection, for pictures.

    Attributes:
        image: (H, W, 3) uint8, as large as it was rendered (``data.photo_scale``).
        gt_box: (4,) in its pixels.
        K: (3, 3) its camera, OpenCV's convention.
        target: (3, c, c), the clean view the reconstruction should be.
        object_index: Which of the run's objects it is of.
        detections: By method; missing where nothing was detected.
    """

    image: NDArray[np.uint8]
    gt_box: NDArray[np.float64]
    K: NDArray[np.float64]
    target: Tensor
    object_index: int
    detections: dict[str, Detection]


@dataclass
class Results:
    """What ``evaluate`` returns.

    Attributes:
        methods: Rows by name: "joint", "extended", "original", each also as "... + GT box", and "oracle".
        index, visible_fraction, object_index: (N,) of the images.
        examples: The first scenes.
        images: How many scenes.
        split: Which split.
        backgrounds: What the backgrounds were.
        labels: The objects' names.
        seconds: Of all images together, by method, where it was timed: from pixels in memory to poses.
    """

    methods: dict[str, Row]
    index: list[int]
    visible_fraction: list[float]
    object_index: list[int]
    examples: list[Example]
    images: int
    split: str
    backgrounds: str
    labels: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Returns the content of results.json."""
        everything = np.ones(len(self.index), dtype=bool)
        summary: dict[str, Any] = {
            "methods": {name: _summary(row, everything) | self._time(name) for name, row in self.methods.items()},
            "images": self.images,
            "split": self.split,
            "backgrounds": self.backgrounds,
        }
        which = np.asarray(self.object_index)
        if len(self.labels) > 1:
            summary["objects"] = {
                label: {"images": int((which == k).sum())}
                | {name: _summary(row, which == k) for name, row in self.methods.items()}
                for k, label in enumerate(self.labels)
                if (which == k).any()
            }
        return summary

    def _time(self, method: str) -> dict[str, float | None]:
        seconds = self.seconds.get(method)
        return {"ms_per_image": None if seconds is None else 1000.0 * seconds / len(self.index)}

    def csv(self) -> str:
        """Returns the per-image table: one line an image and method; empty cells where nothing was detected."""
        text = io.StringIO()
        columns = next(iter(self.methods.values())).columns()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index", "object", "visible_fraction", "method", *columns])
        for name, row in self.methods.items():
            table = np.stack([row.array(c) for c in columns], 1)  # (N, columns)
            for i, (index, visible) in enumerate(zip(self.index, self.visible_fraction, strict=True)):
                cells = ["" if np.isnan(v) else f"{v:.6g}" for v in table[i]]
                writer.writerow([index, self.object_index[i] + 1, f"{visible:.6g}", name, *cells])
        return text.getvalue()


class _Summary(BaseModel):
    """What every results.json holds, of whichever version; the rest is not looked at."""

    images: int
    preset: str
    split: str
    methods: dict[str, dict[str, float | None]]


def read_summary(path: Path) -> dict[str, Any]:
    """Reads RUN/evaluation/results.json, also one that an older version wrote.

    Raises:
        RunError: It cannot be read, or is damaged.
    """
    try:
        values: dict[str, Any] = read_json(path)
        _Summary.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from None
    except DamagedError as error:
        raise damaged(path, str(error).partition(f"{path} ")[2].removeprefix("is damaged: ")) from None
    except OSError as error:
        raise damaged(path, str(error)) from None
    return values


def damaged(path: Path, reason: str) -> RunError:
    """Returns the error that names a damaged file of RUN/evaluation/ and says how to make it anew."""
    again = shlex.join(["codepose", "evaluate", str(path.parents[1])])
    return RunError(f"{path} is damaged ({' '.join(reason.split())}): type {again}")


def _summary(row: Row, chosen: NDArray[np.bool_]) -> dict[str, float | None]:
    """The results table's numbers over some of the images."""
    return summarise_columns({name: row.array(name)[chosen] for name in row.columns()})
