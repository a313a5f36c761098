"""The trainings of the paper: Step 1 of both autoencoders, the independent detector, Step 2 of the joint network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from codepose.networks.autoencoder import ExtendedAutoencoder, OriginalAutoencoder
from codepose.networks.backbone import frozen_parameters
from codepose.networks.boxes import Targets
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.networks.detector import Boxes, Detector
from codepose.networks.joint import JointNetwork
from codepose.networks.losses import angle_loss, cos_loss, match_loss, mse, reconstruction_health
from codepose.networks.precision import autocast
from codepose.runtime.progress import Display
from codepose.runtime.ranks import Shares, from_first, mean_over
from codepose.runtime.run import Run
from codepose.runtime.vision import box_iou
from codepose.settings.schema import Settings
from codepose.synthesis.batches import CropBatch, SceneBatch, ScenePoses
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.initial import begin_with
from codepose.training.loop import fit
from codepose.training.pictures import SCENES, crops_picture, scenes_picture
from codepose.training.plan import Stage, Validation, batch_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAMBDA_ANGLE = 1e-6
"""Eq. 4's weight of L_angle; a much larger one makes all codes the same."""
_VAL_CROPS = 64
_VAL_SCENES = 32
_ORIGINAL_BOOTSTRAP = 4
"""Of the original AAE's L_mse, as its authors trained it."""
_SEEN = 0.1
"""Visible fraction from which on a companion is to be found, as in BOP's targets."""


