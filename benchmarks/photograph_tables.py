"""Numbers of the photographs: a row an instance, means over parts, intervals, differences between two results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.photograph_links import Links
from codepose.evaluation.average_recalls import (
    ADD_THRESHOLD,
    MSPD_THRESHOLDS,
    MSSD_THRESHOLDS,
    VSD_TAUS,
    VSD_THRESHOLDS,
    TargetErrors,
    greedy_match,
)
from codepose.evaluation.metrics import Interval
from codepose.evaluation.pose_errors import (
    FloatArray,
)

MSPD_PX = 20.0
_RESAMPLES = 2000


@dataclass(frozen=True)
class Recalls:
    """One instance's share of BOP's recalls: their means over all instances are the recalls.

    Attributes:
        vsd, mssd, mspd: Share of the thresholds, and for VSD of the tolerances, under which an estimate is matched.
        mspd_20: 1 where one is matched that is less than 20 px off in an image 640 px wide, else 0.
        add_10: 1 where one is matched whose ADD, ADD-S of a symmetric part, is less than a tenth of the diameter.
    """

    vsd: float
    mssd: float
    mspd: float
    mspd_20: float
    add_10: float

    @classmethod
    def of(cls, errors: TargetErrors) -> list[Recalls]:
        """Returns those of one object's instances in one image, as BOP matches estimates to them."""
        vsd = [_matched(errors.vsd[..., tau], one) for tau in range(len(VSD_TAUS)) for one in VSD_THRESHOLDS]
        columns = (
            np.mean(vsd, axis=0),
            np.mean([_matched(errors.mssd, one) for one in MSSD_THRESHOLDS], axis=0),
            np.mean([_matched(errors.mspd, one) for one in MSPD_THRESHOLDS], axis=0),
            _matched(errors.mspd, MSPD_PX),
            _matched(errors.add, ADD_THRESHOLD),
        )
        return [cls(*map(float, values)) for values in zip(*columns, strict=True)]


def _matched(errors: FloatArray, threshold: float) -> NDArray[np.float64]:
    return (greedy_match(errors, threshold) >= 0).astype(np.float64)


@dataclass(frozen=True)
class Row:
    """One true instance, as one network of one part finds it.

    Attributes:
        part: Its name.
        seed: Of the training.
        scene_id, im_id, gt_index: Which instance.
        visible_fraction: In [0, 1].
        recalls: Of the estimates.
        links: The chain of causes.
    """

    part: str
    seed: int
    scene_id: int
    im_id: int
    gt_index: int
    visible_fraction: float
    recalls: Recalls
    links: Links

    @property
    def instance(self) -> tuple[int, int, int]:
        """Which of the part's instances, whatever the seed."""
        return self.scene_id, self.im_id, self.gt_index

    def values(self) -> dict[str, float]:
        """Returns what is averaged, by its name in the tables."""
        own = self.recalls
        return {
            "AR": (own.vsd + own.mssd + own.mspd) / 3.0,
            "AR_VSD": own.vsd,
            "AR_MSSD": own.mssd,
            "AR_MSPD": own.mspd,
            f"MSPD < {MSPD_PX:.0f} px": own.mspd_20,
            f"ADD(-S) < {ADD_THRESHOLD:.0%}": own.add_10,
            **self.links.holds(),
        }

    def to_flat(self) -> dict[str, Any]:
        """Returns plain values, one a column."""
        nested = {"recalls": self.recalls, "links": self.links}
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in nested}
        return flat | {k: v for one in nested.values() for k, v in vars(one).items()}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Row:
        """Reads what ``to_flat`` returned, or its texts; an empty text is no number."""
        recalls, chain = ({f.name: _number(flat[f.name]) for f in fields(kind)} for kind in (Recalls, Links))
        return cls(
            part=str(flat["part"]),
            **{name: int(flat[name]) for name in ("seed", "scene_id", "im_id", "gt_index")},
            visible_fraction=_number(flat["visible_fraction"]),
            recalls=Recalls(**recalls),
            links=Links(**chain),
        )


