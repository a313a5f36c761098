"""A packed run: half the size, complete, and the same poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from codepose.cli.main import main
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.pack import pack, unpack
from codepose.networks.build import build_joint
from codepose.runtime.run import Run, RunError
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
K = [[75.0, 0, 63.5], [0, 75.0, 63.5], [0, 0, 1]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_settings) -> Run:
    settings: Settings = make_settings(**{"detection.score": 0.0})
    part = settings.objects[0].model_copy(update={"mesh": str(BRACKET), "label": "bracket"})
    run = Run.create(tmp_path_factory.mktemp("pack") / "run", settings.model_copy(update={"objects": (part,)}))
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(run.settings))
    (run.stage("step2") / "metrics.jsonl").write_text("{}\n")
    return run


@pytest.fixture(scope="module")
def packed(trained: Run) -> Run:
    out = trained.path.parent / "packed"
    assert main(["pack", str(trained.path), str(out)]) == 0
    return Run.open(out)


def test_weights_take_half_the_room_and_logs_stay_behind(trained: Run, packed: Run) -> None:
    before, after = (r.path / "step2" / "weights.safetensors" for r in (trained, packed))
    assert after.stat().st_size < 0.55 * before.stat().st_size
    names = {p.relative_to(packed.path).as_posix() for p in packed.path.rglob("*") if p.is_file()}
    expected = {"config.yaml", "meshes/1.ply", "step2/weights.safetensors", "codebooks/joint-1.safetensors"}
    assert names == expected


def test_the_packed_run_is_complete_and_says_the_same(trained: Run, packed: Run) -> None:
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    stamp = (packed.path / "codebooks" / "joint-1.safetensors").stat().st_mtime_ns
    a, b = (PoseEstimator.load(r, device="cpu") for r in (trained, packed))
    assert (packed.path / "codebooks" / "joint-1.safetensors").stat().st_mtime_ns == stamp, "built anew"
    assert a(image, K)[0].score == pytest.approx(b(image, K)[0].score, abs=0.01)
    same = (a.codebooks[0].codes.float() * b.codebooks[0].codes.float()).sum(1)
    assert same.min() > 0.999


def test_a_copy_to_work_in_keeps_what_is_there(packed: Run, tmp_path: Path) -> None:
    copy = unpack(packed, tmp_path / "copy")
    assert copy.has("step2")
    (copy.path / "mine.txt").write_text("x")
    assert (unpack(packed, tmp_path / "copy").path / "mine.txt").exists()
    (copy.path / "step2" / "weights.safetensors").write_bytes(b"of another version")
    with pytest.raises(RunError, match="another run"):
        unpack(packed, copy.path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("x")
    with pytest.raises(RunError, match="no run"):
        unpack(packed, tmp_path / "letters")


def test_what_cannot_be_packed_is_refused(trained: Run, packed: Run, tmp_path: Path, tiny_settings) -> None:
    with pytest.raises(RunError, match="exists"):
        pack(trained, packed.path)
    with pytest.raises(RunError, match="detector"):
        pack(trained, tmp_path / "x", ("extended",))
    with pytest.raises(ConfigError):
        pack(trained, tmp_path / "x", codebook_level=9)
    assert not (tmp_path / "x").exists()


def test_an_unknown_name_is_no_run() -> None:
    with pytest.raises(RunError, match="codepose train"):
        Run.open("no-such-network")
