"""20 kills -9 at random moments: what is resumed ends bit for bit as what was never interrupted, with nothing left."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from robustness.harness import call, cpu_seconds, rng_of
from robustness.runs import train_words

from codepose.cli.main import main
from codepose.settings.files import to_yaml

pytestmark = pytest.mark.slow

KILLS, OF_ONE = 20, 4
"""All kills, and those of one training."""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., object]) -> Path:
    """A training that saves after every step."""
    often = {f"{stage}.checkpoint_every": 1 for stage in ("step1", "step2")}
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(to_yaml(make_settings(**{"name": "tiny", "detection.score": 0.0, **often})))  # type: ignore[arg-type]
    return path


def test_kills_at_random_moments(
    preset: Path, tmp_path: Path, seed: int, share: Callable[[int, int], int], figures: Callable[[object], None]
) -> None:
    assert call(train_words(preset, tmp_path / "first"), tmp_path).status == 0  # children find everything imported
    start = children()
    assert trained(train_words(preset, tmp_path / "whole"), None) == 0
    seconds = children() - start
    whole = content(tmp_path / "whole")
    rng, killed, trainings = rng_of("kills", seed, 0), 0, 0
    wanted = share(KILLS, OF_ONE)
    while killed < wanted:
        run = tmp_path / f"run-{trainings}"
        words = [*train_words(preset, run), "--resume"]
        for _ in range(OF_ONE):
            after = float(rng.uniform(0.0, seconds))
            killed += trained(words, after) != 0
            print(f"training {trainings}, killed after {after:.2f} s of {seconds:.2f}: {killed} kills", flush=True)
        assert trained(words, None) == 0, f"training {trainings} cannot be resumed after {killed} kills"
        found = content(run)
        assert found == whole, f"training {trainings}: {differences(found, whole)}"
        trainings += 1
        assert trainings <= wanted, "nearly every training is over before its kill"
    figures(f"kills: {killed} kills -9 in {trainings} trainings, each of which ended bit-equal, with nothing left")


def trained(words: list[str], kill_after: float | None) -> int:
    """Trains in a child, which is killed after some seconds of CPU time: those do not depend on what else runs here.

    Returns:
        Its exit status, negative where it was killed.
    """
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(words,))
    process.start()
    while process.is_alive() and (kill_after is None or cpu_seconds(process.pid) < kill_after):
        process.join(0.004)
    process.kill()
    process.join()
    status = process.exitcode
    assert status is not None
    return status


def children() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _quietly(words: list[str]) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(main(words))


def content(run: Path) -> dict[str, str]:
    """Every file's hash; of logs what they say, without times. TensorBoard's files are many after many starts."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and "tensorboard" not in name:
            found[name] = _log(path) if path.name == "metrics.jsonl" else _hash(path)
    return found


def _hash(path: Path) -> str:
    """Of a list of checksums, what it lists: the logs' own differ."""
    data = path.read_bytes()
    if path.suffix not in (".safetensors", ".ply", ".png") and b"metrics.jsonl" in data:
        return "a list"
    return hashlib.sha256(data).hexdigest()


def _log(path: Path) -> str:
    """The records, each once: what was computed, not how long it took."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    timed = ("elapsed", "per_s", "data_wait", "share_of_peak")
    kept = [{k: v for k, v in one.items() if not any(word in k for word in timed)} for one in records]
    return json.dumps(kept)


def differences(a: dict[str, str], b: dict[str, str]) -> str:
    """What one folder has and the other has not, or has otherwise."""
    more, less = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    other = [f"{name}: {a[name][:300]} / {b[name][:300]}" for name in a.keys() & b.keys() if a[name] != b[name]]
    return f"left behind {more}, lost {less}, other {other}"