def step1_stage(settings: Settings, world: World, network: nn.Module, *, original: bool = False) -> Stage:
    """Step 1 (Section 3.1): the extended AAE with L_step1 (Eq. 4), or the original AAE with its bootstrapped L_mse.

    Args:
        settings: The run's.
        world: Of these settings; makes the images.
        network: Is trained.
        original: Whether it is the original AAE.
    """
    losses = settings.losses
    alike = 0 if original else losses.look_alikes
    train, val = SceneSource(world, "train", look_alikes=alike), SceneSource(world, "val")
    ratio = _ORIGINAL_BOOTSTRAP if original else losses.bootstrap_ratio
    symmetries = () if original else tuple(o.symmetries for o in world.objects)
    plan = settings.original if original else settings.step1
    shares = Shares(batch_of(settings.data.step1_images, plan.batch, alike + 1))

    def loss(net: nn.Module, batch: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = batch.inputs.contiguous(memory_format=torch.channels_last)
        latents, reconstructions = net(inputs)
        terms = {"mse": shares.mean(mse(reconstructions.float(), batch.targets, ratio).mean())}
        total = terms["mse"]
        if not original:
            targets = batch.targets.contiguous(memory_format=torch.channels_last)
            with torch.set_grad_enabled(not losses.stop_grad_target):
                target_latents = net.encode(targets)  # type: ignore[operator]
            # pairs are those of the whole batch, whatever rank they are on
            z, z_target = shares.gather(latents.float()), shares.gather(target_latents.float())
            R_view, objects = shares.gather(batch.R_view), shares.gather(batch.objects)
            terms["angle"] = angle_loss(z, R_view, objects, symmetries)
            terms["cos"] = cos_loss(z, z_target)
            total = total + LAMBDA_ANGLE * terms["angle"] + losses.lambda_cos * terms["cos"]
            if losses.lambda_match > 0:
                terms["match"] = match_loss(z, z_target, R_view, objects, symmetries)
                total = total + losses.lambda_match * terms["match"]
        return total, terms

    return Stage(
        name="original" if original else "step1",
        network=network,
        groups={"encoder": learning(network.parameters(), network.get_submodule("encoder"), settings)},
        items=settings.data.step1_images,
        batch=train.crops,
        loss=loss,
        settings=plan,
        curriculum=settings.data.curriculum,
        group=alike + 1,
        validate=lambda net: _health(net, val, settings),
    )


def _health(net: nn.Module, val: SceneSource, settings: Settings) -> Validation:
    """An autoencoder's errors on validation crops, and warnings of black outputs and collapsed latents."""
    batch = val.crops(torch.arange(min(_VAL_CROPS, settings.data.val_images)))
    with autocast(settings, val.world.device):
        latents, reconstructions = net(batch.inputs)
    reconstructions = reconstructions.float()
    health = reconstruction_health(reconstructions, batch.targets, latents)
    numbers = {
        "mse": float(mse(reconstructions, batch.targets).mean()),
        "object_mse": health.object_mse,
        "black_mse": health.target_energy,
        "latent_spread": health.latent_spread,
    }
    picture = crops_picture(batch.inputs, reconstructions, batch.targets)
    return Validation(numbers, health.warnings(), picture)


def targets_of(batch: SceneBatch) -> Targets:
    """Returns the detector's ground truth: amodal boxes, labels from 1; each scene's target object comes first.

    Companions of which less than a tenth is visible are left out: nothing in the image says that they are there.
    """
    boxes, labels = batch.boxes[:, None], batch.objects[:, None] + 1
    if batch.other_boxes is not None and batch.other_objects is not None and batch.other_visible is not None:
        visible = (batch.other_objects >= 0) & (batch.other_visible >= _SEEN)
        boxes = torch.cat((boxes, batch.other_boxes), 1)
        labels = torch.cat((labels, torch.where(visible, batch.other_objects + 1, 0)), 1)
    return Targets(boxes, labels)


def _best_boxes(detections: list[Boxes], batch: SceneBatch) -> Tensor:
    """Returns each image's best-scored detection of the right class, (B, 4); NaN where there is none."""
    missed = torch.full_like(batch.boxes[:1], torch.nan)
    right = [found["boxes"][found["labels"] == o + 1] for found, o in zip(detections, batch.objects, strict=True)]
    return torch.cat([torch.cat((boxes, missed))[:1] for boxes in right])


def _mean_iou(best: Tensor, batch: SceneBatch) -> float:
    """Mean IoU of each image's best box; a miss counts 0."""
    return float(box_iou(best, batch.boxes).diagonal().nan_to_num(0.0).mean())


def detector_stage(settings: Settings, world: World, network: Detector) -> Stage:
    """The independent Faster R-CNN (L_faster alone), the paper's baseline detector.

    Args:
        settings: The run's.
        world: Of these settings; makes the images.
        network: Is trained.
    """
    train, val = SceneSource(world, "train"), SceneSource(world, "val")
    shares = Shares(min(settings.detector.batch, settings.data.scene_images))

    def loss(net: nn.Module, batch: SceneBatch) -> tuple[Tensor, dict[str, Tensor]]:
        losses = net(batch.images.contiguous(memory_format=torch.channels_last), targets_of(batch))
        terms = {name: shares.mean(term) for name, term in losses.items()}
        return torch.stack(list(terms.values())).sum(), terms

    def validate(_: nn.Module) -> Validation:
        batch = val.scenes(torch.arange(min(_VAL_SCENES, settings.data.val_images)))
        with autocast(settings, world.device):
            best = _best_boxes(network.detect(batch.images), batch)
        return Validation({"mean_iou": _mean_iou(best, batch)}, picture=scenes_picture(batch.images, batch.boxes, best))

    return Stage(
        name="detector",
        network=network,
        groups={"encoder": learning(network.parameters(), network.encoder, settings)},
        items=settings.data.scene_images,
        batch=train.scenes,
        loss=loss,
        settings=settings.detector,
        curriculum=settings.data.curriculum,
        validate=validate,
    )


def step2_stage(settings: Settings, world: World, network: JointNetwork) -> Stage:
    """Step 2 (Section 3.2): L_step2 (Eq. 5) on scenes, with T1 or T2 (Section 4.2) as phases.

    Args:
        settings: The run's.
        world: Of these settings; makes the images.
        network: Is trained.
    """
    losses = settings.losses
    train, val = SceneSource(world, "train", look_alikes=losses.look_alikes), SceneSource(world, "val")
    symmetries = tuple(o.symmetries for o in world.objects) if losses.step2_lambda_match > 0 else ()
    shares = Shares(batch_of(settings.data.scene_images, settings.step2.batch, losses.look_alikes + 1))

    def gathered(poses: ScenePoses, values: Tensor, scenes: int) -> Tensor:
        """Returns all ranks' values, (slots of all scenes, ...): as many on every rank."""
        return shares.gather(poses.spread(values, scenes)).flatten(0, 1)

    def loss(net: nn.Module, batch: SceneBatch) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        poses = batch.poses(settings.data.occlusion.min_visible)
        out = net(images, targets_of(batch), poses)
        terms = {name: shares.mean(term) for name, term in out.losses.items() if name != "mse"}
        terms["mse"] = mean_over(out.losses["mse"], out.used.sum())
        total = sum(value for name, value in terms.items() if name != "mse") + losses.lambda_pose * terms["mse"]
        if out.view_latents is not None:
            slots = (out.latents.float(), out.view_latents.float(), poses.R_view, poses.objects, out.used)
            seen, views, R_view, objects, used = (gathered(poses, value, len(images)) for value in slots)
            terms["cos"] = cos_loss(seen, views, used)
            total = total + losses.step2_lambda_cos * terms["cos"]
            if losses.step2_lambda_match > 0:
                terms["match"] = match_loss(seen, views, R_view, objects, symmetries, used)
                total = total + losses.step2_lambda_match * terms["match"]
        seen_well = {"fed_back_iou": out.iou.mean(), "skipped": 1.0 - out.used.float().mean()}
        count = out.iou.new_full((), len(out.iou))
        return total, terms | {name: mean_over(value, count) for name, value in seen_well.items()}

    groups = joint_groups(network)
    groups["encoder"] = learning(groups["encoder"], network.autoencoder.encoder, settings, taught=True)
    return Stage(
        name="step2",
        network=network,
        groups=groups,
        pretrained=("encoder", "decoder", "fc"),
        items=settings.data.scene_images,
        batch=train.scenes,
        loss=loss,
        settings=settings.step2,
        curriculum=0.0,
        group=losses.look_alikes + 1,
        validate=lambda _: _joint_errors(network, val, settings),
    )


def learning(
    parameters: Iterable[nn.Parameter], encoder: nn.Module, settings: Settings, *, taught: bool = False
) -> list[nn.Parameter]:
    """Returns the parameters that learn, and freezes the others.

    Args:
        parameters: Of the network, or some of them.
        encoder: The network's.
        settings: ``network.frozen`` freezes all blocks of its backbone, ``frozen_blocks`` the first ones.
        taught: Whether Step 1 has taught the encoder: only then some blocks are frozen and others not.
    """
    network = settings.network
    frozen = frozen_parameters(encoder, network.frozen, network.frozen_blocks if taught else 0)
    kept = []
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) not in frozen)
        if id(parameter) not in frozen:
            kept.append(parameter)
    return kept


