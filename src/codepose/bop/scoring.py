"""One image's estimates against a BOP dataset's labels: every pair's errors, and a row an instance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codepose import geometry
from codepose.bop.dataset import BopDataset
from codepose.bop.entries import BopError
from codepose.bop.layout import scene_file
from codepose.bop.scenes import BopImage, BopInstance
from codepose.cameras.camera import require_lens
from codepose.cameras.camera_entries import CameraError
from codepose.estimation.detection import Detection
from codepose.evaluation.average_recalls import (
    MSPD_WIDTH,
    TAU_10,
    TAU_20,
    TAU_50,
    VSD_DELTA_MM,
    VSD_TAUS,
    TargetErrors,
    greedy_match,
)
from codepose.evaluation.pose_errors import (
    add,
    add_s,
    mspd,
    mssd,
    symmetric_distance,
)
from codepose.evaluation.vsd import vsd
from codepose.parts.units import rounded
from codepose.rendering.renderer import Renderer
from codepose.runtime.vision import box_iou, clip_boxes_to_image

_TOUCHES = 0.02
"""No camera is nearer to a part's bounding box than this share of its diameter."""
_POINTS = 2**22
"""Vertices of all pairs that are compared at a time."""


@dataclass(frozen=True)
class BopRow:
    """One true instance; NaN where no estimate was matched to it.

    The estimate is BOP's greedy match by MSSD without a threshold.

    Attributes:
        scene_id, im_id, obj_id: Which.
        gt_index: Its place in the image's list of labels.
        visible_fraction: In [0, 1].
        score: Of the estimate.
        vsd_10, vsd_20, vsd_50: VSD with tau = 10, 20, 50 % of the diameter, delta 15 mm.
        mssd_mm: Maximum symmetry-aware surface distance.
        mspd_px: Maximum symmetry-aware projection distance, in the image's own pixels.
        add_mm: ADD-S of a symmetric object, ADD of any other.
        rotation_deg, translation_mm: Against the equivalent true pose whose rotation is nearest.
        box_iou: Largest overlap of any estimate's box with the true amodal one, both as far as they are in the image;
            the only number here that does not need the match.
    """

    scene_id: int
    im_id: int
    obj_id: int
    gt_index: int
    visible_fraction: float
    score: float = math.nan
    vsd_10: float = math.nan
    vsd_20: float = math.nan
    vsd_50: float = math.nan
    mssd_mm: float = math.nan
    mspd_px: float = math.nan
    add_mm: float = math.nan
    rotation_deg: float = math.nan
    translation_mm: float = math.nan
    box_iou: float = math.nan


@dataclass(frozen=True, eq=False)
class View:
    """One image to judge poses in: K (3, 3) float64 in BOP's convention, (height, width), measured depth or None."""

    image: BopImage
    K: Tensor
    size: tuple[int, int]
    measured: Tensor | None


