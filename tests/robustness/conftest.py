"""What the campaigns share: how many cases, a small run, and an estimator that is loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from robustness.harness import Case, Limits, run_cases

from codepose.settings.schema import Settings

FEWEST = 30
"""Cases of a campaign, however small its share."""

Build = Callable[[int, Path], Case]


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--campaign-seed"))


@pytest.fixture(scope="session")
def share(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many of so many cases are to be tried."""
    part = float(request.config.getoption("--campaign-share"))
    return lambda count, fewest: min(count, max(fewest, round(part * count)))


@pytest.fixture(scope="session")
def keep(request: pytest.FixtureRequest) -> Path:
    """Where failing cases stay."""
    return Path(request.config.getoption("--campaign-keep")).absolute()


@pytest.fixture(scope="session")
def figures(keep: Path) -> Callable[[object], None]:
    """Writes a line into the campaign's book."""

    def write(line: object) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        with open(keep / "figures.txt", "a") as book:
            book.write(f"{line}\n")
        print(line)

    return write


@pytest.fixture
def campaign(
    request: pytest.FixtureRequest,
    share: Callable[[int, int], int],
    keep: Path,
    figures: Callable[[object], None],
) -> Callable[..., None]:
    """Runs so many cases, or those that --campaign-only names, and fails with what went wrong in them."""
    only = request.config.getoption("--campaign-only")

    def run(kind: str, cases: int | list[int], build: Build, limits: Limits | None = None) -> None:
        part, parts = map(int, request.config.getoption("--campaign-part").split("/"))
        numbers = (list(range(share(cases, FEWEST))) if isinstance(cases, int) else cases)[part::parts]
        numbers = [int(n) for n in only.split(",")] if only else numbers
        tally = run_cases(kind, numbers, build, keep, limits)
        figures(tally)
        if tally.failures:
            pytest.fail(tally.report(), pytrace=False)

    return run


@pytest.fixture(scope="session")
def small_settings(make_settings: Callable[..., Settings]) -> Settings:
    """Everything is detected, and a pose costs milliseconds."""
    return make_settings(**{"name": "tiny", "detection.score": 0.0, "detection.per_object": 2})


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small_settings: Settings) -> Path:
    """A run of the hammer with random weights, and its codebook."""
    from codepose.estimation.estimator import PoseEstimator
    from codepose.networks.build import build_joint
    from codepose.runtime.run import Run

    run = Run.create(tmp_path_factory.mktemp("small") / "run", small_settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(small_settings))
    PoseEstimator.load(run)  # writes the codebook
    return run.path


@pytest.fixture(scope="module")
def loaded(small_run: Path) -> Iterator[Path]:
    """The small run, whose estimator every command of the test file finds loaded."""
    from codepose.estimation.estimator import PoseEstimator

    ready = PoseEstimator.load(small_run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PoseEstimator, "load", classmethod(lambda *_, **__: ready))
        yield small_run


def pytest_configure(config: Any) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
