"""Photographed surfaces: which split shows which, and what becomes of their windows and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from codepose.synthesis import surfaces as module
from codepose.synthesis.surfaces import surface, surface_photos


def test_they_are_small_and_each_split_has_its_own() -> None:
    folder = Path(module.__file__).with_name("surface_photos")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
    assert "CC0" in (folder / "LICENSE.txt").read_text()
    splits = [surface_photos(split) for split in range(3)]
    assert [tuple(photos.shape) for photos in splits] == [(19, 3, 512, 512), (3, 3, 512, 512), (3, 3, 512, 512)]
    small = F.adaptive_avg_pool2d(torch.cat(splits).float(), 8).flatten(1)
    assert torch.cdist(small, small).fill_diagonal_(1e9).min() > 50.0


def test_a_picture_is_a_window_of_a_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a ramp from 0 to 255 across: windows of 40 to 100 % of the side, everywhere on it."""
    ramp = torch.linspace(0, 255, 512).round().byte().expand(1, 3, 512, 512)
    monkeypatch.setattr(module, "surface_photos", lambda split: ramp)
    monkeypatch.setattr(module, "_recolored", lambda picture, rng: picture)
    pictures = torch.stack([surface(np.random.default_rng(k), 64, 0) for k in range(300)])
    assert pictures.shape == (300, 3, 64, 64)
    first, last = pictures[:, 0, 0, 0], pictures[:, 0, 0, -1]
    width = (last - first) * 64 / 63
    assert width.min() == pytest.approx(0.4, abs=0.03)
    assert width.max() == pytest.approx(1.0, abs=0.03)
    assert first.min() < 0.03
    assert last.max() > 0.97
    assert torch.equal(surface(np.random.default_rng(5), 64, 0), pictures[5])


def test_half_keep_their_colours_and_all_have_a_light_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orange: its hue stays where colours are kept, and goes round the circle where they are not."""
    orange = torch.tensor([0.8, 0.4, 0.2])[:, None, None].expand(3, 4, 4)
    found = torch.stack([module._recolored(orange, np.random.default_rng(k))[:, 0, 0] for k in range(400)])
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    kept = (found / found[:, :1] - torch.tensor([1.0, 0.5, 0.25])).abs().amax(1) < 1e-3
    kept |= (found[:, 0] == 1.0) & ((found[:, 1] / found[:, 2] - 2.0).abs() < 1e-3)  # too bright
    assert 170 < kept.sum() < 230
    light = found[kept, 2] / 0.2
    assert light.min() == pytest.approx(0.5, abs=0.02)
    assert light.max() == pytest.approx(1.3, abs=0.02)
    assert (found[~kept].argmax(1).bincount(minlength=3) > 30).all()
