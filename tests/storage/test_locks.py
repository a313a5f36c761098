"""A lock has one holder, says which, and goes with it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from codepose.storage.locks import LockedError, holding

HOLDER = """
import sys, time
from pathlib import Path
from codepose.storage.locks import holding
with holding(Path(sys.argv[1])):
    print("holding", flush=True)
    time.sleep(100)
"""


def test_one_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        with pytest.raises(LockedError, match=rf"^process {process.pid} on {socket.gethostname()}$"), holding(path):
            pass
        assert path.exists(), "it is still held"
    finally:
        process.kill()
        process.wait()
    assert path.exists(), "killed before it could remove it"
    with holding(path):
        assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
        with pytest.raises(LockedError), holding(path):
            pass
    assert not path.exists()


def test_a_file_that_was_removed_while_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removed it between our open and our flock: somebody else may hold a new one by then."""
    import fcntl

    path, really, times = tmp_path / "lock", fcntl.flock, []

    def late(handle, how: int) -> None:
        really(handle, how)
        times.append(1)
        if len(times) == 1:
            path.unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with holding(path):
        assert path.exists()
        assert len(times) == 2


def test_a_file_system_without_locks_does_not_stop_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("fcntl.flock", unknown)
    with holding(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
