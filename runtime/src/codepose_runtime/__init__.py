"""codepose-runtime: finds parts in photos and gives their 6-D poses, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codepose_runtime.runner import PoseRunner

__all__ = ["PoseRunner", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the runner when it is first asked for."""
    if name != "PoseRunner":
        raise AttributeError(f"module 'codepose_runtime' has no attribute {name!r}")
    from codepose_runtime.runner import PoseRunner

    return PoseRunner
