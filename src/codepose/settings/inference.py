"""How a trained network is used: codebook, detections, refinement."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from codepose.settings.values import Few, Fraction, Frozen, NonNegative, Positive, Size


class CodebookSettings(Frozen):
    """Views and in-plane angles of the codebook."""

    level: Annotated[int, Field(ge=0, le=6)] = 4
    """Icosphere subdivisions: 4 = 2,562 view directions."""
    in_plane: Annotated[int, Field(gt=0, le=3600)] = 36
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
