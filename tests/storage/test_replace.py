"""Files are replaced whole, on the disk before they are seen, and nothing of a killed process stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codepose.storage import replace
from codepose.storage.replace import StorageError, remove_leftovers, replacing, replacing_together, write_atomically

WRITER = """
import sys, time
from codepose.storage.replace import replacing
with replacing(sys.argv[1]) as new:
    new.write_bytes(bytes(1 << 20))
    print("writing", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def writer(tmp_path: Path):
    """Another process in the middle of replacing ``tmp_path / 'file'``."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "file")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as new:
        assert new.name == path.name  # writers go by the suffix
        new.write_text("ne")
        assert path.read_text() == "old"
    assert path.read_text() == "ne"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    write_atomically(path, "größer")
    assert path.read_bytes() == "größer".encode()


def test_it_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, its new name, then the folder that holds the name."""
    calls: list[str] = []
    monkeypatch.setattr(replace, "_swept", {tmp_path})
    monkeypatch.setattr(os, "fsync", lambda d: calls.append(Path(os.readlink(f"/proc/self/fd/{d}")).name))
    really = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), really(a, b)))
    write_atomically(tmp_path / "file", "x")
    assert calls == ["file", "replace", tmp_path.name]
    write_atomically(tmp_path / "file", "x", durable=False)
    assert calls[3:] == ["replace"]


def test_files_that_belong_together_take_their_places_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["table", "picture", "summary"]
    for name in names[::2]:
        (tmp_path / name).write_text("old")
    seen: list[list[str]] = []
    really = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(contents(tmp_path)), really(a, b)))
    with replacing_together():
        for name in names:
            write_atomically(tmp_path / name, "new")
        assert contents(tmp_path) == ["summary old", "table old"]
    # the last one vouches for the others: it is away while they change
    assert seen == [["table old"], ["table new"], ["picture new", "table new"]]
    assert contents(tmp_path) == ["picture new", "summary new", "table new"]
    write_atomically(tmp_path / "table", "newer")  # by itself again
    assert contents(tmp_path) == ["picture new", "summary new", "table newer"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_leaves_all_the_files_that_belong_together(tmp_path: Path) -> None:
    def half() -> None:
        with replacing_together():
            for name in ("table", "summary"):
                with replacing(tmp_path / name) as new:
                    new.write_text("new")
                    if name == "summary":
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "table").write_text("old")
    (tmp_path / "summary").write_text("old")
    with pytest.raises(StorageError, match=r"summary cannot be written: No space left on device$"):
        half()
    assert contents(tmp_path) == ["summary old", "table old"]
    assert len(list(tmp_path.iterdir())) == 2


def contents(folder: Path) -> list[str]:
    return sorted(f"{path.name} {path.read_text()}" for path in folder.iterdir() if path.is_file())


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def half() -> None:
        with replacing(tmp_path / "file") as new:
            new.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"file cannot be written: No space left on device$"):
        half()
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(StorageError, match=r"nowhere/file cannot be written: No such file"):
        write_atomically(tmp_path / "nowhere" / "file", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"folder cannot be written: Is a directory"):
        write_atomically(tmp_path / "folder", "x")


def test_it_may_be_read_by_whom_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as new:
            new.touch(mode=0o600)  # as safetensors does
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(writer, tmp_path: Path) -> None:
    remove_leftovers(tmp_path)
    write_atomically(tmp_path / "other", "x")
    (place,) = tmp_path.glob(".codepose-*")
    assert (place / "file").stat().st_size == 1 << 20
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_the_first_write_into_a_folder_removes_them(writer, tmp_path: Path) -> None:
    writer.kill()
    writer.wait()
    write_atomically(tmp_path / "file", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_one_that_was_killed_before_its_lock_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".codepose-abc").mkdir()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_locks_are_unknown_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".codepose-abc").mkdir()

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    write_atomically(tmp_path / "file", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".codepose-abc", "file"]
