"""The one way in which a file is written: beside its place, to the disk, and then into its place in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, NamedTuple

from codepose.storage.locks import try_lock

_PREFIX = ".codepose-"
_swept: set[Path] = set()


class _Written(NamedTuple):
    """A file beside its place."""

    new: Path
    path: Path
    durable: bool
    lock: IO[str]


_together: ContextVar[list[_Written] | None] = ContextVar("together", default=None)


class StorageError(OSError):
    """A file that cannot be written; the text names it and says why."""


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields where to write a file that then takes the place of ``path``: a reader sees the old one or the new one.

    It is written in a folder of its own, under its own name, and is on the disk before it is seen. That folder is
    locked, so that what a killed process left can be told from what another one is writing: the first write into a
    folder removes the former.

    Args:
        path: The file.
        durable: Wait for the disk, some 10 to 30 ms, so that the file also survives a loss of power. For what is
            made by the thousand and can be made again it is not worth it.

    Raises:
        StorageError: The disk is full, or the file cannot be written; the old one is as it was.
    """
    path = Path(path)
    try:
        if path.parent.absolute() not in _swept:
            _swept.add(path.parent.absolute())
            remove_leftovers(path.parent)
        place, lock = _workplace(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    written, waiting = _Written(place / path.name, path, durable, lock), _together.get()
    try:
        yield written.new
        _finish(written)
        if waiting is None:
            _settle(written)
        else:
            waiting.append(written)
    except StorageError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        if waiting is None or written not in waiting:
            _discard(written)


@contextlib.contextmanager
def replacing_together() -> Iterator[None]:
    """Files that are written within take their places at its end, or, where one cannot be written, none of them does.

    The last one vouches for the rest: it is taken away before the others take their places. Who is killed in that
    moment leaves none instead of one that belongs to other files.

    Raises:
        StorageError: As ``replacing``; the old files are as they were.
    """
    waiting: list[_Written] = []
    token = _together.set(waiting)
    try:
        yield
        if len(waiting) > 1:
            waiting[-1].path.unlink(missing_ok=True)
        for written in waiting:
            try:
                _settle(written)
            except OSError as error:
                raise _unwritable(written.path, error) from None
    finally:
        _together.reset(token)
        for written in waiting:
            _discard(written)


def write_atomically(path: str | Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replaces a file, text as UTF-8, in one step; see ``replacing``.

    Raises:
        StorageError: It cannot be written; the old one is as it was.
    """
    with replacing(path, durable=durable) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left where they were writing into a folder; never what is being written."""
    for place in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = try_lock(place / "lock", where_unknown=False)
            if lock is not None:
                shutil.rmtree(place, ignore_errors=True)
                lock.close()


def _workplace(folder: Path) -> tuple[Path, IO[str]]:
    """A new folder inside a folder, and its lock."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        with contextlib.suppress(FileNotFoundError):  # removed as a leftover in the moment before it was locked
            lock = try_lock(place / "lock", where_unknown=True)
            if lock is not None:
                return place, lock


def _finish(written: _Written) -> None:
    """Brings a file to the disk, where it is, with the rights that the user's files have."""
    mode = os.fstat(written.lock.fileno()).st_mode
    if written.new.stat().st_mode != mode:  # as the user's umask has it: safetensors' files are readable by nobody else
        written.new.chmod(mode)
    if written.durable:
        _sync(written.new)


def _settle(written: _Written) -> None:
    """Puts a file into its place."""
    os.replace(written.new, written.path)
    if written.durable:
        try:
            _sync(written.path.parent)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync folders
                raise


def _discard(written: _Written) -> None:
    """Removes the folder that a file was written in."""
    shutil.rmtree(written.new.parent, ignore_errors=True)
    written.lock.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be written: {error.strerror or error}")
