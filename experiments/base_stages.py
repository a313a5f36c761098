"""What the base network learns: many parts, one class, and of each view its half turns beside it.

Networks, losses and pictures are the product's. What differs: the detector calls every part "a part"; of every
``TURNS`` items in a row the first one's view is drawn, the others are the same part after half turns about its three
axes, the views that are most often taken for one another (a long part end for end, a plate from behind); and parts
that are kept out of training are looked at now and then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from codepose.geometry import padded_square
from codepose.networks.autoencoder import ExtendedAutoencoder
from codepose.networks.boxes import Targets
from codepose.networks.build import build_joint
from codepose.networks.joint import JointNetwork
from codepose.networks.losses import mse
from codepose.networks.precision import autocast
from codepose.networks.roi import roi_pool
from codepose.parts.mesh import Mesh
from codepose.randomness import Draws
from codepose.settings.crop import ROI_PAD
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.synthesis.batches import CropBatch, SceneBatch, ScenePoses
from codepose.synthesis.objects import ObjectModel
from codepose.synthesis.placement import draw_views
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World, reference_distance
from codepose.training.plan import Stage, Validation
from codepose.training.stages import step1_stage, step2_stage
from experiments.parts.archive import Part

TURNS = 4
"""Views of a part in a row: as drawn, and after half a turn about x, y and z."""
LOOKED_AT = 64
"""Crops, and half as many scenes, of parts kept out of training, that are looked at now and then."""
_FAR_AWAY = 8_000_000
"""Images of a stage: its time limit ends it long before."""

_LOOKS: dict[str, Any] = {
    "data.textures": 192,
    "data.curriculum": 0.3,
    "data.clean": 0.1,
    "data.camera.box_side": [36.0, 84.0],
    "data.step1_images": _FAR_AWAY,
    "data.scene_images": _FAR_AWAY,
    "data.augmentation.contrast": [0.4, 2.3],
    "data.augmentation.invert_channel": 0.1,
    "data.augmentation.noise": 0.03,
    "data.augmentation.tint": 0.3,
    "data.augmentation.ambient": [0.25, 0.55],
    "data.augmentation.diffuse": [0.5, 0.9],
    "data.augmentation.specular": [0.1, 0.5],
    "data.occlusion.others": 2,
    "data.occlusion.clutter": 3,
    "data.occlusion.large": 0.15,
    "network.frozen_blocks": 0,
    "losses.look_alikes": 0,  # a search over every view of every part; here they are ``TURNS``
    "objects.0.view_cone_deg": 180.0,
    "objects.0.label": "part",
    "step1.validations": 12,
    "step2.validations": 12,
    "step2.phases": [{"epochs": 0.04, "train": ["rpn", "box_head"]}, {"epochs": 0.96}],
}


_BEGINS = {"quick": "none", "photos": "imagenet"}
"""Weights at which the base network of a preset begins."""


def base_settings(
    preset: str,
    mesh: str,
    *,
    crops: int,
    scenes: int,
    rates: tuple[float, float],
    seconds: tuple[float, float],
    every: int,
) -> Settings:
    """Returns a preset with every view, pictures of the paper's strength, and batches of another size.

    Args:
        preset: "quick" or "photos".
        mesh: One part, which stands for all in the run's folder.
        crops, scenes: Images of an iteration of Step 1 and of Step 2, multiples of ``TURNS``.
        rates: Their learning rates.
        seconds: How long they take.
        every: Iterations between checkpoints.
    """
    changes = _LOOKS | {"name": "base", "objects.0.mesh": mesh, "network.weights": _BEGINS[preset]}
    for stage, batch, rate, limit in zip(("step1", "step2"), (crops, scenes), rates, seconds, strict=True):
        changes |= {f"{stage}.batch": batch, f"{stage}.optimizer.lr": rate, f"{stage}.time_limit": limit}
        changes |= {f"{stage}.checkpoint_every": every, f"{stage}.optimizer.warmup": 200}
    return override(load_preset(preset), changes)


def models_of(parts: Sequence[Part], settings: Settings, seed: int = 0) -> list[ObjectModel]:
    """Returns the parts as the network learns them: from all sides, a share of them in colours."""
    models = []
    for number, part in enumerate(parts):
        mesh = _coloured(part.mesh, np.random.default_rng((seed, number)), several=not part.symmetries.any)
        models.append(
            ObjectModel(
                label=mesh.name,
                mesh=mesh,
                offset=torch.zeros(3),
                axis=torch.tensor([0.0, 0.0, 1.0]),
                cone_deg=180.0,
                opposite=False,
                z_ref=reference_distance(settings, mesh),
                declared=part.symmetries,
            )
        )
    return models


def _coloured(mesh: Mesh, rng: np.random.Generator, *, several: bool) -> Mesh:
    """Half of the parts stay as they are; others get a colour or, where that breaks no symmetry, up to three."""
    if rng.random() < 0.5:
        return mesh
    colors = rng.uniform(0.1, 0.95, (3, 3))
    colors = colors.mean(1, keepdims=True) + rng.choice([0.2, 1.0]) * (colors - colors.mean(1, keepdims=True))
    which = np.zeros(len(mesh.vertices), np.int64)
    if several and rng.random() < 0.5:  # cut across by two planes
        along = mesh.vertices @ rng.normal(size=3)
        which = np.searchsorted(np.quantile(along, np.sort(rng.uniform(0.15, 0.85, 2))), along)
    return dataclasses.replace(mesh, colors=colors[which].astype(np.float32))


class PartSource(SceneSource):
    """Crops and scenes of some of a world's parts, each in a view and its half turns.

    Args:
        world: All parts.
        split: See ``SceneSource``.
        parts: Which of them.
    """

    def __init__(self, world: World, split: Literal["train", "val", "test"], parts: range) -> None:
        super().__init__(world, split)
        self.parts = parts
        signs = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
        self._turns = torch.diag_embed(signs).to(world.device)

    def views(self, kind: Literal["crops", "scenes"], index: Tensor) -> tuple[Tensor, Tensor]:
        """Which parts (B,) are seen how (B, 3, 3)."""
        member = index % TURNS
        draws = Draws(self.settings.data.seed, f"{kind}/{self.split}", index - member, self.world.device)
        objects = self.parts.start + draws.integer("object", len(self.parts))
        R_view = draw_views(self.world, draws, objects)
        return objects, R_view @ self._turns[member.to(self.world.device, non_blocking=True)]

    def companion_objects(self, draws: Draws, objects: Tensor, tag: str) -> Tensor:
        """Which parts (B,) lie beside these: half of them of the same kind, the others any of the source's."""
        others = self.parts.start + draws.integer("object" + tag, len(self.parts))
        return torch.where(draws.chance("same" + tag, 0.5), objects, others)


