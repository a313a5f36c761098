"""How the networks learn: losses, optimisers, stages and their phases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from codepose.settings.values import Count, Few, Frozen, NonNegative, Positive, Size, Whole

MOMENTUM = {"sgd": 0.9, "muon": 0.95}
"""Of the optimisers that have one: torchvision's for detectors, and Muon's authors'."""


class LossSettings(Frozen):
    """Weights and readings of the losses (Eqs. 1-5)."""

    lambda_cos: NonNegative = 1e-2
    """Eq. 4's weight of L_cos."""
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
    """Whether L_angle and L_cos leave the code of the clean view as it is, and move the other alone."""


class OptimizerSettings(Frozen):
    """One optimiser and its learning-rate schedule."""

    name: Literal["adabound", "sgd", "adam", "adamw", "muon"] = "adamw"
    lr: Positive = 1e-3
    schedule: Literal["constant", "steps", "cosine"] = "constant"
    """'steps': it falls to 1/10 every eight epochs."""
    warmup: Whole = 0
    """Iterations of linear warm-up, at most a tenth of the stage."""
    weight_decay: NonNegative = 0.0
    pretrained_factor: Positive = 1.0
    """Step 2's factor on the learning rate of what it takes over from Step 1: encoder, decoder and FC layers."""
    clip: NonNegative = 0.0
    """Largest gradient norm; 0 = no clipping."""


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
    validations: Count = 10
    """How often, evenly over the stage, a small part of the validation split is looked at."""
    time_limit: NonNegative = 0.0
    """Seconds; when a slow machine would need longer, the schedule is shortened to fit. 0 = no limit."""