def _joint_errors(network: JointNetwork, val: SceneSource, settings: Settings) -> Validation:
    """The joint network's mean IoU on validation scenes, and its L_mse from ground-truth boxes.

    The picture shows what it makes of the boxes that it finds; black where it finds none.
    """
    batch = val.scenes(torch.arange(min(_VAL_SCENES, settings.data.val_images)))
    with autocast(settings, val.world.device):
        features, detections = network.detect(batch.images)
        order = torch.arange(len(batch.boxes), device=features.device)
        reconstructions = network.autoencoder.decode(network.latents(features, batch.boxes, order))
        best = _best_boxes(detections, batch)
        shown, found = best[:SCENES].nan_to_num(), best[:SCENES].isfinite().all(1)
        seen = network.autoencoder.decode(network.latents(features, shown, order[:SCENES])) * found[:, None, None, None]
    error = mse(reconstructions.float(), batch.targets).mean()
    numbers = {"mean_iou": _mean_iou(best, batch), "mse_gt_boxes": float(error)}
    return Validation(numbers, picture=scenes_picture(batch.images, batch.boxes, best, seen, batch.targets))


def joint_groups(network: JointNetwork) -> dict[str, list[nn.Parameter]]:
    """Returns the joint network's parameters by the names that phases use."""
    parts = {
        "encoder": network.autoencoder.encoder,
        "decoder": network.autoencoder.decoder,
        "fc": network.autoencoder.head,
    }
    return {name: list(part.parameters()) for name, part in parts.items()} | network.heads.groups()


