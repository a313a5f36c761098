"""The exact search for the nearest of many unit codes: as fast as memory can be read.

A CPU multiplies eight-bit integers fastest, and reads half the bytes: all codes are compared in eight bits first. How
far such a product can be off is known, and those that may be among the nearest for all of that are compared exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codepose.runtime.instructions import asks_for_older_instructions

_TOGETHER = 8
"""Queries that share one reading of the codes on a CPU."""
_CHUNK = 1 << 20
"""Values turned into float32 at a time: 4 MiB, which a processor's cache holds."""
_GPU_CHUNK = 1 << 26
"""The same on a GPU: 256 MiB, since every launch costs."""
_FLOAT = 1e-5
"""What sums in float32 may be off besides."""
_HIGHEST = 127.0
_LEAST, _INT32 = 1e-12, -(2**31)


def multiplies_bytes() -> bool:
    """Whether PyTorch multiplies eight-bit matrices fast and exactly on this CPU.

    Elsewhere it does so value by value; with older instructions, which can be asked for, oneDNN's sums may overflow.
    """
    return bool(torch.cpu.get_capabilities().get("avx512_vnni", False)) and not asks_for_older_instructions()


@dataclass(frozen=True)
class RoundedCodes:
    """Codes in eight bits, for a CPU that ``multiplies_bytes``.

    Attributes:
        codes: (N, D) float16, as they are.
        values: (N, D) int8, the codes over ``scale``, rounded.
        scale: What a 1 stands for.
        error: Largest length of what rounding took from a code.
        length: Largest length of a code.
    """

    codes: Tensor
    values: Tensor
    scale: float
    error: float
    length: float

    @classmethod
    def of(cls, codes: Tensor) -> RoundedCodes:
        """Rounds codes (N, D)."""
        scale = max(float(codes.abs().amax()) / _HIGHEST, _LEAST)
        values, errors, lengths = [], [], []
        for part in torch.split(codes, max(1, _CHUNK // codes.shape[1])):
            exact = part.float()
            values.append((exact / scale).round().to(torch.int8))
            errors.append(float((exact - scale * values[-1]).norm(dim=1).max()))
            lengths.append(float(exact.norm(dim=1).max()))
        return cls(codes, torch.cat(values), scale, max(errors), max(lengths))

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Finds the k codes of largest product with each query.

        Args:
            queries: (Q, D) float32, unit length.
            k: At most N.

        Returns:
            Products (Q, k), exact to float32's rounding, the largest first, and indices (Q, k).
        """
        scales = (queries.abs().amax(1) / _HIGHEST).clamp_min(_LEAST)
        values = (queries / scales[:, None]).round().to(torch.int8)
        lost = (queries - values * scales[:, None]).norm(dim=1)
        # |c q - c' q'| <= |c - c'| |q'| + |c| |q - q'|, where |q'| <= 1 + |q - q'|
        slack = self.error * (1.0 + lost) + self.length * lost + _FLOAT
        reach = (2.0 * slack / (self.scale * scales)).tolist()
        products = queries.new_empty(len(queries), k)
        indices = torch.empty(len(queries), k, dtype=torch.long)
        for start in range(0, len(queries), _TOGETHER):
            coarse = torch._int_mm(values[start : start + _TOGETHER], self.values.T)
            for row, about in enumerate(coarse, start):
                least = int(about.amax() if k == 1 else about.topk(k).values[-1])
                near = (about >= max(_INT32, math.floor(least - reach[row]))).nonzero().squeeze(1)
                best = (self.codes[near].float() @ queries[row]).topk(k)
                products[row], indices[row] = best.values, near[best.indices]
        return products, indices


def nearest_in_chunks(codes: Tensor, queries: Tensor, k: int, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in float32, without rounding, on any device: so many ``rows`` of the codes (N, D) at a time.

    None = as many as suit the device.
    """
    if rows is None:
        rows = max(1, (_CHUNK if codes.device.type == "cpu" else _GPU_CHUNK) // codes.shape[1])
    values, indices = [], []
    for start in range(0, len(codes), rows):
        similarity = queries @ codes[start : start + rows].float().T  # (Q, rows)
        top = similarity.topk(min(k, similarity.shape[1]), dim=1)
        values.append(top.values)
        indices.append(top.indices + start)
    best = torch.cat(values, 1).topk(k, dim=1)
    return best.values, torch.cat(indices, 1).gather(1, best.indices)
