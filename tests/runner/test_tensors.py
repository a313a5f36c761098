"""The stand-in for PyTorch gives what PyTorch gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(value: Any) -> Any:
    """Arrays, whatever held them."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if hasattr(value, "array"):
        return value.array
    return [plain(one) for one in value] if isinstance(value, tuple | list) else np.asarray(value)


@pytest.fixture(scope="module")
def tensors(installed: Path) -> Any:
    return import_module("codepose_runtime.tensors")


A, B = sample(4, 5, 3), sample(4, 5, 3, seed=1)
WHOLE = np.arange(20).reshape(4, 5)
EXPRESSIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda a, b, n, t: (a.sum(1), a.sum((0, 2), keepdim=True), a.sum(), n.sum(0), (n > 3).sum(1)),
    "extremes": lambda a, b, n, t: (
        a.max(1),
        a.max(),
        a.amax(1, keepdim=True),
        a.amin((1, 2)),
        a.argmax(1),
        n.min(1),
        a.softmax(1),
    ),
    "moments": lambda a, b, n, t: (a.mean(1), a.std(1), a.norm(dim=-1, keepdim=True), a.prod(1), n.cumsum(0)),
    "whole numbers": lambda a, b, n, t: (n / 2, n * 0.5, n + 1, n * a[..., 0], n // 3, n / n.sum(), -n, n % 3, 2 - n),
    "comparisons": lambda a, b, n, t: (a > b, (a > 0) & (b > 0), (a > 0) | (b > 0), ~(a > 0), n == 3, n != 3, a <= 0),
    "functions": lambda a, b, n, t: (
        a.abs().sqrt(),
        a.exp(),
        a.square(),
        a.abs().log(),
        a.cos(),
        a.floor(),
        n.square(),
    ),
    "limits": lambda a, b, n, t: (a.clamp(-0.5, 0.5), a.clamp_min(0.0), a.clamp_max(0.1), a.minimum(b), n.clamp(2, 7)),
    "parts": lambda a, b, n, t: (a[:, 1:3], a[n[:, 0] > 5], a[..., [0, 2]], a[:, None, 2], a[n[1, :3] - 5], a[a > 0]),
    "gather": lambda a, b, n, t: (a.gather(1, n[:, :2, None].expand(-1, -1, 3) % 5), a.topk(2, dim=1), a.nonzero()),
    "forms": lambda a, b, n, t: (
        a.flatten(1),
        a.flatten(0, 1),
        a.view(4, -1),
        a.permute(2, 0, 1),
        a.mT,
        n.T,
        a.flip(1),
    ),
    "copies": lambda a, b, n, t: (n.repeat(2, 1), n.repeat_interleave(2, 0), n[:, :1].expand(-1, 3), a[:1].squeeze(0)),
    "order": lambda a, b, n, t: (a.argsort(dim=1, descending=True), t.argsort(a[:, 0, 0]), a.unbind(-1)),
    "products": lambda a, b, n, t: (a @ b.mT, t.einsum("nij,nkj->nik", a, b), t.outer(a[0, 0], b[0, 0])),
    "joined": lambda a, b, n, t: (t.cat((a, b), 1), t.stack((a, b), -1), t.where(a > 0, a, 0.0), t.split(a, 3)),
    "made": lambda a, b, n, t: (
        t.arange(2, 9, 3),
        t.linspace(-0.3, 0.7, 9),
        t.eye(3),
        t.full((2, 3), 4),
        t.zeros(2, 1),
    ),
    "like": lambda a, b, n, t: (a.new_tensor([1, 2]), n.new_zeros(3, 2), t.full_like(a, 2), a.new_full((2,), 3)),
    "tensors": lambda a, b, n, t: (t.tensor([1.5, 2]), t.tensor([1, 2]), t.tensor([True]), t.tensor([[1.0]]).double()),
    "grids": lambda a, b, n, t: (t.meshgrid(n[0], n[1], indexing="ij"), t.cartesian_prod(n[0], n[1]), t.diag_embed(a)),
    "angles": lambda a, b, n, t: (t.atan2(a, b), t.hypot(a, b), t.linalg.cross(a, b), t.logit(a.abs(), eps=0.2)),
    "numbers": lambda a, b, n, t: ((a / 0.0).nan_to_num(), (a * t.inf).nan_to_num(nan=-t.inf), (a / 0.0).isinf()),
    "counts": lambda a, b, n, t: (t.bincount(n[0], minlength=9), t.searchsorted(n[0], n[0] + 1), t.sigmoid(a)),
    "placed": lambda a, b, n, t: (
        a.index_copy(0, n[0, 1:3], b[:2]),
        a.masked_fill(a > 0, 3),
        a.diagonal(dim1=1, dim2=2),
    ),
    "scattered": lambda a, b, n, t: a[0].scatter_reduce(0, (n[:2, :3] % 2), b[0, :2], "amin"),
    "solve": lambda a, b, n, t: t.linalg.solve(t.eye(3) * 9.0 + a[:, :3, :3], b[:, 0, :3]),
    "matrix_exp": lambda a, b, n, t: t.linalg.matrix_exp(a[:, :3].double() * 2.0),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_methods(tensors: Any, name: str) -> None:
    asked = EXPRESSIONS[name]
    wanted = plain(asked(*map(torch.from_numpy, (A.copy(), B.copy(), WHOLE.copy())), torch))
    found = plain(asked(*map(tensors.from_numpy, (A.copy(), B.copy(), WHOLE.copy())), tensors))
    flat = [(wanted, found)] if isinstance(wanted, np.ndarray) else list(zip(wanted, found, strict=True))
    for one, other in flat:
        for x, y in zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]:
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=2e-6, atol=2e-6)


