"""What is measured, at the benchmark's scale: settings, worlds, codebooks, and torchvision's own detector."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.timing import Options
from codepose import geometry
from codepose.estimation.codebook import Codebook, build_codebook
from codepose.estimation.pipelines import JointPipeline
from codepose.networks.backbone import Backbone
from codepose.networks.build import ASPECT_RATIOS
from codepose.parts.shapes import hand
from codepose.rendering.renderer import Renderer
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.synthesis.world import World

PAPER_VIEWS = 92_232

_TINY: dict[str, Any] = {
    "data.camera.image_size": 128,
    "data.camera.focal": 75.0,
    "data.camera.box_side": [26.0, 40.0],
    "data.textures": 4,
    "network.crop": 32,
    "network.latent": 16,
    "network.width": 0.125,
    "network.anchor_sizes": [16.0, 32.0, 64.0],
    "network.box_head": 32,
    "step1.batch": 4,
    "step2.batch": 2,
    "losses.look_alikes": 0,
}


def chosen(preset: str, options: Options, changes: dict[str, Any] | None = None) -> Settings:
    """Returns a preset as it is in the middle of training: full difficulty, no parameter frozen by a phase.

    Learning rates are next to nothing, which costs the same time and leaves the work of an iteration as it is.

    Args:
        preset: Its name; a smoke test takes a tiny version of "quick" instead.
        options: Say whether this is a smoke test.
        changes: Further settings by dotted key, not in a smoke test.
    """
    base: dict[str, Any] = {"data.curriculum": 0.0, "step2.phases": [], "network.weights": "none"}
    base |= {f"{stage}.optimizer.lr": 1e-9 for stage in ("step1", "step2")}
    settings = override(load_preset("quick" if options.quick else preset), base)
    return override(settings, _TINY if options.quick else (changes or {}))


def build_world(settings: Settings, options: Options) -> World:
    """Returns a world whose renderers use the options' number of threads."""
    world = World(settings, options.place)
    objects = [o.mesh for o in world.objects]
    world.renderer = Renderer(objects, options.place, threads=options.cores)
    around = [hand(), *world.other_meshes]
    world.scene_renderer = Renderer([*objects, *around], options.place, threads=options.cores)
    return world


def random_codebook(pipeline: JointPipeline, world: World, views: int, latent: int, index: int = 0) -> Codebook:
    """Returns a codebook of random unit codes, whose other entries are those of a few views over and over.

    The search does not care what the codes are.
    """
    small = {"codebook.level": 0, "codebook.in_plane": 1, "codebook.canvas": pipeline.settings.network.crop}
    book = build_codebook(
        JointPipeline(pipeline.network, override(pipeline.settings, small), pipeline.device), world, index
    )
    generator = torch.Generator().manual_seed(index)
    codes = F.normalize(torch.randn(views, latent, generator=generator), dim=1).half()
    repeated = torch.arange(views, device=pipeline.device) % len(book.codes)
    entries: dict[str, Any] = {
        name: value[repeated]
        for name, value in vars(book).items()
        if isinstance(value, Tensor) and len(value) == len(book.codes) and name not in ("K", "hull", "offset")
    }
    return dataclasses.replace(book, **entries | {"codes": codes.to(pipeline.device)})


def torchvision_detector(settings: Settings, encoder: Backbone) -> nn.Module:
    """Returns torchvision's own Faster R-CNN on the encoder's layers, with the same anchors, proposals and RoIs.

    It normalises images itself, as the encoder does, and keeps them at their size, as ours does.
    """
    network, detection = settings.network, settings.detection
    backbone = encoder.get_submodule("features")
    backbone.out_channels = encoder.out_channels  # type: ignore[assignment]  # where torchvision looks for it
    proposals = network.proposals
    model = FasterRCNN(
        backbone,
        min_size=settings.data.camera.image_size,
        max_size=settings.data.camera.image_size,
        size_divisible=16,
        rpn_anchor_generator=AnchorGenerator((network.anchor_sizes,), (ASPECT_RATIOS,)),
        rpn_pre_nms_top_n_train=2 * proposals,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=max(1, proposals // 2),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, network.roi_sampling),
        box_head=TwoMLPHead(encoder.out_channels * 49, network.box_head),
        box_predictor=FastRCNNPredictor(network.box_head, len(settings.objects) + 1),
        box_score_thresh=detection.score,
        box_nms_thresh=detection.nms,
        box_detections_per_img=detection.per_object,
        box_batch_size_per_image=network.roi_samples,
        box_positive_fraction=0.25,
    )
    model.transform.resize = _keep_size  # even at the right size it would interpolate
    return model  # type: ignore[no-any-return]


def _keep_size(image: Any, target: Any = None) -> tuple[Any, Any]:
    return image, target


def camera(focal: float, size: int, device: torch.device) -> torch.Tensor:
    """Returns K (3, 3) of a square image with the principal point in the middle."""
    return geometry.camera_matrix(focal, size / 2, size / 2).to(device)
