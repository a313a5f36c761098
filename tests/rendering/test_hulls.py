"""The boxes that convex hulls fill in an image, against geometry's plain projection of every point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose import geometry
from codepose.rendering.hulls import Hulls

CPU = torch.device("cpu")


@dataclass
class Cloud:
    """All that hulls ask of a mesh."""

    hull: NDArray[np.float32]


def clouds(*counts: int) -> list[Cloud]:
    """Points on spheres of other sizes, so that any of them may be where a hull ends."""
    random = np.random.default_rng(5)
    drawn = [random.normal(size=(count, 3)) for count in counts]
    radii = [20.0 + 10.0 * k for k in range(len(counts))]
    made = [r * x / np.linalg.norm(x, axis=1, keepdims=True) for r, x in zip(radii, drawn, strict=True)]
    return [Cloud(points.astype(np.float32)) for points in made]


def poses(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations, places before the camera, and cameras of other focal lengths and principal points."""
    places = torch.rand(count, 3, generator=torch.Generator().manual_seed(3)) * 100.0
    K = torch.stack([geometry.camera_matrix(100.0 + 20.0 * k, 30.0 + k, 20.0 - k) for k in range(count)])
    R = torch.from_numpy(Rotation.random(count, random_state=7).as_matrix()).float()
    return R, places + torch.tensor([0.0, 0.0, 200.0]), K


@pytest.mark.parametrize("points", [4, 7, 8, 9, 15, 16, 17])
def test_no_point_of_a_hull_is_left_out(points: int) -> None:
    (cloud,) = clouds(points)
    R, t, K = poses(40)
    boxes = Hulls([cloud], CPU).boxes(torch.zeros(40).long(), R, t, K)  # type: ignore[list-item]
    torch.testing.assert_close(boxes, geometry.projected_box(torch.from_numpy(cloud.hull), R, t, K), atol=1e-4, rtol=0)


def test_each_instance_has_the_hull_of_its_mesh() -> None:
    several, which = clouds(5, 12, 8), torch.tensor([2, 0, 1, 1, 0, 2])
    R, t, K = poses(6)
    hulls = Hulls(several, CPU)  # type: ignore[arg-type]
    boxes = hulls.boxes(which, R, t, K)
    for row, mesh in enumerate(which.tolist()):
        own = torch.from_numpy(several[mesh].hull)
        torch.testing.assert_close(hulls[mesh], own)
        expected = geometry.projected_box(own, R[row, None], t[row, None], K[row, None])[0]
        torch.testing.assert_close(boxes[row], expected, atol=1e-4, rtol=0)


def test_no_instance_no_box() -> None:
    empty = torch.zeros(0)
    hulls = Hulls(clouds(4), CPU)  # type: ignore[arg-type]
    boxes = hulls.boxes(empty.long(), empty.view(0, 3, 3), empty.view(0, 3), empty.view(0, 3, 3))
    assert boxes.shape == (0, 4)