class Judge:
    """Compares poses of a dataset's objects, with its own models."""

    def __init__(self, dataset: BopDataset, obj_ids: Sequence[int], device: torch.device) -> None:
        missing = [obj_id for obj_id in obj_ids if obj_id not in dataset.models]
        if missing or len(set(obj_ids)) != len(obj_ids):
            known = ", ".join(map(str, dataset.models))
            raise BopError(f"{dataset.path} has the objects {known}; name each of yours once, not {list(obj_ids)}")
        self.device = device
        self.models = {obj_id: dataset.models[obj_id] for obj_id in obj_ids}
        self._place = {obj_id: place for place, obj_id in enumerate(obj_ids)}
        self._vertices = {i: torch.from_numpy(model.vertices()).to(device) for i, model in self.models.items()}
        self._bounds = {i: (v.amin(0).cpu().numpy(), v.amax(0).cpu().numpy()) for i, v in self._vertices.items()}
        meshes = [model.mesh() for model in self.models.values()]
        self._hulls = {
            i: torch.from_numpy(m.hull).to(device).double() for i, m in zip(self.models, meshes, strict=True)
        }
        self._middles = {i: mesh.center.astype(np.float64) for i, mesh in zip(self.models, meshes, strict=True)}
        # about their own middles: a file's origin may lie behind a camera before which the part stands
        self._renderer = Renderer([mesh.moved(-mesh.center) for mesh in meshes], device)

    def view(self, image: BopImage, pixels: NDArray[np.uint8]) -> View:
        """Returns an image's camera and depth.

        Raises:
            BopError: Its camera or its depth does not fit its pixels, or cannot be read.
        """
        try:
            require_lens(image.K, pixels.shape[1], pixels.shape[0])
        except CameraError as error:
            file = scene_file(image.folder, "scene_camera", image.camera)
            raise BopError(f"{file}, image {image.im_id}: cam_K: {error}") from None
        depth = image.depth()
        if depth is not None and depth.shape != pixels.shape[:2]:
            raise BopError(
                f"{image.folder}, image {image.im_id}: its depth is {depth.shape[1]} x {depth.shape[0]}, its colours "
                f"{pixels.shape[1]} x {pixels.shape[0]}"
            )
        measured = None if depth is None else torch.from_numpy(depth).to(self.device)
        return View(image, torch.from_numpy(image.K).to(self.device), pixels.shape[:2], measured)

    def require_before_camera(self, view: View, instances: Sequence[BopInstance]) -> None:
        """Refuses poses at which the camera would be inside the part: they are in metres.

        Raises:
            BopError: There is one.
        """
        for instance in instances:
            low, high = self._bounds[instance.obj_id]
            camera = -instance.t_cam_obj @ instance.R_cam_obj  # in the part's own frame
            outside = np.linalg.norm(np.maximum(0.0, np.maximum(low - camera, camera - high)))
            if outside < _TOUCHES * self.models[instance.obj_id].diameter:
                across, distance = self.models[instance.obj_id].diameter, np.linalg.norm(instance.t_cam_obj)
                raise BopError(
                    f"{scene_file(view.image.folder, 'scene_gt', view.image.camera)}, image {view.image.im_id}: the "
                    f"camera would be inside object {instance.obj_id}, which is {rounded(across)} "
                    f"mm across and at a distance of {distance:.2g} mm: BOP's translations are "
                    "in mm; if these are in metres, multiply every cam_t_m2c by 1000"
                )

    def errors(self, view: View, instances: Sequence[BopInstance], estimates: Sequence[Detection]) -> TargetErrors:
        """Returns every error of every estimate against every instance."""
        shape = (len(estimates), len(instances))
        if not estimates:
            nothing = np.zeros(shape)
            return TargetErrors(np.zeros((*shape, len(VSD_TAUS))), nothing, nothing, nothing)
        model, vertices = self.models[instances[0].obj_id], self._vertices[instances[0].obj_id]
        pairs = _pairs(estimates, instances, self.device)
        width = view.size[1]
        average = add_s if model.symmetric else add
        projected = partial(mspd, K=view.K, symmetries=model.symmetries)
        return TargetErrors(
            vsd=self._vsd(view, instances, estimates),
            mssd=_table(mssd(self._hulls[instances[0].obj_id], *pairs, model.symmetries), shape) / model.diameter,
            mspd=_table(_by_pairs(projected, vertices, pairs), shape) * MSPD_WIDTH / width,
            add=_table(_by_pairs(average, vertices, pairs), shape) / model.diameter,
        )

    def rows(
        self, view: View, instances: Sequence[BopInstance], estimates: Sequence[Detection], errors: TargetErrors
    ) -> list[BopRow]:
        """Returns one row an instance, with the errors of the estimate that BOP's matching gives it."""
        model = self.models[instances[0].obj_id]
        rows = []
        overlaps = self._overlaps(view, instances, estimates)
        for place, (instance, e) in enumerate(zip(instances, greedy_match(errors.mssd, math.inf), strict=True)):
            row = BopRow(
                view.image.scene_id,
                view.image.im_id,
                instance.obj_id,
                instance.index,
                instance.visible_fraction,
                box_iou=float(overlaps[place]),
            )
            if e >= 0:
                pair = _pairs([estimates[e]], [instance], self.device)
                angle, shift = symmetric_distance(*pair, model.symmetries)
                row = replace(
                    row,
                    score=estimates[e].score,
                    vsd_10=float(errors.vsd[e, place, TAU_10]),
                    vsd_20=float(errors.vsd[e, place, TAU_20]),
                    vsd_50=float(errors.vsd[e, place, TAU_50]),
                    mssd_mm=float(errors.mssd[e, place] * model.diameter),
                    mspd_px=float(errors.mspd[e, place] * view.size[1] / MSPD_WIDTH),
                    add_mm=float(errors.add[e, place] * model.diameter),
                    rotation_deg=math.degrees(float(angle)),
                    translation_mm=float(shift),
                )
            rows.append(row)
        return rows

    def _overlaps(self, view: View, instances: Sequence[BopInstance], estimates: Sequence[Detection]) -> Tensor:
        """Returns (G,) the largest IoU of each instance's box with any estimate's; NaN without estimates."""
        if not estimates:
            return torch.full((len(instances),), math.nan)
        hull = self._hulls[instances[0].obj_id]
        R, t = (np.stack([getattr(i, name) for i in instances]) for name in ("R_cam_obj", "t_cam_obj"))
        poses = (torch.from_numpy(R).to(hull), torch.from_numpy(t).to(hull))
        true = geometry.projected_box(hull, *poses, geometry.from_opencv(view.K))
        boxes = torch.from_numpy(np.stack([estimate.box for estimate in estimates])).to(hull)
        overlap: Tensor = box_iou(clip_boxes_to_image(true, view.size), clip_boxes_to_image(boxes, view.size))
        return overlap.amax(1)

    def _vsd(self, view: View, instances: Sequence[BopInstance], estimates: Sequence[Detection]) -> NDArray[np.float64]:
        """Returns (E, G, 10)."""
        model = self.models[instances[0].obj_id]
        true = torch.stack([self.depth(view, model.obj_id, i.R_cam_obj, i.t_cam_obj) for i in instances])
        measured = torch.zeros_like(true[0]) if view.measured is None else view.measured
        rows = []
        for estimate in estimates:
            alone = self.depth(view, model.obj_id, estimate.R_cam_obj, estimate.t_cam_obj)
            values = vsd(
                alone.expand_as(true),
                true,
                measured.expand_as(true),
                view.K,
                delta=VSD_DELTA_MM,
                taus=VSD_TAUS,
                diameter=model.diameter,
            )
            rows.append(values)
        return torch.stack(rows).cpu().numpy()

    def depth(self, view: View, obj_id: int, R: NDArray[np.float64], t: NDArray[np.float64]) -> Tensor:
        """Returns the depth (H, W) mm of an object alone at a pose R (3, 3), t (3,) of its own file."""
        middle = t + R @ self._middles[obj_id]
        R_cam_obj, t_cam_obj = (torch.from_numpy(x).float().to(self.device)[None] for x in (R, middle))
        index = torch.tensor([self._place[obj_id]], device=self.device)
        K = geometry.from_opencv(view.K).float()
        return self._renderer.depth_alone(index, R_cam_obj, t_cam_obj, K, view.size)[0]


def _pairs(
    estimates: Sequence[Detection], instances: Sequence[BopInstance], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every estimate with every instance: R (E G, 3, 3) and t (E G, 3) of both."""
    arrays = (
        np.stack([e.R_cam_obj for e in estimates for _ in instances]),
        np.stack([e.t_cam_obj for e in estimates for _ in instances]),
        np.stack([i.R_cam_obj for _ in estimates for i in instances]),
        np.stack([i.t_cam_obj for _ in estimates for i in instances]),
    )
    R, t, R_gt, t_gt = (torch.from_numpy(array).to(device) for array in arrays)
    return R, t, R_gt, t_gt


def _table(values: Tensor, shape: tuple[int, int]) -> NDArray[np.float64]:
    table: NDArray[np.float64] = values.reshape(shape).cpu().numpy()
    return table


def _by_pairs(measure: Callable[..., Tensor], vertices: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """Measures so many pairs of poses at a time that their vertices fit into memory; (N,)."""
    step = max(1, _POINTS // len(vertices))
    return torch.cat([measure(vertices, *(p[i : i + step] for p in pairs)) for i in range(0, len(pairs[0]), step)])
