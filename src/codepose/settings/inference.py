"""How a trained network is used: codebook, detections, refinement."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from codepose.settings.values import Few, Fraction, Frozen, Size


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
    judged: Few = 32
    """How many of these are first compared with the photo by the judge, a network for all parts that codepose brings,
    which hands the best few on; up to half of them are found by the photo's edges instead. 0 = it is not asked."""
    looks: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a box is looked at, at most: where the pose found shows that the box was off, again in the box that
    the pose has."""
    rounds: Few = 4
    """How often poses are tried around the best, ever nearer. 0 = not at all."""


class DetectionSettings(Frozen):
    """What counts as a detection at inference."""

    score: Fraction = 0.05
    nms: Fraction = 0.5
    """Of two boxes of one object whose IoU is larger, the one with the better score is kept."""
    per_object: Size = 10
    """At most so many detections of each object in an image."""
