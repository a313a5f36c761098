"""What an estimator makes of given boxes and poses: all that the chain of causes knows of the estimator's inside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codepose import geometry
from codepose.estimation.box_poses import encoded
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.photo import Photo
from codepose.estimation.window_boxes import given_boxes
from codepose.networks.windows import Window, least_overlap, windows
from codepose.refinement.judge import JudgeRefiner
from codepose.refinement.poses import InTurn, Poses, Refiner, Seen, Stages
from codepose.refinement.render_and_compare import ContourRefiner


class _Recorded:
    """An estimator's refiner that keeps what it was given.

    Attributes:
        search: The refiner itself.
        refiner: The same, and what comes to it is kept.
        given: What it was last asked.
    """

    def __init__(self, refiner: Refiner) -> None:
        self.search = refiner
        self.refiner = Stages(self._ranked, refiner.second) if isinstance(refiner, Stages) else self._ranked
        self.given: tuple[Seen, Poses] | None = None

    def _ranked(self, seen: Seen, poses: Poses) -> Poses:
        self.given = seen, poses
        first = self.search.first if isinstance(self.search, Stages) else self.search
        return first(seen, poses)

    def rank(self, seen: Seen, poses: Poses) -> Poses:
        """The best of the poses by the judge; without one, by the edges, each moved to where they lie best."""
        if isinstance(self.search, Stages):
            judge = self.search.first
            assert isinstance(judge, JudgeRefiner)
            return replace(poses, score=judge.scores(seen, poses)).best(1)
        edges = self.search.first if isinstance(self.search, InTurn) else self.search
        assert isinstance(edges, ContourRefiner)
        return ContourRefiner(edges.world, edges.settings.model_copy(update={"rounds": 0}))(seen, poses)


@dataclass(frozen=True)
class EstimatorLook:
    """As ``photograph_links.Look`` has it."""

    views: Tensor
    starts: Tensor
    R: Tensor
    t: Tensor
    _refiner: _Recorded
    _seen: Seen
    _similarity: Tensor
    _hull: Tensor

    def begun_at(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Look`` has it."""
        return self._first(self._refiner.search(self._seen, self._poses(R[None], t[None])))

    def preferred(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Look`` has it."""
        return self._first(self._refiner.rank(self._seen, self._poses(R, t)))

    def _poses(self, R: Tensor, t: Tensor) -> Poses:
        """Poses of the one detection, of which nothing is known but where the box would put each."""
        R, t = R.to(self._hull), t.to(self._hull)
        R_view, count = geometry.offaxis_rotation(t).mT @ R, len(R)
        boxed = geometry.fit_translation(self._hull, R_view, self._seen.boxes.expand(count, 4), self._seen.K, t)
        begun = Poses.start(R_view[None], boxed[None], self._similarity.expand(1, count))
        return replace(begun, t=t[None])

    @staticmethod
    def _first(poses: Poses) -> tuple[Tensor, Tensor]:
        best = poses.best(1)
        return best.R[0, 0].double().cpu(), best.t[0, 0].double().cpu()


class Looker:
    """Looks at given boxes of photos as an estimator does at its own.

    Args:
        estimator: Of one object, that refines.
        tiles: As for the estimator.
    """

    def __init__(self, estimator: PoseEstimator, tiles: int) -> None:
        assert estimator.refiner is not None
        self._refiner, self._tiles = _Recorded(estimator.refiner), tiles
        given = (estimator.pipeline, estimator.codebooks)
        self._estimator = PoseEstimator(*given, self._refiner.refiner, world=estimator.world)

    def boxes(self, image: NDArray[np.uint8], K: NDArray[np.float64]) -> Tensor:
        """Returns the boxes (N, 4) in a photo that get poses, before refined poses could show two of them to be one."""
        (views,) = self._estimator.boxes([Photo.of(image, K, self._estimator.device)], self._tiles)
        size = self._estimator.settings.data.camera.image_size
        return torch.cat([torch.zeros(0, 4), *(view.in_photo(size)["boxes"].cpu() for view in views)])

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], K: NDArray[np.float64], box: Tensor) -> EstimatorLook:
        """Looks at one box (4,) of a photo (H, W, 3) with OpenCV's K (3, 3)."""
        estimator, book = self._estimator, self._estimator.codebooks[0]
        photo = Photo.of(image, K, estimator.device)
        box = box.to(photo.K)
        first = torch.zeros(1, dtype=torch.long, device=estimator.device)
        view = given_boxes(estimator.pipeline, photo, box[None], first, self._window(photo, box))
        (looked,) = estimator.looked_at(view)
        poses = looked.poses.best(1)
        latents, _ = encoded(estimator.pipeline, view, view.boxes)
        assert self._refiner.given is not None
        seen, hypotheses = self._refiner.given
        _, candidates = book.search(latents, min(estimator.settings.refinement.candidates, len(book.codes)))
        return EstimatorLook(
            views=book.rotations[candidates[0]].double().cpu(),
            starts=hypotheses.R_view[0].double().cpu(),
            R=poses.R[0, 0].double().cpu(),
            t=poses.t[0, 0].double().cpu(),
            _refiner=self._refiner,
            _seen=seen,
            _similarity=poses.similarity,
            _hull=book.hull,
        )

    def _window(self, photo: Photo, box: Tensor) -> Window:
        """The smallest window, and of these the one around its middle, that shows a box (4,) whole."""
        camera = self._estimator.settings.data.camera
        size, middle, choice = camera.image_size, geometry.box_center(box), []
        for window in windows(photo.width, photo.height, self._tiles, least_overlap(camera.box_side[1], size)):
            cut = bool(window.cuts(window.from_photo(box[None], size), size, photo.width, photo.height))
            if cut and (window.width, window.height) != (photo.width, photo.height):
                continue
            off = middle - box.new_tensor([window.left + window.width / 2, window.top + window.height / 2])
            choice.append((window.width * window.height, float(off.norm()), window))
        return min(choice, key=lambda known: known[:2])[2]
