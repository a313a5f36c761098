"""What is known of boxes once they have poses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimates:
    """Poses of N boxes.

    Attributes:
        R: (N, 3, 3) R_cam_obj.
        t: (N, 3) mm, where the object's own middle lies.
        similarity: (N,) cosine of each code with the codebook's nearest.
        agreement: (N,) correlation of the clean render with the reconstruction; with the codebook's thumbnails where
            nothing was refined.
        contour: (N,) how well the render's edges lie on the photo's; 0 where nothing was refined.
        latents: (N, D).
        reconstructions: (N, 3, c, c) in [0, 1].
        judged: (N,) the judge's log-odds; None where it was not asked.
    """

    R: Tensor
    t: Tensor
    similarity: Tensor
    agreement: Tensor
    contour: Tensor
    latents: Tensor
    reconstructions: Tensor
    judged: Tensor | None = None
