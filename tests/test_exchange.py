"""Parts can be exchanged: the recipes of docs/extending.md train, refine, write and export, and so does a network of
timm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codepose import geometry
from codepose.cli.main import main
from codepose.estimation import export
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import PoseGraph, export_onnx, largest_difference
from codepose.networks.backbone import Backbone
from codepose.networks.build import BACKBONES, build_encoder, build_joint
from codepose.paper.jitter import JITTER, train_jitter
from codepose.predict.files import OUTPUTS
from codepose.refinement.judged_contours import REFINERS, refiner_of
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run
from codepose.settings.crop import ROI_PAD
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.stages import train_detector, train_step1, train_step2

RECIPES = Path(__file__).parents[1] / "docs" / "extending.md"
NAMES = ((BACKBONES, "small"), (REFINERS, "reconstruction"), (OUTPUTS, "table"))


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the page shows is there, until the test ends."""
    blocks = re.findall(r"```python\n(.*?)```", RECIPES.read_text(), flags=re.DOTALL)
    assert len(blocks) == len(NAMES)
    for (parts, name), code in zip(NAMES, blocks, strict=True):
        assert name not in parts
        monkeypatch.setitem(parts, name, None)  # goes with the test
        exec(compile(code, "my_codepose.py", "exec"), {"__name__": "my_codepose"})
        assert parts[name] is not None


@pytest.fixture(params=["small", "timm/test_efficientnet"])
def settings(request: pytest.FixtureRequest, make_settings, recipes: None) -> Settings:
    if request.param != "small":
        pytest.importorskip("timm")
    changes = {
        "network.backbone": request.param,
        "network.frozen_blocks": 1,
        "detection.score": 0.0,
        "detection.per_object": 2,
    }
    made: Settings = make_settings(**changes)
    return made


def test_it_trains_refines_and_is_loaded(settings: Settings, tmp_path: Path, world: World) -> None:
    run, fabric = Run.create(tmp_path / "run", settings), make_fabric("cpu")
    extended = train_step1(run, world, fabric)
    network = train_step2(run, world, fabric, extended)
    before, after = extended.encoder.blocks(), network.autoencoder.encoder.blocks()
    stayed = [all(map(torch.equal, *blocks)) for blocks in zip(before, after, strict=True)]
    assert stayed[0]
    assert not any(stayed[1:])
    (image,), K, _ = SceneSource(world, "test").scenes(torch.arange(1)).photographs()
    found = PoseEstimator.load(run.path, device="cpu", refine=True)(image, K)
    assert found
    assert all(one.contour is not None for one in found)


def test_the_pages_refiner_and_output_follow_the_pages_backbone(
    make_settings, recipes: None, tmp_path: Path, world: World
) -> None:
    """Trained, refined and written by the commands that a user types."""
    changes = {
        "network.backbone": "small",
        "detection.score": 0.0,
        "detection.per_object": 2,
        "refinement.refiner": "reconstruction",
    }
    run = Run.create(tmp_path / "run", make_settings(**changes))
    fabric = make_fabric("cpu")
    train_step2(run, world, fabric, train_step1(run, world, fabric))
    image = SceneSource(world, "test").scenes(torch.arange(1)).images[0]
    photo = tmp_path / "photo.png"
    Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(photo)
    estimator = PoseEstimator.load(run, device="cpu", refine=True)
    assert type(estimator.refiner).__name__ == "ByReconstruction"
    out = tmp_path / "out"
    arguments = [str(run.path), str(photo), "--K", "75,75,63.5,63.5", "--out", str(out), "--min-score", "0"]
    assert main(["predict", *arguments, "--write", "table", "json", "--device", "cpu"]) == 0
    rows = [line.split(",") for line in (out / "poses.csv").read_text().splitlines()]
    (record,) = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
    found = record["detections"]
    assert len(found) == 2
    assert [row[:2] for row in rows] == [["photo", one["label"]] for one in found]
    for row, one in zip(rows, found, strict=True):
        assert [float(value) for value in row[2:]] == pytest.approx(one["t_cam_obj_mm"], abs=0.06)
    assert not list(out.glob("*.overlay.png")), "not asked for"


