"""Muon: momentum whose every weight matrix is turned into the nearest orthogonal one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NARROWEST = 16
"""Layers with fewer inputs or outputs are images, and scores of few classes; those learn better with AdamW."""
_LARGEST = 1024
"""The cost grows with the square of the smaller side: the FC layers of a 4,096-D latent would take ten times as long as
all the rest of an iteration."""
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: singular values s become 3.4445 s - 4.7750 s^3 + 2.0315 s^5 (Jordan et al.)."""


def nearly_orthogonal(matrix: Tensor) -> Tensor:
    """Brings the singular values of a matrix (m, n) near 1 by Muon's Newton-Schulz iteration.

    Each iteration multiplies the matrix X by a polynomial in X X^T. Here the polynomials are multiplied first, and X
    once at the end: for 256 x 6,272 that takes a quarter of the time, in float32 (docs/log/2026-11-29-arithmetic.md).
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    x = wide / wide.norm().clamp_min(1e-7)
    gram = x @ x.mT
    factor = product = _factor(gram)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    turned: Tensor = product @ x
    return turned if wide is matrix else turned.mT


def _factor(gram: Tensor) -> Tensor:
    """By what an iteration multiplies X, given X X^T (n, n): symmetric, and commutes with those before it."""
    first, third, fifth = _QUINTIC
    factor = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
    factor.diagonal().add_(first)
    return factor


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for weights; AdamW for biases, norms, and layers that are too narrow or too large.

    A convolution's weight counts as a matrix of its outputs by everything else. Updates are scaled as in Liu et al.,
    "Muon is Scalable for LLM Training", 2025 (0.2 sqrt(max side)), so that learning rates and weight decay mean what
    they mean for AdamW.

    Args:
        groups: Parameter groups with "params" and "lr"; each is split in two.
        weight_decay: Decoupled, as in AdamW.
        momentum: Of the matrices.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, weight_decay: float, momentum: float) -> None:
        parts: list[dict[str, Any]] = []
        for group in groups:
            matrices = [p for p in group["params"] if _suits(p)]
            others = [p for p in group["params"] if not _suits(p)]
            for params, turned in ((matrices, momentum), (others, 0.0)):
                if params:
                    parts.append({**group, "params": params, "turned": turned})
        super().__init__(parts, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient; the matrices' gradients are used up."""
        for group in self.param_groups:
            if group["turned"] > 0:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._turn(parameter, group["lr"], group["turned"], group["weight_decay"])
                        parameter.grad = None  # done: AdamW leaves parameters without a gradient alone
        return super().step(closure)

    def _turn(self, parameter: nn.Parameter, lr: float, momentum: float, weight_decay: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        velocity: Tensor = state["momentum"].lerp_(parameter.grad, 1.0 - momentum)
        update = parameter.grad.lerp(velocity, momentum).flatten(1)  # Nesterov's, (outputs, inputs)
        parameter.mul_(1.0 - lr * weight_decay)
        parameter.add_(nearly_orthogonal(update).view(parameter.shape), alpha=-0.2 * lr * max(update.shape) ** 0.5)


def _suits(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix that is worth turning."""
    if parameter.ndim < 2 or min(parameter.shape[:2]) < _NARROWEST:
        return False
    return min(len(parameter), parameter[0].numel()) <= _LARGEST
