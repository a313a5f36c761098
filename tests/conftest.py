"""Settings small enough that a test of a whole stage takes seconds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from codepose.estimation.codebook import Codebook
    from codepose.runtime.run import Run
    from codepose.synthesis.world import World

# the networks here are too small for two threads, and one is immune to whatever else the machine does
torch.set_num_threads(1)
# nor does a test fail because the machine is busy
hypothesis.settings.register_profile("codepose", deadline=None)
hypothesis.settings.load_profile("codepose")

LONGEST = ("paper/test_reproduce.py", "runtime/test_pretrained.py", "runtime/test_ranks.py", "cli/test_cli.py")
"""Files that are begun first, so that no worker is left alone with one of them at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="cuda or cuda:N: also compare it with the CPU (tests/test_cuda.py), and test the kernels there",
    )
    group = parser.getgroup("campaign", "tests/robustness, with -m slow")
    group.addoption("--campaign-share", type=float, default=0.02, help="of the full campaign's cases; 1 = all of them")
    group.addoption("--campaign-seed", type=int, default=0, help="another campaign for each")
    group.addoption("--campaign-part", default="0/1", help="1/4: every fourth of its cases, from the second one on")
    group.addoption("--campaign-only", default="", help="numbers of single cases, such as 17,203")
    group.addoption("--campaign-keep", default="runs/robustness", help="folder of failing cases and of the figures")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cpu":  # "auto" then means the CPU; Warp reads it when it is imported
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get("/".join(item.path.parts[-2:]), len(order)))


@pytest.fixture(scope="session", name="device")
def _device(request: pytest.FixtureRequest) -> str:
    """Where to compare with the CPU."""
    name: str = request.config.getoption("--device")
    if name == "cpu":
        pytest.skip("compares a GPU with the CPU: type pytest tests/test_cuda.py --device cuda")
    if not torch.cuda.is_available():
        pytest.fail("--device cuda: torch finds no GPU")
    return name


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> torch.device:
    """Where kernels are tested: the CPU, or the GPU that --device names."""
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda: torch finds no GPU")
    return device


def tiny(**changes: object) -> Settings:
    """The quick preset at a quarter of its scale: scenes of 128 px, crops of 32 px."""
    base = {
        "data.camera.image_size": 128,
        "data.camera.focal": 75.0,
        "data.camera.box_side": [26.0, 40.0],
        "data.textures": 4,
        "data.step1_images": 16,
        "data.scene_images": 8,
        "data.val_images": 4,
        "data.test_images": 6,
        "network.crop": 32,
        "network.latent": 16,
        "network.width": 0.125,
        "network.weights": "none",
        "network.anchor_sizes": [16.0, 32.0, 64.0],
        "network.box_head": 32,
        "codebook.level": 1,
        "codebook.in_plane": 4,
        "losses.look_alikes": 0,
        "precision": "float32",
        # that poses are refined matters to many tests, how well, or how many, to few, which ask for more
        "refinement.judged": 3,
        "refinement.candidates": 16,
        "refinement.rounds": 1,
        "refinement.looks": 2,
        "detection.per_object": 4,
    }
    for stage, batch in (("step1", 4), ("original", 4), ("detector", 2), ("step2", 2)):
        base |= {f"{stage}.batch": batch, f"{stage}.epochs": 1.0}
    return override(load_preset("quick"), base | changes)


@pytest.fixture(scope="session")
def tiny_settings() -> Settings:
    return tiny()


@pytest.fixture(scope="session")
def world(tiny_settings: Settings) -> World:
    from codepose.synthesis.world import World  # starts Warp: after ``pytest_configure``

    return World(tiny_settings)


@pytest.fixture(scope="module")
def random_run(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Run:
    """Random weights and a threshold of zero: it detects something everywhere."""
    from codepose.networks.build import build_joint
    from codepose.runtime.run import Run

    settings = override(tiny_settings, {"detection.score": 0.0, "detection.per_object": 3})
    run = Run.create(tmp_path_factory.mktemp("random") / "run", settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(settings))
    return run


@pytest.fixture
def exact_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of eight bits, also where oneDNN's sums overflow and nothing uses them."""
    from codepose.estimation.nearest_codes import multiplies_bytes

    if not multiplies_bytes():
        monkeypatch.setattr(torch, "_int_mm", lambda a, b: a.int() @ b.int())


@pytest.fixture(scope="session", name="make_settings")
def _make_settings():
    return tiny


def _book_of(world: World, rotations: Tensor) -> Codebook:
    from codepose.estimation.codebook import Codebook

    count, model = len(rotations), world.objects[0]
    zeros = torch.zeros(count).long()
    return Codebook(
        label=model.label,
        codes=torch.ones(count, 4).half(),
        thumbnails=torch.ones(count, 64).half(),
        rotations=rotations,
        boxes=world.boxes(zeros, rotations, world.reference_translations(zeros)),
        z_ref=model.z_ref,
        K=world.K,
        hull=world.renderer.hull(0),
        offset=model.offset,
        fingerprint="",
    )


@pytest.fixture(scope="session")
def book_of() -> Callable[[World, Tensor], Codebook]:
    """Makes codebooks that know nothing but their views (V, 3, 3)."""
    return _book_of
