"""Which of a photo's edges is the part's outline: on one side its colours, on the other those around it.

Polished metal and painted parts have edges inside that are stronger than their outline. The colours tell which is
which: along a line across the outline, pixels are the part's up to it, and the background's beyond, as in Stoiber et
al., "A Sparse Gaussian Approach to Region-Based 6DoF Object Tracking", ACCV 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BINS = 16
"""Of each of the three colours in the histograms."""
_UNSEEN = 0.2
"""Pixels that every colour is taken to have been seen more often, inside and outside."""
_SUREST = 0.98
"""Probability that a single pixel can give at most."""
_TRUST = 0.5
"""What each pixel's word counts beside its neighbours', who often say the same."""


def part_colors(windows: Tensor, inside: Tensor) -> Tensor:
    """Returns the probability (M, 1, s, s) that each pixel's colour is the part's: how often it is inside and outside.

    Args:
        windows: (M, 3, s, s) in [0, 1].
        inside: (M, s, s) where a render shows the part.
    """
    level = (windows * _BINS).long().clamp(0, _BINS - 1)
    colors = _BINS**3
    bins = (level[:, 0] * _BINS + level[:, 1]) * _BINS + level[:, 2]
    bins = bins + colors * torch.arange(len(bins), device=bins.device)[:, None, None]
    shares = []
    for side in (inside, ~inside):
        count = torch.bincount(bins[side], minlength=colors * len(bins)).view(len(bins), colors)
        shares.append((count + _UNSEEN) / count.sum(1, keepdim=True).clamp_min(1))
    ours = shares[0] / (shares[0] + shares[1])
    return ours.flatten()[bins][:, None]


def outline_odds(ours: Tensor, step: float) -> Tensor:
    """Returns how likely the outline lies at each place of lines that lead out of the part, (M, P, S), at most 1.

    Args:
        ours: (M, P, S) probability that the colour at each place is the part's.
        step: Pixels between places.
    """
    ours = ours.clamp(1.0 - _SUREST, _SUREST)
    gain = (ours / (1.0 - ours)).log() * (_TRUST * step)
    # the outline at a place: what lies before it is the part's, half of the place itself
    odds = gain.cumsum(2) - 0.5 * gain
    return (odds - odds.amax(2, keepdim=True)).exp()
