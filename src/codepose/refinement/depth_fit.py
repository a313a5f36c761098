"""Depth, where the user has it: the pose at which the object's visible surface lies on the measured one.

First the object is moved along its ray to where most of its pixels agree with the measurement, whatever stands before
or behind it; then ICP turns and moves it. Every rendered point is drawn to the nearest measured one, mostly along its
normal, and a little across it: across, only the silhouette speaks, where a rendered point lies over the background.
Points behind something nearer say nothing. A pose that agrees no better than the one given is not taken.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose import geometry
from codepose.rendering.renderer import Instances
from codepose.synthesis.world import World

if TYPE_CHECKING:
    from codepose.estimation.detection import Detection

Array = NDArray[np.float64]

_SIDE = 128
"""Pixels that a window around an object has at most; larger ones are looked at with a stride."""
_MARGIN = 0.35
"""How far the window reaches beyond the object's box, as a share of the box's longer side."""
_SHIFTS = 3
"""Places along the ray from which ICP starts."""
_ROUNDS, _STEPS = 8, 4
"""How often the visible surface is rendered anew, and ICP's steps in between."""
_FAR, _NEAR = 0.3, 0.03
"""How far a point looks for its partner, as a share of the diameter: in the first round and in the last."""
_TAU = 0.05
"""Depths that differ by less agree, as a share of the diameter."""
_NOISE_MM = 5.0
"""Neither is ever less than this: sensors are no better."""
_ACROSS, _HOLD = 0.2, 0.01
"""Weight of a residual across the normal; along it, 1. Points over the background draw; those over the object itself,
whose nearest partners lie straight behind them wherever they are, would only hold."""
_POINTS = 20
"""With fewer, nothing is done."""
_MOST = 1000
"""Of more rendered points, every n-th is taken."""
_LEAST = 0.1
"""Agreement below which a fit is chance."""


def agreement(rendered: Array, measured: Array, tau: float) -> float:
    """How well a surface fits a measurement: 1 = everywhere.

    Each rendered pixel counts 1 - (difference / tau)^2 where it lies within ``tau``, -1 where the sensor looked
    through it, and 0 where something stands before it or nothing was measured.

    Args:
        rendered: (H, W) mm, 0 = nothing.
        measured: (H, W) mm, 0 = not measured.
        tau: mm.

    Returns:
        The mean over the rendered pixels, in [-1, 1]; -1 if there is none.
    """
    surface = rendered > 0
    if not surface.any():
        return -1.0
    beyond = (measured - rendered)[surface & (measured > 0)] / tau
    return float((np.clip(1.0 - beyond**2, 0.0, None).sum() - (beyond > 1.0).sum()) / surface.sum())


def ray_shifts(differences: Array, tau: float, reach: float, count: int) -> list[float]:
    """Where along the ray a surface may be: the commonest differences of depth, unlikelier the larger they are.

    Unlike the median of all, they are not drawn away by an occluder or the background.

    Args:
        differences: (N,) measured minus rendered, mm.
        tau: Differences within it are one.
        reach: Standard deviation of what is expected; three times as much is not looked at.
        count: How many, at most.

    Returns:
        mm, the best first; each the median of its own pixels.
    """
    left = np.sort(differences[np.abs(differences) < 3.0 * reach])
    shifts: list[float] = []
    while len(left) and len(shifts) < count:
        votes = np.searchsorted(left, left + tau, "right") - np.searchsorted(left, left - tau, "left")
        middle = left[(votes * np.exp(-0.5 * (left / reach) ** 2)).argmax()]
        shifts.append(float(np.median(left[np.abs(left - middle) <= tau])))
        left = left[np.abs(left - middle) > 2.0 * tau]
    return shifts


