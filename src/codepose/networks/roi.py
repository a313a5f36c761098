"""RoIAlign: the one way in which features, and photos, are read inside boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.runtime.vision import roi_align


def roi_pool(features: Tensor, boxes: Tensor, images: Tensor, side: int, stride: float, samples: int = 1) -> Tensor:
    """Reads features inside boxes by RoIAlign with half-pixel-correct sampling (torchvision's ``aligned=True``).

    torchvision's backward pass runs on one core of a CPU and takes most of a training step. There ``grid_sample`` reads
    the same values; elsewhere torchvision's is the faster one. Boxes get no gradient.

    Args:
        features: (B, C, h, w).
        boxes: (R, 4), or (R, n, 4) for n boxes in one image, in the images' pixels; there are zeros outside the image.
        images: (R,) the image that each row of boxes lies in.
        side: Bins along each axis.
        stride: Pixels of the image from one feature to the next; 1 for photos.
        samples: Bilinear samples along each axis of a bin. With one, a square of side * stride pixels on the features'
            grid gives back the features themselves.

    Returns:
        (R n, C, side, side) float32: in bfloat16, coordinates beyond 128 are half a pixel off.
    """
    features = features.float()
    boxes = (boxes[:, None] if boxes.ndim == 2 else boxes).float()
    if torch.is_grad_enabled() and features.requires_grad and features.device.type == "cpu":
        return _sampled(features[images], boxes.detach(), side, stride, samples)
    index = images[:, None, None].to(boxes).expand(-1, boxes.shape[1], 1)
    rois = torch.cat((index, boxes), -1).flatten(0, 1)  # (R n, 5)
    pooled: Tensor = roi_align(features, rois, side, 1.0 / stride, sampling_ratio=samples, aligned=True)
    return pooled


def _sampled(features: Tensor, boxes: Tensor, side: int, stride: float, samples: int) -> Tensor:
    """RoIAlign of features (R, C, h, w) in boxes (R, n, 4) from one ``grid_sample`` over all of an image's boxes."""
    (rows, channels, height, width), number, points = features.shape, boxes.shape[1], side * samples
    grid = geometry.sampling_grid(boxes.flatten(0, 1), points, (stride * width, stride * height))
    grid = grid.reshape(rows, number * points, points, 2)  # an image's boxes, one below the other
    values = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
    # as in torchvision's, the outermost features reach half a stride beyond the image, and then there are zeros
    within = (grid[..., 0].abs() <= 1.0 + 1.0 / width) & (grid[..., 1].abs() <= 1.0 + 1.0 / height)
    values = values * within[:, None]
    bins = F.avg_pool2d(values, samples) if samples > 1 else values  # (R, C, n * side, side)
    return bins.reshape(rows, channels, number, side, side).transpose(1, 2).flatten(0, 1)
