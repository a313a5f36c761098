"""Checkpoints hold any nested training state, and no pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from codepose.runtime.checkpoint import CheckpointError, load_state, save_state
from codepose.storage.checksums import MARK
from codepose.storage.replace import StorageError


def test_an_optimizers_state_survives(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    save_state(tmp_path / "a.safetensors", optimizer.state_dict())
    again = torch.optim.AdamW(layer.parameters())
    again.load_state_dict(load_state(tmp_path / "a.safetensors"))
    for key, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, again.state_dict()["state"][key][name])
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_plain_values_shared_tensors_and_odd_names(tmp_path: Path) -> None:
    x = torch.arange(6.0).view(2, 3)
    state = {"a/b": [x, x.T, {"c": None, 3: True}], "t": (1, 2.5, "s"), "rng": torch.get_rng_state()}
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert torch.equal(back["a/b"][0], x)
    assert torch.equal(back["a/b"][1], x.T)
    assert back["a/b"][2] == {"c": None, 3: True}
    assert back["t"] == (1, 2.5, "s")
    assert torch.equal(back["rng"], state["rng"])


def test_others_may_read_it_as_any_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    save_state(tmp_path / "s", {"x": torch.ones(2)})
    assert (tmp_path / "s").stat().st_mode == (tmp_path / "text").stat().st_mode


def test_what_cannot_be_held_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="set at /a/1"):
        save_state(tmp_path / "s", {"a": [1, {2}]})
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_state(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(tmp_path / "junk")
    save_file({"x": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="not one that codepose wrote"):
        load_state(tmp_path / "other")
    save_state(tmp_path / "good", {"x": torch.ones(1000)})
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(tmp_path / "cut")


def test_every_byte_is_checked(tmp_path: Path) -> None:
    """One bit of the header, of the tree, of a tensor: refused, never read as something else."""
    path = tmp_path / "s"
    state = {"x": torch.arange(8.0), "step": 17}
    save_state(path, state)
    whole = path.read_bytes()
    mark = whole.index(MARK.encode())
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << offset % 8]) + whole[offset + 1 :])
        try:
            back = load_state(path)
        except CheckpointError:
            continue
        assert mark <= offset < mark + len(MARK) + 3 + 64, "it was the checksum itself"
        assert torch.equal(back["x"], state["x"])
        assert back["step"] == 17


@pytest.mark.parametrize(
    "tree",
    ["{", "[1]", '{"dict": 3}', '{"tensor": "y"}', '{"what": 1}', '{"dict": [[1]]}', '{"dict": [[[], 1]]}', "1 2"],
)
def test_a_tree_that_makes_no_sense_is_refused(tree: str, tmp_path: Path) -> None:
    """Of a codepose before checksums."""
    save_file({"x": torch.ones(2)}, tmp_path / "s", metadata={"codepose": tree})
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(tmp_path / "s")


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    save_state(tmp_path / "s", {"x": 1})
    monkeypatch.setattr("codepose.runtime.checkpoint.save_file", full)
    with pytest.raises(StorageError, match=r"/s cannot be written: No space left on device$"):
        save_state(tmp_path / "s", {"x": 2})
    assert load_state(tmp_path / "s") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_same_state_makes_the_same_file(tmp_path: Path) -> None:
    state = {name: torch.arange(3.0) for name in "edcba"} | {"step": 3}
    for number in range(8):
        save_state(tmp_path / f"{number}.safetensors", state)
    assert len({path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".safetensors"}) == 1
