"""Nothing is made on the CPU that meets a GPU's tensors: shown without a GPU, on fake tensors, which have a device and
a shape but no values. Mixing devices raises, as it does on a GPU.

What depends on values (nonzero, masks, tolist) cannot run like this, because it makes the program wait for the GPU:
that a training step's losses run shows that they never wait. ``test_cuda.py`` covers the rest where there is a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.confidence import Confidence
from codepose.estimation.evidence import evidence
from codepose.evaluation import pose_errors, vsd
from codepose.networks import windows
from codepose.networks.boxes import best_proposals
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.networks.losses import angle_loss, cos_loss, match_loss, mse
from codepose.networks.roi import roi_pool
from codepose.paper.jitter import jittered_boxes
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries
from codepose.randomness import Draws
from codepose.refinement import render_and_compare as refine
from codepose.refinement.edges import edge_field, edge_points
from codepose.refinement.poses import Photos, Poses, Seen
from codepose.rendering.rasteriser import Rasteriser
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.rendering.shading import Lights
from codepose.settings.schema import Settings
from codepose.settings.training import OptimizerSettings
from codepose.synthesis import batches, scenes
from codepose.synthesis.backgrounds import Backgrounds
from codepose.synthesis.lookalikes import spread_views, thumbnails
from codepose.synthesis.occluders import Occluders, merge
from codepose.synthesis.placement import Companions, _shared, draw_views, place
from codepose.synthesis.world import World
from codepose.training import stages
from codepose.training.meter import Meter
from codepose.training.optimizers import build_optimizer

GPU = torch.device("cuda", 0)
ITEMS = 3


@pytest.fixture(name="draws")
def _draws() -> Draws:
    return Draws(0, "train", torch.arange(ITEMS), GPU)  # reads the items' values: before they are fake


@pytest.fixture(autouse=True)
def _fake(world: World, draws: Draws) -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield


@pytest.fixture(name="gpu_world")
def _gpu_world(world: World) -> World:
    """A world whose tensors are on the GPU, and whose renders have no values."""
    moved = copy.copy(world)
    moved.device, moved.K = GPU, on_gpu(3, 3)
    moved._z_ref, moved.diameters = on_gpu(len(world.objects)), on_gpu(len(world.objects))
    moved.renderer = copy.copy(world.renderer)
    moved.renderer.device = GPU
    moved.renderer.render = _rendered  # type: ignore[method-assign]
    moved.renderer.depth = lambda *scene: _rendered(*scene).depth  # type: ignore[method-assign]
    moved.renderer.projected_boxes = lambda instances, K: _boxes(instances, K)  # type: ignore[method-assign]
    return moved


def _rendered(instances: Instances, K: Tensor, size: tuple[int, int]) -> Buffers:
    shape = (len(K), *size)
    assert {x.device for x in (K, instances.mesh, instances.R, instances.t, instances.image)} == {GPU}
    ids = torch.zeros(shape, dtype=torch.int32, device=GPU)
    return Buffers(on_gpu(*shape), ids, on_gpu(*shape, 3), on_gpu(*shape, 3), on_gpu(*shape))


def _boxes(instances: Instances, K: Tensor) -> Tensor:
    return geometry.projected_box(on_gpu(8, 3), instances.R, instances.t, K[instances.image])


def on_gpu(*shape: int) -> Tensor:
    return torch.rand(*shape, device=GPU)


def which(count: int, below: int = 1) -> Tensor:
    return torch.randint(below, (count,), device=GPU)


def assert_on_gpu(found: Any) -> None:
    """Every tensor of a result, however deep it lies."""
    if isinstance(found, Tensor):
        assert found.device == GPU
    elif isinstance(found, dict):
        assert_on_gpu(list(found.values()))
    elif isinstance(found, list | tuple):
        for one in found:
            assert_on_gpu(one)
    elif hasattr(found, "__dataclass_fields__"):
        assert_on_gpu([getattr(found, name) for name in found.__dataclass_fields__])


def test_mixing_devices_raises() -> None:
    with pytest.raises(FakeTensorDeviceMismatchError):
        on_gpu(2) + torch.rand(2)


def test_geometry() -> None:
    R, t, K, boxes, hull = on_gpu(4, 3, 3), on_gpu(4, 3), on_gpu(3, 3), on_gpu(4, 4), on_gpu(9, 3)
    squares = geometry.padded_square(jittered_boxes(boxes, 0.1, (0.8, 1.2)), 1.2)
    found = [
        geometry.geodesic_angle(R, R),
        geometry.view_rotation(t, t[:, 0]),
        geometry.directions_in_cone(on_gpu(4, 2), on_gpu(3), 40.0),
        geometry.rotation_between(t[0], t),
        geometry.offaxis_rotation(t),
        geometry.projected_box(hull, R, t, K),
        geometry.sampling_grid(squares, 8, (64, 48)),
        geometry.crop_camera(K, squares, 32),
        geometry.translation_from_box(boxes, K, boxes, K, t[:, 0]),
        geometry.fit_translation(hull, R, boxes, K, t),
        geometry.to_opencv(K),
        geometry.from_opencv(K),
    ]
    assert_on_gpu(found)


def test_draws_lights_and_backgrounds(draws: Draws, tiny_settings: Settings) -> None:
    assert_on_gpu([draws.uniform("a", 2), draws.chance("b", 0.5), draws.integer("c", 9), draws.direction("d")])
    assert_on_gpu([Lights.draw(draws, tiny_settings.data.augmentation), Lights.fixed(2, GPU)])
    assert_on_gpu(Backgrounds((on_gpu(4, 3, 16, 16) * 255.0).byte(), "").sample(draws, 24))


def test_placement(draws: Draws, gpu_world: World) -> None:
    R, t = place(gpu_world, draws, which(ITEMS), on_gpu(ITEMS, 3, 3))
    boxes = gpu_world.boxes(which(ITEMS), R, t)
    beside = Companions(which(ITEMS)[:, None], R[:, None], t[:, None], boxes[:, None]).without(which(1))
    assert_on_gpu([R, t, boxes, beside, _shared(boxes, boxes[:, None])])


def test_occluders(draws: Draws, gpu_world: World, tiny_settings: Settings) -> None:
    occluders = Occluders(gpu_world, tiny_settings.data.occlusion)
    order = torch.arange(ITEMS, device=GPU)
    thing = occluders._thing(draws, "thing", order, on_gpu(ITEMS), on_gpu(ITEMS, 2), on_gpu(ITEMS))
    own = (Instances.single(which(ITEMS), on_gpu(ITEMS, 3, 3), on_gpu(ITEMS, 3)), on_gpu(ITEMS, 3))
    assert_on_gpu([occluders._grips, occluders._hand_scales, merge([own, thing])])


def test_images(draws: Draws, gpu_world: World, tiny_settings: Settings) -> None:
    source = scenes.SceneSource.__new__(scenes.SceneSource)
    source.world, source.split, source.settings = gpu_world, "train", tiny_settings
    assert_on_gpu([source._jittered(on_gpu(ITEMS, 4), draws, 1.0), source._clean(draws)])
    assert_on_gpu(scenes._mask_boxes(on_gpu(ITEMS, 16, 16) > 0.5))


def test_windows_of_a_render() -> None:
    rasteriser = Rasteriser.__new__(Rasteriser)
    rasteriser.device, rasteriser._corners = GPU, on_gpu(2, 8, 3)
    instances = Instances.single(which(ITEMS), on_gpu(ITEMS, 3, 3), on_gpu(ITEMS, 3))
    windows, before = rasteriser._windows(instances, on_gpu(ITEMS, 3, 3), (16, 12))
    assert windows.device == before.device == torch.device("cpu")  # whoever launches the kernels counts them
    assert windows.shape == (ITEMS, 4)


def test_depth_alone(gpu_world: World) -> None:
    args = (which(2), on_gpu(2, 3, 3), on_gpu(2, 3), on_gpu(3, 3), (16, 16))
    assert_on_gpu(Renderer.depth_alone(gpu_world.renderer, *args))


@pytest.mark.parametrize("build", [build_extended, build_original])
def test_autoencoders(build: Any, tiny_settings: Settings) -> None:
    with GPU:
        network = build(tiny_settings)
    latents, reconstructions = network(on_gpu(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert_on_gpu([latents, reconstructions, mse(reconstructions, on_gpu(2, 3, 32, 32), 4)])


class NoUploads(TorchFunctionMode):
    """Refuses to copy numbers to the GPU, which waits for it unless told not to."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device == GPU:
            name = getattr(func, "__name__", "")
            assert name not in ("tensor", "as_tensor", "new_tensor", "asarray"), name
            if name in ("to", "cuda") and args[0].device != GPU:
                assert (kwargs or {}).get("non_blocking"), "a copy that waits"
        return result


