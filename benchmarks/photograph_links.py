"""The chain of causes: which step of an estimate goes wrong on a photo, instance by instance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from codepose import geometry
from codepose.bop.models import BopModel
from codepose.bop.scenes import BopInstance
from codepose.evaluation.pose_errors import mssd, symmetric_distance
from codepose.synthesis.objects import ObjectModel

BOX_IOU, VIEW_DEG, HYPOTHESIS_DEG, RIGHT, CLOSE = 0.5, 15.0, 20.0, 0.2, 0.1


@dataclass(frozen=True)
class Links:
    """One true instance's numbers: NaN where a step was not reached.

    Errors of rotation are in degrees, those of poses are MSSD as a share of the diameter, all under the part's
    symmetries; "own" is the detector's box that overlaps the true amodal one most, by more than a half.

    Attributes:
        box_iou: The largest overlap of any of the detector's boxes with the true amodal one.
        ranked_iou: The largest of only as many boxes, the best-scored, as there are instances: those that BOP counts.
        view_deg: Of the best of the codebook's candidates, with the true box.
        start_true_deg, start_own_deg: Of the best of the poses from which refinement begins.
        true_mssd, own_mssd: Of the refined pose.
        kept_mssd: Of the pose that refinement makes of the true one.
        preferred_mssd: Of that which the refiner prefers of the true pose and what it found with the true box.
    """

    box_iou: float = math.nan
    ranked_iou: float = math.nan
    view_deg: float = math.nan
    start_true_deg: float = math.nan
    start_own_deg: float = math.nan
    true_mssd: float = math.nan
    own_mssd: float = math.nan
    kept_mssd: float = math.nan
    preferred_mssd: float = math.nan

    def holds(self) -> dict[str, float]:
        """Returns the chain, step by step: 1 = it holds for this instance, 0 = it does not, or was not reached."""
        return {
            "box found": float(self.box_iou > BOX_IOU),
            "among the best-scored boxes": float(self.ranked_iou > BOX_IOU),
            f"a view within {VIEW_DEG:.0f}° among the candidates": float(self.view_deg <= VIEW_DEG),
            f"within {HYPOTHESIS_DEG:.0f}° among the hypotheses, true box": float(
                self.start_true_deg <= HYPOTHESIS_DEG
            ),
            f"within {HYPOTHESIS_DEG:.0f}° among the hypotheses, own box": float(self.start_own_deg <= HYPOTHESIS_DEG),
            f"refined, MSSD < {RIGHT:g}, true box": float(self.true_mssd < RIGHT),
            f"refined, MSSD < {RIGHT:g}, own box": float(self.own_mssd < RIGHT),
            f"begun at the truth, MSSD < {RIGHT:g}": float(self.kept_mssd < RIGHT),
            f"begun at the truth, MSSD < {CLOSE:g}": float(self.kept_mssd < CLOSE),
            "a right pose preferred, of the truth and the one found": float(self.preferred_mssd < RIGHT),
        }


@dataclass(frozen=True)
class Truth:
    """One object's N instances in a photo, or one of them, and by what poses are judged.

    Attributes:
        R: (N, 3, 3) or (3, 3) float64 R_cam_obj.
        t: (N, 3) or (3,) mm, of the mesh's middle, as everywhere here.
        hull: (V, 3) mm from the middle, object frame.
        offset: (3,) mm, where the middle lies in the file.
        model: With the diameter and the symmetries, in the file's frame.
    """

    R: Tensor
    t: Tensor
    hull: Tensor
    offset: Tensor
    model: BopModel

    @classmethod
    def of(cls, instances: Sequence[BopInstance], model: BopModel, part: ObjectModel) -> Truth:
        """Returns that of labels."""
        R, t = (torch.from_numpy(np.stack([getattr(i, n) for i in instances])) for n in ("R_cam_obj", "t_cam_obj"))
        offset = part.offset.double().cpu()
        return cls(R, t + R @ offset, torch.from_numpy(part.mesh.hull).double(), offset, model)

    def boxes(self, K: Tensor) -> Tensor:
        """Returns the amodal boxes (N, 4) for the camera K (3, 3), pixel centres at integer + 0.5."""
        return geometry.projected_box(self.hull, self.R, self.t, K.double())

    def select(self, row: int) -> Truth:
        """Returns one of the instances, by its number."""
        return replace(self, R=self.R[row], t=self.t[row])

    def mssd(self, R: Tensor, t: Tensor) -> float:
        """Returns the error of a pose (3, 3), (3,) against the one instance, as a share of the diameter."""
        at, true_at = (x.double() - turn.double() @ self.offset for turn, x in ((R, t), (self.R, self.t)))
        error = mssd(self.hull + self.offset, R[None], at[None], self.R[None], true_at[None], self.model.symmetries)
        return float(error) / self.model.diameter

    def nearest_deg(self, R_view: Tensor) -> float:
        """Returns the least angle to the one instance of any of k rotations (k, 3, 3) as seen along their rays."""
        true = (geometry.offaxis_rotation(self.t).mT @ self.R).expand_as(R_view)
        nothing = true.new_zeros(len(true), 3)
        angles, _ = symmetric_distance(R_view, nothing, true, nothing, self.model.symmetries)
        return math.degrees(float(angles.min()))


class Look(Protocol):
    """What an estimator makes of one box. R_view is a rotation as seen along the ray through the object's middle."""

    @property
    def views(self) -> Tensor:
        """(c, 3, 3) R_view of the codebook's candidates."""
        ...

    @property
    def starts(self) -> Tensor:
        """(k, 3, 3) R_view of the hypotheses, from which the refiner's search begins."""
        ...

    @property
    def R(self) -> Tensor:
        """(3, 3) refined."""
        ...

    @property
    def t(self) -> Tensor:
        """(3,) mm, of the mesh's middle."""
        ...

    def begun_at(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what the refiner makes of one pose (3, 3), (3,) instead of its hypotheses."""
        ...

    def preferred(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the one of k poses (k, 3, 3), (k, 3) that the refiner takes for the best, with the same rotation."""
        ...


def links(truth: Truth, boxes: Tensor, look: Callable[[Tensor], Look], K: Tensor, size: tuple[int, int]) -> list[Links]:
    """Measures the chain of every instance in a photo, but for ``ranked_iou``.

    Args:
        truth: The N instances.
        boxes: (M, 4) the detector's.
        look: What the estimator makes of a box (4,).
        K: (3, 3) of the photo, pixel centres at integer + 0.5.
        size: Height and width of the photo.
    """
    true = truth.boxes(K)
    overlaps: Tensor = box_iou(clip_boxes_to_image(true, size), clip_boxes_to_image(boxes.double(), size))
    found = []
    for row, box in enumerate(true):
        best, own = (float(overlaps[row].max()), int(overlaps[row].argmax())) if len(boxes) else (0.0, -1)
        one = truth.select(row)
        with_true = look(box)
        with_own = look(boxes[own]) if best > BOX_IOU else None
        both = (torch.stack([one.R, with_true.R.double()]), torch.stack([one.t, with_true.t.double()]))
        found.append(
            Links(
                box_iou=best,
                view_deg=one.nearest_deg(with_true.views),
                start_true_deg=one.nearest_deg(with_true.starts),
                start_own_deg=math.nan if with_own is None else one.nearest_deg(with_own.starts),
                true_mssd=one.mssd(with_true.R, with_true.t),
                own_mssd=math.nan if with_own is None else one.mssd(with_own.R, with_own.t),
                kept_mssd=one.mssd(*with_true.begun_at(one.R, one.t)),
                preferred_mssd=one.mssd(*with_true.preferred(*both)),
            )
        )
    return found
