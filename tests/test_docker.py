"""The Dockerfile: linted where hadolint is installed, and what a build would need is there. Nothing is built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def of(instruction: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{instruction} ")]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install '.[dev]'")
def test_hadolint_has_no_complaint() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_without_rights() -> None:
    assert of("USER") == ["1000"]
    last = max(number for number, line in enumerate(LINES) if line.startswith("FROM "))
    assert any(line.startswith("USER ") for line in LINES[last:]), "in the stage that runs"


def test_versions_are_pinned() -> None:
    assert all(re.match(r"python:3\.\d+-slim-\w+", image) for image in of("FROM"))
    (tool, install) = of("RUN")[:2]
    assert re.search(r"uv==\d", tool)
    assert "--constraint requirements.lock" in install


def test_what_it_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in of("COPY"):
        if line.startswith("--from="):
            continue
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
            rules = [rule for rule in ignored if fnmatch(name, rule.removeprefix("!"))]
            assert rules[-1].startswith("!"), name


def test_its_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (default,) = re.findall(r"EXTRAS=(\S+)", " ".join(of("ARG")))
    assert set(default.split(",")) <= extras.keys()
