"""Locks that go with the process that holds them, however it ends: flock on a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class LockedError(RuntimeError):
    """Another process holds the lock; the text says which."""


def try_lock(path: Path, *, where_unknown: bool) -> IO[str] | None:
    """Locks a file, made if needed, until the handle that is returned is closed or its process ends.

    Args:
        path: The file.
        where_unknown: Whether to go on on a file system that has no locks.

    Returns:
        The handle; None where another process has the lock, or nobody can know.

    Raises:
        OSError: The file cannot be made.
    """
    while True:
        handle = open(path, "a+")  # noqa: SIM115 - the caller's to close
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if where_unknown and not isinstance(error, BlockingIOError):
                return handle
            handle.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
                return handle
        handle.close()  # who had it before has just removed the file


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Holds a lock file, which names this process and is removed in the end.

    Raises:
        LockedError: Another process holds it.
    """
    handle = try_lock(path, where_unknown=True)
    if handle is None:
        raise LockedError(path.read_text(encoding="utf-8", errors="replace").strip() or "another process")
    try:
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that it is gone
        handle.close()
