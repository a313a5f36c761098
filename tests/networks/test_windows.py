"""Tiles cover the photo, and what is cut off by one is known."""

from __future__ import annotations

import pytest
import torch

from codepose import geometry
from codepose.networks.windows import Window, least_overlap, letterbox, merged, windows


@pytest.mark.parametrize(("width", "height"), [(960, 540), (540, 960), (641, 480), (4000, 3000), (64, 64), (1000, 90)])
@pytest.mark.parametrize("tiles", [2, 3, 7])
def test_what_is_no_larger_than_the_overlap_is_whole_in_a_tile(width: int, height: int, tiles: int) -> None:
    views = windows(width, height, tiles, overlap=0.3)
    assert views[0] == Window(0, 0, width, height)
    side = max(view.width for view in views[1:])
    assert side <= -(-max(width, height) // tiles)
    generator = torch.Generator().manual_seed(0)
    largest = 0.3 * side - 1  # tiles begin at whole pixels
    for x, y in torch.rand(200, 2, generator=generator).tolist():
        left, top = x * (width - min(largest, width)), y * (height - min(largest, height))
        right, bottom = min(width, left + largest), min(height, top + largest)
        assert any(
            v.left <= left and right <= v.left + v.width and v.top <= top and bottom <= v.top + v.height
            for v in views[1:]
        )
    for view in views:
        assert 0 <= view.left <= width - view.width
        assert 0 <= view.top <= height - view.height


def test_one_tile_is_the_whole_photo_alone() -> None:
    assert windows(640, 480, 1, 0.3) == [Window(0, 0, 640, 480)]
    with pytest.raises(ValueError, match="tiles"):
        windows(640, 480, 0, 0.3)
    assert max(view.width for view in windows(640, 480, 16, 0.0)[1:]) == 40
    with pytest.raises(ValueError, match="tiles"):
        windows(640, 480, 17, 0.3)


def test_a_window_shows_its_part_of_the_photo_with_the_camera_to_match() -> None:
    photo = torch.zeros(1, 3, 300, 400)
    photo[..., 120:140, 210:250] = 1.0
    K = geometry.camera_matrix(500.0, 190.0, 160.0)
    window = Window(200, 100, 100, 80)
    image, camera = window.look(photo, K, 200)
    assert image.shape == (1, 3, 200, 200)
    rows, columns = (image[0, 0] > 0.5).nonzero().unbind(1)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (20, 100, 40, 80)
    assert not image[..., 160:, :].any(), "padding"
    assert window.extent(200) == (200.0, 160.0)
    point = torch.tensor([[[10.0, -20.0, 700.0]]])
    pose = torch.eye(3)[None], torch.zeros(1, 3)
    here, there = (geometry.project(point[0], *pose, one)[0] for one in (K, camera))
    torch.testing.assert_close((here - torch.tensor([200.0, 100.0])) * 2.0, there)
    inside, in_photo = torch.tensor([[20.0, 40.0, 100.0, 80.0]]), torch.tensor([[210.0, 120.0, 250.0, 140.0]])
    torch.testing.assert_close(window.to_photo(inside, 200), in_photo)
    torch.testing.assert_close(window.from_photo(in_photo, 200), inside)


def test_a_window_whose_scaled_side_is_no_whole_number_has_two_scales() -> None:
    """67 rows become 85.76, that is 86, of which the camera and the boxes know; the photo's own camera stays."""
    K = geometry.camera_matrix(500.0, 190.0, 160.0)
    given, window = K.clone(), Window(200, 100, 100, 67)
    _, camera = window.look(torch.zeros(1, 3, 300, 400), K, 128)
    assert torch.equal(K, given)
    assert window.extent(128) == pytest.approx((128.0, 86.0))
    across, down = 1.28, 86 / 67
    expected = torch.tensor([[500 * across, 0, -10 * across], [0, 500 * down, 60 * down], [0, 0, 1]])
    torch.testing.assert_close(camera, expected)
    box = torch.tensor([[200.0, 100.0, 300.0, 167.0]])
    torch.testing.assert_close(window.from_photo(box, 128), torch.tensor([[0.0, 0.0, 128.0, 86.0]]))
    torch.testing.assert_close(window.to_photo(torch.tensor([[0.0, 0.0, 128.0, 86.0]]), 128), box)


def test_an_upright_window_has_two_scales_too() -> None:
    """67 columns become 86; a box that ends 83.9 of 86 rows down is more than two pixels from a lying window's end."""
    upright, lying = Window(0, 0, 67, 100), Window(0, 0, 100, 67)
    assert upright.extent(128) == pytest.approx((86.0, 128.0))
    box = torch.tensor([[0.0, 0.0, 67.0, 100.0]])
    torch.testing.assert_close(upright.from_photo(box, 128), torch.tensor([[0.0, 0.0, 86.0, 128.0]]))
    assert not lying.cuts(torch.tensor([[20.0, 20.0, 60.0, 83.9]]), 128, 400, 300).any()
    assert not upright.cuts(torch.tensor([[20.0, 20.0, 83.9, 60.0]]), 128, 400, 300).any()


def test_a_smaller_picture_shows_the_mean_of_what_it_leaves_out() -> None:
    """Every fourth column is white: a quarter of the light is left, not one column in two or none."""
    photo = torch.zeros(1, 3, 256, 512)
    photo[..., ::4] = 1.0
    small, _ = letterbox(photo, 128)
    torch.testing.assert_close(small[0, :, :64, 8:120].mean(), torch.tensor(0.25), atol=2e-3, rtol=0)
    assert small[0, :, :64, 8:120].std() < 0.02


def test_a_strip_of_one_row_or_column_is_a_picture() -> None:
    picture, scales = letterbox(torch.ones(1, 3, 1, 1000), 128)
    assert picture.shape == (1, 3, 128, 128)
    assert picture.sum() == pytest.approx(3 * 128)
    assert scales == pytest.approx((0.128, 1.0))
    picture, scales = letterbox(torch.ones(1, 3, 1000, 1), 128)
    assert picture.sum() == pytest.approx(3 * 128)
    assert scales == pytest.approx((1.0, 0.128))


def test_a_box_is_cut_off_two_pixels_from_a_tiles_edge() -> None:
    near = torch.tensor([[1.9, 50, 60, 90], [50, 1.9, 90, 40], [140, 50, 198.1, 90], [50, 100, 90, 158.1]])
    off = torch.tensor([[2.1, 50, 60, 90], [50, 2.1, 90, 40], [140, 50, 197.9, 90], [50, 100, 90, 157.9]])
    tile = Window(100, 100, 100, 80)
    assert tile.cuts(near, 200, 400, 300).all()
    assert not tile.cuts(off, 200, 400, 300).any()
    below, beside = Window(0, 100, 100, 80), Window(100, 0, 100, 80)
    assert below.cuts(near, 200, 400, 300).tolist() == [False, True, True, True]
    assert beside.cuts(near, 200, 400, 300).tolist() == [True, False, True, True]
    assert Window(100, 100, 300, 80).cuts(near, 600, 400, 300).tolist() == [True, True, False, True]
    assert Window(10, 20, 100, 280).cuts(near, 560, 400, 300).tolist() == [True, True, True, False]


def test_tiles_overlap_by_the_largest_box_and_its_border() -> None:
    assert least_overlap(100.0, 256) == 104 / 256
    assert least_overlap(200.0, 256) == 0.5


def test_boxes_that_overlap_by_less_than_asked_for_are_two() -> None:
    """Ten pixels wide and 3.4 apart, their IoU is 6.6 / 13.4 = 0.493; 3.2 apart, 6.8 / 13.2 = 0.515."""

    def found(left: float, score: float) -> dict[str, torch.Tensor]:
        box = torch.tensor([[left, 0.0, left + 10.0, 10.0]])
        return {"boxes": box, "scores": torch.tensor([score]), "labels": torch.tensor([1])}

    assert [len(kept) for kept in merged([found(0.0, 0.9), found(3.4, 0.8)], 0.5)] == [1, 1]
    assert [len(kept) for kept in merged([found(0.0, 0.9), found(3.2, 0.8)], 0.5)] == [1, 0]


def test_boxes_at_inner_edges_are_cut_off_and_those_at_the_photos_are_not() -> None:
    boxes = torch.tensor(
        [[0.5, 50, 60, 90], [50, 1.0, 90, 40], [140, 50, 199, 90], [50, 100, 90, 159], [20, 20, 60, 60]]
    )
    inside = Window(100, 100, 100, 80).cuts(boxes, 200, 400, 300)  # 200 x 160 pixels at the network's scale
    assert inside.tolist() == [True, True, True, True, False]
    corner = Window(0, 0, 100, 80).cuts(boxes, 200, 400, 300)
    assert corner.tolist() == [False, False, True, True, False]
    whole = Window(0, 0, 100, 80).cuts(boxes, 200, 100, 80)
    assert not whole.any()


def test_of_two_windows_boxes_around_one_part_the_better_is_kept() -> None:
    def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, torch.Tensor]:
        return {
            "boxes": torch.tensor(boxes).view(-1, 4),
            "scores": torch.tensor(scores),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }

    first = found([[0, 0, 10, 10], [50, 50, 60, 60]], [0.6, 0.9], [1, 1])
    nothing = found([], [], [])
    second = found([[1, 0, 11, 10], [50, 50, 60, 60], [30, 0, 40, 10]], [0.8, 0.7, 0.95], [1, 2, 1])
    kept = [one.tolist() for one in merged([first, nothing, second], 0.5)]
    assert kept == [[1], [], [2, 0, 1]], "another class does not suppress"


