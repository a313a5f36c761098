"""Runs many odd cases of a kind, one after the other, in a forked child, and says which of them went wrong.

A case is a function of (seed, number). The parent has imported everything, so that a case costs milliseconds; a child
that dies, or takes too long, costs only the case that it was at.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

_RAW = re.compile(
    r"Traceback|\b[A-Z]\w+(Error|Exception|Warning)\b|NoneType|object has no|<class|<\w+ object|0x[0-9a-f]{6,}|"
    r"subscriptable|not iterable|argument of type|broadcast|could not convert|invalid literal|list index|to unpack|"
    r"codec can't|out of bounds|unhashable|positional argument|unsupported operand|Rust|\x1b\["
)
"""What no sentence of ours holds: the texts of Python's and of libraries' own errors."""
_LIBRARIES = ("torchinductor_", ".ses")
"""What torch and onnxruntime make in the temporary folder, once for all calls."""
_LONGEST = 700
"""Characters of one clear line, paths included."""
_WAITING = 6.0
"""How often its seconds of CPU time a case may take by the clock: the machine may be busy."""


@dataclass(frozen=True)
class Outcome:
    """How one call of a command ended.

    Attributes:
        status: Its exit status; None = an exception came out of it.
        out: What it wrote to stdout.
        err: The same, to stderr.
        trace: The exception's traceback; "" = none.
    """

    status: int | None
    out: str
    err: str
    trace: str = ""


@dataclass(frozen=True)
class Case:
    """One odd call.

    Attributes:
        arguments: Of the command line.
        what: What is odd about it, in words.
        named: A refusal must hold one of these texts, such as the file's name; none = no such wish.
        check: What is wrong with a call that ended as it may, in words; None = nothing.
        refused: The statuses of a refusal.
        prepare: Called in the child before the command.
    """

    arguments: list[str]
    what: str
    named: tuple[str, ...] = ()
    check: Callable[[Outcome], str | None] = lambda outcome: None
    refused: tuple[int, ...] = (1,)


@dataclass
class Limits:
    """What a case may take.

    Attributes:
        seconds: CPU time.
        megabytes: Address space beyond what the parent has.
    """

    seconds: float = 20.0
    megabytes: int = 2000


@dataclass
class Tally:
    """What a campaign found.

    Attributes:
        kind: The campaign's name.
        statuses: How many cases ended with which exit status.
        failures: What was wrong, by the case's number.
        oddities: What was odd about these cases.
        folder: Where the failing cases' files are.
    """

    kind: str
    folder: Path
    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    oddities: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        text = f"{self.kind}: {sum(self.statuses.values())} cases ({ends}), {len(self.failures)} went wrong"
        return f"{text}; {self.seconds:.0f} s, the slowest {self.slowest[0]:.1f} s (number {self.slowest[1]})"

    def report(self) -> str:
        """The failures, alike ones together, with the numbers that reproduce them."""
        kinds: dict[str, list[int]] = {}
        for number, words in self.failures.items():
            kinds.setdefault(_kind_of(words), []).append(number)
        lines = [str(self)]
        for numbers in sorted(kinds.values(), key=len, reverse=True):
            lines.append(f"  {len(numbers)} x {self.failures[numbers[0]]}")
            lines += [f"      {number}: {self.oddities.get(number, '')[:160]}" for number in numbers[:4]]
        return "\n".join([*lines, f"  their files: {self.folder}"])


def _kind_of(words: str) -> str:
    """A failure's text without what differs between alike ones."""
    if words.startswith("raw text"):
        return words.split(":")[0]
    return re.sub(r"/\S+/|'[^']*'|\"[^\"]*\"|[-+]?[\d.,]+(e[-+]?\d+)?", "#", words)[:160]


def rng_of(kind: str, seed: int, number: int) -> np.random.Generator:
    """The random numbers of one case."""
    return np.random.default_rng([seed, number, *kind.encode()])


def run_cases(
    kind: str,
    numbers: Iterable[int],
    build: Callable[[int, Path], Case],
    keep: Path,
    limits: Limits | None = None,
) -> Tally:
    """Runs a campaign.

    Args:
        kind: Its name.
        numbers: Of the cases.
        build: Makes a case from its number and an empty folder; called in the child.
        keep: Where the folders of failing cases go.
        limits: Of each case.
    """
    limits = limits or Limits()
    tally = Tally(kind, keep / kind)
    left = list(numbers)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as scratch:
        while left:
            child = _Child(left, build, Path(scratch), tally.folder, limits)
            done = child.follow(tally)
            left = left[done:]
    tally.seconds = time.monotonic() - begun
    return tally


