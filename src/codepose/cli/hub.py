"""``codepose push`` and ``codepose pull``: runs on the Hugging Face Hub."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from codepose.runtime.outcome import Command, Outcome

_console = Console(highlight=False)


@dataclass
class Push(Command):
    """Upload what inference needs of a trained run to the Hugging Face Hub, with a model card. The part's mesh goes
    with it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, best a packed one."""
    repo: Annotated[str, tyro.conf.Positional]
    """OWNER/NAME; made if needed."""
    public: bool = False
    """Let everybody see a new repository."""


@dataclass
class Pull(Command):
    """Download a run from the Hugging Face Hub."""

    repo: Annotated[str, tyro.conf.Positional]
    """OWNER/NAME."""
    out: Annotated[Path, tyro.conf.Positional]
    """New folder."""
    revision: str | None = None
    """A branch, tag or commit; None = the newest."""


def push(options: Push) -> Outcome:
    """Uploads a run."""
    from codepose.api import hub

    address = hub.push(options.run, options.repo, public=options.public)
    _console.out(f"pushed: {address}")
    return Outcome({"repo": options.repo, "address": address})


def pull(options: Pull) -> Outcome:
    """Downloads a run."""
    from codepose.api import hub

    run = hub.pull(options.repo, options.out, revision=options.revision)
    _console.out(f"pulled: {run.path}")
    _console.out(f"next: {shlex.join(['codepose', 'predict', str(run.path), 'photo.png', '--K', 'fx,fy,cx,cy'])}")
    return Outcome({"run": run.path})
