"""The exit statuses of docs/command-line.md, in real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from codepose.cli import invocation
from codepose.cli.commands import ACTIONS
from codepose.cli.main import main
from codepose.settings.files import to_yaml
from codepose.settings.schema import Settings

CODEPOSE = [sys.executable, "-m", "codepose"]
PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def ended(*words: str, folder: Path | None = None) -> tuple[int, str]:
    """The exit status of a command, and what it wrote on stderr."""
    done = subprocess.run([*CODEPOSE, *words], capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stderr


def test_the_page_names_them_all() -> None:
    table = PAGE.read_text().split("## Exit status")[1]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["0", "1", "2", "130", "143"]


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("settings",), ("mesh", "--help")])
def test_what_was_asked_for_is_done(words: tuple[str, ...]) -> None:
    assert ended(*words) == (0, "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("report", "nowhere"), "nowhere is no run folder"),
        (("predict", "hammer", "a.png", "--K", "fov=60", "--nms", "2"), "--nms is a share from 0 to 1"),
        (("mesh", "nowhere.stl"), "nowhere.stl"),
        (("train", "hammer", "--out", "new", "--methods"), "methods: name one or more of joint, extended, original"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    words: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"codepose {words[0]}: ")
    assert text in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_too_little_memory_is_told_in_a_line(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def asks_for_more(options: object) -> None:
        raise error

    monkeypatch.setitem(ACTIONS, "settings", asks_for_more)
    assert main(["settings"]) == 1
    assert capsys.readouterr().err.startswith("codepose settings: there is not enough memory: ")


def test_another_error_is_ours_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(options: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setitem(ACTIONS, "settings", breaks)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["settings"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("trian",), "there is no command 'trian'"),
        (("mesh",), "Missing from codepose mesh"),
        (("mesh", "hammer", "--no-such"), "--no-such"),
        (("mesh", "hammer", "--unit", "furlong"), "furlong"),
        (("train", "--data.camera.image-size", "many"), "image-size"),
        (("train", "--data.camera.box-side", "90", "20"), "from low to high"),
    ],
)
def test_a_line_that_is_not_understood(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    status, said = ended(*words, folder=tmp_path)
    assert status == 2
    assert text in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_python_caller_gets_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert [main(["mesh", "--no-such"]), main(["mesh", "--help"]), main(["report", "nowhere"])] == [2, 0, 1]


def test_ctrl_c_ends_without_a_word(tmp_path: Path, tiny_settings: Settings) -> None:
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny_settings))
    words = ["render", "--preset", "tiny.yaml", "--bop", "bop", "--images", "100000", "--device", "cpu"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # what a shell starts in the background, this suite for one, ignores Ctrl-C, and so would its children
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen([*CODEPOSE, *words], **streams, text=True, cwd=tmp_path, preexec_fn=heeding) as work:
        assert work.stdout is not None
        assert work.stdout.readline().startswith("Rendering train:")
        os.kill(work.pid, signal.SIGINT)
        try:
            _, said = work.communicate(timeout=20)
        except subprocess.TimeoutExpired:  # a callback from C has swallowed it, as Python's do: one presses again
            os.kill(work.pid, signal.SIGINT)
            _, said = work.communicate(timeout=60)
    assert work.returncode == 130
    assert said == ""


def test_ctrl_c_while_everything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(invocation, "run", stopped)
    assert main(["settings"]) == 130


@pytest.mark.parametrize("words", [("settings", "--all"), ("settings", "--all", "--json")])
def test_a_reader_may_go_away(words: tuple[str, ...]) -> None:
    """As ``| head`` does."""
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([*CODEPOSE, *words], stdout=write, stderr=subprocess.PIPE, text=True) as work:
        os.close(write)
        _, said = work.communicate(timeout=60)
    assert work.returncode == 1
    assert "BrokenPipe" not in said
    assert "Traceback" not in said
