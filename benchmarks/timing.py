"""Interleaved timing of contestants, the ratios between them, tables and JSON.

All contestants of a case take turns (ours, peer, ours, peer, ...), and a ratio is formed within each round, so that
what disturbs the machine disturbs both. Medians and quartiles over the rounds are given.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.environment import describe

_BLOCK_S = 0.2
"""A contestant that takes less is called several times a turn."""
_FEWEST = 2
"""Rounds that a case has, however little time it is given."""


@dataclass(frozen=True)
class Options:
    """What every benchmark understands."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ours and the networks run; 'auto' = CUDA where there is any."""
    threads: int = 0
    """CPU threads; 0 = torch's own choice."""
    quick: bool = False
    """Tiny sizes and two rounds: shows that everything runs, says nothing about speed."""
    rounds: int = 0
    """Rounds in which every contestant takes its turn; 0 = each benchmark's own choice."""
    seconds: float = 0.0
    """After so many a case begins no further round, but two there are; 0 = no limit."""
    json: Path | None = None
    """File for the same results, machine-readable."""

    @property
    def place(self) -> torch.device:
        """The device."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def cores(self) -> int:
        """The number of CPU threads, at least 1."""
        return self.threads or torch.get_num_threads()

    def counted(self, usual: int) -> int:
        """Returns the number of rounds of a case that usually has ``usual``."""
        return self.rounds or (2 if self.quick else usual)


@dataclass(frozen=True)
class Contestant:
    """Something that is timed.

    Attributes:
        name: As in the table.
        run: What is timed.
        items: How many images, views or queries one call treats.
        before: Called untimed before each turn.
    """

    name: str
    run: Callable[[], object]
    items: float = 1.0
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a number over the rounds."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Returns the spread of one value a round."""
        q1, median, q3 = np.percentile(np.asarray(values, dtype=np.float64), (25, 50, 75)).tolist()
        return cls(median, q1, q3)

    def to_json(self) -> dict[str, float]:
        """Returns plain numbers."""
        return {"median": self.median, "q1": self.q1, "q3": self.q3}


@dataclass(frozen=True)
class Timing:
    """One contestant's times.

    Attributes:
        name: The contestant's.
        items: It treats so many a call.
        seconds: Of one call, one value a round.
    """

    name: str
    items: float
    seconds: list[float]

    @property
    def rate(self) -> Spread:
        """Items a second."""
        return Spread.of([self.items / s for s in self.seconds])


@dataclass(frozen=True)
class Target:
    """What a ratio should reach.

    Attributes:
        at_least: Ours should be so many times as fast as the peer.
        words: The same as it was agreed on.
    """

    at_least: float
    words: str


@dataclass
class Case:
    """One comparison: the first timing is ours, the others are its peers'.

    Attributes:
        name: What is compared.
        unit: Of the rates, such as "images/s".
        timings: Ours first.
        targets: By the peer's name.
        facts: Further numbers to print.
        growth: The first timing is the base instead, and the others are compared with it.
    """

    name: str
    unit: str
    timings: list[Timing]
    targets: Mapping[str, Target] = field(default_factory=dict)
    facts: dict[str, float | str] = field(default_factory=dict)
    growth: bool = False

    def ratio(self, other: Timing) -> Spread:
        """How many times as fast as the peer ours is; or, in a series, as the base this one is."""
        fast, slow = (other, self.timings[0]) if self.growth else (self.timings[0], other)
        rounds = zip(fast.seconds, slow.seconds, strict=True)
        return Spread.of([(theirs / slow.items) / (mine / fast.items) for mine, theirs in rounds])

    def to_json(self) -> dict[str, Any]:
        """Returns the case with every single time."""
        contestants = [
            {"name": t.name, "items": t.items, "seconds": t.seconds, "rate": t.rate.to_json()} for t in self.timings
        ]
        ratios = []
        base = self.timings[0].name
        for peer in self.timings[1:]:
            ratio, target = self.ratio(peer), self.targets.get(peer.name)
            of, against = (peer.name, base) if self.growth else (base, peer.name)
            one: dict[str, Any] = {"of": of, "against": against, "times_as_fast": ratio.to_json()}
            if target is not None:
                one["target"] = {"at_least": target.at_least, "met": ratio.median >= target.at_least}
                one["target"]["words"] = target.words
            ratios.append(one)
        return {
            "name": self.name,
            "unit": self.unit,
            "contestants": contestants,
            "ratios": ratios,
            "facts": self.facts,
        }


@dataclass
class Report:
    """One benchmark's results.

    Attributes:
        name: The module's.
        cases: What was compared.
        skipped: Peers that are not there, and why.
    """

    name: str
    cases: list[Case] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"name": self.name, "cases": [c.to_json() for c in self.cases], "skipped": self.skipped}


