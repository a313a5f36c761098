"""What codepose's own files ask of kornia."""

from __future__ import annotations

import numpy as np

from codepose_runtime.cameras.camera_entries import CameraError
from codepose_runtime.tensors import stack, where
from codepose_runtime.tensors.tensor import Tensor, float32


def gaussian_blur2d(images: Tensor, size: tuple[int, int], sigma: tuple[float, float]) -> Tensor:
    """Blurs images (N, C, H, W), mirrored at their edges."""
    result = images.array
    for axis, length, width in ((-1, size[1], sigma[1]), (-2, size[0], sigma[0])):
        half = length // 2
        weights = np.exp(-np.square(np.arange(length, dtype=float32) - half) / np.float32(2.0 * width**2))
        weights /= weights.sum()
        widths = [(0, 0)] * result.ndim
        widths[axis] = (half, half)
        padded, count = np.pad(result, widths, "reflect"), result.shape[axis]
        parts = [slice(None)] * result.ndim
        total = np.zeros_like(result)
        for i, weight in enumerate(weights):
            parts[axis] = slice(i, i + count)
            total += padded[tuple(parts)] * weight
        result = total
    return Tensor(result)


def axis_angle_to_rotation_matrix(vectors: Tensor) -> Tensor:
    """Rotation vectors (N, 3) in radians -> (N, 3, 3), by a power series where the angle is small."""
    square = (vectors * vectors).sum(-1)
    tiny = square <= 1e-6
    angle = where(tiny, 1.0, square).sqrt()
    sine = where(tiny, 1.0 - square / 6.0, angle.sin() / angle)
    versine = where(tiny, 0.5 - square / 24.0, (1.0 - angle.cos()) / (angle * angle))
    x, y, z = vectors.unbind(-1)
    a, b, one = sine, versine, np.float32(1.0)
    rows = [
        (one - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y),
        (b * x * y + a * z, one - b * (x * x + z * z), b * y * z - a * x),
        (b * x * z - a * y, b * y * z + a * x, one - b * (x * x + y * y)),
    ]
    return stack([stack(row, -1) for row in rows], -2)


def distort_points(points: Tensor, K: Tensor, distortion: Tensor) -> Tensor:
    """Is not done here."""
    raise CameraError("codepose-runtime takes no lens distortion out: undistort the photo first")
