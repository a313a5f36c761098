"""Pictures, checked at single pixels, and the report, checked as a page."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from codepose.reports import draw, plots
from codepose.reports.html_page import Section, Table, method_table, write_report

K = torch.tensor([[300.0, 0.0, 64.0], [0.0, 300.0, 48.0], [0.0, 0.0, 1.0]])
NOWHERE = torch.zeros(96, 128, dtype=torch.bool)
GREY = np.full((96, 128, 3), 128, np.uint8)
BOX = (10.0, 20.0, 30.0, 40.0)


def colors(picture: draw.Picture) -> set[tuple[int, ...]]:
    return {tuple(map(int, pixel)) for pixel in picture.reshape(-1, 3)}


def read_png(data: bytes) -> draw.Picture:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_axes_lie_where_the_camera_projects_them() -> None:
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x of the object points down
    t = torch.tensor([20.0, -10.0, 600.0])
    picture = draw.overlay(GREY, K, turn, t, NOWHERE, (0, 0, 1, 1), 40.0)
    for axis in (0, 1):
        for along in (10.0, 20.0, 30.0, 39.0):
            u, v, w = (K @ (turn[:, axis] * along + t)).tolist()
            assert tuple(picture[int(v // w), int(u // w)]) == draw.AXIS_COLORS[axis]
        u, v, w = (K @ (turn[:, axis] * 44.0 + t)).tolist()
        assert tuple(picture[int(v // w), int(u // w)]) == (128, 128, 128)


def test_nearer_axes_cover_farther_ones() -> None:
    # seen along -z of the camera, z of the object comes straight at us and is one dot over x and y
    towards_us = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    picture = draw.overlay(GREY, K, towards_us, torch.tensor([0.0, 0, 600]), NOWHERE, (0, 0, 1, 1), 40.0)
    assert tuple(picture[48, 64]) == draw.AXIS_COLORS[2]


def test_axes_behind_the_camera_are_left_out() -> None:
    for z in (-600.0, 10.0):
        tilted = torch.eye(3)[:, [2, 1, 0]] * torch.tensor([-1.0, 1.0, 1.0])  # x of the object: -z of the camera
        picture = draw.overlay(GREY, K, tilted, torch.tensor([0.0, 0, z]), NOWHERE, (0, 0, 1, 1), 40.0)
        assert draw.AXIS_COLORS[0] not in colors(picture)


def test_contour_is_the_masks_inner_rim() -> None:
    mask = torch.zeros(9, 12, dtype=torch.bool)
    mask[2:7, 3:10] = True
    rim = mask.numpy().copy()
    rim[3:6, 4:9] = False
    assert np.array_equal(draw.contour(mask), rim)
    rim = mask.numpy().copy()
    rim[4:5, 5:8] = False
    assert np.array_equal(draw.contour(mask, 2), rim)


def test_contour_of_nothing_and_of_scattered_pixels() -> None:
    assert not draw.contour(np.zeros((5, 6), bool)).any()
    mask = np.random.default_rng(0).random((40, 50)) < 0.7
    mask[:, :8] = mask[35:] = False
    outside = np.pad(~mask, 2)
    near = np.any([outside[y : y + 40, x : x + 50] for y in range(5) for x in range(5)], axis=0)
    assert np.array_equal(draw.contour(mask, 2), mask & near)


def test_contour_stays_open_at_the_images_edge() -> None:
    mask = np.zeros((5, 6), bool)
    mask[:, :3] = True
    rim = np.zeros_like(mask)
    rim[:, 2] = True
    assert np.array_equal(draw.contour(mask), rim)


def test_overlay_marks_contour_box_inset_and_text() -> None:
    mask = NOWHERE.clone()
    mask[50:60, 70:90] = True
    before = GREY.copy()
    behind = torch.tensor([0.0, 0, -1])
    picture = draw.overlay(GREY, K, torch.eye(3), behind, mask, BOX, 40.0, torch.ones(3, 8, 8), "score 0.9")
    assert np.array_equal(GREY, before)
    assert picture.shape == GREY.shape
    assert picture.dtype == np.uint8
    assert {tuple(p) for p in picture[50, 70:90]} == {draw.CONTOUR_COLOR}
    assert tuple(picture[55, 80]) == (128, 128, 128)
    # xyxy 10, 20, 30, 40 covers the pixels 10..29 × 20..39
    box = np.all(picture == draw.METHOD_COLORS["joint"], axis=-1)
    assert np.flatnonzero(box.any(0))[[0, -1]].tolist() == [10, 29]
    assert np.flatnonzero(box.any(1))[[0, -1]].tolist() == [20, 39]
    assert (picture[-draw.GAP - 24 : -draw.GAP, -draw.GAP - 24 : -draw.GAP] == 255).all()
    assert (picture[:16, :40] > 200).any()
    assert np.array_equal(draw.overlay(GREY, K, torch.eye(3), behind, NOWHERE, BOX, 40.0)[:16], GREY[:16])


def test_overlay_rejects_other_shapes() -> None:
    eye, ones = torch.eye(3), torch.ones(3)
    fractions: Any = GREY / 255
    with pytest.raises(ValueError, match="mask must be"):
        draw.overlay(GREY, K, eye, ones, NOWHERE[:-1], BOX, 40.0)
    with pytest.raises(ValueError, match="uint8"):
        draw.overlay(fractions, K, eye, ones, NOWHERE, BOX, 40.0)


def test_contact_sheet_keeps_every_sample_and_fills_up_with_white() -> None:
    red, dim = torch.zeros(3, 3, 4, 6), torch.full((1, 3, 5, 5), 0.2)
    red[:, 0] = torch.tensor([0.2, 0.6, 1.0])[:, None, None]
    sheet = draw.contact_sheet([("input", red), ("reconstruction", dim)], scale=2)
    for value in (51, 153, 255):
        assert (sheet == (value, 0, 0)).all(-1).sum() == 4 * 6 * 4
    assert (sheet == (51, 51, 51)).all(-1).sum() >= 5 * 5 * 4
    assert tuple(sheet[-1, -1]) == (255, 255, 255)
    shorter = draw.contact_sheet([("input", red)], columns=2)
    assert not (shorter == (255, 0, 0)).all(-1).any()
    assert (shorter == (153, 0, 0)).all(-1).sum() == 24


def test_contact_sheet_rejects_other_shapes() -> None:
    with pytest.raises(ValueError, match="'depth' must be"):
        draw.contact_sheet([("depth", torch.zeros(2, 1, 4, 4))])
    with pytest.raises(ValueError, match="at least one row"):
        draw.contact_sheet([])


def test_figure3_counts_correct_poses_and_prints_the_auc(tmp_path: Path) -> None:
    errors = np.array([0.25, 0.5, 0.5, np.nan])
    figure = plots.figure3({"original AAE": np.ones(4), "joint": errors}, tmp_path / "figure3.png", "T1")
    axes = figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["original AAE: AUC 0 (0.000)", "joint: AUC 2 (0.438)"]
    line = axes.lines[1]
    assert np.allclose(np.asarray(line.get_color()) * 255, draw.METHOD_COLORS["joint"])
    thetas, correct = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert [int(correct[np.searchsorted(thetas, theta)]) for theta in (0.25, 0.251, 0.5, 0.501, 1.0)] == [
        0,
        1,
        1,
        3,
        3,
    ]
    assert axes.get_title() == "T1"
    assert read_png((tmp_path / "figure3.png").read_bytes()).std() > 0


def test_figure3_grid_is_two_by_two_with_one_colour_per_method() -> None:
    curves = {"joint": np.zeros(3), "mine": np.ones(3)}
    figure = plots.figure3_grid({"a": curves, "b": curves, "c": dict(reversed(curves.items())), "d": curves})
    grid = figure.axes[0].get_gridspec()
    assert grid is not None
    assert grid.get_geometry() == (2, 2)
    assert figure.axes[0].lines[1].get_color() == figure.axes[2].lines[0].get_color()
    with pytest.raises(ValueError, match="one to four"):
        plots.figure3_grid({})


def test_methods_never_share_a_colour() -> None:
    names = ["joint", "joint, refined", "extended AAE", "Original AAE", "oracle", "GT boxes"]
    chosen = draw.method_colors(names)
    assert len(set(chosen.values())) == len(names)
    methods = ["joint", "extended", "original", "jitter", "oracle"]
    kinds = ("", " + refinement", " + depth", " + refinement + depth")
    curves = {m + more: np.zeros(3) for m in methods for more in kinds}
    lines = plots.figure3(curves).axes[0].lines
    assert len({(str(line.get_color()), line.get_linestyle()) for line in lines}) == len(curves)
    assert [chosen[name] for name in ("joint", "extended AAE", "Original AAE")] == [*draw.METHOD_COLORS.values()]


def test_detections_has_a_row_per_method_and_marks_the_missed() -> None:
    images = torch.full((2, 3, 80, 80), 0.5)
    gt = torch.tensor([[20.0, 30, 50, 60]]).expand(2, 4)
    boxes = torch.stack([gt + 5, gt - 5])
    boxes[1, 1] = float("nan")
    sheet = draw.detections(images, gt, boxes, torch.full((2, 2), 0.5), ["a", "b"], ["joint", "independent"])
    found = [(sheet == color).all(-1).sum() for color in draw.method_colors(["joint", "independent"]).values()]
    assert found[0] == 2 * found[1] == 2 * (30**2 - 26**2)
    with pytest.raises(ValueError, match=r"got \(2, 4\),"):
        draw.detections(images, gt, boxes[:1], torch.ones(2, 2), ["a", "b"], ["joint", "independent"])


def test_learning_curves_sort_by_step_and_skip_what_is_no_number() -> None:
    records: list[dict[str, object]] = [
        {"step": 2, "loss": 0.001},
        {"step": 1, "loss": 1.0, "note": "warm-up"},
        {"step": 3, "loss": float("nan")},
        {"epoch": 1, "loss": 7.0},
    ]
    figure = plots.learning_curves(records, ["loss", "auc"])
    line = figure.axes[0].lines[0]
    assert np.asarray(line.get_xydata()).tolist() == [[1, 1.0], [2, 0.001]]
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[1].texts[0].get_text() == "not recorded"


def test_png_returns_the_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(read_png(draw.to_png(picture)), picture)
    with pytest.raises(ValueError, match="uint8"):
        draw.to_png(picture[..., 0])


class Page(HTMLParser):
    """Collects what a browser would load and checks that tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def summary(**change: float | None) -> dict[str, float | None]:
    keys = ("auc", "auc_fraction", "recall_03", "mean_iou", "rotation_median_deg", "translation_median_mm")
    return dict.fromkeys(keys, 0.5) | change


