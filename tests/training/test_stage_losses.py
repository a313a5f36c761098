"""What each stage minimises, on what, written out from the paper: every weight another number, nothing is rendered."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from codepose.geometry import view_rotation
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.networks.joint import JointOutput
from codepose.networks.losses import ReconstructionHealth, angle_loss, match_loss, reconstruction_health
from codepose.parts.symmetry_group import Symmetries
from codepose.runtime.ranks import Shares
from codepose.settings.schema import Settings
from codepose.synthesis.batches import CropBatch, SceneBatch, ScenePoses
from codepose.training import stages
from codepose.training.pictures import crops_picture, scenes_picture
from codepose.training.stages import detector_stage, step1_stage, step2_stage, targets_of

SYMMETRIES = (Symmetries.none(), Symmetries(np.diag([-1.0, -1.0, 1.0, 1.0])[None]))
WORLD: Any = SimpleNamespace(
    device=torch.device("cpu"), objects=[SimpleNamespace(symmetries=group) for group in SYMMETRIES]
)
CHANGES = {
    "objects": [{"mesh": "hammer"}, {"mesh": "hammer", "label": "other"}],
    "losses.lambda_cos": 0.7,
    "losses.lambda_match": 0.2,
    "losses.lambda_pose": 1.7,
    "losses.step2_lambda_cos": 0.6,
    "losses.step2_lambda_match": 0.4,
    "losses.bootstrap_ratio": 5,
    "losses.look_alikes": 1,
    "data.step1_images": 10,
    "data.scene_images": 12,
    "data.curriculum": 0.25,
    "data.val_images": 6,
    "step2.batch": 4,
    "original.epochs": 3.0,
}


@pytest.fixture(autouse=True)
def _angles_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the paper's weight of L_angle no test would see it."""
    monkeypatch.setattr(stages, "LAMBDA_ANGLE", 0.3)


