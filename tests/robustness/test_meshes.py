"""1,000 damaged CAD files: refused by name, or the part that the file holds, whole."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from robustness.harness import Case, Limits, Outcome, call, rng_of
from robustness.meshes import Files, corpus
from robustness.mutators import ESCAPE, SAME, mutate_bytes, mutate_json, mutate_text

pytestmark = pytest.mark.slow

KIND = "meshes"
_TEXTS = (".obj", ".mtl", ".off")
_ENDLESS = (".obj", ".mtl")
"""Formats that do not say where they end: a cut at the end of a line cannot be seen."""
_WHOLE: dict[str, trimesh.Trimesh | None] = {}


def test_damaged_meshes(campaign: Callable[..., None], seed: int) -> None:
    campaign(KIND, 1000, lambda number, folder: mesh_case(number, folder, seed), Limits(20.0, 1500))


def mesh_case(number: int, folder: Path, seed: int) -> Case:
    """One of a CAD model's files is damaged."""
    rng = rng_of(KIND, seed, number)
    whole = corpus()
    name, files = whole[int(rng.integers(len(whole)))]
    names = list(files)
    which = names[0] if rng.random() < 0.7 else names[int(rng.integers(len(names)))]
    content, what = damage(which, files[which], rng)
    for file, before in files.items():
        (folder / file).write_bytes(content if file == which else before)
    return Case(
        arguments=["mesh", names[0], "--out", "sheet.png", "--save", "saved.ply"],
        what=f"{name}, {which}: {what}",
        named=(which, names[0]),
        check=lambda outcome: check(outcome, folder, name, files, which, content, what),
    )


def damage(name: str, content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Bytes, or what they mean."""
    suffix = Path(name).suffix
    if suffix == ".glb" and rng.random() < 0.5:
        return damaged_glb(content, rng)
    if suffix == ".gltf" and rng.random() < 0.7:
        text, what, _ = mutate_json(json.loads(content), rng)
        return text.encode(), what
    ascii_text = suffix in _TEXTS or content.startswith((b"solid", b"ply\nformat ascii"))
    if ascii_text and rng.random() < 0.6:
        return mutate_text(content.decode("utf-8", ESCAPE), rng)
    if content.startswith(b"ply") and rng.random() < 0.4:
        head, end, body = content.partition(b"end_header\n")
        text, what = mutate_text(head.decode("utf-8", ESCAPE), rng)
        return text + end + body, f"header: {what}"
    return mutate_bytes(content, rng)


def damaged_glb(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Another JSON in a GLB whose lengths are right."""
    (length,) = struct.unpack_from("<I", content, 12)
    values = json.loads(content[20 : 20 + length])
    text, what, _ = mutate_json(values, rng)
    chunk = text.encode()
    chunk += b" " * (-len(chunk) % 4)
    rest = content[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(chunk) + len(rest), len(chunk), 0x4E4F534A)
    return head + chunk + rest, what


def check(outcome: Outcome, folder: Path, name: str, files: Files, which: str, content: bytes, what: str) -> str | None:
    """What is wrong with what was made of it."""
    made = [file for file in ("sheet.png", "saved.ply") if (folder / file).exists()]
    same = what in SAME or content == files[which]
    if outcome.status != 0:
        if same and whole_part(folder, name, files) is not None:
            return f"the same content, refused: {outcome.err[:200]}"
        return f"refused, but wrote {made}" if made else None
    if len(made) < 2:
        return f"status 0, but wrote only {made}"
    saved = read(folder / "saved.ply")
    size = float(np.linalg.norm(np.ptp(saved.vertices, axis=0)))
    if not (np.isfinite(saved.vertices).all() and 4.0 < size < 10_000.0 and saved.area > 0):
        return f"a part of size {size}, area {saved.area}"
    return compared(outcome, folder, name, files, which, content, what, same, saved)


def compared(
    outcome: Outcome,
    folder: Path,
    name: str,
    files: Files,
    which: str,
    content: bytes,
    what: str,
    same: bool,
    saved: trimesh.Trimesh,
) -> str | None:
    """Whether a part differs from the whole file's where it may not."""
    whole = whole_part(folder, name, files)
    if whole is None:
        return None
    if same and (words := unlike(saved, whole)) is not None:
        return f"the same content, another part: {words}"
    cut = what.startswith("cut at") and "," not in what
    if cut and Path(which).suffix not in _ENDLESS and not np.isclose(saved.area, whole.area, rtol=1e-5):
        return f"cut off, but read: {saved.area:.0f} mm2 instead of {whole.area:.0f}"
    if Path(which).suffix == ".png" and (words := unlike(saved, whole)) is not None:
        said = which in outcome.out or "picture" in outcome.out or "texture" in outcome.out
        if not opens(content) and not said:
            return f"a damaged picture is passed over without a word: {words}"
    return None


def opens(content: bytes) -> bool:
    """Whether a picture can be read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
    except Exception:  # Pillow raises whatever a damaged file makes it raise
        return False
    return True


def unlike(a: trimesh.Trimesh, b: trimesh.Trimesh) -> str | None:
    """In what two parts differ: surface, bounds or mean colour; None = in nothing."""
    if not np.isclose(a.area, b.area, rtol=1e-4):
        return f"{a.area:.1f} instead of {b.area:.1f} mm2"
    if not np.allclose(a.bounds, b.bounds, atol=1e-2):
        return f"bounds {a.bounds.tolist()} instead of {b.bounds.tolist()}"
    colors = [np.asarray(one.visual.vertex_colors, np.float64)[:, :3] for one in (a, b)]
    spread = [c[np.lexsort(c.T)].mean(0) for c in colors]
    if np.abs(spread[0] - spread[1]).max() > 2.0:
        return f"colours {spread[0].round().tolist()} instead of {spread[1].round().tolist()}"
    return None


def read(path: Path) -> trimesh.Trimesh:
    """What ``--save`` wrote."""
    found = trimesh.load(str(path), process=False)
    assert isinstance(found, trimesh.Trimesh)
    return found


def whole_part(folder: Path, name: str, files: Files) -> trimesh.Trimesh | None:
    """What the undamaged files hold; None where they are refused. Each is read once a process."""
    if name not in _WHOLE:
        other = folder / "whole"
        other.mkdir()
        for file, content in files.items():
            (other / file).write_bytes(content)
        outputs = ["--out", str(other / "sheet.png"), "--save", str(other / "saved.ply")]
        done = call(["mesh", str(other / next(iter(files))), *outputs], other)
        _WHOLE[name] = read(other / "saved.ply") if done.status == 0 else None
    return _WHOLE[name]