def test_what_is_written_into_a_part_is_written_into_the_whole(tensors: Any) -> None:
    for module in (torch, tensors):
        values = module.zeros(3, 4)
        values.view(-1)[module.arange(2)] = 5.0
        values[:, 2] += 1.0
        values[1:].mul_(2.0)
        values[values > 4] = 7.0
        assert values.tolist() == [[7, 7, 1, 0], [0, 0, 2, 0], [0, 0, 2, 0]]


@pytest.mark.parametrize("count", [16, 40, 600])
def test_random_numbers_are_the_same(tensors: Any, count: int) -> None:
    for seed in (0, 7):
        pair = [module.Generator().manual_seed(seed) for module in (torch, tensors)]
        for _ in range(2):
            drawn = [module.rand(3, count, generator=one) for module, one in zip((torch, tensors), pair, strict=True)]
            assert drawn[0].tolist() == drawn[1].tolist()
            wanted = torch.randn(count, 6, generator=pair[0]).numpy()
            np.testing.assert_allclose(tensors.randn(count, 6, generator=pair[1]).array, wanted, rtol=1e-5, atol=1e-6)


def test_images(tensors: Any) -> None:
    functional, vision = (import_module(f"codepose_runtime.tensors.{name}") for name in ("functional", "vision"))
    image = np.random.default_rng(0).random((2, 3, 37, 50), np.float32)
    ours, theirs = tensors.from_numpy(image), torch.from_numpy(image)

    def same(found: Any, wanted: torch.Tensor) -> None:
        np.testing.assert_allclose(found.array, wanted.numpy(), atol=1e-5)

    for shape in ((12, 20), (37, 25), (74, 99)):
        for smooth in (True, False):
            options = {"mode": "bilinear", "align_corners": False, "antialias": smooth}
            same(functional.interpolate(ours, shape, **options), F.interpolate(theirs, shape, **options))
    grid = (np.random.default_rng(1).random((2, 9, 8, 2), np.float32) - 0.5) * 3.0
    options = {"padding_mode": "border", "align_corners": False}
    same(
        functional.grid_sample(ours, tensors.from_numpy(grid), **options),
        F.grid_sample(theirs, torch.from_numpy(grid), **options),
    )
    same(functional.avg_pool2d(ours, 3), F.avg_pool2d(theirs, 3))
    same(functional.adaptive_avg_pool2d(ours, 8), F.adaptive_avg_pool2d(theirs, 8))
    same(functional.max_pool2d(ours, 3, stride=1, padding=1), F.max_pool2d(theirs, 3, stride=1, padding=1))
    same(functional.pad(ours, (1, 2, 0, 3), value=0.5), F.pad(theirs, (1, 2, 0, 3), value=0.5))
    same(functional.normalize(ours, dim=1), F.normalize(theirs, dim=1))
    same(vision.gaussian_blur2d(ours, (5, 3), (1.0, 0.7)), gaussian_blur2d(theirs, (5, 3), (1.0, 0.7)))
    turns = np.concatenate((sample(20, 3), sample(5, 3) * 1e-4, np.zeros((1, 3), np.float32)))
    same(
        vision.axis_angle_to_rotation_matrix(tensors.from_numpy(turns)),
        axis_angle_to_rotation_matrix(torch.from_numpy(turns)),
    )


def test_boxes(tensors: Any) -> None:
    boxes = import_module("codepose_runtime.tensors.boxes")
    corner = np.random.default_rng(0).random((60, 2), np.float32) * 20
    places = np.concatenate((corner, corner + 5 + 9 * np.random.default_rng(1).random((60, 2), np.float32)), 1)
    scores, labels = sample(60), np.arange(60) % 2
    ours, theirs = ([f(x) for x in (places, scores, labels)] for f in (tensors.from_numpy, torch.from_numpy))
    wanted = box_iou(theirs[0], theirs[0]).numpy()
    np.testing.assert_allclose(boxes.box_iou(ours[0], ours[0]).array, wanted, atol=1e-6)
    kept = batched_nms(*theirs, 0.3).tolist()
    assert boxes.batched_nms(*ours, 0.3).tolist() == kept
    assert 5 < len(kept) < 55
    assert math.isclose(float(wanted[0, 0]), 1.0)