class _Child:
    """A forked process that runs cases until one of them ends it."""

    def __init__(
        self,
        numbers: list[int],
        build: Callable[[int, Path], Case],
        scratch: Path,
        keep: Path,
        limits: Limits,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.numbers, self.scratch, self.keep, self.limits = numbers, scratch, keep, limits
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(numbers, build, scratch, keep, limits, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def follow(self, tally: Tally) -> int:
        """Books the child's cases until it ends; returns how many it has done."""
        done = 0
        start, cpu = time.monotonic(), self._cpu()
        while done < len(self.numbers):
            if self.pipe.poll(0.25):
                try:
                    number, status, complaint, what, seconds = self.pipe.recv()
                except EOFError:
                    self.process.join()
                    return done + self._lost(tally, done, f"the process died ({self._death()})")
                tally.statuses[status] += 1
                tally.slowest = max(tally.slowest, (seconds, number))
                if complaint:
                    tally.failures[number], tally.oddities[number] = complaint, what
                done += 1
                start, cpu = time.monotonic(), self._cpu()
                self._log(f"{number} {status} {seconds:.2f} s {what}: {complaint or 'as it should be'}")
                continue
            used, waited = self._cpu() - cpu, time.monotonic() - start
            if used > self.limits.seconds or waited > _WAITING * self.limits.seconds:
                self.process.kill()
                self.process.join()
                return done + self._lost(tally, done, f"not done after {used:.0f} s of CPU time, {waited:.0f} s")
        self.process.join()
        return done

    def _log(self, line: str) -> None:
        """Says how far the campaign is: KIND.log beside the folder of failures."""
        self.keep.parent.mkdir(parents=True, exist_ok=True)
        with open(self.keep.with_suffix(".log"), "a", errors="replace") as log:
            log.write(line.replace("\n", " ") + "\n")

    def _death(self) -> str:
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def _cpu(self) -> float:
        return cpu_seconds(self.process.pid)

    def _lost(self, tally: Tally, done: int, words: str) -> int:
        number = self.numbers[done]
        tally.statuses["killed"] += 1
        tally.failures[number] = words
        folder = self.scratch / str(number)
        if folder.is_dir():
            _move(folder, self.keep / str(number), words)
        return 1


def cpu_seconds(pid: int | None) -> float:
    """CPU time that a process has had; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _move(folder: Path, to: Path, words: str) -> None:
    """Keeps a failing case's files."""
    shutil.rmtree(to, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, to)
    (to / "what.txt").write_text(words + "\n", errors="replace")


def _work(
    numbers: list[int],
    build: Callable[[int, Path], Case],
    scratch: Path,
    keep: Path,
    limits: Limits,
    pipe: Connection,
) -> None:
    """What the child does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limits.megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        folder = scratch / str(number)
        (folder / "tmp").mkdir(parents=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        os.chdir(folder)
        start = time.process_time()
        try:
            case = build(number, folder)
            outcome = call(case.arguments, folder)
            complaint = judge(case, outcome, folder)
            status = "raised" if outcome.status is None else f"status {outcome.status}"
        except Exception:  # of the test's own code
            case, outcome = Case([], ""), Outcome(None, "", "")
            complaint, status = f"the campaign itself: {traceback.format_exc()}", "unknown"
        os.chdir(scratch)
        if complaint:
            details = f"{complaint}\n{case.what}\ncodepose {' '.join(case.arguments)}\n{outcome.err}\n{outcome.trace}"
            _move(folder, keep / str(number), details)
        else:
            shutil.rmtree(folder)
        pipe.send((number, status, complaint, case.what, time.process_time() - start))


def call(arguments: list[str], folder: Path) -> Outcome:
    """Runs a command in this process; its words are caught where even a library's C code writes them."""
    from codepose.cli.main import main

    trace, status = "", None
    with _caught(folder / ".out", folder / ".err"), warnings.catch_warnings():
        warnings.resetwarnings()  # each is shown again, as to a user's first photo
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            trace = traceback.format_exc()
    texts = [path.read_bytes().decode(errors="replace") for path in (folder / ".out", folder / ".err")]
    for path in (folder / ".out", folder / ".err"):
        path.unlink()
    return Outcome(status, *texts, trace)


@contextlib.contextmanager
def _caught(out: Path, err: Path):
    """Sends what this process writes to two files."""
    import sys

    before = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    with open(out, "w") as o, open(err, "w") as e:
        os.dup2(o.fileno(), 1)
        os.dup2(e.fileno(), 2)
        sys.stdout = open(1, "w", closefd=False, errors="strict")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = streams
            for number, old in enumerate(before, start=1):
                os.dup2(old, number)
                os.close(old)


def judge(case: Case, outcome: Outcome, folder: Path) -> str | None:
    """What is wrong with how a call ended, in words; None = nothing."""
    if outcome.trace:
        return f"traceback: {_last(outcome.trace)}"
    if outcome.status not in (0, *case.refused):
        return f"exit status {outcome.status}: {outcome.err[:300]}"
    complaint = _of_words(case, outcome) or _of_leavings(folder)
    return complaint or case.check(outcome)


def _of_words(case: Case, outcome: Outcome) -> str | None:
    if outcome.status == 2:  # the parser of options has words of its own
        return None
    lines = outcome.err.splitlines()
    foreign = [line for line in lines if not line.startswith("codepose")]
    if foreign:
        return f"status {outcome.status} with a library's words: {' / '.join(foreign)[:300]}"
    if outcome.status != 0 and not lines:
        return f"status {outcome.status} without a word"
    for line in lines:
        if (raw := _RAW.search(line)) is not None:
            return f"raw text {raw.group()!r}: {line[:400]}"
        if len(line) > _LONGEST:
            return f"a long line ({len(line)} characters): {line[:200]}"
    if outcome.status != 0 and case.named and not any(name in outcome.err for name in case.named):
        return f"names none of {case.named}: {outcome.err[:300]}"
    return None


def _of_leavings(folder: Path) -> str | None:
    left = [path for path in (folder / "tmp").iterdir() if not path.name.startswith(_LIBRARIES)]
    left += [path for path in folder.rglob(".*") if path.parent != folder / "tmp"]
    return f"left behind: {', '.join(str(path.relative_to(folder)) for path in left[:5])}" if left else None


def _last(trace: str) -> str:
    """Where an exception arose in our code, and what it was."""
    lines = trace.strip().splitlines()
    ours = list(re.findall(r'File "[^"]*/src/(codepose/[^"]+)", line (\d+), in (\S+)', trace))
    where = " in ".join(f"{name}:{line}" for name, line, _ in ours[-1:])
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Warning|Exit)?\b.*", line)]
    return f"{(errors or lines)[-1][:300]} at {where}"
