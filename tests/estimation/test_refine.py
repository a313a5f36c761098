"""Render-and-compare on reconstructions whose rotation is known."""

from __future__ import annotations

import math

import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix

from codepose import geometry
from codepose.config import RefinementSettings
from codepose.estimation.refine import Refiner, agreement
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World


def test_agreement_is_the_correlation_coefficient():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 5, 3, 8, 8, generator=generator)
    found = agreement(a, b)
    for n in range(2):
        for k in range(5):
            twin = torch.corrcoef(torch.stack((a[n].flatten(), b[n, k].flatten())))[0, 1]
            assert found[n, k] == pytest.approx(float(twin), abs=1e-5)
    assert agreement(a, (0.3 * a + 0.2)[:, None]).min() > 0.9999
    assert agreement(torch.zeros_like(a), b).abs().max() == 0.0, "a black reconstruction agrees with nothing"


def test_refiner_turns_a_nearby_view_into_the_true_one(world: World):
    crops = SceneSource(world, "val").crops(torch.arange(4))
    off = axis_angle_to_rotation_matrix(torch.tensor([[math.radians(9.0), math.radians(6.0), math.radians(4.0)]]))
    start = off @ crops.R_view
    refiner = Refiner(world, RefinementSettings(candidates=1, keep=4, rounds=5, step_deg=8.0))
    refined, score = refiner(crops.targets, start[:, None], crops.objects)
    before = geometry.geodesic_angle(start, crops.R_view).rad2deg()
    after = geometry.geodesic_angle(refined, crops.R_view).rad2deg()
    assert before.min() > 11.0
    assert after.max() < 8.0, after
    assert after.median() < 3.5, after
    assert score.min() > 0.98


def test_refiner_without_rounds_picks_the_best_candidate(world: World):
    crops = SceneSource(world, "val").crops(torch.arange(3))
    candidates = torch.stack((crops.R_view.roll(1, 0), crops.R_view, crops.R_view.roll(2, 0)), 1)
    refined, score = Refiner(world, RefinementSettings(rounds=0))(crops.targets, candidates, crops.objects)
    assert torch.equal(refined, crops.R_view)
    assert score.min() > 0.9999