_STAGES = ("step1", "original", "detector", "step2", "jitter")
"""Their number and order seed the initial weights; the last is a row of ``codepose reproduce``."""
_Network = TypeVar("_Network", bound=nn.Module)


def _seed(run: Run, stage: str) -> None:
    """Seeds a stage's initial weights: no two stages, of whatever seeds, begin with the same."""
    torch.manual_seed(len(_STAGES) * run.settings.seed + _STAGES.index(stage))


def train_step1(run: Run, world: World, fabric: Fabric) -> ExtendedAutoencoder:
    """Trains, resumes or loads the extended AAE of Step 1."""
    return trained("step1", "Step 1: extended AAE", build_extended, step1_stage, run, world, fabric)


def train_original(run: Run, world: World, fabric: Fabric) -> OriginalAutoencoder:
    """Trains, resumes or loads the original AAE."""

    def stage(settings: Settings, world: World, network: OriginalAutoencoder) -> Stage:
        return step1_stage(settings, world, network, original=True)

    return trained("original", "Baseline: original AAE", build_original, stage, run, world, fabric)


def train_detector(run: Run, world: World, fabric: Fabric) -> Detector:
    """Trains, resumes or loads the independent Faster R-CNN."""
    return trained("detector", "Baseline: Faster R-CNN", build_detector, detector_stage, run, world, fabric)


def train_step2(run: Run, world: World, fabric: Fabric, pretrained: ExtendedAutoencoder) -> JointNetwork:
    """Trains, resumes or loads the joint network, from Step 1's weights."""
    return trained("step2", "Step 2: joint network", build_joint, step2_stage, run, world, fabric, pretrained)


FROM_STEP1: dict[str, Callable[[Run, World, Fabric, ExtendedAutoencoder], nn.Module]] = {"step2": train_step2}
"""How the stages are trained that go on from Step 1's weights."""


def trained(
    name: str,
    title: str,
    build: Callable[[Settings], _Network],
    stage: Callable[[Settings, World, _Network], Stage],
    run: Run,
    world: World,
    fabric: Fabric,
    pretrained: ExtendedAutoencoder | None = None,
) -> _Network:
    """Trains, resumes or loads one network; what Step 1 taught replaces what it would begin with.

    Args:
        name: The stage's.
        title: Of its progress.
        build: Makes the network from the settings.
        stage: Makes the stage that trains it.
        run, world, fabric: What is trained, on which images, where.
        pretrained: What Step 1 taught; None = the stage begins without it.
    """
    _seed(run, name)
    network = build(run.settings)
    if from_first(lambda: run.has(name)):
        run.load_weights(name, network)
        network.to(device=fabric.device).to(memory_format=torch.channels_last)
    else:
        if from_first(lambda: not run.begun(name)):
            begin_with(network, run.settings.network.weights)
        if pretrained is not None:
            getattr(network, "autoencoder", network).load_state_dict(pretrained.state_dict())
        fit(stage(run.settings, world, network), run, fabric, seed=run.settings.seed, display=Display(title))
    network.eval()
    return network