def rotations(count: int) -> Tensor:
    """Views a few degrees apart, every other pair turned by half a turn."""
    directions = torch.nn.functional.normalize(torch.tensor([0.0, 0.0, 1.0]) + 0.1 * torch.randn(count, 3), dim=1)
    return view_rotation(directions, (torch.arange(count) // 2) * torch.pi)


def crop_batch(count: int) -> CropBatch:
    torch.manual_seed(count)
    pictures = torch.rand(2, count, 3, 32, 32)
    objects = torch.arange(count) % 2
    return CropBatch(torch.arange(count), *pictures, objects, rotations(count), torch.rand(count))


def scene_batch(count: int) -> SceneBatch:
    """Each with two companions: one that hides more than that its pose could be learned, one that can be seen."""
    torch.manual_seed(count)
    corners = torch.rand(count, 3, 2) * 50.0
    boxes = torch.cat((corners, corners + 20.0 + 40.0 * torch.rand(count, 3, 2)), -1)
    own = {name: torch.rand(count, 3, 3) for name in ("R_cam_obj", "t_cam_obj", "visible_fraction", "visible_boxes")}
    return SceneBatch(
        **own,
        index=torch.arange(count),
        images=torch.rand(count, 3, 128, 128),
        targets=torch.rand(count, 3, 32, 32),
        objects=torch.arange(count) % 2,
        boxes=boxes[:, 0],
        R_view=rotations(count),
        depth=None,
        K=torch.eye(3),
        other_boxes=boxes[:, 1:],
        other_objects=torch.tensor([[0, 1]]).expand(count, 2),
        other_R_view=rotations(2 * count).view(count, 2, 3, 3),
        other_targets=torch.rand(count, 2, 3, 32, 32),
        other_visible=torch.tensor([[0.2, 0.6]]).expand(count, 2),
    )


class Source:
    """Makes batches without rendering, and notes what is asked of it."""

    def __init__(self, world: Any, split: str, *, look_alikes: int = 0) -> None:
        assert world is WORLD
        self.world, self.split, self.look_alikes = world, split, look_alikes
        self.asked: list[list[int]] = []

    def crops(self, index: Tensor) -> CropBatch:
        self.asked.append(index.tolist())
        return crop_batch(len(index))

    def scenes(self, index: Tensor) -> SceneBatch:
        self.asked.append(index.tolist())
        return scene_batch(len(index))


@pytest.fixture(name="sources")
def _sources(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    made: list[Source] = []
    monkeypatch.setattr(stages, "_VAL_CROPS", 4)
    monkeypatch.setattr(stages, "_VAL_SCENES", 4)
    monkeypatch.setattr(stages, "SceneSource", lambda *args, **more: (made.append(Source(*args, **more)), made[-1])[1])
    return made


@pytest.fixture(name="settings")
def _settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(**CHANGES)


def slow_mse(reconstructions: Tensor, targets: Tensor, ratio: int) -> Tensor:
    errors = (reconstructions - targets).square().flatten(1)
    return errors.sort(1, descending=True).values[:, : errors.shape[1] // ratio].mean(1)


def slow_cos(a: Tensor, b: Tensor) -> Tensor:
    return -((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).mean()


@pytest.fixture(name="counted")
def _counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Images of a stage's batches, and things of its means: with several ranks these numbers matter."""
    seen: dict[str, list[float]] = {"images": [], "means": []}

    def mean(value: Tensor, count: Tensor) -> Tensor:
        seen["means"].append(float(count))
        return value

    monkeypatch.setattr(stages, "Shares", lambda images: (seen["images"].append(images), Shares(images))[1])
    monkeypatch.setattr(stages, "mean_over", mean)
    return seen


def test_shares_are_those_of_whole_batches(
    make_settings: Callable[..., Settings], sources: list[Source], counted: dict[str, list[float]]
) -> None:
    """Of seven items, groups of two or three: six; the detector's come one by one."""
    few = {"data.step1_images": 7, "data.scene_images": 7, "step1.batch": 98, "step2.batch": 6, "detector.batch": 5}
    settings = make_settings(**CHANGES | few | {"original.batch": 99, "losses.look_alikes": 1})
    step1_stage(settings, WORLD, build_extended(settings))
    step1_stage(settings, WORLD, build_original(settings), original=True)
    detector_stage(settings, WORLD, build_detector(settings))
    settings = make_settings(**CHANGES | few | {"data.scene_images": 5, "step2.batch": 4})
    step2_stage(settings, WORLD, build_joint(settings))
    assert counted["images"] == [6, 7, 5, 4]


def differ(*values: Tensor) -> None:
    """These numbers cannot be taken for each other."""
    for i, one in enumerate(values):
        assert all(abs(float((one - other).detach())) > 1e-3 for other in values[:i])


class Watched(nn.Module):
    """Says of everything that a network is given whether it lies in memory as convolutions want it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.given, self.with_gradient = network, [], []

    def forward(self, images: Tensor, *more: Any) -> Any:
        self.given.append(images.is_contiguous(memory_format=torch.channels_last))
        return self.network(images, *more)

    def encode(self, images: Tensor) -> Tensor:
        self.given.append(images.is_contiguous(memory_format=torch.channels_last))
        self.with_gradient.append(torch.is_grad_enabled())
        return self.network.encode(images)


@pytest.mark.parametrize("stop", [True, False])
def test_step_1_minimises_equation_4(
    settings: Settings, sources: list[Source], stop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z_i are the codes of the inputs, z_t and x_t the clean views' code and the clean views."""
    losses = settings.losses.model_copy(update={"stop_grad_target": stop})
    torch.manual_seed(0)
    network, batch = build_extended(settings), crop_batch(8)
    watched = Watched(network)
    stage = step1_stage(settings.model_copy(update={"losses": losses}), WORLD, network)
    total, terms = stage.loss(watched, batch)
    z, reconstructions = network(batch.inputs)
    z_t = network.encode(batch.targets)
    expected = {
        "mse": slow_mse(reconstructions, batch.targets, 5).mean(),
        "angle": angle_loss(z, batch.R_view, batch.objects, SYMMETRIES),
        "cos": slow_cos(z, z_t),
        "match": match_loss(z, z_t, batch.R_view, batch.objects, SYMMETRIES),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    weighted = expected["mse"] + 0.3 * expected["angle"] + 0.7 * expected["cos"] + 0.2 * expected["match"]
    torch.testing.assert_close(total, weighted, rtol=1e-4, atol=1e-6)
    differ(
        *expected.values(), expected["mse"] - expected["cos"], angle_loss(z_t, batch.R_view, batch.objects),
        slow_mse(reconstructions, batch.inputs, 5).mean(), slow_mse(reconstructions, batch.targets, 1).mean(),
        angle_loss(z, batch.R_view, batch.objects), match_loss(z, z_t, batch.R_view, batch.objects),
    )  # fmt: skip
    assert watched.given == [True, True]
    assert watched.with_gradient == [not stop]
    assert (sources[0].split, sources[0].look_alikes) == ("train", 1)


def test_step_1_without_a_weight_for_it_has_no_match_loss(settings: Settings, sources: list[Source]) -> None:
    losses = settings.losses.model_copy(update={"lambda_match": 0.0})
    network = build_extended(settings)
    stage = step1_stage(settings.model_copy(update={"losses": losses}), WORLD, network)
    assert set(stage.loss(network, crop_batch(8))[1]) == {"mse", "angle", "cos"}


def test_the_original_autoencoder_minimises_its_own_bootstrapped_error(
    settings: Settings, sources: list[Source]
) -> None:
    torch.manual_seed(0)
    network, batch = build_original(settings), crop_batch(4)
    stage = step1_stage(settings, WORLD, network, original=True)
    total, terms = stage.loss(network, batch)
    expected = slow_mse(network(batch.inputs)[1], batch.targets, 4).mean()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)
    assert set(terms) == {"mse"}
    assert torch.equal(terms["mse"], total)
    assert (stage.name, stage.settings, stage.group) == ("original", settings.original, 1)
    assert [source.look_alikes for source in sources] == [0, 0]


@pytest.mark.parametrize("original", [True, False])
def test_step_1s_stage(settings: Settings, sources: list[Source], original: bool) -> None:
    network = (build_original if original else build_extended)(settings)
    stage = step1_stage(settings, WORLD, network, original=original)
    assert [source.split for source in sources] == ["train", "val"]
    assert stage.network is network
    assert stage.groups.keys() == {"encoder"}
    assert [id(p) for p in stage.groups["encoder"]] == [id(p) for p in network.parameters()]
    assert (stage.items, stage.curriculum, stage.pretrained) == (10, 0.25, ())
    assert stage.batch == sources[0].crops
    if not original:
        assert (stage.name, stage.settings, stage.group) == ("step1", settings.step1, 2)


@pytest.mark.parametrize(("images", "looked_at"), [(2, 2), (100, 4)])
def test_step_1_is_looked_at_on_validation_crops(
    settings: Settings, sources: list[Source], images: int, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settings.data.model_copy(update={"val_images": images})
    torch.manual_seed(0)
    network, batch = build_extended(settings), crop_batch(looked_at)
    stage = step1_stage(settings.model_copy(update={"data": data}), WORLD, network)
    assert stage.validate is not None
    with torch.no_grad():
        found = stage.validate(network)
    assert sources[1].asked == [list(range(looked_at))]
    latents, reconstructions = network(batch.inputs)
    health = reconstruction_health(reconstructions, batch.targets, latents)
    assert found.numbers == pytest.approx(
        {
            "mse": float((reconstructions - batch.targets).square().mean()),
            "object_mse": health.object_mse,
            "black_mse": health.target_energy,
            "latent_spread": health.latent_spread,
        },
        rel=1e-4,
    )
    assert found.warnings == health.warnings()
    assert found.picture is not None
    torch.testing.assert_close(found.picture, crops_picture(batch.inputs, reconstructions, batch.targets))
    monkeypatch.setattr(stages, "reconstruction_health", lambda *_: ReconstructionHealth(0.5, 0.5, 0.5))
    with torch.no_grad():
        assert len(stage.validate(network).warnings) == 1


def test_the_detectors_targets_are_what_can_be_seen() -> None:
    """Companions of which a tenth is visible belong to them, and all labels begin at 1."""
    batch = scene_batch(2)
    assert batch.other_boxes is not None
    seen = {"other_objects": torch.tensor([[0, -1], [1, 0]]), "other_visible": torch.tensor([[0.1, 1.0], [0.09, 0.5]])}
    found = targets_of(SceneBatch(**batch.__dict__ | seen))
    assert found.labels.tolist() == [[1, 1, 0], [2, 0, 1]]
    assert torch.equal(found.boxes, torch.cat((batch.boxes[:, None], batch.other_boxes), 1))
    alone = targets_of(SceneBatch(**batch.__dict__ | {"other_boxes": None, "other_objects": None}))
    assert alone.labels.tolist() == [[1], [2]]
    assert torch.equal(alone.boxes, batch.boxes[:, None])


class FixedDetector(nn.Module):
    """Has four terms, and finds in every image two boxes of the first object and a better one of the second."""

    def __init__(self, batch: SceneBatch) -> None:
        super().__init__()
        self.weight, self.batch, self.encoder = nn.Parameter(torch.ones(1)), batch, nn.Identity()

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        assert torch.equal(images, self.batch.images)
        assert torch.equal(targets.boxes, targets_of(self.batch).boxes)
        names = ("rpn_objectness", "rpn_box", "head_class", "head_box")
        return {name: 10.0**i * self.weight.sum() for i, name in enumerate(names)}

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Only the second object where the image is the last one."""
        assert torch.equal(images, self.batch.images)
        boxes = self.batch.boxes[:, None] + torch.tensor([[20.0], [6.0], [0.0]])
        labels = torch.tensor([2, 1, 1])
        found = [{"boxes": one, "labels": labels, "scores": torch.tensor([0.9, 0.8, 0.7])} for one in boxes]
        found[-1] = {name: values[:1] for name, values in found[-1].items()}
        return found


def test_the_detectors_loss_is_the_sum_of_its_terms(settings: Settings, sources: list[Source]) -> None:
    batch = scene_batch(4)
    network = FixedDetector(batch)
    stage = detector_stage(settings, WORLD, network)  # type: ignore[arg-type]
    watched = Watched(network)
    total, terms = stage.loss(watched, batch)
    assert float(total) == 1111.0
    assert {name: float(value) for name, value in terms.items()} == {
        "rpn_objectness": 1.0, "rpn_box": 10.0, "head_class": 100.0, "head_box": 1000.0
    }  # fmt: skip
    assert watched.given == [True]
    assert (stage.name, stage.items, stage.settings, stage.curriculum) == ("detector", 12, settings.detector, 0.25)
    assert stage.network is network
    assert [id(p) for p in stage.groups["encoder"]] == [id(network.weight)]
    assert stage.batch == sources[0].scenes
    assert [(source.split, source.look_alikes) for source in sources] == [("train", 0), ("val", 0)]


@pytest.mark.parametrize(("images", "looked_at"), [(2, 2), (100, 4)])
def test_the_detector_is_looked_at_on_validation_scenes(
    settings: Settings, sources: list[Source], images: int, looked_at: int
) -> None:
    """The best-scored box of the right class counts, whatever better ones there are; a miss counts 0."""
    data = settings.data.model_copy(update={"val_images": images})
    batch = scene_batch(looked_at)
    network = FixedDetector(batch)
    stage = detector_stage(settings.model_copy(update={"data": data}), WORLD, network)  # type: ignore[arg-type]
    assert stage.validate is not None
    with torch.no_grad():
        found = stage.validate(network)
    assert sources[1].asked == [list(range(looked_at))]
    first, second = (box_iou(batch.boxes + by, batch.boxes).diagonal() for by in (6.0, 20.0))
    best = torch.where(batch.objects == 0, first, second)
    best[-1] = second[-1] if batch.objects[-1] == 1 else 0.0
    assert found.numbers == {"mean_iou": pytest.approx(float(best.mean()), rel=1e-5)}
    assert found.warnings == ()
    boxes = batch.boxes + torch.where(batch.objects == 0, 6.0, 20.0)[:, None]
    boxes[-1] = batch.boxes[-1] + 20.0 if batch.objects[-1] == 1 else torch.nan
    assert found.picture is not None
    assert torch.equal(found.picture, scenes_picture(batch.images, batch.boxes, boxes))
    batch.objects[-1] = 0
    nothing = stages._mean_iou(stages._best_boxes(network.detect(batch.images), batch), batch)
    assert nothing == pytest.approx(float(best[:-1].sum()) / looked_at, rel=1e-5)


def joint_output(poses: ScenePoses, views: bool) -> JointOutput:
    torch.manual_seed(3)
    count = len(poses.image)
    names = ("rpn_objectness", "rpn_box", "head_class", "head_box", "mse")
    terms = {name: torch.tensor(10.0**i) for i, name in enumerate(names)}
    codes = torch.randn(2, count, 8)
    used = torch.arange(count) % 3 > 0
    seen = codes[1] if views else None
    return JointOutput(terms, poses.boxes, torch.rand(count), used, poses.targets, codes[0], seen)


@pytest.mark.parametrize(("cos", "match"), [(0.0, 0.0), (0.6, 0.0), (0.6, 0.4)])
def test_step_2_minimises_equation_5(
    settings: Settings, sources: list[Source], counted: dict[str, list[float]], cos: float, match: float
) -> None:
    """And the losses on codes, over those instances that were detected well enough."""
    losses = settings.losses.model_copy(update={"step2_lambda_cos": cos, "step2_lambda_match": match})
    settings = settings.model_copy(update={"losses": losses})
    batch, seen = scene_batch(4), []

    def network(images: Tensor, targets: Any, poses: ScenePoses) -> JointOutput:
        assert torch.equal(targets.labels, targets_of(batch).labels)
        seen.append(poses)
        return joint_output(poses, cos > 0)

    watched = Watched(network)
    total, terms = step2_stage(settings, WORLD, build_joint(settings)).loss(watched, batch)
    assert watched.given == [True]
    poses = batch.poses(settings.data.occlusion.min_visible)
    assert torch.equal(seen[0].slot, poses.slot)
    assert poses.slot.tolist() == [0, 2] * 4, "one companion of two can be seen well enough"
    out = joint_output(poses, cos > 0)
    expected = dict(out.losses)
    weighted = torch.tensor(1111.0 + 1.7 * 1e4)
    if out.view_latents is not None:
        z, views, R, objects = (x[out.used] for x in (out.latents, out.view_latents, poses.R_view, poses.objects))
        expected["cos"] = slow_cos(z, views)
        weighted = weighted + 0.6 * expected["cos"]
        if match > 0:
            expected["match"] = match_loss(z, views, R, objects, SYMMETRIES)
            weighted = weighted + 0.4 * expected["match"]
            differ(expected["match"], match_loss(z, views, R, objects))
    assert counted["means"] == [float(out.used.sum()), 8.0, 8.0]
    expected |= {"fed_back_iou": out.iou.mean(), "skipped": 1.0 - out.used.float().mean()}
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total.double(), weighted.double(), rtol=1e-7, atol=1e-3)


def test_step_2s_stage(settings: Settings, sources: list[Source]) -> None:
    network = build_joint(settings)
    stage = step2_stage(settings, WORLD, network)
    assert [(source.split, source.look_alikes) for source in sources] == [("train", 1), ("val", 0)]
    assert (stage.name, stage.items, stage.settings, stage.curriculum) == ("step2", 12, settings.step2, 0.0)
    assert (stage.group, stage.pretrained) == (2, ("encoder", "decoder", "fc"))
    assert stage.network is network
    assert stage.batch == sources[0].scenes
    assert network.bootstrap_ratio == 5


@pytest.mark.parametrize(("images", "looked_at"), [(1, 1), (2, 2), (100, 4)])
def test_step_2_is_looked_at_on_validation_scenes(
    settings: Settings, sources: list[Source], images: int, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its detections, and its reconstructions from true boxes; those of the picture are from the boxes it found."""
    data = settings.data.model_copy(update={"val_images": images})
    torch.manual_seed(0)
    network, batch = build_joint(settings).eval(), scene_batch(looked_at)
    features, detector = network.encoder(batch.images), FixedDetector(batch)
    boxes = stages._best_boxes(detector.detect(batch.images), batch)
    monkeypatch.setattr(network, "detect", lambda images: (network.encoder(images), detector.detect(images)))
    stage = step2_stage(settings.model_copy(update={"data": data}), WORLD, network)
    assert stage.validate is not None
    with torch.no_grad():
        found = stage.validate(network)
    assert sources[1].asked == [list(range(looked_at))]
    codes = network.latents(features, batch.boxes, torch.arange(looked_at))
    errors = (network.autoencoder.decode(codes) - batch.targets).square()
    assert found.numbers == {
        "mean_iou": pytest.approx(stages._mean_iou(boxes, batch)),
        "mse_gt_boxes": pytest.approx(float(errors.mean()), rel=1e-4),
    }
    assert found.warnings == ()
    seen = network.autoencoder.decode(network.latents(features, boxes.nan_to_num(), torch.arange(looked_at)))
    seen[boxes.isnan().any(1)] = 0.0
    assert bool(boxes.isnan().any()) == (looked_at == 1)  # the last image's only box is of the second object
    assert found.picture is not None
    expected = scenes_picture(batch.images, batch.boxes, boxes, seen, batch.targets)
    torch.testing.assert_close(found.picture, expected, rtol=0, atol=1e-3)


def test_what_a_detector_is_given_is_its_own(settings: Settings, sources: list[Source]) -> None:
    """A real one, once: its terms are its own."""
    torch.manual_seed(0)
    network, batch = build_detector(settings).train(), scene_batch(4)
    torch.manual_seed(1)
    _, terms = detector_stage(settings, WORLD, network).loss(network, batch)
    torch.manual_seed(1)
    for name, value in network(batch.images, targets_of(batch)).items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)