def _number(text: Any) -> float:
    return float("nan") if text in ("", None) else float(text)


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns a table; empty cells where a number is none."""
    some, text = list(rows), io.StringIO()
    writer = csv.DictWriter(text, list(some[0]) if some else [], lineterminator="\n")
    writer.writeheader()
    for row in some:
        cells = {k: ("" if v != v else f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(cells)
    return text.getvalue()


def read_rows(text: str) -> list[Row]:
    """Reads the table of instances that ``to_csv`` wrote.

    Raises:
        KeyError, ValueError: It is another one, or damaged.
    """
    return [Row.from_flat(flat) for flat in csv.DictReader(io.StringIO(text), strict=True)]


Averages = dict[str, dict[tuple[int, int, int], dict[str, float]]]
"""Each part's instances with their values."""


def by_instance(rows: Sequence[Row]) -> Averages:
    """Returns every instance's values, averaged over the seeds."""
    grouped: dict[str, dict[tuple[int, int, int], list[dict[str, float]]]] = {}
    for row in rows:
        grouped.setdefault(row.part, {}).setdefault(row.instance, []).append(row.values())
    return {
        part: {
            key: {name: float(np.mean([one[name] for one in some])) for name in some[0]} for key, some in own.items()
        }
        for part, own in grouped.items()
    }


def mean_of_parts(values: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """Mean over parts of their instances' mean, with its 95 % bootstrap interval over each part's instances.

    A part with one instance has one value however often it is drawn: it adds nothing to the interval's width.

    Args:
        values: One sequence a part.
        seed: Of the resampling.
    """
    generator = np.random.default_rng(seed)
    parts = [np.asarray(one, dtype=np.float64) for one in values]
    drawn = [one[generator.integers(len(one), size=(_RESAMPLES, len(one)))].mean(axis=1) for one in parts]
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975))
    return Interval(float(np.mean([one.mean() for one in parts])), float(low), float(high))


def summary(rows: Sequence[Row]) -> dict[str, dict[str, Interval]]:
    """Returns each part's numbers and, as "all", the means over parts."""
    found = by_instance(rows)
    names = list(rows[0].values())
    tables = {part: [part] for part in found} | {"all": list(found)}
    return {
        title: {name: mean_of_parts([[v[name] for v in found[part].values()] for part in some]) for name in names}
        for title, some in tables.items()
    }


def differences(rows: Sequence[Row], others: Sequence[Row]) -> dict[str, dict[str, Interval]]:
    """Returns how much better the first are than the others, as ``summary`` has it, on the instances of both.

    Empty where they have none in common.
    """
    first, second = by_instance(rows), by_instance(others)
    common = {part: [key for key in own if key in second.get(part, {})] for part, own in first.items()}
    common = {part: keys for part, keys in common.items() if keys}
    tables = {part: [part] for part in common} | ({"all": list(common)} if common else {})
    return {
        title: {
            name: mean_of_parts(
                [[first[part][key][name] - second[part][key][name] for key in common[part]] for part in some]
            )
            for name in rows[0].values()
        }
        for title, some in tables.items()
    }


def table(numbers: Mapping[str, Mapping[str, Interval]], *, signed: bool = False) -> str:
    """Returns a Markdown table: a line a number, a column a part, and the interval of all parts."""
    parts = [part for part in numbers if part != "all"]
    lines = ["| | " + " | ".join([*parts, "all parts", "95 %"]) + " |", "|---" * (len(parts) + 3) + "|"]
    mark = "+" if signed else ""
    for name, whole in numbers["all"].items():
        cells = [f"{numbers[part][name].mean:{mark}.3f}" for part in parts]
        cells += [f"{whole.mean:{mark}.3f}", f"{whole.low:{mark}.3f} to {whole.high:{mark}.3f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
