"""Where libraries keep their caches when the user's own folder for them cannot be written."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def use_writable_caches() -> None:
    """Sends the caches of Warp, Matplotlib and Triton to a temporary folder where the user's cannot be written.

    Says so in one line on stderr. Must come before these libraries start; a second call finds nothing left to do.
    """
    wanted = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not _writable(Path(wanted)):
        place = _temporary()
        os.environ["XDG_CACHE_HOME"] = str(place)  # Warp's, and what else follows the convention
        os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(place / "triton"))
        print(f"codepose: {wanted} cannot be written; caches are kept in {place}", file=sys.stderr)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """The user's own folder among the temporary ones, the same every time: compiled kernels are found again."""
    place = Path(tempfile.gettempdir()) / f"codepose-cache-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        if place.stat().st_uid == os.getuid() and not place.is_symlink() and _writable(place):
            return place
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="codepose-cache-"))  # somebody else has taken the name
