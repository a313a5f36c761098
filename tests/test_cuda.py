"""A GPU finds what the CPU finds, and trains: run with ``pytest tests/test_cuda.py --device cuda``.

Tolerances: float32 sums come in another order, so renders agree but at edges, where a ray just hits or misses.
Convolutions and products are done in float32 proper, without TF32, and with ``precision: float32``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from codepose import geometry
from codepose.cli.main import main
from codepose.estimation.codebook import Codebook, build_codebook, fingerprint
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import load_pipeline
from codepose.evaluation.vsd import vsd
from codepose.networks.build import build_detector, build_extended, build_joint
from codepose.networks.losses import angle_loss, mse
from codepose.networks.roi import roi_pool
from codepose.refinement.depth_fit import DepthRefiner
from codepose.refinement.edge_fit import EdgeFit
from codepose.refinement.poses import Photos, Poses, Seen
from codepose.refinement.render_and_compare import ContourRefiner
from codepose.rendering.renderer import Instances
from codepose.runtime.checkpoint import load_state
from codepose.runtime.devices import make_fabric
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.loop import fit
from codepose.training.plan import Stage
from codepose.training.stages import detector_stage, step1_stage, step2_stage, train_detector, train_step1, train_step2


@pytest.fixture(autouse=True)
def _float32(device: str) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def there(device: str, tiny_settings: Settings) -> World:
    return World(tiny_settings, device)


@pytest.fixture(scope="module")
def run(random_run: Run) -> Run:
    return random_run


def assert_near(here: Tensor, there: Tensor, *, off: float, share: float = 0.0) -> None:
    """Values are off by no more than ``off``, but for a ``share`` of them."""
    assert here.shape == there.shape
    far = (here.double() - there.cpu().double()).abs() > off
    assert float(far.double().mean()) <= share


def poses(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(count, 3, generator=generator)
    axis = torch.tensor([0.0, 0.0, 1.0])
    R = geometry.view_rotation(geometry.directions_in_cone(u[:, :2], axis, 180.0), 6.0 * u[:, 2])
    return R, torch.tensor([20.0, -10.0, 450.0]) + 60.0 * torch.rand(count, 3, generator=generator)


def test_renders_agree(world: World, there: World) -> None:
    """Depth to 0.01 mm; a hundredth of the pixels may lie on an edge."""
    R, t = poses(6)
    seen = []
    for one in (world, there):
        order = torch.arange(6, device=one.device) // 2
        mesh = torch.arange(6, device=one.device) % len(one.renderer._hulls)
        ones = torch.ones(6, device=one.device)
        instances = Instances(order, mesh, R.to(one.device), t.to(one.device), ones, torch.full_like(order, -1))
        seen.append(one.renderer.render(instances, one.K.expand(3, 3, 3), (128, 128)))
    assert float((seen[0].depth > 0).float().mean()) > 0.01
    assert_near(seen[0].depth, seen[1].depth, off=0.01, share=0.01)
    assert_near(seen[0].instance, seen[1].instance, off=0.0, share=0.01)
    assert_near(seen[0].normal, seen[1].normal, off=1e-3, share=0.01)
    assert_near(seen[0].color, seen[1].color, off=1e-3, share=0.01)


def test_training_images_agree(world: World, there: World) -> None:
    """Images to 1/255 but for edges; poses to 0.01 mm, boxes to 0.01 pixels."""
    crops, other = (SceneSource(one, "train").crops(torch.arange(8)) for one in (world, there))
    assert_near(crops.inputs, other.inputs, off=1 / 255, share=0.03)
    assert_near(crops.targets, other.targets, off=1 / 255, share=0.03)
    assert_near(crops.R_view, other.R_view, off=1e-5)
    scenes, other_scenes = (SceneSource(one, "train").scenes(torch.arange(4), depth=True) for one in (world, there))
    assert_near(scenes.images, other_scenes.images, off=1 / 255, share=0.03)
    assert scenes.depth is not None
    assert other_scenes.depth is not None
    assert_near(scenes.depth, other_scenes.depth, off=0.01, share=0.01)
    assert_near(scenes.t_cam_obj, other_scenes.t_cam_obj, off=0.01)
    assert_near(scenes.boxes, other_scenes.boxes, off=0.01)


def test_a_side_stream_sees_the_same(device: str, there: World) -> None:
    """What the data thread makes on its own stream, from meshes and textures of another one, is the same to 1e-4."""
    source = SceneSource(there, "train")
    plain = source.scenes(torch.arange(4)).images.cpu()
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        other = source.scenes(torch.arange(4)).images
    stream.synchronize()
    assert_near(plain, other.cpu(), off=1e-4)


def test_networks_agree(device: str, tiny_settings: Settings) -> None:
    """Outputs to 1e-4, gradients to 1 % of their largest value."""
    generator = torch.Generator().manual_seed(0)
    images, R = torch.rand(4, 3, 32, 32, generator=generator), poses(4)[0]
    found = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        network = build_extended(tiny_settings).to(where)
        latents, reconstructions = network(images.to(where))
        loss = mse(reconstructions, images.to(where), 4).mean()
        loss = loss + angle_loss(latents, R.to(where), torch.zeros(4, dtype=torch.long, device=where))
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None])
        found.append((latents.detach(), reconstructions.detach(), gradient))
    (latents, pictures, gradient), (other_latents, other_pictures, other_gradient) = found
    assert_near(latents, other_latents, off=1e-4 * float(latents.abs().max()))
    assert_near(pictures, other_pictures, off=1e-4)
    assert_near(gradient, other_gradient, off=0.01 * float(gradient.abs().max()))


def test_roi_pooling_agrees_with_its_gradient(device: str) -> None:
    """A GPU takes torchvision's RoIAlign, the CPU one ``grid_sample``: the same to 1e-4."""
    torch.manual_seed(0)
    features, found = torch.rand(2, 8, 8, 8), []
    boxes = torch.tensor([[8.0, 8.0, 60.0, 90.0], [30.0, 10.0, 100.0, 70.0]])
    for where in ("cpu", device):
        x = features.to(where).detach().clone().requires_grad_()  # on the CPU `to` gives the same tensor
        pooled = roi_pool(x, boxes.expand(2, 2, 4).to(where), torch.arange(2, device=where), 7, 16, 2)
        pooled.square().sum().backward()
        assert x.grad is not None
        found.append((pooled.detach(), x.grad))
    assert_near(found[0][0], found[1][0], off=1e-4)
    assert_near(found[0][1], found[1][1], off=1e-3)