def aligning_motion(
    points: Array, normals: Array, targets: Array, weights: Array, across: Array, reach: float
) -> tuple[Array, Array]:
    """The small motion that brings points onto their targets: one damped Gauss-Newton step.

    Args:
        points: (N, 3) mm.
        normals: (N, 3) unit vectors.
        targets: (N, 3) mm.
        weights: (N,) of the points.
        across: (N,) weight of a residual across the normal, in [0, 1]; along it, 1.
        reach: mm, scale of the damping, which holds still what the points leave open.

    Returns:
        R (3, 3) and t (3,) mm with moved = R @ point + t.
    """
    middle = points.mean(0)
    arm = points - middle
    rows = np.zeros((len(points), 4, 6))
    rows[:, [0, 1, 2], [1, 2, 0]] = arm[:, [2, 0, 1]]
    rows[:, [0, 1, 2], [2, 0, 1]] = -arm[:, [1, 2, 0]]
    rows[:, :3, 3:] = np.eye(3)
    rows[:, 3, :3], rows[:, 3, 3:] = np.cross(arm, normals), normals
    gap = targets - points
    residuals = np.concatenate((gap, (gap * normals).sum(1, keepdims=True)), 1)
    flat = rows.reshape(-1, 6)
    importance = weights[:, None] * np.stack((across, across, across, 1.0 - across), 1)
    weighted = (rows * importance[..., None]).reshape(-1, 6)
    damping = 1e-4 * len(points) * np.diag([reach**2] * 3 + [1.0] * 3)
    step = np.linalg.solve(weighted.T @ flat + damping, weighted.T @ residuals.reshape(-1))
    R = Rotation.from_rotvec(step[:3]).as_matrix()
    return R, middle + step[3:] - R @ middle


@dataclass(frozen=True, eq=False)
class _Pose:
    """R_cam_obj (3, 3) and t_cam_obj (3,) mm of the object's own middle."""

    R: Array
    t: Array

    def moved(self, R: Array, t: Array) -> _Pose:
        return _Pose(R @ self.R, R @ self.t + t)

    def along_ray(self, shift: float) -> _Pose:
        return _Pose(self.R, self.t * (1.0 + shift / self.t[2]))


@dataclass(frozen=True, eq=False)
class _Window:
    """What the sensor saw around one object.

    Attributes:
        measured: (h, w) mm, 0 = not measured.
        K: (3, 3) the window's camera, pixel centres at integer + 0.5.
        rays: (h, w, 3) through the pixels' centres, z = 1.
        diameter: The object's, mm.
        tau: mm within which depths agree.
    """

    measured: Array
    K: Tensor
    rays: Array
    diameter: float
    tau: float

    @classmethod
    def cut(cls, depth: NDArray[np.float32], K: Tensor, box: Array, diameter: float) -> _Window | None:
        """The part of an image around a box (4,), every n-th pixel of it; None where hardly any is in the image."""
        margin = _MARGIN * float((box[2:] - box[:2]).max())
        low = np.clip(np.floor(box[:2] - margin), 0, None).astype(int)
        high = np.clip(np.ceil(box[2:] + margin), 0, depth.shape[::-1]).astype(int)
        if (high - low).min() < 3:
            return None
        stride = math.ceil(int((high - low).max()) / _SIDE)
        measured = depth[low[1] : high[1] : stride, low[0] : high[0] : stride].astype(np.float64)
        # the window's pixel i is the image's pixel low + stride i, whose centre is half a pixel further
        window_K = K.double().cpu().clone()
        window_K[:2, 2] += 0.5 * (stride - 1) - torch.from_numpy(low)
        window_K = geometry.scaled_camera(window_K, 1.0 / stride)
        rows, columns = np.mgrid[: measured.shape[0], : measured.shape[1]] + 0.5
        k = window_K.numpy()
        rays = np.stack(((columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1], np.ones(measured.shape)), -1)
        return cls(measured, window_K.float(), rays, diameter, max(_TAU * diameter, _NOISE_MM))

    def reach(self, share: float, z: float) -> float:
        """mm within which a point's partner is looked for; never less than two pixels are apart."""
        return max(share * self.diameter, 2.0 * z / float(self.K[0, 0]), _NOISE_MM)


