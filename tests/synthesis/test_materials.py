"""Materials and flat shapes: how much noise, which colours, how often; on draws that are repeated here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codepose.synthesis import materials


def test_noise_is_a_twentieth_at_most() -> None:
    grey = torch.full((3, 40, 40), 0.5)
    spread = [float(materials.grained(grey, np.random.default_rng(k)).float().std()) / 255 for k in range(60)]
    assert min(spread) < 0.005
    assert 0.045 < max(spread) < 0.051
    assert materials.grained(torch.ones(3, 4, 4), np.random.default_rng(0)).max() == 255


def test_a_palette_leads_from_colour_to_colour() -> None:
    """Two in five are greyish: a quarter of their colour is left."""
    value, grey = torch.linspace(0.0, 1.0, 25).view(5, 5), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        stops = rng.random((rng.integers(2, 5), 3), dtype=np.float32)
        if rng.random() < 0.4:
            grey += 1
            stops = stops.mean(1, keepdims=True) * 0.75 + 0.25 * stops
        places = np.linspace(0.0, 1.0, len(stops))
        expected = np.stack([np.interp(value, places, stops[:, channel]) for channel in range(3)])
        found = materials._palette(value, np.random.default_rng(seed))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 8 <= grey <= 24


def test_materials_are_of_six_kinds_and_shapes_lie_on_three_in_five(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    kinds = ("_clouds", "_stripes", "_cells", "_wood", "_checks", "_gradient")
    for name in (*kinds, "_clutter"):

        def picture(first: object, second: object, name: str = name) -> torch.Tensor:
            drawn.append(name)
            return torch.zeros(3, 8, 8)

        monkeypatch.setattr(materials, name, picture)
    for seed in range(300):
        materials.texture(np.random.default_rng(seed), 8)
    counts = {name: drawn.count(name) for name in (*kinds, "_clutter")}
    assert 0.52 < counts.pop("_clutter") / 300 < 0.68
    assert min(counts.values()) > 30


def test_noise_has_all_values_and_finer_octaves_weigh_less() -> None:
    smooth, rough = (materials._fractal(np.random.default_rng(0), 64, share) for share in (0.1, 0.9))
    for one in (smooth, rough):
        assert (float(one.min()), float(one.max())) == (0.0, 1.0)
    assert rough.diff(dim=0).abs().mean() > 2 * smooth.diff(dim=0).abs().mean()
