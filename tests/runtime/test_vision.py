"""torchvision is imported without torch's compiler; whoever needs the compiler gets the real one."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = "import sys, codepose.runtime.vision as vision\n"


def printed(code: str) -> list[str]:
    """The words that a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_compiler_is_imported_when_it_is_asked() -> None:
    code = IMPORT + "print('torch._dynamo' in sys.modules, vision._COMPILER in sys.modules)\n"
    code += "asked = sys.modules[vision.roi_align.__module__].is_compile_supported\n"
    code += "print(asked('cpu'), 'torch._dynamo' in sys.modules)"
    assert printed(code) == ["False", "False", "True", "True"]


@pytest.mark.parametrize("first", ["import torch._dynamo", "import torch._dynamo.utils as utils; utils.counters"])
def test_a_torchvision_that_imports_the_compiler_itself_gets_it(first: str) -> None:
    """As other versions may: within the import the real module takes its place."""
    code = IMPORT + "for name in [n for n in sys.modules if n.startswith('torch._dynamo')]: del sys.modules[name]\n"
    code += f"with vision._without_compiler():\n    {first}\n    import torch._dynamo\n"
    code += "import torch\nprint(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item())\n"
    code += "print(type(sys.modules['torch._dynamo.utils']).__name__)"
    assert printed(code) == ["2.0", "module"]