@pytest.fixture(scope="module")
def book(run: Run, world: World) -> Codebook:
    return build_codebook(load_pipeline(run, "joint", torch.device("cpu")), world, 0)


def test_codebooks_agree(run: Run, book: Codebook, device: str, there: World) -> None:
    """Codes to 0.01, and the same fingerprint: one built on a GPU serves a CPU."""
    pipeline = load_pipeline(run, "joint", there.device)
    other = build_codebook(pipeline, there, 0)
    assert fingerprint(pipeline) == book.fingerprint
    assert_near(book.codes, other.codes, off=0.01)
    assert_near(book.boxes, other.boxes, off=0.01)
    assert_near(book.rotations, other.rotations, off=1e-6)


@pytest.mark.parametrize("queries", [1, 5, 30])
def test_search_agrees(book: Codebook, device: str, queries: int) -> None:
    """Similarities to 1e-5; the views themselves where no other is as near."""
    latents = torch.randn(queries, book.codes.shape[1], generator=torch.Generator().manual_seed(2))
    values, views = book.search(latents, 4)
    other_values, other_views = book.to(torch.device(device)).search(latents.to(device), 4)
    assert_near(values, other_values, off=1e-5)
    clear = values[:, 0] - values[:, 1] > 1e-4
    assert torch.equal(views[clear, 0], other_views.cpu()[clear, 0])
    boxes = torch.tensor([[40.0, 40.0, 80.0, 70.0]]).expand(queries, 4)
    K = geometry.camera_matrix(75.0, 64.0, 64.0)
    R, t = book.poses(views[:, 0], boxes, K)
    other_R, other_t = book.to(torch.device(device)).poses(views[:, 0].to(device), boxes.to(device), K.to(device))
    assert_near(R, other_R, off=1e-4)
    assert_near(t, other_t, off=0.1)


def test_vsd_agrees(world: World, device: str) -> None:
    """float64 on the same depths: to 1e-9."""
    R, t = poses(4)
    objects, K = torch.zeros(4, dtype=torch.long), world.K
    true, moved = (world.renderer.depth_alone(objects, R, t + x, K, (128, 128)) for x in (0.0, 15.0))
    scene = torch.where(true > 0, true, 3000.0)
    given = (moved, true, scene, K)
    for cost in ("step", "tlinear"):
        kinds: dict[str, Any] = {"taus": (5.0, 20.0), "cost": cost, "diameter": torch.full((4,), 300.0)}
        assert_near(vsd(*given, **kinds), vsd(*(x.to(device) for x in given), **kinds), off=1e-9)


def test_refinement_agrees(world: World, there: World, tiny_settings: Settings) -> None:
    """The best of several poses, found by discrete choices: agreement to 0.02, place to 5 mm."""
    scenes = SceneSource(world, "val").scenes(torch.arange(2))
    larger = torch.nn.functional.interpolate(scenes.images, scale_factor=3.0, mode="bilinear")
    photos = Photos(larger, torch.full((2,), 3.0))
    where = (torch.arange(2), scenes.boxes, scenes.objects, scenes.K)
    seen = Seen(scenes.images, *where, scenes.targets, torch.full((2,), 128.0), photos)
    R, t = scenes.R_view[:, None].expand(-1, 3, 3, 3), scenes.t_cam_obj[:, None].expand(-1, 3, 3)
    start = Poses.start(R, t, torch.zeros(2, 3))
    found = ContourRefiner(world, tiny_settings.refinement)(seen, start)
    other = ContourRefiner(there, tiny_settings.refinement)(seen, start)
    assert other.t.device.type == "cpu", "given back where it came from"
    assert_near(found.agreement, other.agreement, off=0.02)
    assert_near(found.t, other.t, off=5.0)
    fitted, again = (EdgeFit(one)(seen, start) for one in (world, there))
    assert again.t.device.type == "cpu"
    assert_near(fitted.t, again.t, off=5.0)