def test_uploads_and_values_are_refused() -> None:
    with NoUploads():
        on_gpu(3).new_full((), 2.0)
        torch.zeros(2).to(GPU, non_blocking=True)
        for copy_numbers in (lambda: torch.tensor(2.0, device=GPU), lambda: on_gpu(3).new_tensor([1.0])):
            with pytest.raises(AssertionError, match="tensor"):
                copy_numbers()
        with pytest.raises(AssertionError, match="waits"):
            torch.zeros(2).to(GPU)
    for ask in (lambda: on_gpu(3).nonzero(), lambda: on_gpu(3)[on_gpu(3) > 0.5], lambda: bool(on_gpu(3).any())):
        with pytest.raises((DynamicOutputShapeException, DataDependentOutputException)):
            ask()


def iteration(stage: stages.Stage, batch: Any) -> dict[str, Tensor]:
    """A training step's forward pass: to go back, autograd wants a real GPU. Returns the loss's terms."""
    with NoUploads():
        total, terms = stage.loss(stage.network.train(), batch)
    assert_on_gpu([total, terms])
    return terms


@pytest.mark.parametrize("codes", [0.0, 0.5])
def test_a_step_on_scenes_never_waits_for_the_gpu(
    world: World, gpu_world: World, make_settings: Any, monkeypatch: pytest.MonkeyPatch, codes: float
) -> None:
    """The joint network's, and the detector's."""
    weights = {f"losses.step2_lambda_{name}": codes for name in ("cos", "match")}
    settings = make_settings(**weights)
    monkeypatch.setattr(stages, "SceneSource", lambda *_, **__: scenes.SceneSource.__new__(scenes.SceneSource))
    with GPU:
        joint, detector = build_joint(settings), build_detector(settings)
    for network in (joint, detector):  # at first torchvision makes its anchors on the CPU
        network.heads.rpn.anchors.set_cell_anchors(torch.float32, GPU)
    gpu_world.objects = [copy.copy(o) for o in world.objects]
    for model in gpu_world.objects:
        model.__dict__["symmetries"] = Symmetries.none()
    scene: dict[str, Any] = {name: on_gpu(4, 4) for name in batches.SceneBatch.__dataclass_fields__}
    scene |= {name: None for name in scene if name.startswith("other_")}
    scene |= {"images": on_gpu(4, 3, 128, 128), "targets": on_gpu(4, 3, 32, 32), "objects": which(4)}
    batch = batches.SceneBatch(**scene | {"R_view": on_gpu(4, 3, 3)})
    terms = iteration(stages.step2_stage(settings, gpu_world, joint), batch)
    assert ("match" in terms) == (codes > 0)
    assert set(iteration(stages.detector_stage(settings, gpu_world, detector), batch)) < set(terms)


