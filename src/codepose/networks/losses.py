"""L_mse, L_angle and L_cos of the paper (Eqs. 1-3), and a match loss.

docs/method.md, under Losses, says how the equations are read where they leave something open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from codepose.geometry import geodesic_angle
from codepose.parts.symmetry_group import Symmetries, least_angles

_EPS = 1e-12
_NEVER = -1e4
"""Logit of what is never chosen, finite: where there is nothing to choose from, gradients stay so."""


def mse(reconstructions: Tensor, targets: Tensor, bootstrap_ratio: int = 1) -> Tensor:
    """L_mse (Eq. 1) against the clean target x_t, per image.

    Args:
        reconstructions: (B, 3, H, W) in [0, 1], x_r.
        targets: (B, 3, H, W) in [0, 1], x_t.
        bootstrap_ratio: k; only the largest 1/k of each image's squared errors count; 1 = all of them.

    Returns:
        (B,) mean squared errors.
    """
    squared = (reconstructions - targets).square().flatten(1)
    if bootstrap_ratio == 1:
        return squared.mean(1)
    return squared.topk(max(1, squared.shape[1] // bootstrap_ratio)).values.mean(1)


def pair_angles(rotations: Tensor, objects: Tensor, symmetries: Sequence[Symmetries] = ()) -> Tensor:
    """The angle between every two views of a batch, the least one where the object has symmetries.

    Args:
        rotations: (B, 3, 3).
        objects: (B,) which object.
        symmetries: Each object's; empty = none has any.

    Returns:
        (B, B) radians of the rotations' dtype; infinite between views of different objects.
    """
    theta = geodesic_angle(rotations[:, None], rotations[None])
    symmetric = [group.any for group in symmetries]
    if any(symmetric):  # all pairs, then a choice: to gather them, a GPU would have to be waited for
        least = least_angles(symmetries, objects, rotations).to(theta)
        turns = torch.tensor(symmetric).to(objects.device, non_blocking=True)[objects]
        theta = torch.where(turns[:, None], least, theta)
    return theta.masked_fill(objects[:, None] != objects[None], torch.inf)


def angle_loss(
    latents: Tensor,
    rotations: Tensor,
    objects: Tensor,
    symmetries: Sequence[Symmetries] = (),
) -> Tensor:
    """L_angle (Eq. 2): ||z_j - z_k|| exp(-theta_jk), averaged over every image and its nearest neighbour in rotation.

    Args:
        latents: (B, D), z_i of the batch's input images.
        rotations: (B, 3, 3).
        objects: (B,) which object; only views of the same one are paired.
        symmetries: Each object's: views that look the same are 0 apart; empty = none has any.

    Returns:
        A scalar; zero where no pair exists. theta is in radians: in degrees exp(-theta) would vanish.
    """
    with torch.no_grad():
        theta = pair_angles(rotations.double(), objects, symmetries)  # (B, B)
        theta.fill_diagonal_(torch.inf)
        angle, partner = theta.min(1)
        weight = torch.exp(-angle).to(latents.dtype)  # exp(-inf) = 0 for those without a partner
    difference = latents - latents[partner]
    return ((difference.square().sum(1) + _EPS).sqrt() * weight).mean()


def match_loss(
    latents: Tensor,
    target_latents: Tensor,
    rotations: Tensor,
    objects: Tensor,
    symmetries: Sequence[Symmetries] = (),
    used: Tensor | None = None,
    *,
    width_deg: float = 15.0,
    temperature: float = 0.1,
) -> Tensor:
    """Teaches the codes to be retrieved: InfoNCE with soft targets, over every clean view of the batch.

    Not in the paper, whose Eqs. 2 and 3 pull latents together but never apart. The lookup asks for more: that the
    clean view nearest in rotation have the largest cosine. The wanted distribution over the batch's clean views falls
    with the angle to them as a Gaussian.

    Args:
        latents: (B, D), z_i of the input images.
        target_latents: (B, D), z_t of the clean views.
        rotations: (B, 3, 3).
        objects: (B,) which object; views of another one are never wanted.
        symmetries: Each object's: views that look the same are wanted alike; empty = none has any.
        used: (B,) bool: the others count neither as images nor as views; None = all are.
        width_deg: Standard deviation of the Gaussian.
        temperature: Divides the cosines.

    Returns:
        A scalar.
    """
    with torch.autocast(latents.device.type, enabled=False):
        theta = pair_angles(rotations, objects, symmetries).rad2deg()  # (B, B)
        near = -0.5 * (theta / width_deg).square()
        cosines = F.normalize(latents) @ F.normalize(target_latents).T / temperature
        if used is not None:
            near, cosines = (values.masked_fill(~used, _NEVER) for values in (near, cosines))
        return _mean_of(F.cross_entropy(cosines, near.softmax(1), reduction="none"), used)


def cos_loss(latents: Tensor, target_latents: Tensor, used: Tensor | None = None) -> Tensor:
    """L_cos (Eq. 3): minus the mean cosine between z_i and z_t, both (B, D); -1 when they agree.

    Args:
        latents: z_i.
        target_latents: z_t.
        used: (B,) bool, of which the mean is taken; None = of all. 0 where there are none.
    """
    return -_mean_of(F.cosine_similarity(latents, target_latents), used)


def _mean_of(values: Tensor, used: Tensor | None) -> Tensor:
    """The mean of values (B,), or of some, (B,) bool; 0 of none. To pick these out, a GPU would be waited for."""
    if used is None:
        return values.mean()
    return torch.where(used, values, 0.0).sum() / used.sum().clamp_min(1)


@dataclass(frozen=True)
class ReconstructionHealth:
    """Two signs of Step 1 gone wrong: black outputs and collapsed latents.

    Attributes:
        object_mse: Mean squared error over the target's object pixels.
        target_energy: Mean squared value of these pixels: the error of an all-black output.
        latent_spread: Variance of the latents across the batch, over their mean square.
    """

    object_mse: float
    target_energy: float
    latent_spread: float

    def warnings(self) -> list[str]:
        """Returns what is wrong, in words."""
        warnings = []
        if self.object_mse > 0.8 * self.target_energy > 0.0:
            warnings.append(
                "the reconstructions are black where the object should be: raise losses.bootstrap_ratio to 4, "
                "or turn on data.curriculum"
            )
        if self.latent_spread < 1e-4:
            warnings.append("the latents have collapsed: all images get nearly the same code; lower the learning rate")
        return warnings


def reconstruction_health(reconstructions: Tensor, targets: Tensor, latents: Tensor) -> ReconstructionHealth:
    """Measures black outputs and collapsed codes on a batch.

    Args:
        reconstructions: (B, 3, H, W), B >= 1.
        targets: (B, 3, H, W) in [0, 1], black where the object is not.
        latents: (B, D).
    """
    with torch.no_grad():
        pixels = (targets.amax(1, keepdim=True) > 0).expand_as(targets)
        count = pixels.sum().clamp_min(1)
        error = (reconstructions - targets).square()[pixels].sum() / count
        energy = targets.square()[pixels].sum() / count
        latents = latents.float()
        spread = latents.var(0, correction=0).mean() / latents.square().mean().clamp_min(1e-30)
        if len(latents) == 1:
            spread = torch.ones_like(spread)  # one code says nothing
    return ReconstructionHealth(float(error), float(energy), float(spread))
