"""Puts codepose's shared files into the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedFiles(BuildHookInterface):
    """Translates them into a folder of the build's own."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        import shared_files

        if not shared_files.SOURCE.is_dir():
            raise RuntimeError("codepose-runtime is built in a checkout of codepose: pip install ./runtime")
        target = Path(self.directory) / "shared"
        places = shared_files.write(target)
        build_data["force_include"] = {str(target / place): f"codepose_runtime/{place}" for place in places}
