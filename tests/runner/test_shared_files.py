"""The runner executes codepose's own files, and each of them once."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"
OWN = RUNTIME / "src" / "codepose_runtime"


def shared_files() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shared_files", RUNTIME / "shared_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_file_is_both_shared_and_the_runners_own() -> None:
    listed = shared_files().files()
    assert len(listed) == len(set(listed))
    for place in listed:
        assert (shared_files().SOURCE / place).is_file(), place
        assert not (OWN / place).exists(), place


def test_nothing_is_imported_that_the_runner_lacks(installed: Path) -> None:
    """Imports for type checkers alone do not count: nobody executes them."""
    allowed = {"numpy", "onnxruntime", "PIL", "codepose_runtime", *sys.stdlib_module_names}
    later = {"cv2", "pillow_heif", "trimesh", "codepose_runtime.synthesis.world", "codepose_runtime.estimation.loading"}
    later |= {"codepose_runtime.refinement.depth_fit", "codepose_runtime.refinement.judge_weights"}
    later |= {"codepose_runtime.parts.symmetry_search"}  # inside functions that the runner never calls
    for path in (installed / "codepose_runtime").rglob("*.py"):
        tree = ast.parse(path.read_text())
        guarded = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in guarded or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name in later:
                    continue
                assert name.split(".")[0] in allowed, f"{path.name}: {name}"
                if name.startswith("codepose_runtime"):
                    place = installed.joinpath(*name.split("."))
                    assert place.with_suffix(".py").exists() or (place / "__init__.py").exists(), f"{path.name}: {name}"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("import torch", "from codepose_runtime import tensors as torch"),
        ("from torch import Tensor, nn", "from codepose_runtime.tensors import Tensor, nn"),
        ("from codepose import geometry", "from codepose_runtime import geometry"),
        ("    from codepose.parts.mesh import Mesh", "    from codepose_runtime.parts.mesh import Mesh"),
        ('"""from codepose_other, import torch."""', '"""from codepose_other, import torch."""'),
    ],
)
def test_imports_are_translated(line: str, wanted: str) -> None:
    assert shared_files().translated(f"{line}\n") == f"{wanted}\n"


def test_it_imports_without_pytorch(installed: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.modules['codepose'] = None\n"
    code += "from codepose_runtime import PoseRunner; print(PoseRunner.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.stdout == "PoseRunner\n"
