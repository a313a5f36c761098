from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codepose.estimation.codebook import Codebook
from codepose.synthesis.world import World


def _book_of(world: World, rotations: Tensor) -> Codebook:
    count, model = len(rotations), world.objects[0]
    zeros = torch.zeros(count).long()
    return Codebook(
        label=model.label,
        codes=torch.ones(count, 4).half(),
        thumbnails=torch.ones(count, 64).half(),
        rotations=rotations,
        boxes=world.boxes(zeros, rotations, world.reference_translations(zeros)),
        z_ref=model.z_ref,
        K=world.K,
        hull=world.renderer.hull(0),
        offset=model.offset,
        exact=True,
        fingerprint="",
    )


@pytest.fixture(scope="session")
def book_of() -> Callable[[World, Tensor], Codebook]:
    """Makes codebooks that know nothing but their views (V, 3, 3)."""
    return _book_of
