"""What the training images show: parts, camera, light, occlusion."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, field_validator

from codepose.settings.values import (
    MUCH,
    Count,
    Few,
    Fraction,
    Frozen,
    NonNegative,
    Positive,
    Range,
    Size,
    Whole,
)

Unit = Literal["mm", "cm", "m", "inch"]

BENCHES = "benches"
"""In place of a folder of backgrounds: rendered pictures of untidy benches."""
NEAREST = 0.75
"""No part stands nearer to the camera than so many of its diameters, which would reach it."""


class ObjectSettings(Frozen):
    """One CAD model the network learns."""

    mesh: str = "hammer"
    """Path of a STEP, PLY, OBJ, STL, GLB or 3MF file, or the name of a built-in mesh."""
    unit: Unit = "mm"
    """Unit of the file's coordinates; 3MF and STEP files say it themselves."""
    body: str = ""
    """Only the body or assembly that a STEP or GLB file calls so; empty = all of the file."""
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
        if value is not None and not 1e-9 <= math.hypot(*value) <= MUCH:
            raise ValueError("a direction has a length above 0")
        return value

    @property
    def name(self) -> str:
        """What results call it."""
        return self.label or PurePath(self.mesh).stem


class CameraSettings(Frozen):
    """The pinhole camera of the training scenes; the network's scale, to which any photo is brought."""

    image_size: Annotated[int, Field(gt=0, le=8192)] = 512
    """Side of the square scene in pixels."""
    focal: Positive = 300.0
    """Focal length in pixels; the principal point is the image centre."""
    box_side: Range = (80.0, 133.0)
    """Range of max(w, h) of the object's amodal box in pixels; smaller where a slender part that points at the camera
    would have to be nearer than three quarters of its diameter."""
    truncation: Fraction = 0.0
    """How much of the box may leave the image, as a fraction of its side."""


class AugmentationSettings(Frozen):
    """Per-image appearance changes; the ranges of the original AAE."""

    contrast: Range = (0.4, 2.3)
    """Range of the factor on the contrast about mid-grey, in half of the images."""
    invert_channel: Fraction = 0.2
    """Probability of inverting each channel, in half of the images."""
    blur_sigma: Annotated[float, Field(ge=0.0, le=100.0)] = 1.2
    """Largest standard deviation of the Gaussian blur in pixels, in half of the images."""
    noise: NonNegative = 0.0
    """Largest standard deviation of the pixel noise, in units of [0, 1]; the paper has none."""
    ambient: Range = (0.4, 0.4)
    """Range of the light that comes from everywhere, as a factor on the part's own colour."""
    diffuse: Range = (0.7, 0.9)
    """Range of the light from one side, as a factor on the part's own colour."""
    specular: Range = (0.2, 0.4)
    """Range of the highlights' strength."""
    tint: NonNegative = 0.0
    """Largest relative change of the object's own colour, per channel."""


class OcclusionSettings(Frozen):
    """Three-dimensional occluders in front of the object."""

    unoccluded: Fraction = 0.3
    """Share of images without any occluder."""
    hand: Fraction = 0.6
    """Probability of the gripping hand, among occluded images."""
    others: Few = 2
    """Largest number of further occluders, each smaller than the object."""
    large: Fraction = 0.0
    """Probability of something larger than the object that hides one side of it, among occluded images."""
    shapes: Literal["solids", "things"] = "solids"
    """What those others and the clutter are: plain solids of one colour each, or things of everyday shape."""
    clutter: Few = 3
    """Largest number of other things in a scene, mostly beside or behind the object."""
    overlap: Fraction = 0.1
    """Largest share of a companion's box that may lie in another's, or the other's in its: 0.8 and more = heaps."""
    companions: Few = 0
    """Largest number of further instances of the trained objects in a scene, beside its target object; where enough of
    them is seen, their poses are learned, too. In validation and test scenes they are of other objects only."""
    min_visible: Fraction = 0.4
    """Smallest visible fraction of the target object's silhouette; of companions that show less, no pose is learned.
    In heaps (``companions`` with a large ``overlap``) a few targets in a hundred show less."""


class DataSettings(Frozen):
    """Everything that a training image depends on besides (split, index)."""

    seed: Whole = 0
    backgrounds: str | None = None
    """Folder of photos; "benches" = rendered pictures of untidy benches; None = procedural textures. Kept a quarter
    larger than the images, at least 320 px."""
    photo_scale: Annotated[int, Field(gt=0, le=16)] = 1
    """Resolution of the scenes of evaluation and calibration over the network's: a camera's photos show more than the
    network sees, and refinement looks at them. Blur and noise are then in the photos' pixels."""
    textures: Size = 192
    """How many procedural textures, or photos, are kept in memory for each split."""
    antialias: Annotated[int, Field(gt=0, le=16)] = 2
    """Samples a pixel along each axis."""
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