def test_step1s_loss(world: World, gpu_world: World, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stages, "SceneSource", lambda *_, **__: scenes.SceneSource.__new__(scenes.SceneSource)
    )  # its textures are drawn with NumPy
    losses = tiny_settings.losses.model_copy(update={"lambda_match": 1.0})
    with GPU:
        network = build_extended(tiny_settings)
    gpu_world.objects = [copy.copy(o) for o in world.objects]
    for model in gpu_world.objects:  # those of a symmetric object depend on values
        model.__dict__["symmetries"] = Symmetries.none()
    stage = stages.step1_stage(tiny_settings.model_copy(update={"losses": losses}), gpu_world, network)
    crops = on_gpu(4, 3, 32, 32)
    batch = scenes.CropBatch(torch.arange(4), crops, crops, which(4), on_gpu(4, 3, 3), on_gpu(4))
    terms = iteration(stage, batch)
    meter = Meter(4, GPU)
    with NoUploads():
        meter.add(terms, 0.0)
    assert_on_gpu(meter._sums)


def test_joint_network(tiny_settings: Settings) -> None:
    with GPU:
        network = build_joint(tiny_settings)
    images, boxes, order = on_gpu(2, 3, 128, 128), on_gpu(2, 4), torch.arange(2, device=GPU)
    features = network.encoder(images)
    assert_on_gpu(list(network.heads.rpn(features, (128, 128))))
    best, found = best_proposals(on_gpu(2, 5, 4), on_gpu(2, 5) > 0.5, boxes[:, None])
    assert_on_gpu([best, found, network.heads.refine(features, best, order[:, None], (128, 128))])
    assert_on_gpu([network.latents(features, boxes, order), network.view_latents(on_gpu(2, 3, 32, 32), 64)])
    assert_on_gpu([roi_pool(features, boxes, order, 2, 16)])
    assert_on_gpu([roi_pool(images, boxes, order, 32, stride=1)])


