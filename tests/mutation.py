"""``make mutation``: changes the code a line at a time and asks whether a test notices (docs/testing.md).

mutmut makes the changes and runs the tests. It knows one set of files and tests a project; here each module has its
own (``[tool.mutation]`` in pyproject.toml), and a work folder below ``.mutation``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".mutation"
NOTICED = {"killed", "timeout", "segfault"}


def prepare(module: str, tests: list[str]) -> Path:
    """Makes a module's work folder, and returns it: links to the code, and the settings with what this module needs."""
    folder = WORK / module.replace("/", ".")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("src", "tests"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    own = f'[tool.mutmut]\nonly_mutate = ["src/codepose/{module}.py"]\npytest_add_cli_args_test_selection = {tests}\n'
    settings = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(settings.replace("[tool.mutmut]\n", own))
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)  # which test runs what is asked anew
    return folder


def mutmut(folder: Path, *args: str) -> None:
    """Runs mutmut in a work folder; what it says goes to mutmut.log there."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    command = [str(Path(sys.executable).with_name("mutmut")), *args]
    with (folder / "mutmut.log").open("w") as log:
        done = subprocess.run(command, cwd=folder, env=os.environ | threads, stdout=log, stderr=log)
    if done.returncode != 0:
        raise SystemExit(f"mutmut ended with {done.returncode}: see {log.name}")


def fates(folder: Path) -> dict[str, str]:
    """What became of each mutant, by its name."""
    codes: dict[str, int | None] = {}
    for file in (folder / "mutants").rglob("*.meta"):
        codes |= json.loads(file.read_text())["exit_code_by_key"]
    return {name: status_by_exit_code[code] for name, code in codes.items()}


def change(folder: Path, module: str, name: str) -> str:
    """A mutant's name, and what it changes."""
    with contextlib.chdir(folder):
        lines = get_diff_for_mutant(name, path=f"src/codepose/{module}.py").splitlines()[2:]
    return "\n".join([f"# {name}", *(line for line in lines if line[0] in "+-"), "", ""])


def run(module: str, tests: list[str], again: bool, children: int) -> None:
    """Runs a module's mutants, prints its row, and writes the changes that nobody noticed to its work folder."""
    folder = prepare(module, tests)
    names = [name for name, fate in fates(folder).items() if fate not in NOTICED] if again else []
    if not again:
        shutil.rmtree(folder / "mutants", ignore_errors=True)
    if names or not again:
        mutmut(folder, "run", "--max-children", str(children), *names)
    found = fates(folder)
    left = [name for name, fate in found.items() if fate not in NOTICED]
    (folder / "survivors.txt").write_text("".join(change(folder, module, name) for name in left))
    counts = ", ".join(f"{count} {fate}" for fate, count in sorted(Counter(found.values()).items()))
    share = 100 * len(left) / max(1, len(found))
    print(f"{module}: {len(found)} mutants, {share:.1f} % left ({counts}); {folder / 'survivors.txt'}", flush=True)


def main() -> None:
    """Runs the modules asked for, or all."""
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"all, or some of: {', '.join(modules)}")
    parser.add_argument("--again", action="store_true", help="only what survived last time, say after a new test")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    args = parser.parse_args()
    unknown = [name for name in args.modules if name not in modules]
    if unknown:
        parser.error(f"no such module: {', '.join(unknown)} (known: {', '.join(modules)})")
    for name in args.modules or modules:
        run(name, modules[name], args.again, args.children)


# As a pytest plugin in mutmut's runs: the tests that are over soonest first, for the first failure ends the run.
_SECONDS: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _SECONDS[report.nodeid] = report.duration


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _SECONDS.get(item.nodeid, 0.0) + ("world" in getattr(item, "fixturenames", ())))


if __name__ == "__main__":
    main()
