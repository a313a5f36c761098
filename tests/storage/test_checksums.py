"""A file's own checksum shows every change of any of its bytes, and every cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from codepose.storage import checksums
from codepose.storage.checksums import EMPTY, MARK, DamagedError, read_json, require_whole, seal, write_json

TEXT = f"# {MARK} {EMPTY}\nname: quick\nseed: 12\n"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    seal(path)
    return path


def test_it_is_the_sha256_of_the_file_with_zeros_in_its_place(sealed: Path) -> None:
    assert sealed.read_text() == TEXT.replace(EMPTY, hashlib.sha256(TEXT.encode()).hexdigest())
    require_whole(sealed)


def test_large_files_are_read_to_their_end(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_HEAD", 90)
    require_whole(sealed)
    sealed.write_bytes(sealed.read_bytes()[:-1] + b" ")
    with pytest.raises(DamagedError):
        require_whole(sealed)


def test_every_changed_byte_and_every_cut_is_seen_or_harmless(sealed: Path) -> None:
    """A hurt digit that is none any more, or a hurt space, leaves a comment: nothing else is hurt then."""
    whole = sealed.read_bytes()
    place = whole.index(MARK.encode())
    mark = range(place + len(MARK), place + len(MARK) + 1 + len(EMPTY))
    for offset in range(len(whole)):
        sealed.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << offset % 8]) + whole[offset + 1 :])
        if offset not in mark:
            with pytest.raises(DamagedError):
                require_whole(sealed)
        if offset:
            sealed.write_bytes(whole[:offset])
            if offset < mark.stop:  # a comment at most
                assert whole[:offset].startswith(b"#")
            else:
                with pytest.raises(DamagedError, match=r"config.yaml is damaged: it does not match its checksum"):
                    require_whole(sealed)


def test_a_mark_of_which_two_letters_are_hurt_is_no_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_json(path, {"a": 1})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"codepose-sha256", b"code0ose-Sha256"))
    with pytest.raises(DamagedError, match=r"c.json is damaged: its checksum has lost its name"):
        read_json(path)
    path.write_bytes(whole.replace(b"codepose-sha256", b"code0ose-Sha257"))  # another program's
    assert read_json(path)["a"] == 1
    path.write_text('{"sha256": "' + EMPTY + '", "a": 2}')
    assert read_json(path)["a"] == 2


def test_a_file_of_before_is_read_and_cannot_be_sealed(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("seed: 1\n")
    require_whole(tmp_path / "old")
    with pytest.raises(ValueError, match="no place"):
        seal(tmp_path / "old")


def test_json_carries_it_as_its_first_key(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_json(path, {"a": [1, 2.5]})
    assert read_json(path) == {"a": [1, 2.5]}
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(DamagedError, match="does not match"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xd8\xff", "no text in UTF-8$"), (b'{"a', "no JSON: .*, line 1$"), (b"[1]", "a mapping, not a list"),
     (b"[" * 100_000, "no JSON"), (b"", "no JSON"), (b'{"a": ' + b"9" * 5000 + b"}", "no JSON")],
)  # fmt: skip
def test_what_is_no_json_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(DamagedError, match=rf"c.json .*{words}"):
        read_json(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