@pytest.mark.parametrize("gradient", [True, False])
def test_roi_pooling(gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        pooled = roi_pool(on_gpu(2, 8, 4, 4), on_gpu(2, 5, 4), torch.arange(2, device=GPU), 7, 16, 2)
    assert pooled.shape == (10, 8, 7, 7)
    assert_on_gpu(pooled)


def test_targets_of_the_detector() -> None:
    scene = {name: on_gpu(2, 4) for name in batches.SceneBatch.__dataclass_fields__}
    scene |= {"objects": which(2), "other_objects": None, "other_boxes": None}
    assert_on_gpu(stages.targets_of(batches.SceneBatch(**scene)))


def test_losses() -> None:
    latents, R, objects = on_gpu(5, 8), on_gpu(5, 3, 3), which(5)
    found = [angle_loss(latents, R, objects)]
    assert_on_gpu([*found, cos_loss(latents, latents), match_loss(latents, latents, R, objects)])
    axis = (ContinuousSymmetry(np.eye(3)[2], np.zeros(3)),)
    groups = [Symmetries(np.eye(4)[None]), Symmetries(np.zeros((0, 4, 4)), axis), Symmetries.none()]
    with NoUploads():
        assert_on_gpu([match_loss(latents, latents, R, which(5, 3), groups)])


def test_what_meshes_reach(gpu_world: World) -> None:
    renderer = copy.copy(gpu_world.renderer)
    del renderer.projected_boxes
    renderer._hulls = copy.copy(renderer._hulls)
    renderer._hulls._filled = on_gpu(4, 9, 3)
    things = Instances.single(which(ITEMS, 4), on_gpu(ITEMS, 3, 3), on_gpu(ITEMS, 3))
    with NoUploads():
        boxes = renderer.projected_boxes(things, on_gpu(ITEMS, 3, 3))
        assert_on_gpu([boxes, renderer.nearest_depths(things), renderer.lowest(things.mesh, things.t)])


def test_views_of_several_objects(draws: Draws, gpu_world: World) -> None:
    gpu_world.cones = (on_gpu(2, 3), on_gpu(2), on_gpu(2) > 0.5)  # type: ignore[misc]
    assert_on_gpu(draw_views(gpu_world, draws, which(ITEMS, 2)))


@pytest.mark.parametrize("kind", ["discrete", "axis", "ball"])
def test_symmetries(kind: str) -> None:
    axis = ContinuousSymmetry(np.eye(3)[2], np.ones(3))
    discrete = np.eye(4)[None] if kind == "discrete" else np.zeros((0, 4, 4))
    group = Symmetries(discrete, {"discrete": (), "axis": (axis,), "ball": (axis,) * 3}[kind])
    assert_on_gpu([group.angles(on_gpu(2, 1, 3, 3), on_gpu(5, 3, 3))])
    assert_on_gpu(group.nearest(on_gpu(2, 3, 3), on_gpu(2, 3, 3), on_gpu(2, 3)))


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "adabound"])
def test_optimisers(name: Any) -> None:
    with GPU:
        layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3))
    parameters = list(layers.parameters())
    optimizer = build_optimizer([(parameters, 1.0)], OptimizerSettings(name=name))
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.rand_like(parameter)
        with NoUploads():
            optimizer.step()
    state = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]  # counts, wherever it is
    assert_on_gpu([x for x in state if isinstance(x, Tensor)])


def test_codebook() -> None:
    views, width = 50, 16
    book = Codebook(
        label="",
        codes=torch.rand(views, width).half(),
        thumbnails=torch.rand(views, 64).half(),
        rotations=torch.rand(views, 3, 3),
        boxes=torch.rand(views, 4),
        z_ref=500.0,
        K=torch.rand(3, 3),
        hull=torch.rand(9, 3),
        offset=torch.rand(3),
        fingerprint="",
    ).to(GPU)
    assert_on_gpu(book)
    for queries in (1, 20):
        values, found = book.search(on_gpu(queries, width), 4)
        images = on_gpu(queries, 3, 32, 32)
        assert_on_gpu([values, found, *book.rerank(found, values, images), thumbnails(images)])
        assert_on_gpu(book.poses(found[:, 0], on_gpu(queries, 4), on_gpu(3, 3)))