def synchronise(device: torch.device) -> None:
    """Waits for a CUDA device; a CPU needs no waiting for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(contestants: Sequence[Contestant], options: Options, rounds: int = 11) -> list[Timing]:
    """Times contestants in turns.

    Args:
        contestants: In the order of their turns; each is called once or twice beforehand to warm up.
        options: Device, and whether this is a smoke test.
        rounds: How many turns each gets, unless the options say otherwise.
    """
    device, calls = options.place, []
    for one in contestants:
        _turn(one, 1, device)
        calls.append(1 if options.quick else max(1, math.ceil(_BLOCK_S / _turn(one, 1, device))))
    seconds: list[list[float]] = [[] for _ in contestants]
    end = time.perf_counter() + (options.seconds or math.inf)
    for done in range(options.counted(rounds)):
        if done >= _FEWEST and time.perf_counter() > end:
            break
        for one, count, mine in zip(contestants, calls, seconds, strict=True):
            mine.append(_turn(one, count, device))
    return [Timing(c.name, c.items, s) for c, s in zip(contestants, seconds, strict=True)]


def _turn(one: Contestant, calls: int, device: torch.device) -> float:
    """Returns the seconds of one call."""
    if one.before is not None:
        one.before()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        one.run()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def figure(value: float) -> str:
    """Returns a number with about three digits."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _quartiles(spread: Spread) -> str:
    return f"{figure(spread.q1)} – {figure(spread.q3)}"


def table(report: Report) -> str:
    """Returns a report as a Markdown table, with facts and skipped peers as a list below."""
    ratio_of = "times as fast as the first" if any(c.growth for c in report.cases) else "ours is … times as fast"
    head = ["case", "what", "rate, median", "quartiles", ratio_of, "quartiles", "target"]
    rows = []
    for case in report.cases:
        for i, timing in enumerate(case.timings):
            row = [case.name if i == 0 else "", timing.name, f"{figure(timing.rate.median)} {case.unit}"]
            row.append(_quartiles(timing.rate))
            if i > 0:
                ratio, target = case.ratio(timing), case.targets.get(timing.name)
                row += [figure(ratio.median), _quartiles(ratio), _verdict(ratio, target)]
            rows.append(row + [""] * (len(head) - len(row)))
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * w for w in widths], *rows]
    text = "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in lines)
    notes = []
    for case in report.cases:
        facts = [f"{k}: {v if isinstance(v, str) else figure(v)}" for k, v in case.facts.items()]
        notes += [f"- {case.name}. {'; '.join(facts)}"] if facts else []
    notes += [f"- skipped: {reason}" for reason in report.skipped]
    return text + "\n\n" * bool(notes) + "\n".join(notes)


def _verdict(ratio: Spread, target: Target | None) -> str:
    if target is None:
        return ""
    met = "met" if ratio.median >= target.at_least else "missed"
    return f"≥ {figure(target.at_least)} ({target.words}): {met}"


Benchmark = Callable[[Options], Report]


def run_all(benchmarks: Sequence[Benchmark], options: Options, *, resume: bool = False) -> dict[str, Any]:
    """Runs benchmarks one after the other, prints their tables and writes the JSON file if one is asked for.

    Args:
        benchmarks: What to run.
        options: The command line's.
        resume: Keep what the JSON file holds already, if the same code was measured on the same device as fully; a
            report is then named as its function is.
    """
    options = dataclasses.replace(options, threads=options.cores)  # some benchmarks change torch's number
    torch.set_num_threads(options.cores)
    environment = describe(options.place, options.cores, quick=options.quick)
    print(", ".join(f"{k} {v}" for k, v in environment.items() if k != "versions"))
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()))
    reports = _measured(options.json, environment) if resume else []
    results = {"environment": environment, "benchmarks": reports}
    known = {report["name"] for report in reports}
    for benchmark in benchmarks:
        if getattr(benchmark, "__name__", "") in known:
            continue
        torch.manual_seed(0)
        start = time.perf_counter()
        report = benchmark(options)
        print(f"\n{report.name} ({time.perf_counter() - start:.0f} s)\n\n{table(report)}", flush=True)
        reports.append(report.to_json())
        torch.set_num_threads(options.cores)
        if options.json is not None:  # after each: what is measured stays, whatever happens to the next
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


def _measured(path: Path | None, environment: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the reports of an interrupted run, if it measured the same."""
    if path is None or not path.exists():
        return []
    earlier = json.loads(path.read_text())
    same = all(earlier["environment"][key] == environment[key] for key in ("commit", "device", "quick"))
    reports: list[dict[str, Any]] = earlier["benchmarks"] if same else []
    return reports


def command(*benchmarks: Benchmark, description: str | None) -> None:
    """The command line of a benchmark."""
    import tyro

    run_all(benchmarks, tyro.cli(Options, description=description))
