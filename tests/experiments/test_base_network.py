"""The base network learns many parts as one class, and its run is where others begin."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from codepose import geometry
from codepose.networks.boxes import Targets
from codepose.networks.build import build_joint
from codepose.paper.comparison import Errors
from codepose.parts.mesh import save_mesh
from codepose.parts.shapes import distractors
from codepose.parts.symmetry_group import Symmetries
from codepose.randomness import Draws
from codepose.runtime.checkpoint import load_state
from codepose.runtime.run import Run
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.synthesis.batches import ScenePoses
from codepose.synthesis.world import World
from codepose.training.initial import begin_with
from experiments.base_curve import ROWS, chosen, lines
from experiments.base_network import KeptRun, held_out, train
from experiments.base_stages import TURNS, PartSource, base_settings, build_base, models_of
from experiments.parts.archive import Part

PARTS = [Part(f"family {k % 3}", mesh, Symmetries.none()) for k, mesh in enumerate(distractors())]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("cad") / "part.ply"
    save_mesh(PARTS[0].mesh, path)
    whole = base_settings("quick", str(path), crops=4, scenes=4, rates=(3e-3, 2e-3), seconds=(1e-3, 1e-3), every=1)
    size = {"data.camera.image_size": 64, "network.crop": 32, "network.width": 0.1, "network.latent": 16}
    size |= {"data.camera.box_side": [16.0, 32.0], "data.textures": 2, "codebook.canvas": 64}
    return override(whole, size)


@pytest.fixture(scope="module")
def world(settings: Settings) -> World:
    return World(settings, objects=models_of(PARTS, settings))


def test_a_view_comes_with_its_half_turns(world: World) -> None:
    objects, R = PartSource(world, "train", range(2, 5)).views("crops", torch.arange(80))
    assert set(objects.tolist()) == {2, 3, 4}
    groups, turned = objects.view(-1, TURNS), R.view(-1, TURNS, 3, 3)
    assert (groups == groups[:, :1]).all()
    for a in range(TURNS):
        for b in range(a):
            angles = geometry.geodesic_angle(turned[:, a], turned[:, b])
            torch.testing.assert_close(angles, torch.full_like(angles, torch.pi), atol=1e-3, rtol=0)
    own = (turned[:, :1].mT @ turned[:, 1:]).diagonal(dim1=-2, dim2=-1)  # about the part's own axes
    torch.testing.assert_close(own.amax(-1), torch.ones_like(own[..., 0]))


def test_what_lies_beside_a_part_is_of_its_kind_or_another_one_that_is_learned(world: World) -> None:
    source = PartSource(world, "train", range(1, 4))
    draws = Draws(0, "beside", torch.arange(400), world.device)
    objects = torch.arange(400) % 3 + 1
    found = source.companion_objects(draws, objects, " companion 0")
    assert set(found.tolist()) == {1, 2, 3}, "never one that is kept out"
    assert float((found == objects).float().mean()) == pytest.approx(0.5 + 0.5 / 3, abs=0.07)
    assert not torch.equal(found, source.companion_objects(draws, objects, " companion 1"))


def test_a_base_can_begin_behind_the_encoder_at_that_of_another_backbone(
    settings: Settings, world: World, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    other = build_joint(settings)
    heads = Run.create(tmp_path / "heads", settings)
    heads.save_weights("step2", other)
    run = KeptRun.create(tmp_path / "base", override(settings, {f"step{n}.optimizer.lr": 1e-9 for n in (1, 2)}))
    run.heads = str(heads.path)
    train(run, world, "cpu", range(4), range(4, 6))
    own, theirs = (load_state(one.path / "step2" / "weights.safetensors") for one in (run, heads))
    for name, values in theirs.items():
        same = torch.allclose(own[name], values, atol=1e-4)
        assert same != (name.startswith("autoencoder.encoder.") and values.ndim > 1), name


def test_all_parts_are_one_class(settings: Settings) -> None:
    torch.manual_seed(0)
    network = build_base(settings)
    images, boxes = torch.rand(2, 3, 64, 64), torch.tensor([[8.0, 8.0, 40.0, 40.0], [20.0, 16.0, 50.0, 44.0]])
    order, zero, targets = torch.arange(2), torch.zeros(2, dtype=torch.long), torch.rand(2, 3, 32, 32)
    losses = []
    for objects in (torch.tensor([0, 0]), torch.tensor([3, 1])):
        torch.manual_seed(1)
        poses = ScenePoses(order, zero, 1, objects, boxes, torch.eye(3).expand(2, 3, 3), targets)
        losses.append(network(images, Targets(boxes[:, None], objects[:, None] + 1), poses).losses)
    assert losses[0] == losses[1]


def test_whole_families_are_kept_out() -> None:
    parts = [Part(f"family {k // 4}", PARTS[0].mesh, Symmetries.none()) for k in range(40)]
    trained, kept = held_out(parts, 2)
    assert len(kept) == 8
    assert {part.family for part in trained} & {part.family for part in kept} == set()
    assert len(held_out(parts, 9)[1]) == 8, "a fifth at most"
    with pytest.raises(SystemExit, match="add parts"):
        held_out(PARTS[:2], 1)


def test_parts_that_look_the_same_after_a_turn_keep_one_colour(settings: Settings) -> None:
    half = Symmetries(np.diag([-1.0, -1.0, 1.0, 1.0])[None])
    shades = []
    for group in (half, Symmetries.none()):
        models = models_of([Part("x", PARTS[0].mesh, group)] * 40, settings)
        shades.append([len(np.unique(model.mesh.colors, axis=0)) for model in models])
    assert max(shades[0]) == 1
    assert max(shades[1]) == 3


def test_a_training_leaves_a_run_to_begin_at_and_a_small_copy(settings: Settings, world: World, tmp_path: Path) -> None:
    run = KeptRun.create(tmp_path / "base", settings)
    run.copy = tmp_path / "copy.tar"
    train(run, world, "cpu", range(4), range(4, 6))
    assert (run.path / "reconstructions.png").is_file()
    with tarfile.open(run.copy) as tar:
        tar.extractall(tmp_path / "copy", filter="data")
    copied = Run.open(tmp_path / "copy" / "base")
    for stage in ("step1", "step2"):
        whole, half = (one.path / stage / "weights.safetensors" for one in (run, copied))
        assert half.stat().st_size < 0.6 * whole.stat().st_size
    fresh = build_joint(settings)
    begin_with(fresh, str(copied.path))
    trained = build_joint(settings)
    run.load_weights("step2", trained)
    for name, values in fresh.state_dict().items():
        torch.testing.assert_close(values, trained.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_the_curves_parts_are_of_many_families() -> None:
    parts = [Part(f"family {k // 10}", PARTS[0].mesh, Symmetries.none()) for k in range(30)]
    picked = chosen(parts, 4)
    assert {part.family for part in picked[:3]} == {"family 0", "family 1", "family 2"}
    assert len({id(part) for part in picked}) == 4


def test_the_curve_says_what_the_base_gains() -> None:
    index, whole = np.arange(50), np.ones(50)
    near, far = (Errors({"vsd": np.full(50, error)}, index, whole) for error in (0.25, 0.5))
    table = lines({"cap": {"base 5": dict.fromkeys(ROWS, near), "hammer 5": dict.fromkeys(ROWS, far)}}, [5.0], "base")
    assert table[2] == "| cap | 5 | joint | 0.500 | 0.750 | +0.250 [+0.250, +0.250] |"
