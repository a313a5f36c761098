"""What the shell offers behind Tab, in a real bash."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from codepose.cli.completion import script
from codepose.cli.invocation import COMMAND_OPTIONS
from codepose.cli.main import COMMANDS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bash") / "codepose"
    path.write_text(script("bash", COMMAND_OPTIONS))
    return path


@pytest.fixture
def offered(bash: Path, tmp_path: Path):
    """What bash offers for the last of some words."""

    def call(*words: str) -> list[str]:
        code = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _codepose; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", code, bash, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.stderr == ""
        return done.stdout.split("\n")[:-1]

    return call


def test_the_script_is_valid(bash: Path) -> None:
    assert subprocess.run(["bash", "-n", bash], capture_output=True).stderr == b""


def test_commands(offered) -> None:
    assert sorted(offered("codepose", "")) == sorted([*COMMANDS, "-h", "--help"])
    assert sorted(offered("codepose", "pre")) == ["predict", "preview"]


def test_options_and_choices(offered) -> None:
    assert sorted(offered("codepose", "predict", "--min")) == ["--min-confidence", "--min-judged", "--min-score"]
    assert offered("codepose", "predict", "run", "a.png", "--method", "jo") == ["joint"]
    assert offered("codepose", "train", "--data.camera.foc") == ["--data.camera.focal"]
    assert offered("codepose", "train", "--no-js") == ["--no-json"]


@pytest.mark.parametrize("words", [("predict", ""), ("predict", "run", "ph"), ("predict", "run", "--out", "ph")])
def test_elsewhere_bash_completes_files(offered, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "photo.png").touch()
    assert offered("codepose", *words) == [""], "it is left to bash"


def typed(bash: Path, folder: Path, keys: str, wanted: str) -> str:
    """What a terminal shows when keys are typed at bash's prompt."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    shown = ""
    try:
        os.write(terminal, f"source {bash}; echo re''ady\n".encode())
        end = time.monotonic() + 60
        while time.monotonic() < end and wanted not in shown:
            if select.select([terminal], [], [], 0.5)[0]:
                shown += os.read(terminal, 4096).decode(errors="replace")
            if keys and "ready" in shown:
                os.write(terminal, keys.encode())
                keys = ""
        return shown
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def test_tab_in_a_terminal(bash: Path, tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    (tmp_path / "my photos" / "first one.png").touch()
    keys = "codepose predi\trun my\tfi\t--min-c\t"
    wanted = r"codepose predict run my\ photos/first\ one.png --min-confidence "
    assert wanted in typed(bash, tmp_path, keys, wanted)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_know_the_same(shell: str, tmp_path: Path) -> None:
    text = script(shell, COMMAND_OPTIONS)
    assert "--min-confidence" in text
    assert text.rstrip().endswith("|| _files") == (shell == "zsh")
    if shutil.which(shell) is None:
        return
    (tmp_path / "codepose").write_text(text)
    assert subprocess.run([shell, "-n", tmp_path / "codepose"], capture_output=True).stderr == b""
