"""What a person sees while a stage trains: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from codepose.runtime.ranks import rank

_LINE_EVERY_S = 15.0


class Display:
    """Shows stage, loss terms, images/s and time left; on the first rank only."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(quiet=rank() > 0)
        self._last_line = 0.0
        self._start = time.monotonic()
        self._first_share: float | None = None
        self._bar: Progress | None = None
        # FORCE_COLOR makes rich take any file for a terminal, where a bar would leave a line for each of its states
        if self.console.is_interactive and self.console.file.isatty() and not self.console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(title, total=1.0, detail="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, share: float, detail: str) -> None:
        """Shows that a ``share`` in [0, 1] is done, with a few words."""
        if self._first_share is None:
            self._first_share, self._start = share, time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=share, detail=detail)
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_S or share >= 1.0:
            self._last_line = now
            done = share - self._first_share
            left = (now - self._start) * (1.0 - share) / done if done > 0 else float("nan")
            left = 0.0 if share >= 1.0 else left
            clock = f"{int(left) // 60}:{int(left) % 60:02d}" if left == left else "?"
            words = f"{detail}  " if detail else ""
            self.console.out(f"{self.title}: {share:4.0%}  {words}left {clock}", highlight=False)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.out(f"{self.title}: {text}", highlight=False)


@contextmanager
def shown_if_any(title: str, console: Console | None = None) -> Iterator[Callable[[float], None]]:
    """Gives a function that shows which share in [0, 1] is done; of work that proves needless nothing is shown."""
    with ExitStack() as stack:
        display: Display | None = None

        def show(share: float) -> None:
            nonlocal display
            if display is None:
                display = stack.enter_context(Display(title, console))
            display.update(share, "")

        yield show


def rate_text(terms: dict[str, float], images_per_s: float) -> str:
    """Returns the loss terms and the speed in one line."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
    return f"{losses}  {images_per_s:.0f} images/s"