def build_base(settings: Settings) -> JointNetwork:
    """Returns the joint network, for which all parts are one class."""
    network = build_joint(settings)
    network.register_forward_pre_hook(_one_class)
    return network


def _one_class(_: nn.Module, args: tuple[Tensor, Targets, ScenePoses]) -> tuple[Tensor, Targets, ScenePoses]:
    images, targets, poses = args
    one = Targets(targets.boxes, targets.labels.clamp_max(1))
    return images, one, poses._replace(objects=torch.zeros_like(poses.objects))


def crops_stage(settings: Settings, world: World, network: ExtendedAutoencoder, trained: range, kept: range) -> Stage:
    """Step 1 on the parts ``trained``, looked at on the parts ``kept``."""
    source, unseen = PartSource(world, "train", trained), PartSource(world, "val", kept)

    def validate(_: nn.Module) -> Validation:
        batch = unseen.crops(torch.arange(LOOKED_AT))
        with autocast(settings, world.device):
            latents, reconstructions = network(batch.inputs)
            clean = network.encode(batch.targets)
        numbers = {"unseen_mse": _error(reconstructions, batch), "unseen_found": _found(latents, clean)}
        return Validation(_told("step 1", numbers))

    stage = step1_stage(settings, world, network)
    return dataclasses.replace(stage, batch=source.crops, group=TURNS, validate=validate)


def scenes_stage(settings: Settings, world: World, network: JointNetwork, trained: range, kept: range) -> Stage:
    """Step 2, likewise."""
    source, unseen = PartSource(world, "train", trained), PartSource(world, "val", kept)

    def validate(_: nn.Module) -> Validation:
        batch = unseen.scenes(torch.arange(LOOKED_AT // 2))
        with autocast(settings, world.device):
            features, found = network.detect(batch.images)
            latents = network.latents(features, batch.boxes, torch.arange(len(batch.boxes), device=features.device))
            reconstructions = network.autoencoder.decode(latents)
            clean = network.view_latents(batch.targets, network.view_canvas)
        ious = [
            float(box_iou(one["boxes"][:1], box[None])[0, 0]) if len(one["boxes"]) else 0.0
            for one, box in zip(found, batch.boxes, strict=True)
        ]
        numbers = {"unseen_iou": float(np.mean(ious)), "unseen_mse": _error(reconstructions, batch)}
        return Validation(_told("step 2", numbers | {"unseen_found": _found(latents, clean)}))

    stage = step2_stage(settings, world, network)
    return dataclasses.replace(stage, batch=source.scenes, group=TURNS, validate=validate)


def _error(reconstructions: Tensor, batch: CropBatch | SceneBatch) -> float:
    return float(mse(reconstructions.float(), batch.targets).mean())


def _found(latents: Tensor, clean: Tensor) -> float:
    """Share of the images whose own clean view, among all of the batch's, has the code of the largest cosine."""
    z, views = (nn.functional.normalize(x.float()) for x in (latents, clean))
    own = torch.arange(len(z), device=z.device)
    return float(((z @ views.T).argmax(1) == own).float().mean())


def _told(stage: str, numbers: dict[str, float]) -> dict[str, float]:
    """Prints what was found on parts kept out, and returns it."""
    print(f"{stage}: " + "  ".join(f"{name} {value:.4f}" for name, value in numbers.items()), flush=True)
    return numbers


@torch.no_grad()
def picture(settings: Settings, world: World, network: JointNetwork, parts: range, count: int = 16) -> Tensor:
    """Returns scenes' windows, wanted and reconstructed views of parts, one below the other: (3 * count, 3, c, c)."""
    batch = PartSource(world, "test", parts).scenes(TURNS * torch.arange(count))
    order = torch.arange(count, device=world.device)
    with autocast(settings, world.device):
        features = network.encoder(batch.images)
        shown = network.autoencoder.decode(network.latents(features, batch.boxes, order)).float()
    squares = padded_square(batch.boxes, ROI_PAD)
    crops = roi_pool(batch.images, squares, order, settings.network.crop, stride=1)
    return torch.cat((crops, batch.targets, shown)).cpu()
