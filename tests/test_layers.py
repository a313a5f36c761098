"""The arrows of the architecture point one way: a folder imports only from those above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import codepose

ROOT = Path(__file__).parents[1] / "src" / "codepose"
LAYERS = ("storage", "settings", "geometry", "randomness", "rendering", "parts", "runtime", "cameras", "synthesis")
LAYERS += ("networks", "refinement", "estimation", "training", "evaluation", "bop", "reports", "predict", "ros")
LAYERS += ("api", "serve", "paper", "cli")


def imported(path: Path) -> set[str]:
    """The codepose layers a file imports, wherever in it; imports for type checkers alone do not count."""
    tree, layers = ast.parse(path.read_text()), set()
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        layers |= {n.split(".")[1] for n in names if n.startswith("codepose.") and n.split(".")[1] in LAYERS}
    return layers


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards(path: Path) -> None:
    place = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if place.startswith("__"):
        return
    allowed = set(LAYERS[: LAYERS.index(place) + 1])
    assert imported(path) <= allowed


@pytest.mark.parametrize("name", codepose.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(codepose, name) is not None


def test_help_needs_the_standard_library_alone() -> None:
    """It answers at once: no torch is imported, which would take seconds."""
    code = "import sys; old = set(sys.modules); from codepose.cli.main import main; code = main(['--help'])\n"
    code += "print(*{name.split('.')[0] for name in set(sys.modules) - old}); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) - sys.stdlib_module_names == {"codepose"}
    for command in ("demo", "preview", "train", "evaluate", "predict", "report"):
        assert f"  {command} " in done.stdout


def test_torchvision_is_imported_in_one_place() -> None:
    """By its own way it brings torch's compiler; two files ask it for more, once torch's compiler does not matter."""
    files = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if "torchvision" in str(getattr(node, "module", None)).split(".")
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "torchvision" for a in node.names))
    }
    assert files == {"runtime/vision.py", "synthesis/surfaces.py", "training/pictures.py"}


def body_lines(function: ast.FunctionDef) -> int:
    """Without its signature and its docstring."""
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    assert function.end_lineno is not None
    return function.end_lineno - first.lineno + 1


def test_files_and_functions_stay_short() -> None:
    """Past 400 lines a file holds two ideas, past 50 a function."""
    long = []
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(str(path))
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        long += [f"{path}:{function.name}" for function in functions if body_lines(function) > 50]
    assert long == []
