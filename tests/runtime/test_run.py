"""A run folder keeps what its objects' files said."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from codepose import api as workflow
from codepose.api import training
from codepose.cli.chosen import with_meshes
from codepose.cli.main import main
from codepose.cli.options import Train
from codepose.estimation.pack import pack
from codepose.networks.build import build_joint
from codepose.parts.mesh import MeshError
from codepose.runtime.checkpoint import save_state
from codepose.runtime.run import Run, RunError
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_settings, to_yaml
from codepose.settings.schema import Settings
from codepose.storage.checksums import MARK
from codepose.synthesis.world import World
from codepose.training.stages import FROM_STEP1

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
TURN = [-1.0, 0, 0, 80.0, 0, -1.0, 0, -50.0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]


@pytest.fixture
def declared(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    """A bracket in metres and a hammer whose symmetries, in mm, a file declares."""
    infos = tmp_path / "cad" / "models_info.json"
    infos.parent.mkdir()
    shutil.copy(BRACKET, infos.with_name("part.ply"))
    infos.write_text(json.dumps({"1": {"diameter": 9, "symmetries_discrete": [TURN]}, "2": {}}))
    settings = make_settings(**{"objects": [{"mesh": "hammer", "unit": "cm", "symmetries": str(infos)}]})
    return with_meshes(settings, (infos.with_name("part.ply"), Path("hammer")))


def test_declared_symmetries_stay_with_the_run(declared: Settings, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", declared)
    assert Run.create(run.path, declared, resume=True).settings == run.settings
    run.save_weights("step2", build_joint(run.settings))
    assert main(["pack", str(run.path), str(tmp_path / "packed")]) == 0
    shutil.rmtree(tmp_path / "cad")
    shutil.move(run.path, tmp_path / "moved")
    for folder in ("moved", "packed"):
        part, hammer = World(Run.open(tmp_path / folder).settings).objects
        np.testing.assert_allclose(part.cad_symmetries.discrete[0].reshape(16), TURN, atol=1e-3)
        assert len(part.symmetries.discrete) == 1
        assert not hammer.symmetries.any


def test_what_a_file_does_not_declare_is_refused_before_anything_is_written(
    declared: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cad" / "models_info.json").write_text('{"1": {}}')
    with pytest.raises(ConfigError, match='no entry "2"'):
        World(declared)
    preset = tmp_path / "preset.yaml"
    preset.write_text(to_yaml(declared))
    assert main(["train", "--preset", str(preset), "--out", str(tmp_path / "run")]) == 1
    assert '"2": {}' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_runs_settings_without_the_key_still_load(tiny_settings: Settings, tmp_path: Path) -> None:
    text = "".join(line for line in to_yaml(tiny_settings).splitlines(True) if "symmetries:" not in line)
    assert text != to_yaml(tiny_settings)
    (tmp_path / "config.yaml").write_text(text)
    assert load_settings(tmp_path / "config.yaml") == tiny_settings
    assert Run.open(tmp_path).settings.objects[0].symmetries == "auto"


def test_the_option_of_the_command() -> None:
    import tyro

    options = tyro.cli(Train, args=["part.stl", "other.stl", "--objects.0.symmetries", "none"])
    settings = with_meshes(options.settings, options.meshes)
    assert [o.symmetries for o in settings.objects] == ["none", "none"]


def test_a_run_whose_making_was_interrupted_goes_on(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the CAD file was being converted; a file that cannot be used leaves no run behind."""
    settings = with_meshes(tiny_settings, (BRACKET,))
    monkeypatch.setattr("codepose.runtime.run.save_mesh", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Run.create(tmp_path / "run", settings)
    assert not list((tmp_path / "run" / "meshes").glob("1.ply"))
    monkeypatch.undo()
    run = Run.create(tmp_path / "run", settings, resume=True)
    assert len(World(run.settings).objects[0].mesh.faces) > 0
    missing = with_meshes(tiny_settings, (tmp_path / "none.ply",))
    with pytest.raises(MeshError):
        Run.create(tmp_path / "other", missing)
    assert Run.create(tmp_path / "other", tiny_settings).settings == tiny_settings
    with pytest.raises(MeshError):
        Run.create(tmp_path / "third", with_meshes(tiny_settings, (BRACKET, tmp_path / "none.ply")))
    Run.create(tmp_path / "third", settings)


def test_a_run_keeps_the_body_that_was_asked_for(tiny_settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("cascadio", reason="the extra step is not installed")
    assembly = BRACKET.parent / "cad" / "25-step" / "assembly.step"
    asked = with_meshes(tiny_settings, (assembly,), body="plate")
    run = Run.create(tmp_path / "run", asked)
    np.testing.assert_allclose(World(run.settings).objects[0].mesh.extents, [40, 20, 10], atol=1e-3)
    assert Run.create(tmp_path / "run", asked, resume=True).settings == run.settings
    with pytest.raises(RunError, match=r"assembly.step is not the part"):
        Run.create(tmp_path / "run", with_meshes(tiny_settings, (assembly,), body="screw"), resume=True)


def test_a_resumed_run_keeps_its_own_part(tiny_settings: Settings, tmp_path: Path) -> None:
    """The CAD file may be moved or lost, not exchanged."""
    part = tmp_path / "part [v2].ply"
    shutil.copy(BRACKET, part)
    settings = with_meshes(tiny_settings, (part,))
    first = Run.create(tmp_path / "run", settings)
    moved = tmp_path / "elsewhere" / "bracket.ply"
    moved.parent.mkdir()
    part.rename(moved)
    for path in (part, moved):
        again = Run.create(tmp_path / "run", with_meshes(tiny_settings, (path,)), resume=True)
        assert again.settings == first.settings
    trimesh.load_mesh(BRACKET).apply_scale(1.1).export(part)
    with pytest.raises(RunError, match=r"part \[v2\].ply is not the part"):
        Run.create(tmp_path / "run", settings, resume=True)
    with pytest.raises(RunError, match="other settings"):
        Run.create(tmp_path / "run", tiny_settings, resume=True)  # the built-in hammer


def test_a_resumed_run_may_compute_in_another_way(make_settings, tmp_path: Path) -> None:
    """What it learns stays: the precision, the detections kept and the rhythm of checkpoints may change."""
    Run.create(tmp_path / "run", make_settings())
    changes = {"precision": "float32", "detection.per_object": 40, "step1.checkpoint_every": 7, "step2.validations": 1}
    again = Run.create(tmp_path / "run", make_settings(**changes), resume=True)
    assert again.settings == make_settings(**changes)
    assert Run.open(tmp_path / "run").settings == make_settings(**changes)
    for other in ({"step1.optimizer.lr": 1.0}, {"data.seed": 5}, {"step1.time_limit": 3.0}):
        with pytest.raises(RunError, match=rf"other settings \({next(iter(other))} was .*, not "):
            Run.create(tmp_path / "run", make_settings(**changes, **other), resume=True)


def test_an_empty_config_is_no_run_with_default_settings(tiny_settings: Settings, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", tiny_settings)
    (tmp_path / "run" / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        Run.open(tmp_path / "run")


def damage(path: Path, offset: int = -10) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_what_a_run_keeps_is_checked_and_named(declared: Settings, tmp_path: Path) -> None:
    """Meshes, symmetries, weights, checkpoints: one bit, and the file is refused; moved and packed, too."""
    run = Run.create(tmp_path / "run", declared)
    network = build_joint(run.settings)
    run.save_weights("step2", network)
    run.save_checkpoint("step1", {"step": 1})
    pack(run, tmp_path / "packed", methods=())
    for folder, name in itertools.product(("run", "packed"), ("1.ply", "1.symmetries.json", "2.symmetries.json")):
        path = tmp_path / folder / "meshes" / name
        damage(path)
        with pytest.raises(RunError, match=rf"{path} is damaged.*restore it from a copy, or delete it"):
            Run.open(tmp_path / folder)
        damage(path)
    damage(run.path / "step2" / "weights.safetensors")
    with pytest.raises(RunError, match=r"step2/weights.safetensors is damaged.*or delete it and train it again with `"):
        run.load_weights("step2", network)
    damage(run.path / "step1" / "checkpoint.safetensors", 60)
    with pytest.raises(RunError, match=r"step1/checkpoint.safetensors is damaged.*or delete it: the stage then begins"):
        run.load_checkpoint("step1")
    assert run.load_checkpoint("step2") is None


def test_weights_of_another_size_are_refused_in_one_line(tiny_settings: Settings, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", tiny_settings)
    for state in ({"a": torch.ones(1)}, [1], {"encoder": 3}):
        save_state(run.stage("step2") / "weights.safetensors", state)
        with pytest.raises(RunError, match=r"^\S*weights.safetensors does not fit its config.yaml: restore[^\n]*$"):
            run.load_weights("step2", build_joint(tiny_settings))


def test_a_run_of_before_has_no_checksums(tmp_path: Path, tiny_settings: Settings) -> None:
    hammer = Run.open("hammer")
    assert MARK.encode() not in (hammer.path / "step2" / "weights.safetensors").read_bytes()
    hammer.load_weights("step2", build_joint(hammer.settings))


def test_one_process_trains_a_run(tiny_settings: Settings, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", tiny_settings)
    words = rf"run is being trained by process {os.getpid()} on .*: let it finish or stop it, or choose another --out$"
    with run.training():
        with pytest.raises(RunError, match=words), run.training():
            pass
        with pytest.raises(RunError, match=words):
            Run.create(run.path, tiny_settings, resume=True)
        assert Run.open(run.path).settings == run.settings, "others may read it"
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml"]
    assert Run.create(run.path, tiny_settings, resume=True).settings == run.settings


def test_training_holds_the_lock(tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", tiny_settings)
    seen = []
    monkeypatch.setattr(training, "train_step1", lambda *_: seen.append((run.path / "train.lock").exists()))
    monkeypatch.setitem(FROM_STEP1, "step2", lambda *_: None)
    workflow.train_stages(run, ["joint"], device="cpu")
    assert seen == [True]


def test_what_killed_processes_left_goes_at_the_next_start(tiny_settings: Settings, tmp_path: Path) -> None:
    """Also what was killed when nothing else had been written yet."""
    for folder in (".", "step1", "codebooks"):
        (tmp_path / "run" / folder / ".codepose-killed").mkdir(parents=True)
    (tmp_path / "run" / "train.lock").write_text("process 1 on elsewhere\n")
    (tmp_path / "run" / "step1" / ".codepose-killed" / "checkpoint.safetensors").write_text("x")
    for folder in ("step1", "codebooks"):
        shutil.move(tmp_path / "run" / folder, tmp_path / folder)
    run = Run.create(tmp_path / "run", tiny_settings)
    for folder in ("step1", "codebooks"):
        shutil.move(tmp_path / folder, run.path / folder)
    Run.create(run.path, tiny_settings, resume=True)
    assert not [path for path in run.path.rglob("*") if "killed" in path.name]
    assert not (run.path / "train.lock").exists()


def test_metrics_that_are_damaged_are_passed_over(tiny_settings: Settings, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", tiny_settings)
    damaged = [b"\xff\xfe", b"[1]", b'{"stop": 2}', b"3", b'{"step": 1%s}' % (b"0" * 5000), b"[" * 100_000, b""]
    lines = [b'{"step": 1}', *damaged, b'{"step": 2}', b'{"st']
    (run.stage("step1") / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert list(run.metrics("step1")) == [{"step": 1}, {"step": 2}]
