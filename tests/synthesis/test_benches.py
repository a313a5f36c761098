"""Benches: the same picture at any side, things before a material, and shadows on the side away from the light."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from codepose.settings.data import BENCHES
from codepose.settings.files import load_preset, override
from codepose.synthesis import benches as module
from codepose.synthesis.backgrounds import build_backgrounds, require_photos
from codepose.synthesis.benches import benches
from codepose.synthesis.materials import LEAST_SIDE, grained, material
from codepose.synthesis.surfaces import surface

SEED = [0, 7]


def test_a_picture_is_a_function_of_its_seed_and_number() -> None:
    three = benches(3, 96, SEED)
    assert three.shape == (3, 3, 96, 96)
    assert three.dtype == torch.uint8
    assert torch.equal(benches(2, 96, SEED), three[:2])
    assert not torch.equal(benches(1, 96, [0, 8]), three[:1])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_picture_is_the_same_of_any_side(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(module, "_PHOTOGRAPHED", share)
    """From ``LEAST_SIDE`` on: of fewer pixels, materials leave out octaves."""
    small, large = benches(6, LEAST_SIDE, SEED) / 255.0, benches(6, 2 * LEAST_SIDE, SEED) / 255.0
    reduced = F.interpolate(large, (LEAST_SIDE, LEAST_SIDE), mode="area")
    for one, other in zip(small, reduced, strict=True):
        assert torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1] > 0.9


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bare_bench_is_a_photographed_surface_or_a_material(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(module, "_BARE", 1.0)
    monkeypatch.setattr(module, "_PHOTOGRAPHED", share)
    rng = np.random.default_rng([*SEED, 2, 0])
    rng.random()  # which of both
    ground = surface(rng, 96, 2) if share else material(rng, 96)
    rng.random()  # whether it is bare
    assert torch.equal(benches(1, 96, SEED, 2)[0], grained(ground, rng))


def test_half_of_the_grounds_are_photographed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(module, "surface", lambda rng, side, split: seen.append(split) or torch.rand(3, side, side))
    benches(200, 8, SEED, 1)
    assert 84 < len(seen) < 116
    assert set(seen) == {1}


def test_three_benches_in_four_have_things_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    heaped = []
    monkeypatch.setattr(module, "_heaped", lambda renderer, ground, rng: heaped.append(1) or ground)
    benches(200, 8, SEED)
    assert 0.68 < len(heaped) / 200 < 0.82


def test_things_have_the_sizes_and_places_that_are_drawn() -> None:
    side = 200
    K = torch.tensor([[300.0, 0, 100], [0, 300, 100], [0, 0, 1]])
    things = [module._heap(np.random.default_rng(k), side, K)[0] for k in range(20)]
    counts = [len(one.image) for one in things]
    assert 8 <= min(counts) <= 14
    assert 44 <= max(counts) <= 50
    pixels = torch.cat([one.scale * module.SIZE_MM * 300.0 / one.t[:, 2] for one in things])
    assert pixels.min() >= 0.04 * side - 1e-3
    assert pixels.max() <= 0.4 * side + 1e-3
    assert pixels.median() == pytest.approx(side * (0.04 * 0.4) ** 0.5, rel=0.15)  # even over the logarithm
    depths = torch.cat([one.t[:, 2] for one in things])
    assert 800.0 <= depths.min() < 810.0
    assert 1190.0 < depths.max() <= 1200.0
    assert len(torch.cat([one.mesh for one in things]).unique()) == 48
    turned = torch.cat([one.R for one in things])
    assert turned.mean(0).abs().max() < 0.1, "any way round"
    places = torch.cat([one.t[:, :2] / one.t[:, 2:] * 300.0 + 100.0 for one in things])
    assert places.min() == pytest.approx(-0.05 * side, abs=4)
    assert places.max() == pytest.approx(1.05 * side, abs=4)


def test_tints_are_grey_and_near_one() -> None:
    K = torch.tensor([[300.0, 0, 100], [0, 300, 100], [0, 0, 1]])
    tint = torch.cat([module._heap(np.random.default_rng(k), 200, K)[1] for k in range(10)])
    assert torch.equal(tint, tint[:, :1].expand(-1, 3))
    assert 0.6 <= tint.min() < 0.65
    assert 1.15 < tint.max() <= 1.2


def test_the_light_comes_from_the_cameras_side() -> None:
    lights = [module._light(np.random.default_rng(k), "cpu") for k in range(100)]  # type: ignore[arg-type]
    direction = torch.cat([one.direction for one in lights])
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(100))
    assert direction[:, 2].max() < -0.4
    assert direction[:, :2].amin(0).max() < -0.5
    assert direction[:, :2].amax(0).min() > 0.5
    for name, low, high in (("ambient", 0.3, 0.6), ("diffuse", 0.4, 0.9), ("specular", 0, 0.5), ("shininess", 4, 48)):
        values = torch.cat([getattr(one, name) for one in lights])
        assert low <= values.min() < low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) < values.max() <= high, name


def test_a_picture_is_things_before_the_shaded_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter covered: 0.2 of the things' light, and three quarters of the ground's, which is half in the shade."""
    rgba = torch.full((1, 4, 16, 16), 0.2)
    rgba[:, 3] = 0.25
    given: list[Any] = []

    def rendered(renderer: Any, things: Any, K: Any, side: int, lights: Any, tint: Any, antialias: int) -> Any:
        given.extend((K[0], side, lights, antialias))
        return rgba, None

    def shaded(ground: torch.Tensor, coverage: torch.Tensor, light: torch.Tensor, rng: Any) -> torch.Tensor:
        assert torch.equal(coverage, rgba[0, 3:])
        assert torch.equal(light, given[2].direction[0])
        return 0.5 * ground

    monkeypatch.setattr(module, "render_shaded", rendered)
    monkeypatch.setattr(module, "_shaded", shaded)
    ground = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    picture = module._heaped(None, ground, np.random.default_rng(0))  # type: ignore[arg-type]
    torch.testing.assert_close(picture, 0.2 + 0.75 * 0.5 * ground)
    assert given[0].tolist() == [[24.0, 0.0, 8.0], [0.0, 24.0, 8.0], [0.0, 0.0, 1.0]]
    assert (given[1], given[3]) == (16, 2)


