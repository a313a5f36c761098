"""PoseEstimator: an image and its camera in, detections with poses out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from codepose import geometry
from codepose.cameras.camera import checked_intrinsics, require_lens
from codepose.cameras.depth_images import NEAREST_MM
from codepose.estimation.box_poses import RefinedPoses, nearest_poses
from codepose.estimation.codebook import Codebook
from codepose.estimation.confidence import Confidence, evidence
from codepose.estimation.detection import Detection
from codepose.estimation.duplicates import without_doubles
from codepose.estimation.estimates import Estimates
from codepose.estimation.hypotheses import Hypotheses
from codepose.estimation.looks import Look, above, looks_at
from codepose.estimation.methods import Method, load_codebooks, load_confidence, load_pipeline
from codepose.estimation.pipelines import Pipeline
from codepose.networks.compilation import compile_convolutions
from codepose.networks.detector import Boxes
from codepose.networks.windows import merged
from codepose.refinement.depth_fit import DepthRefiner
from codepose.refinement.judged_contours import refiner_of
from codepose.refinement.poses import Photos, Refiner, Seen
from codepose.refinement.render_and_compare import finer_photos
from codepose.runtime.devices import named_device
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.synthesis.world import World


class PoseEstimator:
    """Finds a run's objects in images and says how they lie.

    Threads may share one. With refinement it cannot be pickled: load it in each process.

    Args:
        pipeline: The networks.
        codebooks: One an object, in the settings' order.
        refiner: Refines poses by render-and-compare; None = the codebook's nearest view.
        confidence: Says how likely a pose is right; None = not calibrated.
        world: The run's meshes; None = they are loaded when they are first asked for.
    """

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
    ) -> Self:
        """Loads a trained run; the codebook is built at the first use and kept in the run folder.

        Args:
            run: The run's folder.
            method: "joint" (the paper's), or a two-network baseline: "extended" or "original".
            device: "auto", "cpu", "cuda" or "cuda:N".
            refine: Refine poses by render-and-compare; ``docs/results.md`` says what it gains and costs.
            compile: Compile the networks with ``torch.compile``, for many images on a GPU: the first takes minutes.

        Raises:
            RunError: The folder is no run, or the method's training is not finished.
            ConfigError: There is no such device.
        """
        run = run if isinstance(run, Run) else Run.open(run)
        pipeline = load_pipeline(run, method, _device(device))
        world = World(run.settings, pipeline.device) if refine else None
        for model in world.objects if world is not None else ():
            _ = model.symmetries  # found now rather than in the first photo
        books = load_codebooks(run, method, pipeline, world)
        confidence = load_confidence(run, method, pipeline, books, refined=refine)
        if compile:
            for network in pipeline.networks():
                compile_convolutions(network)
        refiner = None if world is None else refiner_of(world, run.settings.refinement)
        return cls(pipeline, books, refiner, confidence, world=world)

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
                1/tiles of its longer side, each at the network's scale; the settings' largest number of detections
                holds for each of them. 1 = the whole image only.

        Returns:
            Detections, best first, in the image's own pixels. Of several that refinement or depth has brought to
            one pose of one object, the best-scored one.

        Raises:
            ValueError: The image, the camera or the depth has the wrong shape or type, the camera sees more than a lens
                without distortion can, ``min_score`` is no share, or ``tiles`` no number of tiles.
        """
        photo, K = self.photo(image, camera)
        measured = None if depth is None else _checked_depth(depth, image.shape[:2])
        (found,) = self._looked([(photo, K)], tiles, min_score)
        if measured is not None:
            found = self.depth_refiner(found, K.cpu(), measured)
        fitted = self.refiner is not None or measured is not None
        return without_doubles(found, self.world.objects) if fitted else found

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
        photos = [self.photo(image, camera) for image, camera in zip(images, cameras, strict=True)]
        found = self._looked(photos, tiles, min_score)
        return found if self.refiner is None else (without_doubles(one, self.world.objects) for one in found)

    def photo(self, image: NDArray[np.uint8], camera: ArrayLike) -> tuple[Tensor, Tensor]:
        """Brings an image and its camera, both as a call takes them, onto the device.

        Returns:
            (1, 3, H, W) in [0, 1], and K (3, 3) with pixel centres at integer + 0.5.

        Raises:
            ValueError: One of them has the wrong shape or type, or the camera sees more than a lens can.
        """
        K = geometry.from_opencv(torch.from_numpy(checked_intrinsics(camera)).float())
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError("the image must be an (H, W, 3) uint8 RGB array")
        if image.size == 0:
            raise ValueError(f"the image is empty: {image.shape}")
        require_lens(camera, image.shape[1], image.shape[0])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div_(255.0)
        return pixels.to(self.device), K.to(self.device)

    @cached_property
    def depth_refiner(self) -> DepthRefiner:
        """Fits poses to measured depth; made when the first depth image comes."""
        return DepthRefiner(self.world)

    @cached_property
    def _hypotheses(self) -> Hypotheses:
        return Hypotheses(self.world, self.codebooks)

    @cached_property
    def world(self) -> World:
        """The run's meshes: those given, or loaded when they are first asked for."""
        return World(self.settings, self.device) if self._world is None else self._world

    @torch.no_grad()
    def estimate(
        self, images: Tensor, K: Tensor, *, min_score: float = 0.0, photos: Photos | None = None
    ) -> list[list[Detection]]:
        """Finds the objects in a batch at the network's own scale.

        Args:
            images: (B, 3, S, S) in [0, 1] on the estimator's device.
            K: (3, 3) camera of all of them, pixel centres at integer + 0.5.
            min_score: Boxes below get no pose and are left out.
            photos: The same images at a higher resolution, for refinement.

        Returns:
            Each image's detections, best first.
        """
        prepared = self.pipeline.prepare(images)
        described = self._described(prepared, above(self.pipeline.detect(prepared), min_score), K, photos)
        return [sorted(found, key=lambda d: -d.rank) for found in described]

    def _looked(
        self, photos: Sequence[tuple[Tensor, Tensor]], tiles: int, min_score: float | None
    ) -> Iterator[list[Detection]]:
        """Each photo's detections, in its own pixels, through one window or many."""
        if min_score is not None and not 0.0 <= min_score <= 1.0:
            raise ValueError(f"min_score must lie in [0, 1], not be {min_score}")
        threshold = self.settings.detection.score if min_score is None else min_score
        looks = looks_at(self.pipeline, photos, tiles, threshold)
        return (self._told(photo, K, seen) for (photo, K), seen in zip(photos, looks, strict=True))

    @torch.no_grad()
    def _told(self, photo: Tensor, K: Tensor, looks: list[Look]) -> list[Detection]:
        """The detections of one photo's looks, each once, with their poses."""
        size = self.settings.data.camera.image_size
        result: list[Detection] = []
        kept = merged([look.in_photo for look in looks], self.settings.detection.nms) if looks else []
        for look, keep in zip(looks, kept, strict=True):
            if len(keep) == 0:
                continue
            chosen = [{name: values[keep] for name, values in look.found.items()}]
            extent = look.camera.new_tensor(look.view.extent(size))
            refines = self.refiner is not None
            finer = finer_photos(look.view, photo, K, look.camera, self.settings.data.camera) if refines else None
            described = self._described(look.prepared, chosen, look.camera, finer, extent)[0]
            places = look.in_photo["boxes"][keep].double().cpu().numpy()
            result += [replace(d, box=box) for d, box in zip(described, places, strict=True)]
        return sorted(result, key=lambda d: -d.rank)

    def _described(
        self, prepared: object, found: list[Boxes], K: Tensor, photos: Photos | None, extent: Tensor | None = None
    ) -> list[list[Detection]]:
        """Gives each image's boxes their poses."""
        boxes = torch.cat([f["boxes"] for f in found])
        which = torch.cat([torch.full((len(f["boxes"]),), i, device=boxes.device) for i, f in enumerate(found)])
        objects = torch.cat([f["labels"] for f in found]) - 1
        scores = torch.cat([f["scores"] for f in found])
        result: list[list[Detection]] = [[] for _ in found]
        if len(boxes) == 0:
            return result
        estimates = self.poses(prepared, boxes, which, objects, K, photos, extent)
        confidence = self.confidences(scores, estimates)
        reconstructions = estimates.reconstructions.cpu().numpy()
        R, t = estimates.R, estimates.t
        for i in range(len(boxes)):
            index = int(objects[i])
            result[int(which[i])].append(
                Detection(
                    label=self.codebooks[index].label,
                    object_index=index,
                    score=min(1.0, float(scores[i])),
                    similarity=float(estimates.similarity[i]),
                    box=boxes[i].double().cpu().numpy(),
                    R_cam_obj=R[i].double().cpu().numpy(),
                    t_cam_obj=(t[i] - R[i] @ self.codebooks[index].offset).double().cpu().numpy(),
                    agreement=float(estimates.agreement[i]),
                    contour=None if self.refiner is None else float(estimates.contour[i]),
                    judged=None if estimates.judged is None else float(estimates.judged[i]),
                    confidence=None if confidence is None else float(confidence[i]),
                    reconstruction=reconstructions[i],
                )
            )
        return result

    def confidences(self, scores: Tensor, estimates: Estimates) -> Tensor | None:
        """Returns the probability (N,) that each pose is right, from the detector's scores (N,); None = unknown."""
        if self.confidence is None:
            return None
        known = (estimates.similarity, estimates.agreement, estimates.contour, estimates.judged)
        return self.confidence(evidence(scores, *known))

    def poses(
        self,
        prepared: object,
        boxes: Tensor,
        images: Tensor,
        objects: Tensor,
        K: Tensor,
        photos: Photos | None = None,
        extent: Tensor | None = None,
    ) -> Estimates:
        """Returns the poses of N given boxes.

        Where a refined pose shows that its box was off, it is looked at again in the box that the pose has, at most
        as often as the settings say, and the better pose stays.

        Args:
            prepared: The pipeline's view of the images.
            boxes: (N, 4) amodal, unpadded.
            images: (N,) which image each is in.
            objects: (N,) which object.
            K: (3, 3) the images' camera.
            photos: The images at a higher resolution, for refinement.
            extent: (2,) pixels across and down of what the images show, the rest being a letterbox, in which refinement
                sees no edge; None = all of them.
        """
        encode = partial(self._encoded, prepared)
        latents, reconstructions = encode(boxes, images)
        pixels = self.pipeline.pixels(prepared)
        extent = K.new_tensor([pixels.shape[3], pixels.shape[2]]) if extent is None else extent
        seen = Seen(pixels, images, boxes, objects, K, reconstructions, extent, photos)
        if self.refiner is None:
            found = nearest_poses(self.codebooks, seen, latents)
        else:
            refined = RefinedPoses(self.world, self._hypotheses, self.refiner)
            found, latents, reconstructions = refined(encode, seen, latents)
        judged = found.judged[:, 0] if self.refiner is not None and self.settings.refinement.judged > 0 else None
        R, t, similarity, agreement, contour = (
            x[:, 0] for x in (found.R, found.t, found.similarity, found.agreement, found.contour)
        )
        return Estimates(R, t, similarity, agreement, contour, latents, reconstructions, judged)

    def _encoded(self, prepared: object, boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and reconstructions of boxes (N, 4) in images (N,)."""
        latents = self.pipeline.latents(prepared, boxes, images)
        return latents, self.pipeline.decode(latents)


def _device(name: str) -> torch.device:
    """A device by its name; a GPU becomes torch's current one."""
    device = named_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def _checked_depth(depth: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not isinstance(depth, np.ndarray) or depth.shape != shape or depth.dtype.kind not in "uif":
        raise ValueError(f"the depth must be an (H, W) array of numbers in mm, of the image's size {shape}")
    values = np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if 0.0 < values.max(initial=0.0) < NEAREST_MM:
        raise ValueError(f"the depth ends {values.max():.3g} mm from the camera: it must be in mm, not in metres")
    return np.where(values > 0.0, values, np.float32(0.0))
