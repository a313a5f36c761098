"""Where refinement begins: views that the network's code or the photo's edges speak for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codepose.estimation.codebook import Codebook
from codepose.refinement.poses import Poses, Seen
from codepose.refinement.render_and_compare import HYPOTHESES
from codepose.refinement.wide_search import WideSearch
from codepose.synthesis.lookalikes import spread_views
from codepose.synthesis.objects import Objects

APART_DEG = 12.0
"""Smallest angle between two views at which refinement begins."""
EDGE_VIEWS = 16
"""How many of the views that the judge compares the photo's edges find, at most; never more than half."""


class Hypotheses:
    """Proposes poses of detections: views that are apart, where the boxes put them, or the photo's edges.

    Args:
        world: The run's meshes and renderer.
        codebooks: One an object.
    """

    def __init__(self, world: Objects, codebooks: Sequence[Codebook]) -> None:
        self._world, self._codebooks = world, codebooks
        self._settings = world.settings.refinement
        self._by_edges = WideSearch(world)

    def __call__(self, seen: Seen, latents: Tensor) -> tuple[Poses, Tensor]:
        """Returns poses (N, k) to begin at, and the cosine (N,) of each code with the codebook's nearest.

        The codebook's nearest views, ranked by their cosines and the reconstructions; then, where the judge is asked,
        those for which the photo's edges speak.

        Args:
            seen: N detections of one object.
            latents: (N, D) their codes.
        """
        settings, index = self._settings, int(seen.objects[0])
        book, symmetries = self._codebooks[index], self._world.objects[index].symmetries
        values, views = book.search(latents, min(settings.candidates, len(book.codes)))
        ranked, _ = book.rerank(views, values, seen.reconstructions)
        by_edges = min(EDGE_VIEWS, settings.judged // 2)
        many = (settings.judged or HYPOTHESES) - by_edges
        starts = ranked.gather(1, spread_views(book.rotations[ranked], many, APART_DEG, symmetries))
        _, t = book.poses(starts.flatten(), seen.boxes.repeat_interleave(starts.shape[1], 0), seen.K)
        t = t.view(*starts.shape, 3)
        if by_edges:
            views, places = self._by_edges(seen, book, by_edges, APART_DEG)
            starts, t = torch.cat((starts, views), 1), torch.cat((t, places), 1)
        return Poses.start(book.rotations[starts], t, book.cosines(starts, latents)), values[:, 0]