_ASIDE = 0.15
"""A fit that leaves the middle of its box in the photo by more than this share of the box's longer side is not taken:
the depth is not registered to the photo. On scenes with exact depth it was 0.07 at most; depth that is shifted by a
fifth of the box, 0.08 to 0.33."""
_DOUBTFUL = 0.08
"""More than this is worth a word: depth that is shifted by a tenth of the box leaves 0.09 to 0.10, and moves
the pose as far as it is shifted."""
_BESIDE = (
    "a pose that fits the depth lies beside the part's box in the photo, by more than 8 % of it: look whether the "
    "depth is registered to the photo, pixel for pixel"
)


class DepthRefiner:
    """Fits poses to a measured depth image.

    It is no ``Refiner``: it works on what an estimator gives out, in double precision, and says of each detection
    whether anything measured supports it.

    Args:
        world: The run's meshes and renderer.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, found: Sequence[Detection], K: Tensor, depth: NDArray[np.float32]) -> list[Detection]:
        """Returns the detections with their poses refined; those that nothing measured supports are left as they are,
        and say so.

        Args:
            found: In one image.
            K: (3, 3) its camera, pixel centres at integer + 0.5.
            depth: (H, W) mm along the optical axis, registered to the image, 0 = not measured.
        """
        refined = []
        for detection in found:
            offset = self.world.objects[detection.object_index].offset.double().numpy()
            pose = self.fit(
                detection.object_index,
                detection.R_cam_obj,
                detection.t_cam_obj + detection.R_cam_obj @ offset,
                K,
                depth,
            )
            if pose is not None and (aside := self._aside(detection, _Pose(*pose), K)) > _DOUBTFUL:
                if aside > _ASIDE:
                    pose = None
                else:
                    warnings.warn(_BESIDE, stacklevel=1)
            if pose is not None:
                R, t = pose
                detection = replace(detection, R_cam_obj=R, t_cam_obj=t - R @ offset)
            refined.append(replace(detection, depth_fitted=pose is not None))
        return refined

    def _aside(self, detection: Detection, pose: _Pose, K: Tensor) -> float:
        """How far a pose's box lies beside the detector's, as a share of the longer side of that."""
        box = self.world.boxes(*self._tensors(detection.object_index, [pose]), K.to(self.world.device).float())[0]
        moved = box.double().cpu().numpy() - detection.box
        return float(
            np.abs(moved[:2] + moved[2:]).max() / 2.0 / max(1.0, (detection.box[2:] - detection.box[:2]).max())
        )

    def fit(self, index: int, R: Array, t: Array, K: Tensor, depth: NDArray[np.float32]) -> tuple[Array, Array] | None:
        """Finds one object's pose.

        Args:
            index: Which object.
            R: (3, 3) R_cam_obj to start from.
            t: (3,) mm, where the object's own middle is thought to be.
            K: (3, 3) pixel centres at integer + 0.5.
            depth: (H, W) mm, 0 = not measured.

        Returns:
            R (3, 3) and t (3,) mm that agree better with the depth, or those given where none do; None where what was
            measured supports neither.
        """
        start = _Pose(np.asarray(R, np.float64), np.asarray(t, np.float64))
        if start.t[2] <= 1.0:
            return None
        box = self.world.boxes(*self._tensors(index, [start]), K.to(self.world.device).float())[0]
        window = _Window.cut(depth, K, box.double().cpu().numpy(), self.world.objects[index].mesh.diameter)
        if window is None:
            return None
        rendered = self._rendered(index, [start], window)[0][0]
        both = (rendered > 0) & (window.measured > 0)
        if both.sum() < _POINTS:
            return None
        reach = max(0.12 * start.t[2], 0.3 * window.diameter)
        shifts = ray_shifts((window.measured - rendered)[both], window.tau, reach, _SHIFTS)
        if not shifts:
            return None
        poses = self._aligned(index, [start.along_ray(s) for s in shifts], window)
        depths = self._rendered(index, poses, window)[0]
        values = [
            # a flat part agrees with any wall: the further away, the less it is believed
            agreement(render, window.measured, window.tau) / (1.0 + 0.5 * ((pose.t[2] - start.t[2]) / reach) ** 2)
            for render, pose in zip(depths, poses, strict=True)
        ]
        best = int(np.argmax(values))
        start_agreement = agreement(rendered, window.measured, window.tau)
        if max(start_agreement, values[best]) <= _LEAST:
            return None
        chosen = poses[best] if values[best] > start_agreement else start
        return chosen.R, chosen.t

    def _aligned(self, index: int, poses: list[_Pose], window: _Window) -> list[_Pose]:
        """ICP from each of several starts; one that runs away stays where it was."""
        z = np.array([pose.t[2] for pose in poses])
        near = (window.measured > max(1.0, z.min() - window.diameter)) & (window.measured < z.max() + window.diameter)
        if near.sum() < _POINTS:
            return poses
        measured = (window.rays * window.measured[..., None])[near]
        tree = cKDTree(measured)
        empty = ~maximum_filter(window.measured > 0, 3)  # lone holes are no background
        for turn in range(_ROUNDS):
            share = _FAR * (_NEAR / _FAR) ** (turn / (_ROUNDS - 1))
            depths, normals = self._rendered(index, poses, window)
            moved = []
            for pose, depth, normal in zip(poses, depths, normals, strict=True):
                reach = window.reach(share, pose.t[2])
                seen = np.flatnonzero((depth > 0) & ((window.measured > depth - reach) | (window.measured == 0)))
                seen = seen[:: math.ceil(len(seen) / _MOST) or 1]
                over = ((window.measured > depth + reach) | empty).flat[seen]
                points = (window.rays * depth[..., None]).reshape(-1, 3)[seen]
                across = np.where(over, _ACROSS, _HOLD)
                R, t = _icp(points, normal.reshape(-1, 3)[seen], across, tree, measured, reach)
                after = pose.moved(R, t)
                far = np.linalg.norm(after.t - pose.t) > 0.5 * window.diameter or after.t[2] <= 1.0
                moved.append(pose if far else after)
            poses = moved
        return poses

    def _rendered(self, index: int, poses: list[_Pose], window: _Window) -> tuple[Array, Array]:
        """Depths (S, h, w) mm and normals (S, h, w, 3) of the object alone at S poses."""
        objects, R, t = self._tensors(index, poses)
        K = window.K.to(self.world.device).expand(len(poses), 3, 3)
        height, width = window.measured.shape
        buffers = self.world.renderer.render(Instances.single(objects, R, t), K, (height, width))
        return buffers.depth.double().cpu().numpy(), buffers.normal.double().cpu().numpy()

    def _tensors(self, index: int, poses: list[_Pose]) -> tuple[Tensor, Tensor, Tensor]:
        where = self.world.device
        R = torch.from_numpy(np.stack([pose.R for pose in poses])).float().to(where)
        t = torch.from_numpy(np.stack([pose.t for pose in poses])).float().to(where)
        return torch.full((len(poses),), index, device=where), R, t


def _icp(points: Array, normals: Array, across: Array, tree: Any, measured: Array, reach: float) -> tuple[Array, Array]:
    """A few steps of ICP of points (N, 3) mm against measured ones: the motion R (3, 3) and t (3,) mm."""
    R, t = np.eye(3), np.zeros(3)
    for _ in range(_STEPS):
        moved, turned = points @ R.T + t, normals @ R.T
        distance, partner = tree.query(moved, distance_upper_bound=reach)
        paired = np.isfinite(distance)
        if paired.sum() < _POINTS:
            break
        weights = (1.0 - (distance[paired] / reach) ** 2) ** 2
        targets = measured[partner[paired]]
        dR, dt = aligning_motion(moved[paired], turned[paired], targets, weights, across[paired], reach)
        R, t = dR @ R, dR @ t + dt
        if np.linalg.norm(dt) < 0.01 and np.abs(dR - np.eye(3)).max() < 1e-4:
            break
    return R, t
