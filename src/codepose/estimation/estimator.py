"""PoseEstimator: an image and its camera in, detections with poses out.

A photo is looked at through windows (``networks/windows.py``), each brought to the network's size. The detector's boxes
in them (``window_boxes.py``) get poses (``box_poses.py``), and of detections in one place one is left
(``duplicates.py``). Prediction, evaluation and calibration all go this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from codepose.estimation.box_poses import Looked, RefinedPoses, encoded, nearest_poses, seen_boxes
from codepose.estimation.codebook import Codebook
from codepose.estimation.detection import Detection
from codepose.estimation.duplicates import SEEN_TWICE, seen_once, without_doubles
from codepose.estimation.evidence import evidence
from codepose.estimation.fitted_boxes import fitted_boxes
from codepose.estimation.hypotheses import Hypotheses
from codepose.estimation.laid_poses import LaidPoses, Place
from codepose.estimation.likeliest import candidates_iou, worth_a_pose, worth_a_pose_in_photo
from codepose.estimation.photo import Photo, checked_depth
from codepose.estimation.window_boxes import WindowBoxes, detected_boxes, given_boxes
from codepose.refinement.poses import Poses, Refiner, Seen

if TYPE_CHECKING:
    from codepose.estimation.confidence import Confidence
    from codepose.estimation.methods import Method
    from codepose.estimation.pipelines import Pipeline
    from codepose.refinement.depth_fit import DepthRefiner
    from codepose.runtime.run import Run
    from codepose.settings.schema import Settings
    from codepose.synthesis.world import World

_MASK = 320
"""Longer side, in pixels, of the masks by which is seen whether two poses take the same pixels."""


@dataclass(frozen=True, eq=False)
class _Found:
    """A detection, one of the boxes that were looked at together, by its row there."""

    detection: Detection
    view: WindowBoxes
    looked: Looked
    row: int


class PoseEstimator:
    """Finds a run's objects in images and says how they lie.

    Threads may share one. With refinement it cannot be pickled: load it in each process.

    Args:
        pipeline: The networks.
        codebooks: One an object, in the settings' order.
        refiner: Refines poses by render-and-compare; None = the codebook's nearest view.
        confidence: Says how likely a pose is right; None = not calibrated.
        world: The run's meshes; None = they are loaded when they are first asked for.

    Attributes:
        by_plane: Whether a plane on which a photo's parts lie decides between poses that look the same.
    """

    by_plane = True

    def __init__(
        self,
        pipeline: Pipeline,
        codebooks: list[Codebook],
        refiner: Refiner | None = None,
        confidence: Confidence | None = None,
        *,
        world: World | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.codebooks = codebooks
        self.refiner = refiner
        self.confidence = confidence
        self.settings: Settings = pipeline.settings
        self.device = pipeline.device
        self._world = world

    @classmethod
    def load(
        cls,
        run: str | Path | Run,
        method: Method = "joint",
        device: str = "auto",
        *,
        refine: bool = False,
        compile: bool = False,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Self:
        """Loads a trained run; the codebook is built at the first use and kept in the run folder.

        Args:
            run: The run's folder.
            method: "joint" (the paper's), or a two-network baseline: "extended" or "original".
            device: "auto", "cpu", "cuda" or "cuda:N".
            refine: Refine poses by render-and-compare; ``docs/results.md`` says what it gains and costs.
            compile: Compile the networks with ``torch.compile``, for many images on a GPU: the first takes minutes.
            progress: Is told, where a codebook must be built, which share of it is there.

        Raises:
            RunError: The folder is no run, or the method's training is not finished.
            ConfigError: There is no such device.
        """
        from codepose.estimation.loading import load_parts

        return cls(**load_parts(run, method, device, refine=refine, compile=compile, progress=progress))

    def __call__(
        self,
        image: NDArray[np.uint8],
        camera: ArrayLike,
        *,
        min_score: float | None = None,
        depth: NDArray[Any] | None = None,
        tiles: int = 1,
    ) -> list[Detection]:
        """Finds the objects in one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; the network sees it scaled to its own, refinement at up to
                ``useful_size``.
            camera: (3, 3) pinhole matrix of this image in pixels, with OpenCV's convention (the centre of the first
                pixel is (0, 0)), no lens distortion.
            min_score: Leave out detections below; None = the settings' threshold.
            depth: (H, W) mm along the optical axis, pixel for pixel that of the image, 0 or not finite = not measured:
                poses are fitted to it. None = there is none.
            tiles: For parts that are small in a large image: besides the whole of it, look at overlapping squares of
                1/tiles of its longer side, each at the network's scale. The settings' largest number of detections
                holds for each of them, and where poses are refined ``tiles`` times as many for the whole image. 1 = the
                whole image only.

        Returns:
            Detections, best first, in the image's own pixels. Of several that refinement or depth has brought to
            one pose of one object, the best one, and of refined ones whose poses take the same pixels, too.

        Raises:
            ValueError: The image, the camera or the depth has the wrong shape or type, the camera sees more than a lens
                without distortion can, ``min_score`` is no share, or ``tiles`` no number of tiles.
        """
        photo = Photo.of(image, camera, self.device)
        measured = None if depth is None else checked_depth(depth, image.shape[:2])
        (found,) = self._estimated([photo], tiles, min_score)
        if measured is not None:  # depth tells apart what lies one upon the other
            fitted = self.depth_refiner([one.detection for one in found], photo.K.cpu(), measured)
            return without_doubles(fitted, self.world.objects)
        return self._settled(found, photo)

    def many(
        self,
        images: Sequence[NDArray[np.uint8]],
        cameras: Sequence[ArrayLike],
        *,
        min_score: float | None = None,
        tiles: int = 1,
    ) -> Iterator[list[Detection]]:
        """Finds the objects in several images, of any sizes: the networks see all at once, refinement one by one.

        Args:
            images: As a single one.
            cameras: One an image.
            min_score, tiles: Of all of them.

        Returns:
            Each image's detections, best first, as soon as they are refined.

        Raises:
            ValueError: As for a single one.
        """
        photos = [Photo.of(image, camera, self.device) for image, camera in zip(images, cameras, strict=True)]
        estimated = self._estimated(photos, tiles, min_score)
        return (self._settled(found, photo) for found, photo in zip(estimated, photos, strict=True))

    def in_boxes(
        self, image: NDArray[np.uint8], camera: ArrayLike, boxes: ArrayLike, objects: Sequence[int]
    ) -> list[Detection]:
        """Finds the poses of objects whose boxes are known, such as the true ones.

        Args:
            image: As for a call.
            camera: The same.
            boxes: (N, 4) amodal, unpadded boxes, xyxy pixels of the image as ``Detection`` has them.
            objects: (N,) which object each is of.

        Returns:
            N detections in the boxes' order, of score 1 and without a confidence, which is that of found boxes.

        Raises:
            ValueError: As for a call.
        """
        photo = Photo.of(image, camera, self.device)
        places = torch.from_numpy(np.asarray(boxes, np.float32).reshape(-1, 4)).to(self.device)
        numbers = torch.tensor(objects, dtype=torch.long, device=self.device)
        return self._laid(self._found(given_boxes(self.pipeline, photo, places, numbers), None), None)

    @property
    def judges(self) -> bool:
        """Whether a judge looks at the poses: only then detections say how it holds them (``Detection.judged``)."""
        settings = self.settings.refinement
        return self.refiner is not None and settings.refiner == "contours" and settings.judged > 0

    @cached_property
    def depth_refiner(self) -> DepthRefiner:
        """Fits poses to measured depth; made when the first depth image comes."""
        from codepose.refinement.depth_fit import DepthRefiner

        return DepthRefiner(self.world)

    @cached_property
    def world(self) -> World:
        """The run's meshes: those given, or loaded when they are first asked for."""
        if self._world is None:
            from codepose.synthesis.world import World

            return World(self.settings, self.device)
        return self._world

    @cached_property
    def _on_a_plane(self) -> LaidPoses:
        return LaidPoses(self.world, self._refined)

    @cached_property
    def _refined(self) -> RefinedPoses:
        assert self.refiner is not None
        return RefinedPoses(self.world, Hypotheses(self.world, self.codebooks), self.refiner)

    def boxes(self, photos: Sequence[Photo], tiles: int = 1, min_score: float | None = None) -> list[list[WindowBoxes]]:
        """Finds the boxes that get poses; where poses are refined, moved to where their codes are clearest.

        Args:
            photos: Of any sizes.
            tiles, min_score: As for a call. Which boxes there are does not depend on ``min_score``, but how many.

        Returns:
            Each photo's windows in which something was found.

        Raises:
            ValueError: ``min_score`` is no share, or ``tiles`` no number of tiles.
        """
        if min_score is not None and not 0.0 <= min_score <= 1.0:
            raise ValueError(f"min_score must lie in [0, 1], not be {min_score}")
        threshold = self.settings.detection.score if min_score is None else min_score
        iou = None if self.refiner is None else candidates_iou(self.settings)
        views = detected_boxes(self.pipeline, photos, tiles, iou)
        return [self._worth_looking([self._likeliest(view, threshold) for view in own], tiles) for own in views]

    def _worth_looking(self, views: list[WindowBoxes], tiles: int) -> list[WindowBoxes]:
        """Those of the boxes of a photo's windows that get a pose: where poses are dear, not all of every window."""
        if self.refiner is None or len(views) < 2:
            return views
        most = tiles * self.settings.detection.per_object
        chosen = worth_a_pose_in_photo(self.pipeline, self.codebooks, views, most)
        return [view.select(places) for view, places in zip(views, chosen, strict=True)]

    def _likeliest(self, view: WindowBoxes, min_score: float) -> WindowBoxes:
        """Those of a window's boxes that get a pose."""
        view = view if self.refiner is None else fitted_boxes(self.pipeline, self.codebooks, view)
        best = view.select(worth_a_pose(self.pipeline, self.codebooks, view, self.settings.detection.per_object))
        return best.select((best.scores >= min_score).nonzero().squeeze(1))

    def _distinct(self, found: list[Detection], photo: Photo) -> list[Detection]:
        """Refined detections of a photo, best first, without those that show a part once more."""
        once = without_doubles(found, self.world.objects)
        if not once:
            return once
        objects = torch.tensor([d.object_index for d in once], device=self.world.device)
        offsets = [self.codebooks[d.object_index].offset.double().cpu().numpy() for d in once]
        turns = np.stack([d.R_cam_obj for d in once])
        places = np.stack([d.to_camera(offset) for d, offset in zip(once, offsets, strict=True)])
        R, t = (torch.from_numpy(values).float().to(self.world.device) for values in (turns, places))
        scale = min(1.0, _MASK / max(photo.width, photo.height))
        size = max(1, round(scale * photo.height)), max(1, round(scale * photo.width))
        K = photo.K.to(self.world.device) * photo.K.new_tensor([[scale], [scale], [1.0]]).to(self.world.device)
        masks = self.world.renderer.depth_alone(objects, R, t, K, size) > 0
        return seen_once(once, masks.cpu().numpy(), max(SEEN_TWICE, self.settings.detection.nms))

    def _estimated(self, photos: Sequence[Photo], tiles: int, min_score: float | None) -> Iterator[list[_Found]]:
        """What is found in each photo, best first, before doubles are left out."""
        views = self.boxes(photos, tiles, min_score)
        found = ([one for view in own for one in self._found(view, self.confidence)] for own in views)
        return (sorted(own, key=lambda one: -one.detection.rank) for own in found)

    def _settled(self, found: list[_Found], photo: Photo) -> list[Detection]:
        """What is found in a photo, best first, each part once; refined poses as the plane has it on which they lie."""
        detections = [one.detection for one in found]
        if self.refiner is None:
            return detections
        once = self._distinct(detections, photo)
        laid = self._laid([one for one in found if one.detection in once], self.confidence)
        return once if laid == once else self._distinct(sorted(laid, key=lambda d: -d.rank), photo)

    def _laid(self, found: list[_Found], confidence: Confidence | None) -> list[Detection]:
        """A photo's detections, those of judged poses as the plane has them on which the parts lie."""
        detections = [one.detection for one in found]
        if not (self.judges and self.by_plane):
            return detections
        laid = self._on_a_plane([Place.of(one.looked, one.row) for one in found])
        for i, (one, poses) in enumerate(zip(found, laid, strict=True)):
            if poses is not None:
                row = torch.tensor([one.row])
                (detections[i],) = self._detections(
                    one.view.select(row), one.looked.seen.select(row), poses, confidence
                )
        return detections

    @torch.no_grad()
    def looked_at(self, view: WindowBoxes) -> list[Looked]:
        """Returns the poses of a window's boxes: of all together, or of each object's where they are refined."""
        seen, latents = seen_boxes(self.pipeline, view, finer=self.refiner is not None)
        if self.refiner is None:
            every = torch.arange(len(view.boxes), device=view.boxes.device)
            return [Looked(every, seen, nearest_poses(self.codebooks, seen, latents))]
        return self._refined(partial(encoded, self.pipeline, view), seen, latents)

    def _found(self, view: WindowBoxes, confidence: Confidence | None) -> list[_Found]:
        """A window's boxes with their poses, in the same order."""
        found: dict[int, _Found] = {}
        for looked in self.looked_at(view) if len(view.boxes) else ():
            own = view.select(looked.rows)
            for row, one in enumerate(self._detections(own, looked.seen, looked.poses.best(1), confidence)):
                found[int(looked.rows[row])] = _Found(one, own, looked, row)
        return [found[row] for row in sorted(found)]

    def _detections(
        self, view: WindowBoxes, seen: Seen, poses: Poses, confidence: Confidence | None
    ) -> list[Detection]:
        """Boxes of a window, with one pose (N, 1) each, as detections in the photo."""
        similarity, agreement, contour, judged = (
            x[:, 0] for x in (poses.similarity, poses.agreement, poses.contour, poses.judged)
        )
        refined = self.refiner is not None
        asked = self.judges
        sure = None
        if confidence is not None:
            sure = confidence(evidence(view.scores, similarity, agreement, contour, judged if asked else None))
        places = view.in_photo(self.settings.data.camera.image_size)["boxes"]
        pictures = seen.reconstructions.cpu().numpy()
        detections = []
        for i, index in enumerate(view.objects.tolist()):
            R, book = poses.R[i, 0], self.codebooks[index]
            detections.append(
                Detection(
                    label=book.label,
                    object_index=index,
                    score=min(1.0, float(view.scores[i])),
                    similarity=float(similarity[i]),
                    box=places[i].double().cpu().numpy(),
                    R_cam_obj=R.double().cpu().numpy(),
                    t_cam_obj=(poses.t[i, 0] - R @ book.offset).double().cpu().numpy(),
                    agreement=float(agreement[i]),
                    contour=float(contour[i]) if refined else None,
                    judged=float(judged[i]) if asked else None,
                    confidence=None if sure is None else float(sure[i]),
                    reconstruction=pictures[i],
                )
            )
        return detections