@pytest.mark.parametrize(("width", "height"), [(4000, 4000), (4000, 3000), (2048, 1536), (960, 540)])
@pytest.mark.parametrize(("side", "size"), [(128.0, 512), (72.0, 256), (100.0, 256)])
def test_the_largest_trained_part_is_cut_off_by_some_tiles_but_not_by_all(
    width: int, height: int, side: float, size: int
) -> None:
    views = windows(width, height, 4, least_overlap(side, size))[1:]
    scale = size / max(view.width for view in views)
    length = (side - 0.5) / scale
    lefts = torch.linspace(0, width - length, 701)
    for top in torch.linspace(0, height - length, 5).tolist():
        boxes = torch.stack(
            (lefts, torch.full_like(lefts, top), lefts + length, torch.full_like(lefts, top + length)), 1
        )
        whole = torch.zeros_like(lefts, dtype=torch.bool)
        for view in views:
            origin = torch.tensor([view.left, view.top] * 2)
            inside = (boxes[:, :2] >= origin[:2] - 1e-3).all(1)
            inside &= (boxes[:, 2:] <= origin[:2] + torch.tensor([view.width, view.height]) + 1e-3).all(1)
            whole |= inside & ~view.cuts((boxes - origin) * scale, size, width, height)
        assert whole.all()