def test_things_hide_the_ground_and_darken_it_beside_them() -> None:
    ground, covered = torch.full((3, 64, 64), 0.8), torch.zeros(1, 64, 64)
    rng = np.random.default_rng(0)
    assert torch.equal(module._shaded(ground, covered, torch.tensor([0.9, 0.0, -0.4]), rng), ground)
    covered[:, 28:36, 28:36] = 1.0
    shaded = module._shaded(ground, covered, torch.tensor([0.9, 0.0, -0.4]), np.random.default_rng(1))
    dark = 0.8 - shaded[0]
    assert dark.max() > 0.05
    assert dark[:4].max() < 1e-4  # far away
    column = float((dark.sum(0) * torch.arange(64)).sum() / dark.sum())
    row = float((dark.sum(1) * torch.arange(64)).sum() / dark.sum())
    assert column < 31.0  # the light comes from the right: the shadow falls to the left
    assert row == pytest.approx(31.5, abs=0.1)


def test_benches_are_asked_for_by_name() -> None:
    banks = {split: build_backgrounds(BENCHES, split, 2, seed=0) for split in ("train", "val", "test")}
    assert banks["val"].source == "2 rendered benches of 320 px"
    pictures = torch.cat([one.bank for one in banks.values()]).flatten(1).float()
    assert torch.cdist(pictures, pictures).fill_diagonal_(1e9).min() > 255.0  # no two splits share one
    require_photos(override(load_preset("quick"), {"data.backgrounds": BENCHES}).data)  # no folder is looked for
