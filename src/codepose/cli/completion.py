"""``codepose completion``: the script with which a shell completes commands, options, choices and file names."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tyro

from codepose.cli.options import Completion
from codepose.runtime.outcome import Outcome

_FILES = """
# what is no option and no choice is a file, which bash itself completes best
_codepose() {
  _tyro_codepose "$@"
  local word=${COMP_WORDS[COMP_CWORD]} first=${COMPREPLY[0]}
  if [[ -z $first || -e $first || ( $COMP_CWORD -gt 1 && $word != -* && $first == -* ) ]]; then
    COMPREPLY=()
  fi
}
complete -o bashdefault -o default -F _codepose codepose
"""


def complete(options: Completion) -> Outcome:
    """Prints a shell's script."""
    from codepose.cli.invocation import COMMAND_OPTIONS

    text = script(options.shell, COMMAND_OPTIONS)
    print(text)
    return Outcome({"shell": options.shell, "script": text})


def script(shell: str, commands: Mapping[str, Callable[..., Any]]) -> str:
    """Returns what a shell has to read; nothing of codepose is imported when it completes.

    Args:
        shell: "bash", "zsh" or "fish".
        commands: The options of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script"
        with contextlib.suppress(SystemExit):  # how tyro ends when it has written
            words = ["--tyro-write-completion", shell, str(path)]
            tyro.extras.subcommand_cli_from_dict({**commands}, prog="codepose", args=words)
        # a line is a completion there, and texts of several lines would be several
        text = "\n".join(map(_in_one_line, path.read_text().split("\n")))
    if shell == "zsh":
        return text.replace('\n_tyro_codepose "$@"\n', '\n_tyro_codepose "$@" || _files\n')
    return text + _FILES if shell == "bash" else text


def _in_one_line(line: str) -> str:
    return line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC = ") else line
