"""Pushing and pulling runs: with a folder in the place of the Hugging Face Hub, and with no Hub at all."""

from __future__ import annotations

import shutil
import socket
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from codepose.api import hub
from codepose.cli.main import main
from codepose.runtime.run import Run, RunError, pretrained
from codepose.settings.errors import ConfigError

REPO = "lab/bracket"


class Folder:
    """What the Hub does with files, in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.private: dict[str, bool] = {}
        self.commits = 0
        self.asked: tuple[str | None, Path] | None = None
        """Which revision was wanted, and where."""

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        validate_repo_id(repo)
        assert exist_ok
        self.private.setdefault(repo, private)
        (self.path / repo).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo}"

    def create_commit(self, repo: str, operations: list[CommitOperationAdd], *, commit_message: str) -> None:
        self.commits += 1
        for operation in operations:
            place = self.path / repo / operation.path_in_repo
            place.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as file:
                place.write_bytes(file.read())

    def snapshot_download(self, repo: str, *, revision: str | None, local_dir: Path, allow_patterns: list[str]) -> None:
        self.asked = revision, local_dir
        self._copy(self.path / repo, local_dir, allow_patterns)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)

    @staticmethod
    def _copy(source: Path, target: Path, patterns: list[str]) -> None:
        for file in (f for f in source.rglob("*") if f.is_file()):
            place = file.relative_to(source)
            if any(fnmatch(str(place), pattern) for pattern in patterns):
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / place)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    folder = Folder(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The hammer with what a training leaves behind, and without a card."""
    path = tmp_path / "run"
    shutil.copytree(pretrained()["hammer"], path)
    (path / "README.md").unlink()
    (path / "step2" / "checkpoint.safetensors").write_text("of a training")
    (path / "step1").mkdir()
    (path / "step1" / "weights.safetensors").write_text("no method needs it")
    (path / "train.lock").write_text("1")
    (path / "meshes").mkdir()
    (path / "meshes" / "part.ply").write_text("of a part that is not built in")
    return Run.open(path)


def files(path: Path) -> set[str]:
    return {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}


def test_a_run_comes_back_as_it_was_without_what_training_left(store: Folder, run: Run, tmp_path: Path) -> None:
    assert hub.push(run, REPO) == f"https://huggingface.co/{REPO}"
    back = hub.pull(REPO, tmp_path / "very" / "deep" / "back")
    left = {"step2/checkpoint.safetensors", "step1/weights.safetensors", "train.lock"}
    assert store.commits == 1, "a card beside weights that are not there yet would promise what there is not"
    assert files(back.path) == files(store.path / REPO) == (files(run.path) - left) | {"README.md"}
    assert all((back.path / f).read_bytes() == (run.path / f).read_bytes() for f in files(run.path) - left)
    assert not (back.path / ".cache").exists()
    assert [p.name for p in (tmp_path / "very" / "deep").iterdir()] == ["back"]
    assert store.asked is not None
    assert store.asked[0] is None
    assert tmp_path / "very" / "deep" in store.asked[1].parents, "what is renamed has to be on the same disk"


def test_the_networks_of_every_trained_method_are_pushed(store: Folder, run: Run) -> None:
    (run.path / "detector").mkdir()
    (run.path / "detector" / "weights.safetensors").write_text("with step1 the extended method's")
    hub.push(run, REPO)
    weights = {f for f in files(store.path / REPO) if f.endswith("weights.safetensors")}
    assert weights == {f"{stage}/weights.safetensors" for stage in ("detector", "step1", "step2")}


def test_a_repository_is_private_unless_it_is_asked_for_otherwise(store: Folder, run: Run) -> None:
    hub.push(run, REPO)
    hub.push(run, "lab/open", public=True)
    assert store.private == {REPO: True, "lab/open": False}


def test_the_card_says_what_it_finds_and_what_to_type(store: Folder, run: Run) -> None:
    hub.push(run, REPO)
    written = ModelCard.load(store.path / REPO / "README.md")
    assert written.data.library_name == "codepose"
    assert "- hammer\n" in written.content
    side, box = run.settings.data.camera.image_size, run.settings.data.camera.box_side
    assert (
        f"{side} pixels a side, in which a part's box takes {box[0] / side:.0%} to {box[1] / side:.0%}" in written.text
    )
    assert f"codepose pull {REPO} bracket\n" in written.content
    (run.path / "README.md").write_text("of its owner")
    hub.push(run, REPO)
    assert (store.path / REPO / "README.md").read_text() == "of its owner"


def test_what_is_no_trained_run_is_neither_pushed_nor_pulled(store: Folder, run: Run, tmp_path: Path) -> None:
    (run.path / "step2" / "weights.safetensors").unlink()
    with pytest.raises(RunError, match="is not trained yet: codepose train"):
        hub.push(run, REPO)
    store.create_repo(REPO, private=True, exist_ok=True)
    out = tmp_path / "out"
    for content in (None, run.path / "config.yaml"):
        if content is not None:
            shutil.copy(content, store.path / REPO)
        with pytest.raises(RunError, match="lab/bracket holds no trained run of codepose"):
            hub.pull(REPO, out)
        assert not out.exists()
    out.mkdir()
    with pytest.raises(RunError, match="exists: choose another folder"):
        hub.pull(REPO, out)


def test_the_commands_tell_what_they_did(
    store: Folder, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(run.path), REPO, "--public"]) == 0
    assert main(["pull", REPO, "part", "--revision", "main"]) == 0
    told = capsys.readouterr().out
    assert store.asked is not None
    assert store.asked[0] == "main"
    assert f"pushed: https://huggingface.co/{REPO}\npulled: part\n" in told
    assert "next: codepose predict part photo.png --K fx,fy,cx,cy" in told
    assert store.private == {REPO: False}


def test_nobody_is_logged_in(store: Folder, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **words: Any) -> None:
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(store, "create_repo", refuse)
    with pytest.raises(ConfigError, match="nobody is logged in to the Hugging Face Hub: type hf auth login"):
        hub.push(run, REPO)


def test_the_hubs_last_line_says_why_it_refuses(store: Folder, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: Any = SimpleNamespace(headers={}, request=None)

    def refuse(*args: Any, **words: Any) -> None:
        raise HfHubHTTPError("403", response=answer, server_message="Forbidden\n\nYou may not write here.\n")

    monkeypatch.setattr(store, "create_repo", refuse)
    with pytest.raises(ConfigError, match=r"refuses lab/bracket: You may not write here\.$"):
        hub.push(run, REPO)


class Refusal(BaseHTTPRequestHandler):
    """Lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Message", "Invalid username or password.")
        self.end_headers()

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_what_the_hub_refuses_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library, and a server that lets nobody in."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(hub, "HfApi", lambda: HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token="x"))
        for call in (lambda: hub.push(run, REPO), lambda: hub.pull(REPO, tmp_path / "out")):
            with pytest.raises(ConfigError, match="refuses lab/bracket: Invalid username or password") as refused:
                call()
            assert "\n" not in str(refused.value)
        server.shutdown()
    assert not (tmp_path / "out").exists()


def test_without_a_hub_or_a_name_one_line_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library, and a port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setattr(hub, "HfApi", lambda: HfApi(endpoint=nowhere, token="of nobody"))
        for call in (lambda: hub.push(run, REPO), lambda: hub.pull(REPO, tmp_path / "out")):
            with pytest.raises(ConfigError, match="the Hugging Face Hub cannot be reached: ") as refused:
                call()
            assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="a b/c is no OWNER/NAME"):
        hub.pull("a b/c", tmp_path / "out")
    assert not (tmp_path / "out").exists()
