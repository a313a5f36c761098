"""The methods to estimate a pose: which trained stages each needs, and what a run keeps of it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch

from codepose.estimation.codebook import (
    Codebook,
    CodebookError,
    DamagedCodebookError,
    add_weights,
    build_codebook,
    fingerprint,
)
from codepose.estimation.confidence import Confidence
from codepose.estimation.hypotheses import APART_DEG, EDGE_VIEWS
from codepose.estimation.pipelines import JointPipeline, Pipeline, TwoStagePipeline
from codepose.networks.build import build_detector, build_extended, build_joint, build_original
from codepose.refinement.render_and_compare import AGREEMENT, HYPOTHESES, KEEP, SIMILARITY, STEP_DEG
from codepose.runtime.run import Run, RunError
from codepose.settings.inference import RefinementSettings
from codepose.synthesis.world import World

Method = Literal["joint", "extended", "original"]
METHODS: tuple[Method, ...] = get_args(Method)
STAGES: dict[Method, tuple[str, ...]] = {
    "joint": ("step2",),
    "extended": ("detector", "step1"),
    "original": ("detector", "original"),
}
"""The finished stages a method needs: the joint network's, or a detector's and an autoencoder's."""


def trained_methods(run: Run) -> list[Method]:
    """Returns the methods all of whose stages are done."""
    return [m for m, stages in STAGES.items() if all(run.has(stage) for stage in stages)]


_REFINEMENT = "6"
"""Changes when refinement scores edges in another way: what was calibrated before says nothing then."""


def load_pipeline(run: Run, method: Method, device: torch.device) -> Pipeline:
    """Returns a method's networks with their trained weights.

    Args:
        run: Where they are.
        method: Which of ``STAGES``.
        device: Where they are to compute.

    Raises:
        RunError: A stage the method needs is not done, or there is no such method.
    """
    settings = run.settings
    if method == "joint":
        joint = build_joint(settings)
        run.load_weights("step2", joint)
        return JointPipeline(joint, settings, device)
    if method not in STAGES:
        raise RunError(f"no method is called {method!r}; there are {', '.join(METHODS)}")
    detector = build_detector(settings)
    run.load_weights("detector", detector)
    autoencoder = build_original(settings) if method == "original" else build_extended(settings)
    run.load_weights(STAGES[method][-1], autoencoder)
    return TwoStagePipeline(detector, autoencoder, settings, device)


def load_codebooks(
    run: Run,
    method: Method,
    pipeline: Pipeline,
    world: World | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Codebook]:
    """Reads a method's codebooks, one an object; builds and saves those that are missing or of other weights.

    Args:
        run: Where they are kept.
        method: Whose they are.
        pipeline: Its networks.
        world: Its meshes; loaded only if a codebook must be built.
        progress: Is told, while codebooks are built, which share of all is there.
    """
    mark = fingerprint(pipeline)
    books, count = [], len(run.settings.objects)
    for index in range(count):
        path = run.path / "codebooks" / f"{method}-{index + 1}.safetensors"
        try:
            book = Codebook.load(path, mark) if path.exists() else None
        except DamagedCodebookError as error:
            warnings.warn(f"{error}; it is built anew", stacklevel=2)
            book = None
        except CodebookError:
            book = None  # of earlier weights
        if book is None:
            world = world or World(run.settings, pipeline.device)
            book = build_codebook(pipeline, world, index, partial(_tell_share, progress, index, count))
            try:
                path.parent.mkdir(exist_ok=True)
                book.save(path)
            except OSError as error:  # a run may lie where nothing can be written
                warnings.warn(f"the codebook cannot be kept and is built anew every time: {error}", stacklevel=2)
        books.append(book.to(pipeline.device))
    return books


def _tell_share(progress: Callable[[float], None], done: int, count: int, share: float) -> None:
    """Of ``count`` pieces so many are done, and a share of the next."""
    progress((done + share) / count)


def confidence_path(run: Run, method: Method, *, refined: bool) -> Path:
    """Returns where a method's calibration is kept."""
    return run.path / "confidence" / f"{method}{'-refined' if refined else ''}.json"


def load_confidence(
    run: Run, method: Method, pipeline: Pipeline, books: list[Codebook], *, refined: bool
) -> Confidence | None:
    """Reads a method's calibration; None where there is none, or one of other weights or settings.

    Args:
        run: Where it is kept.
        method: Whose it is.
        pipeline: Its networks.
        books: Its codebooks.
        refined: That of refined poses, not of plain ones.
    """
    mark = confidence_mark(pipeline, books, refined=refined)
    return Confidence.load(confidence_path(run, method, refined=refined), mark)


def _refinement_mark(settings: RefinementSettings) -> str:
    """All numbers of refinement, in the form in which they were settings: what was calibrated then is valid now."""
    numbers = {
        "candidates": settings.candidates,
        "hypotheses": HYPOTHESES,
        "judged": settings.judged,
        "edge_views": EDGE_VIEWS,
        "looks": settings.looks,
        "apart_deg": APART_DEG,
        "similarity": SIMILARITY,
        "agreement": AGREEMENT,
        "rounds": settings.rounds,
        "keep": KEEP,
        "step_deg": STEP_DEG,
    }
    refiner = {} if settings.refiner == "contours" else {"refiner": settings.refiner}
    return json.dumps(refiner | numbers, separators=(",", ":"))


def confidence_mark(pipeline: Pipeline, books: list[Codebook], *, refined: bool) -> str:
    """Returns a hash of what the evidence depends on: networks, the detector's too, codebooks, refinement, scenes."""
    settings = pipeline.settings
    refinement = _REFINEMENT + _refinement_mark(settings.refinement) if refined else ""
    digest = hashlib.sha256(f"{books[0].fingerprint} {refinement} {settings.data.photo_scale}".encode())
    add_weights(digest, pipeline.networks())
    return digest.hexdigest()
