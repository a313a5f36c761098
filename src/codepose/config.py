"""Frozen settings of every stage. The defaults are the paper's; presets and files change them
(``config_files.py``).

Numbers such as (25) point into the table of ``docs/method.md``, which says where the paper is silent and what
we do instead. Unknown keys raise and name the key.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Unit = Literal["mm", "cm", "m", "inch"]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] <= pair[1]:
        raise ValueError(f"a range must go from low to high, not from {pair[0]} to {pair[1]}")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class ConfigError(ValueError):
    """A settings file or override that cannot be used; the text names the key."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ObjectSettings(_Frozen):
    """One CAD model the network learns."""

    mesh: str = "hammer"
    """Path of a PLY, OBJ, STL or GLB file, or the name of a built-in mesh."""
    unit: Unit = "mm"
    """Unit of the file's coordinates."""
    label: str = ""
    """Name used in results; empty = the file's stem."""
    max_faces: Whole = 200_000
    """A mesh with more faces is reduced to so many, shape and colours kept; 0 = never."""
    view_direction: tuple[float, float, float] | None = None
    """Object-frame direction towards the camera at the middle of the trained views. None = the axis along which
    the part is thinnest, the side that shows most of it."""
    view_cone_deg: Annotated[float, Field(gt=0.0, le=180.0)] = 180.0
    """Half-angle of the trained views around ``view_direction``; 180 = every view of SO(3). In-plane rotation is
    never restricted."""
    view_opposite: bool = False
    """Also learn the views around the opposite direction: a part that lies on a table, on either side."""
    symmetries: str = "auto"
    """Rotations after which the part looks the same: 'auto' = found by comparing renders; 'none'; or a file in the
    form of BOP's models_info.json, in mm and the CAD file's own frame, of which object i takes entry i, and a mesh
    called obj_000005 entry 5."""

    @field_validator("view_direction")
    @classmethod
    def _points_somewhere(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not 0.0 < math.hypot(*value) < math.inf:
            raise ValueError("a direction has a length above 0")
        return value

    @property
    def name(self) -> str:
        """What results call it."""
        return self.label or PurePath(self.mesh).stem


class CameraSettings(_Frozen):
    """The pinhole camera of the training scenes (34); the network's scale, to which any photo is brought."""

    image_size: Count = 512
    """Side of the square scene in pixels."""
    focal: Positive = 300.0
    """Focal length in pixels; the principal point is the image centre."""
    box_side: Range = (80.0, 133.0)
    """Range of max(w, h) of the object's amodal box in pixels; smaller where a slender part that points at the camera
    would have to be nearer than three quarters of its diameter."""
    truncation: Fraction = 0.0
    """How much of the box may leave the image, as a fraction of its side."""
    far: Positive = 5000.0
    """Depth in mm of the background plane (38); farther behind parts so large that they would reach it."""


class AugmentationSettings(_Frozen):
    """Per-image appearance changes (35); the ranges of the original AAE."""

    probability: Fraction = 0.5
    add: NonNegative = 0.1
    contrast: Range = (0.4, 2.3)
    multiply: Range = (0.6, 1.4)
    per_channel: Fraction = 0.3
    invert_channel: Fraction = 0.2
    """Probability of inverting each channel, within images chosen with ``probability``."""
    blur_sigma: NonNegative = 1.2
    noise: NonNegative = 0.02
    """Largest standard deviation of the pixel noise, in units of [0, 1]."""
    scale: Range = (0.8, 1.2)
    """Scale of the Step-1 crop window around the padded square."""
    shift: NonNegative = 0.15
    """Largest shift of the Step-1 crop window, as a fraction of its side."""
    ambient: Range = (0.4, 0.4)
    diffuse: Range = (0.7, 0.9)
    specular: Range = (0.2, 0.4)
    metal: Fraction = 0.0
    """Share of images whose surfaces mirror lamps and walls, as polished metal does."""
    tint: NonNegative = 0.0
    """Largest relative change of the object's own colour, per channel."""


class OcclusionSettings(_Frozen):
    """Three-dimensional occluders in front of the object (32)."""

    unoccluded: Fraction = 0.3
    """Share of images without any occluder."""
    hand: Fraction = 0.6
    """Probability of the gripping hand, among occluded images."""
    others: Whole = 2
    """Largest number of further occluders."""
    clutter: Whole = 3
    """Largest number of other things in a scene, mostly beside or behind the object."""
    overlap: Fraction = 0.1
    """Largest share of a companion's box that may lie in another's, or the other's in its: 1 = heaps."""
    companions: Whole = 0
    """Largest number of further instances of the trained objects in a scene, beside its target object; where enough of
    them is seen, their poses are learned, too. In validation and test scenes they are of other objects only."""
    min_visible: Fraction = 0.4
    """Smallest visible fraction of the target object's silhouette; of companions that show less, no pose is learned.
    In heaps (``companions`` with a large ``overlap``) a few targets in a hundred show less."""


class DataSettings(_Frozen):
    """Everything that a training image depends on besides (split, index) (31-38)."""

    seed: Whole = 0
    backgrounds: str | None = None
    """Folder of photos; None = procedural textures (33). Kept a quarter larger than the images, at least 320 px."""
    photo_scale: Count = 1
    """Resolution of the scenes of evaluation and calibration over the network's: a camera's photos show more than the
    network sees, and refinement looks at them. Blur and noise are then in the photos' pixels."""
    textures: Count = 192
    """How many procedural textures, or photos, are kept in memory for each split."""
    pad: Positive = 1.2
    """Side of the square RoI over max(w, h) of the box (19)."""
    antialias: Count = 2
    """Rays a pixel along each axis."""
    curriculum: Fraction = 0.0
    """Share of a stage during which difficulty rises from 0 to 1; 0 = full difficulty from the start."""
    clean: Fraction = 0.0
    """Share of training images that are left clean: no occluder, black background, the target's light. The codebook
    is made of such views; with a share of them in training, its latents stay those of the same views under clutter."""
    step1_images: Count = 100_000
    scene_images: Count = 25_000
    val_images: Count = 500
    test_images: Count = 800
    camera: CameraSettings = CameraSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    occlusion: OcclusionSettings = OcclusionSettings()

    @property
    def photo_size(self) -> int:
        """Side in pixels of the scenes of evaluation and calibration, of which the network sees ``image_size``."""
        return self.photo_scale * self.camera.image_size


class NetworkSettings(_Frozen):
    """Sizes of the networks (8-13)."""

    crop: Annotated[int, Field(ge=32, multiple_of=16)] = 128
    """Side of Step 1's images in pixels; the RoI is crop/16 on a side."""
    latent: Count = 4096
    width: Positive = 1.0
    """Factor on VGG16's channel counts, and on the original AAE's."""
    norm: Literal["none", "group", "block"] = "none"
    """'group': GroupNorm after every convolution. 'block': GroupNorm once a block, which learns as well at a tenth
    of its cost (10)."""
    frozen_blocks: Annotated[int, Field(ge=0, le=4)] = 0
    """VGG16 blocks that Step 2 leaves as Step 1 made them. Faster R-CNN's usual choice is 2: the first blocks hardly
    change and take most of the backward pass's time."""
    weights: Literal["none", "imagenet"] = "none"
    """'none' = Kaiming; 'imagenet' needs torchvision's VGG16 file (11)."""
    anchor_sizes: tuple[float, ...] = (64.0, 128.0, 256.0)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    box_head: Count = 1024
    proposals: Count = 1000
    """RPN boxes kept after NMS in training; twice as many go in; half as many at inference."""
    roi_sampling: Count = 2
    """Bilinear samples along each axis of a bin of the box head's RoIAlign; torchvision's default is 2."""
    roi_samples: Count = 128
    """RoIs an image on which the box head is trained, a quarter of them positive."""
    box_gradient: Literal["features", "boxes"] = "features"
    """Whether L_mse reaches the detector through the features alone, or also moves the box (18)."""
    feedback: Literal["detection", "random"] = "detection"
    """Which box is fed back in Step 2: the detector's own (15), or, to see what that is worth, the true one scaled
    and shifted at random within Step 1's ranges."""
    original_latent: Count = 128
    """Latent size of the original AAE baseline."""


class LossSettings(_Frozen):
    """Weights and readings of Eqs. 1-5 (1-7, 17)."""

    lambda_angle: NonNegative = 1e-6
    lambda_cos: NonNegative = 1e-2
    lambda_match: NonNegative = 0.0
    """Weight of ``match_loss``; not in the paper."""
    look_alikes: Whole = 0
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
    """k: L_mse averages the largest 1/k of each image's squared errors; 1 = Eq. 1 (2)."""
    original_bootstrap_ratio: Count = 4
    pairing: Literal["nearest", "closest_pair"] = "nearest"
    stop_grad_target: bool = False
    min_iou: Fraction = 0.3
    """L_mse skips objects whose best detection overlaps less than this."""


class OptimizerSettings(_Frozen):
    """One optimiser and its learning-rate schedule."""

    name: Literal["adabound", "sgd", "adam", "adamw", "muon"] = "adamw"
    lr: Positive = 1e-3
    schedule: Literal["constant", "steps", "cosine"] = "constant"
    warmup: Whole = 0
    """Iterations of linear warm-up."""
    step_epochs: Positive = 8.0
    """'steps': the learning rate falls to 1/10 every so many epochs."""
    momentum: NonNegative = 0.9
    """SGD's; Muon's is usually 0.95."""
    weight_decay: NonNegative = 0.0
    final_lr: Positive = 0.1
    """AdaBound's final learning rate."""
    gamma: Positive = 1e-3
    """AdaBound's convergence speed."""
    pretrained_factor: Positive = 1.0
    """Factor on the learning rate of what Step 2 takes over from Step 1: encoder, decoder and FC layers."""
    clip: NonNegative = 0.0
    """Largest gradient norm; 0 = no clipping."""


Group = Literal["encoder", "decoder", "fc", "rpn", "box_head"]
ALL_GROUPS: tuple[Group, ...] = ("encoder", "decoder", "fc", "rpn", "box_head")


class Phase(_Frozen):
    """A stretch of training in which only some groups of parameters move (23)."""

    epochs: Positive
    """How long, in proportion to the stage's other phases: they divide its epochs."""
    train: tuple[Group, ...] = ALL_GROUPS


class StageSettings(_Frozen):
    """One training loop."""

    batch: Count = 128
    epochs: Positive = 27.0
    optimizer: OptimizerSettings = OptimizerSettings()
    phases: tuple[Phase, ...] = ()
    """Phases, which divide ``epochs`` in proportion to their own; empty = one phase that trains everything."""
    checkpoint_every: Count = 500
    """Iterations between checkpoints."""
    log_every: Count = 20
    validations: Count = 10
    """How often, evenly over the stage, a small part of the validation split is looked at."""
    time_limit: NonNegative = 0.0
    """Seconds; when a slow machine would need longer, the schedule is shortened to fit. 0 = no limit."""


class CodebookSettings(_Frozen):
    """Views and in-plane angles of the codebook (26-28)."""

    level: Annotated[int, Field(ge=0, le=6)] = 4
    """Icosphere subdivisions: 4 = 2,562 view directions."""
    in_plane: Count = 36
    batch: Count = 64
    translation: Literal["exact", "aae"] = "exact"
    """'aae': the original's formula; 'exact': that, then corrected for the perspective off the axis (29)."""
    canvas: Whole = 0
    """Side in pixels of the black canvas of the joint network's views; 0 = the scene's size (27)."""


class RefinementSettings(_Frozen):
    """Render-and-compare against the network's own reconstruction and the photo's edges."""

    candidates: Count = 1024
    """The codebook's nearest views that are ranked anew, by their codes and, coarsely, by their agreement with the
    reconstruction."""
    hypotheses: Count = 8
    """How many of these, ``apart_deg`` or more from each other, are laid over the photo."""
    apart_deg: NonNegative = 12.0
    similarity: NonNegative = 0.5
    """Weight of the cosine of the codes beside the match of the edges."""
    agreement: NonNegative = 0.2
    """Weight of the agreement with the reconstruction beside the match of the edges; large = the reconstruction alone
    decides how the part lies."""
    rounds: Whole = 4
    """How often poses are tried around the best, ever nearer. 0 = not at all."""
    keep: Count = 4
    """Around how many in the third round, and half as many in each after it; in the first two around all."""
    step_deg: Positive = 8.0
    """How far around them in the first round: the standard deviation of the turns."""


class DetectionSettings(_Frozen):
    """What counts as a detection at inference."""

    score: Fraction = 0.05
    nms: Fraction = 0.5
    per_image: Count = 10
    """At most so many detections an image."""


class Settings(_Frozen):
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
    nothing (docs/experiments.md)."""
    seed: Whole = 0
    """Seed of the initial weights and of the detector's sampling."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.objects:
            raise ValueError("objects: name at least one mesh")
        if self.data.camera.image_size % 16:
            raise ValueError("data.camera.image_size must be a multiple of 16, the encoder's stride")
        if not 0 < self.data.camera.box_side[0] <= self.data.camera.box_side[1] <= self.data.camera.image_size:
            raise ValueError("data.camera.box_side must lie between 0 and data.camera.image_size")
        if self.codebook.canvas and (self.codebook.canvas < self.network.crop or self.codebook.canvas % 16):
            raise ValueError("codebook.canvas must be 0, or a multiple of 16 that is no smaller than network.crop")
        names = [o.name for o in self.objects]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"objects: {names.count(name)} of them are called {name!r}; give each its own label")
        together = self.losses.look_alikes + 1
        if together > min(self.step1.batch, self.step2.batch, self.data.step1_images, self.data.scene_images):
            raise ValueError(
                f"losses.look_alikes: a batch of step1 and of step2 must hold {together} images; 0 does without them"
            )
        return self