def test_what_does_not_exist_is_refused(make_settings, world: World, tmp_path: Path, capsys) -> None:
    with pytest.raises(ConfigError, match=r"no refiner is called 'none'; there are contours"):
        refiner_of(world, make_settings(**{"refinement.refiner": "none"}).refinement)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)
    assert main(["predict", "hammer", str(photo), "--K", "fov=60", "--write", "film"]) == 1
    assert "--write: no output is called 'film'; there are json, overlays" in capsys.readouterr().err


def test_the_baselines_train_on_it(settings: Settings, tmp_path: Path, world: World) -> None:
    run, fabric = Run.create(tmp_path / "run", settings), make_fabric("cpu")
    train_detector(run, world, fabric)
    train_jitter(run, world, fabric, train_step1(run, world, fabric))
    (image,), K, _ = SceneSource(world, "test").scenes(torch.arange(1)).photographs()
    for method in ("extended", JITTER):
        assert PoseEstimator.load(run.path, method, "cpu")(image, K)


def test_a_box_of_a_whole_crop_has_the_crops_code(settings: Settings) -> None:
    """At whatever stride: Step 1's FC weights see in Step 2 what they were trained on."""
    torch.manual_seed(0)
    network, crops = build_joint(settings).eval(), torch.rand(2, 3, 32, 32)
    inset = 16.0 - 16.0 / ROI_PAD
    boxes = torch.tensor([[inset, inset, 32.0 - inset, 32.0 - inset]]).expand(2, 4)
    codes = network.latents(network.encoder(crops), boxes, torch.arange(2))
    torch.testing.assert_close(codes, network.autoencoder.encode(crops), rtol=1e-4, atol=1e-4)
    assert network.autoencoder.decode(codes).shape == crops.shape


@pytest.fixture
def estimator(settings: Settings, tmp_path: Path) -> PoseEstimator:
    """Of random weights; it finds something in every image."""
    run = Run.create(tmp_path / "run", settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(settings))
    return PoseEstimator.load(run, device="cpu")


def test_the_exported_graph_finds_the_same(estimator: PoseEstimator, world: World) -> None:
    pixels, K = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8), geometry.to_opencv(world.K)
    wanted = estimator(pixels, K)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0
    with torch.no_grad():
        found = dict(zip(export.OUTPUTS, PoseGraph(estimator).eval()(image, K), strict=True))
    assert len(wanted) == 2
    for i, one in enumerate(wanted):
        torch.testing.assert_close(found["boxes"][i], torch.from_numpy(one.box).float(), atol=1e-2, rtol=1e-4)
        assert float(found["similarity"][i]) == pytest.approx(one.similarity, abs=1e-4)


@pytest.mark.slow
def test_onnx_runtime_finds_the_same(estimator: PoseEstimator, tmp_path: Path, world: World) -> None:
    pytest.importorskip("onnxscript")
    graph = export_onnx(estimator, tmp_path / "part.onnx")
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    count, off = largest_difference(graph, tmp_path / "part.onnx", images, geometry.to_opencv(world.K))
    assert count == 4
    assert off < 0.01


class Wrong(Backbone):
    stride, out_channels = 32, 8


def test_a_stride_that_suits_no_image_is_refused(make_settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "wrong", lambda *_: Wrong())
    with pytest.raises(ConfigError, match=r"network\.backbone wrong: its stride must be 2, 4, 8 or 16, not 32"):
        build_encoder(make_settings(**{"network.backbone": "wrong"}))


def test_a_backbone_without_pretrained_weights_says_so() -> None:
    with pytest.raises(ConfigError, match=r"Wrong has no pretrained weights: type --network\.weights none"):
        Wrong().load_pretrained()


def test_random_weights_are_not_frozen(make_settings) -> None:
    with pytest.raises(ConfigError, match=r"network\.frozen: random weights would stay random"):
        make_settings(**{"network.frozen": True})
