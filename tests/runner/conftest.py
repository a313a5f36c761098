"""codepose-runtime as its wheel holds it, put together from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the package, in which it can be imported."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "codepose_runtime"
    subprocess.run([sys.executable, str(RUNTIME / "shared_files.py"), str(package)], check=True, capture_output=True)
    shutil.copytree(RUNTIME / "src" / "codepose_runtime", package, dirs_exist_ok=True)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
