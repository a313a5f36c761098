"""A row that the paper lacks, jitter: does training on detections beat training on true boxes moved at random?

Importing this makes it a method of ``train_stages``, ``evaluate`` and ``PoseEstimator.load`` in this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from codepose.estimation.methods import STAGES, Method
from codepose.geometry import box_center, box_size, boxes_around, padded_square
from codepose.networks.autoencoder import ExtendedAutoencoder
from codepose.networks.build import build_extended
from codepose.networks.losses import mse
from codepose.networks.roi import roi_pool
from codepose.runtime.ranks import mean_over
from codepose.runtime.run import Run
from codepose.settings.crop import ROI_PAD
from codepose.settings.schema import Settings
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SCALE, SHIFT, SceneSource
from codepose.synthesis.world import World
from codepose.training.plan import Stage
from codepose.training.stages import FROM_STEP1, learning, trained

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def jittered_boxes(boxes: Tensor, shift: float, scale: tuple[float, float]) -> Tensor:
    """Returns the boxes (..., 4) moved and resized at random, from torch's default generator.

    Args:
        boxes: xyxy.
        shift: Largest move of the centre along each axis, as a fraction of max(w, h).
        scale: Range of the factor on the size, above 0.
    """
    side = box_size(boxes).amax(-1, keepdim=True)
    center = box_center(boxes) + (torch.rand_like(boxes[..., :2]) * 2.0 - 1.0) * shift * side
    return boxes_around(center, box_size(boxes) * torch.empty_like(boxes[..., :1]).uniform_(*scale))


def jitter_stage(settings: Settings, world: World, network: ExtendedAutoencoder) -> Stage:
    """Goes on training the extended AAE on crops of scenes at jittered ground-truth boxes.

    Boxes are shifted, as a share of their side, and scaled as Step 1's windows are.

    As many images, iterations and the same L_mse as Step 2, but no detector, and, as all baselines, none of what we
    added to Step 2 (look-alikes, codes' losses).
    """
    train, losses = SceneSource(world, "train"), settings.losses

    def loss(net: nn.Module, batch: SceneBatch) -> tuple[Tensor, dict[str, Tensor]]:
        poses = batch.poses(settings.data.occlusion.min_visible)
        squares = padded_square(jittered_boxes(poses.boxes, SHIFT, SCALE), ROI_PAD)
        crops = roi_pool(batch.images, squares, poses.image, settings.network.crop, stride=1)
        _, reconstructions = net(crops.contiguous(memory_format=torch.channels_last))
        errors = mse(reconstructions.float(), poses.targets, losses.bootstrap_ratio)
        error = mean_over(errors.mean(), errors.new_full((), len(errors)))
        return losses.lambda_pose * error, {"mse": error}

    return Stage(
        name="jitter",
        network=network,
        groups={"encoder": learning(network.parameters(), network.encoder, settings, taught=True)},
        pretrained=("encoder",),
        items=settings.data.scene_images,
        batch=train.scenes,
        loss=loss,
        settings=settings.step2.model_copy(update={"phases": ()}),
    )


def train_jitter(run: Run, world: World, fabric: Fabric, pretrained: ExtendedAutoencoder) -> ExtendedAutoencoder:
    """Trains, resumes or loads the jitter-trained extended AAE, from Step 1's weights."""
    return trained("jitter", "Baseline: jittered boxes", build_extended, jitter_stage, run, world, fabric, pretrained)


JITTER = cast("Method", "jitter")
STAGES[JITTER] = ("detector", "jitter")
FROM_STEP1["jitter"] = train_jitter
