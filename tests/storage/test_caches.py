"""A home that cannot be written stops nobody: caches go to a temporary folder, with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codepose.storage.caches import use_writable_caches


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_a_home_that_can_be_written_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use_writable_caches()
    assert "XDG_CACHE_HOME" not in os.environ
    assert capsys.readouterr().err == ""


def test_one_that_cannot_is_replaced_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").write_text("a file: nothing can be made in it")
    use_writable_caches()
    use_writable_caches()
    place = tmp_path / "tmp" / f"codepose-cache-{os.getuid()}"
    assert os.environ["XDG_CACHE_HOME"] == str(place)
    assert os.environ["MPLCONFIGDIR"] == str(place / "matplotlib")
    assert place.stat().st_mode & 0o777 == 0o700
    home = tmp_path / "home" / ".cache"
    assert capsys.readouterr().err == f"codepose: {home} cannot be written; caches are kept in {place}\n"


def test_a_name_that_somebody_else_has_taken_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / "tmp" / f"codepose-cache-{os.getuid()}").symlink_to(theirs)
    use_writable_caches()
    assert Path(os.environ["XDG_CACHE_HOME"]).resolve() != theirs
    assert list(theirs.iterdir()) == []


def test_a_command_works_without_a_home(tmp_path: Path) -> None:
    """Warp compiles its kernels, Matplotlib lists its fonts."""
    (tmp_path / "home").write_text("")
    code = "import codepose.rendering.renderer, matplotlib; print(matplotlib.get_configdir())"
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout.startswith(str(tmp_path / "tmp"))