class FakeField:
    """An edge field whose votes have no values: Warp's arrays need a real GPU."""

    def __init__(self, directions: Tensor) -> None:
        assert_on_gpu(directions)

    def votes(self, *given: Tensor) -> Tensor:
        assert_on_gpu(given)
        return on_gpu(*given[-1].shape)


def test_contours_and_refinement(gpu_world: World, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codepose.refinement.edges.EdgeField", FakeField)
    monkeypatch.setattr("codepose.refinement.edges.gaussian_blur2d", lambda images, *_: images)  # reads its sigma
    depth, normal, color = on_gpu(2, 32, 32), on_gpu(2, 32, 32, 3), on_gpu(2, 32, 32, 3)
    assert_on_gpu([edge_field(on_gpu(2, 3, 32, 32), 1.0), edge_points(depth, normal, color, depth)])
    gpu_world.clean_views = lambda objects, R: on_gpu(len(R), 3, 32, 32)  # type: ignore[method-assign, assignment]
    where = which(2), on_gpu(2, 4), which(2), on_gpu(3, 3)
    refiner = refine.ContourRefiner(gpu_world, tiny_settings.refinement)
    monkeypatch.setattr(refine, "by_resolution", lambda _: (which(2), which(2)))  # reads the boxes
    start = Poses.start(on_gpu(2, 3, 3, 3), on_gpu(2, 3, 3), on_gpu(2, 3))
    for photos in (None, Photos(on_gpu(1, 3, 384, 384), on_gpu(2))):
        assert_on_gpu(refiner(Seen(on_gpu(1, 3, 128, 128), *where, on_gpu(2, 3, 32, 32), on_gpu(2), photos), start))
    assert_on_gpu(spread_views(on_gpu(2, 4, 3, 3), 2, 20.0))


def test_confidence() -> None:
    zeros = (0.0,) * 4
    known = Confidence(mean=zeros, scale=(1.0,) * 4, weights=zeros, bias=0.0, detections=1, correct=1)
    assert_on_gpu(known(evidence(*(on_gpu(3) for _ in range(4)))))


def test_windows() -> None:
    view = windows.Window(8, 8, 32, 16)
    assert_on_gpu(view.look(on_gpu(1, 3, 64, 64), on_gpu(3, 3), 128))
    assert_on_gpu(
        [view.to_photo(on_gpu(3, 4), 128), view.from_photo(on_gpu(3, 4), 128), view.cuts(on_gpu(3, 4), 128, 64, 64)]
    )


def test_pose_errors() -> None:
    poses = (on_gpu(9, 3), on_gpu(2, 3, 3), on_gpu(2, 3), on_gpu(2, 3, 3), on_gpu(2, 3))
    turns = torch.rand(3, 4, 4)  # as a BOP model has them, on the CPU
    found = [pose_errors.mssd(*poses, turns), pose_errors.mspd(*poses, on_gpu(3, 3), turns), pose_errors.add(*poses)]
    assert_on_gpu([*found, pose_errors.symmetric_distance(*poses[1:], turns)])


def test_vsd() -> None:
    image, pixel, depth = which(20, 2), which(20, 99), on_gpu(20)
    inverse = vsd._inverse_camera(torch.rand(3, 3), 2, GPU)
    assert_on_gpu([vsd._ray_lengths(inverse, image, pixel, 16), vsd._visible(depth, depth, 15.0, "bop19")])
    assert_on_gpu([vsd._summed_costs(depth.double(), image, 2, (0.1, 0.2), cost) for cost in ("step", "tlinear")])


def test_backward_pass(tiny_settings: Settings) -> None:
    """On the fake device "meta": torch's engine asks for a real GPU's context."""
    with torch.device("meta"):
        network = build_extended(tiny_settings)
        images, boxes = torch.rand(2, 3, 64, 64), torch.rand(2, 4)
        order = torch.arange(2)
    features = network.encoder(images)
    latents = network.head.encode(roi_pool(features, boxes, order, 2, 16))
    error = mse(network.decode(latents), F.interpolate(images, (32, 32)), 4).mean()
    (error + angle_loss(latents, torch.rand(2, 3, 3, device="meta"), order)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in network.parameters())