def test_report_is_one_file_whose_pictures_decode(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    sections = [
        Section("Accuracy", "First.\n\nSecond <b>.", (), method_table({"joint & co": summary(auc=415.04)})),
        Section("Pictures", pictures=[('a "quoted" one', draw.to_png(picture)), ("again", draw.to_png(picture))]),
    ]
    path = write_report(
        tmp_path / "new" / "report.html",
        title="A <title>",
        summary={"images": 800, "AUC": 0.51875},
        sections=sections,
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    images = [source for source in page.sources if source.startswith("data:")]
    assert page.sources == ["#s0", "#s1", *images]
    for source in images:
        assert np.array_equal(read_png(base64.b64decode(source.removeprefix("data:image/png;base64,"))), picture)
    bare = re.sub(r'data:image/png;base64,[^"]*', "", text)
    assert not re.search(r"http|@import|url\(|<script|<link", bare)
    assert "prefers-color-scheme: dark" in bare
    assert "width=device-width" in bare
    for words in ("A <title>", "Second <b>.", "joint & co", "415.0", "800", "0.5188", 'a "quoted" one'):
        assert words in page.text
    assert "b" not in page.tags
    assert page.tags.count("p") == 2
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_method_table_prints_the_columns_of_the_readme() -> None:
    table = method_table({"blind": summary(translation_median_mm=None)})
    assert table.headers == (
        "Method",
        "AUC",
        "AUC fraction",
        "Recall @ 0.3",
        "Mean IoU",
        "Median rotation error (°)",
        "Median translation error (mm)",
    )
    assert table.rows == [["blind", "0.5", "0.500", "0.500", "0.500", "0.5", "n/a"]]
    timed = method_table({"joint": summary() | {"ms_per_image": 41.6}, "oracle": summary() | {"ms_per_image": None}})
    assert timed.headers[-1] == "Time an image (ms)"
    assert [row[-1] for row in timed.rows] == ["42", "n/a"]
    with pytest.raises(ValueError, match="'joint' lacks"):
        method_table({"joint": {"auc": 1.0}})


def test_report_parts_are_checked_when_made() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 headers"):
        Table(("a", "b"), [["1"]])
    with pytest.raises(ValueError, match="'x' is no PNG"):
        Section("Pictures", pictures=[("x", b"GIF89a")])