def test_depth_fit_agrees(world: World, there: World) -> None:
    """ICP from the same start: place to 0.5 mm, rotation to 0.5 degrees."""
    R, t = (x[0] for x in poses(1))
    K = geometry.camera_matrix(150.0, 64.0, 64.0)
    depth = world.renderer.depth_alone(torch.zeros(1, dtype=torch.long), R[None], t[None], K, (128, 128))[0].numpy()
    start = (R.double().numpy(), t.double().numpy() + np.array([2.0, -2.0, 25.0]))
    found, other = (DepthRefiner(one).fit(0, *start, K, depth) for one in (world, there))
    assert found is not None
    assert other is not None
    assert np.abs(found[1] - other[1]).max() < 0.5
    assert float(geometry.geodesic_angle(*(torch.from_numpy(x[0]) for x in (found, other))).rad2deg()) < 0.5


def test_estimates_agree(run: Run, device: str) -> None:
    """The best score to 1e-3; the boxes of untrained networks score nearly alike, and any may come first."""
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    camera = geometry.to_opencv(geometry.camera_matrix(75.0, 64.0, 64.0)).numpy()
    found = [PoseEstimator.load(run, device=where, refine=True)(image, camera, tiles=2) for where in ("cpu", device)]
    assert found[0]
    assert found[1]
    assert abs(found[0][0].score - found[1][0].score) < 1e-3


def test_all_stages_train_and_predict(
    device: str, tmp_path: Path, make_settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In bf16 where the GPU has it, with Muon and clipping, companions: then evaluated and predicted with."""
    changes = {"precision": "auto", "data.occlusion.companions": 1}
    changes |= {"step1.optimizer.name": "muon", "step1.optimizer.clip": 1.0, "losses.lambda_match": 1.0}
    changes |= {"losses.step2_lambda_cos": 0.01, "losses.step2_lambda_match": 0.01, "detection.score": 0.0}
    run = Run.create(tmp_path / "run", make_settings(**changes))
    fabric = make_fabric(device)
    world = World(run.settings, fabric.device)
    extended = train_step1(run, world, fabric)
    train_step2(run, world, fabric, extended)
    train_detector(run, world, fabric)
    for stage in ("step1", "step2", "detector"):
        assert run.has(stage)
        last = [r for r in run.metrics(stage) if "lr" in r][-1]
        assert all(np.isfinite(v) for v in last.values())
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    words = [
        "predict",
        str(run.path),
        str(tmp_path / "a.png"),
        "--K",
        "75,75,63.5,47.5",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--min-score", "0", "--min-judged=-99", "--device", device]) == 0
    assert json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    assert main(["evaluate", str(run.path), "--images", "2", "--refine", "--depth", "--device", device]) == 0


@pytest.mark.parametrize("name", ["step1", "detector", "step2"])
def test_a_stopped_stage_goes_on_where_it_was(
    device: str, there: World, tiny_settings: Settings, tmp_path: Path, name: str
) -> None:
    """As without the stop: the same random numbers, and weights to 5 % of the largest, but for 5 % of them, since a GPU
    adds gradients up in any order."""
    kinds = {"step1": step1_stage, "detector": detector_stage, "step2": step2_stage}
    networks = {"step1": build_extended, "detector": build_detector, "step2": build_joint}
    found, drawn = [], []

    def watched(stage: Stage, stop_at: int | None, numbers: list[float]) -> Stage:
        """The stage, stopped before an iteration, with a random number of each iteration noted."""

        def loss(network: Any, batch: Any) -> Any:
            if len(numbers) == stop_at:
                raise KeyboardInterrupt
            numbers.append(float(torch.rand(1, device=device)))
            return stage.loss(network, batch)

        return dataclasses.replace(stage, loss=loss)

    for stop in (False, True):
        run, numbers = Run.create(tmp_path / str(stop), tiny_settings), []
        torch.manual_seed(3)
        stage = kinds[name](tiny_settings, there, networks[name](tiny_settings))
        if stop:
            with pytest.raises(KeyboardInterrupt):
                fit(watched(stage, 2, numbers), run, make_fabric(device), seed=0)
            state = run.load_checkpoint(name)
            assert state is not None
            assert state["step"] == 2
            torch.manual_seed(987)
            stage = kinds[name](tiny_settings, there, networks[name](tiny_settings))
        fit(watched(stage, None, numbers), run, make_fabric(device), seed=0)
        found.append(load_state(run.path / name / "weights.safetensors"))
        drawn.append(numbers)
    assert len(drawn[0]) == 4
    assert drawn[0] == drawn[1]
    for key, value in found[0].items():
        if value.is_floating_point():
            assert_near(value, found[1][key], off=0.05 * max(0.02, float(value.abs().max())), share=0.05)
