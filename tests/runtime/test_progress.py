"""What shows how far work is: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from codepose.runtime import progress
from codepose.runtime.progress import Display, shown_if_any


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


def shown(file: io.StringIO) -> str:
    with Display("training", Console(file=file, width=100)) as display:
        display.update(0.25, "loss 0.5")
        display.update(1.0, "loss 0.1")
    return file.getvalue()


def test_a_terminal_has_a_bar() -> None:
    text = shown(Terminal())
    assert "\x1b[" in text
    assert "━" in text
    assert "100%" in text


def test_elsewhere_are_lines() -> None:
    assert shown(io.StringIO()) == "training:  25%  loss 0.5  left ?\ntraining: 100%  loss 0.1  left 0:00\n"


@pytest.mark.parametrize(("name", "value", "file"), [("FORCE_COLOR", "1", io.StringIO), ("TERM", "dumb", Terminal)])
def test_what_is_no_real_terminal_has_lines(
    name: str, value: str, file: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    text = shown(file())
    assert "━" not in text
    assert text.count("\n") == 2


def test_lines_come_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with Display("training", Console(file=file)) as display:
        for second in range(61):
            now[0] = 100.0 + second
            display.update(second / 120, "")
    assert [line.split()[1] for line in file.getvalue().splitlines()] == ["0%", "12%", "25%", "38%", "50%"]
    assert file.getvalue().endswith("left 1:00\n")


def test_needless_work_shows_nothing() -> None:
    file = Terminal()
    with shown_if_any("codebook", Console(file=file, width=100)) as show:
        pass
    assert file.getvalue() == ""
    with shown_if_any("codebook", Console(file=file, width=100)) as show:
        show(0.5)
        show(1.0)
    assert "codebook" in file.getvalue()
    assert "100%" in file.getvalue()
