"""Which colours are the part's, counted by hand, and where its outline is likely to lie."""

from __future__ import annotations

import math

import pytest
import torch

from codepose.refinement.outline_colors import outline_odds, part_colors


def test_colours_are_the_parts_by_how_often_they_are_inside_and_outside():
    """Inside: 3 red pixels and 1 grey; outside: 1 grey and 11 blue; a fifth of a pixel more of every colour.

    Red: 3.2 / 4 to 0.2 / 12; grey: 1.2 / 4 to 1.2 / 12 = 3 to 1; blue: 0.2 / 4 to 11.2 / 12.
    """
    window = torch.zeros(1, 3, 4, 4)
    window[0, 2] = 1.0
    red, grey = ([0, 0, 1], [0, 1, 0]), ([1, 3], [1, 3])
    window[0, :, red[0], red[1]] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    window[0, :, grey[0], grey[1]] = 0.5
    inside = torch.zeros(1, 4, 4).bool()
    inside[:, :2, :2] = True
    ours = part_colors(window, inside)[0, 0]
    assert float(ours[0, 0]) == pytest.approx(0.8 / (0.8 + 0.2 / 12), abs=1e-5)
    assert ours[1, 1] == ours[3, 3]
    assert float(ours[3, 3]) == pytest.approx(0.75, abs=1e-5)
    assert float(ours[0, 3]) == pytest.approx(0.05 / (0.05 + 11.2 / 12), abs=1e-5)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_shades_of_every_colour_are_told_apart(channel: int):
    """Of sixteen levels: 0.55 is in the ninth, as 0.51 is; 0.57 in the tenth."""
    inside = torch.zeros(1, 4, 4).bool()
    inside[..., :2] = True
    window = torch.full((1, 3, 4, 4), 0.57)
    window[:, channel, :, :2] = 0.55
    ours = part_colors(window, inside)[0, 0]
    assert ours[:, :2].min() > 0.95
    assert ours[:, 2:].max() < 0.05
    window[:, channel, :, 2:] = 0.51
    assert torch.equal(part_colors(window, inside), torch.full((1, 1, 4, 4), 0.5))


def test_a_part_that_is_not_seen_has_no_colours():
    """0 + 0.2 pixels of none inside, 16 + 0.2 of 16 outside."""
    ours = part_colors(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 4, 4).bool())
    assert ours.flatten().tolist() == pytest.approx([0.2 / (0.2 + 16.2 / 16)] * 16)


def test_each_window_counts_for_itself():
    windows = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inside = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    both = part_colors(windows, inside)
    for row in range(2):
        assert torch.allclose(both[row], part_colors(windows[row : row + 1], inside[row : row + 1])[0])


def test_the_outline_lies_where_the_parts_colours_end():
    """Log-odds log 9 before, -log 9 behind, each pixel counting half: half a pixel beside it costs a factor 9^0.25."""
    ours = torch.tensor([[[0.9, 0.9, 0.9, 0.1, 0.1]]])
    odds = outline_odds(ours, 1.0)[0, 0]
    assert odds.tolist() == pytest.approx([9**-1.0, 9**-0.5, 1.0, 1.0, 9**-0.5])
    finer = outline_odds(ours, 0.5)[0, 0]
    assert float(finer[1]) == pytest.approx(9**-0.25)
    assert torch.equal(outline_odds(torch.full((1, 1, 4), 0.5), 1.0), torch.ones(1, 1, 4))


def test_each_line_has_a_likeliest_place():
    """However little the colours of one line are the part's beside another's."""
    odds = outline_odds(torch.tensor([[[0.9, 0.9, 0.1], [0.1, 0.1, 0.1]], [[0.5, 0.5, 0.5], [0.9, 0.1, 0.1]]]), 1.0)
    assert torch.equal(odds.amax(2), torch.ones(2, 2))


def test_no_single_pixel_decides():
    sure = outline_odds(torch.tensor([[[1.0, 0.0]]]), 1.0)[0, 0]
    assert sure.tolist() == pytest.approx([1.0, 1.0])
    one = outline_odds(torch.tensor([[[1.0, 1.0]]]), 1.0)[0, 0]
    assert float(one[0]) == pytest.approx(math.exp(-0.5 * math.log(49.0)), abs=1e-5)
