"""All settings of a run. The defaults are the paper's; presets and files change them (``settings/files.py``).

``docs/method.md`` says where the paper is silent and what we do instead. Unknown keys raise and name the key.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from codepose.settings.crop import GRID, ROI_PAD
from codepose.settings.data import NEAREST, DataSettings, ObjectSettings
from codepose.settings.inference import CodebookSettings, DetectionSettings, RefinementSettings
from codepose.settings.network import NetworkSettings
from codepose.settings.training import LossSettings, OptimizerSettings, StageSettings
from codepose.settings.values import Frozen, Whole

_VIEW_STEP = 2 * GRID
"""A canvas and the view in its middle differ by a multiple of this: then the view begins on the encoder's grid."""


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
        if camera.focal * ROI_PAD < NEAREST * crop:
            raise ValueError(
                f"data.camera.focal: with {camera.focal:g} px the camera is in the part where it fills network.crop; "
                f"at least {NEAREST * crop / ROI_PAD:.0f}"
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
