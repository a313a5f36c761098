"""The judge's network: what it is given, and what its answers mean."""

from __future__ import annotations

import math

import pytest
import torch

from codepose import geometry
from codepose.networks.pose_judge import RENDERED, SIDE, THRESHOLDS, PoseJudge, Verdict, apply_motions, render_channels


def verdict(shift: tuple[float, float] = (0.0, 0.0), log_depth: float = 0.0, turn: tuple[float, ...] = (0.0,) * 3):
    return Verdict(torch.zeros(1, 4), torch.tensor([shift]), torch.tensor([log_depth]), torch.tensor([turn]))


def test_a_motion_is_in_sides_of_the_crop_log_distances_and_radians_of_the_camera():
    R, t = torch.eye(3)[None], torch.tensor([[0.0, 0.0, 400.0]])
    focal = torch.tensor([2.0])
    _, shifted = apply_motions(verdict(shift=(0.1, -0.05)), R, t, focal)
    torch.testing.assert_close(shifted, torch.tensor([[20.0, -10.0, 400.0]]))  # 0.1 of the crop's 200 mm there
    _, nearer = apply_motions(verdict(log_depth=math.log(0.8)), R, torch.tensor([[40.0, 0.0, 400.0]]), focal)
    torch.testing.assert_close(nearer, torch.tensor([[32.0, 0.0, 320.0]]))
    start = geometry.view_rotation(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0.3]))
    turned, _ = apply_motions(verdict(turn=(0.0, 0.0, math.pi / 2)), start, t, focal)
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(turned[0], quarter @ start[0])


def test_a_distance_changes_by_at_most_two_thirds():
    t = torch.tensor([[0.0, 0.0, 100.0]])
    _, far = apply_motions(verdict(log_depth=3.0), torch.eye(3)[None], t, torch.ones(1))
    assert far[0, 2].item() == pytest.approx(100.0 * math.exp(0.5))


def test_a_score_is_the_mean_of_four_log_odds():
    said = Verdict(torch.tensor([[-3.0, 0.0, 2.0, 5.0]]), torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 3))
    assert said.score.item() == pytest.approx(1.0)
    assert len(THRESHOLDS) == 4


def test_a_render_is_seen_relative_to_the_parts_middle_and_nothing_beside_it():
    depth = torch.tensor([[[0.0, 410.0]]])
    normal = torch.tensor([[[[0.5, 0.5, 0.5], [0.0, 0.6, -0.8]]]])
    color = torch.tensor([[[[0.7, 0.7, 0.7], [0.25, 0.5, 1.0]]]])
    seen = render_channels(depth, normal, color, torch.tensor([400.0]), torch.tensor([100.0]))
    assert seen.shape == (1, RENDERED, 1, 2)
    assert seen[0, :, 0, 0].abs().sum() == 0.0
    torch.testing.assert_close(seen[0, :, 0, 1], torch.tensor([0.0, 0.6, -0.8, 0.2, 1.0, -1.0, 0.0, 2.0]))


def test_the_network_answers_for_each_pair():
    torch.manual_seed(0)
    network = PoseJudge().eval()
    photos, renders = torch.rand(2, 3, SIDE, SIDE), torch.randn(2, RENDERED, SIDE, SIDE)
    with torch.no_grad():
        both, second = network(photos, renders), network(photos[1:], renders[1:])
    for one, other in zip(both, second, strict=True):
        torch.testing.assert_close(one[1:], other, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both.logits[0], both.logits[1])
