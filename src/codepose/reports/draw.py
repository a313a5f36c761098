"""Pictures of results: sheets of samples, pose overlays, detections.

Arrays are uint8 (H, W, 3). A continuous image coordinate x belongs to the pixel floor(x): pixel centres are at
integer + 0.5.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]
Array = Tensor | npt.NDArray[np.generic]
Numbers = npt.NDArray[np.float64]
Color = tuple[int, int, int]

METHOD_COLORS: dict[str, Color] = {  # as in Fig. 3 of the paper
    "joint": (240, 128, 24),
    "extended": (46, 160, 67),
    "original": (46, 108, 190),
}
OTHER_COLORS: tuple[Color, ...] = ((160, 100, 225), (205, 60, 95), (20, 150, 160), (150, 100, 50))
AXIS_COLORS: tuple[Color, Color, Color] = ((255, 48, 48), (32, 208, 32), (48, 96, 255))
CONTOUR_COLOR: Color = (0, 240, 255)
WHITE: Color = (255, 255, 255)
INK: Color = (40, 44, 52)
GAP = 4  # pixels between tiles
NEAR_MM = 1.0


def method_colors(names: Iterable[str]) -> dict[str, Color]:
    """One colour per method, which "joint" and "joint + refinement" share: the paper's, else others."""
    colors: dict[str, Color] = {}
    chosen: dict[str, Color] = {}
    for name in names:
        method = name.partition(" + ")[0]
        paper = [color for word, color in METHOD_COLORS.items() if word in method.lower()]
        free = [color for color in (*paper, *OTHER_COLORS) if color not in colors.values()]
        colors.setdefault(method, free[0] if free else OTHER_COLORS[len(colors) % len(OTHER_COLORS)])
        chosen[name] = colors[method]
    return chosen


def contact_sheet(rows: Sequence[tuple[str, Tensor]], *, scale: int = 1, columns: int | None = None) -> Picture:
    """Lays out samples side by side, one labelled row per tensor.

    Args:
        rows: (label, (N, 3, H, W) in [0, 1]) per row; rows may differ in N, H and W.
        scale: each pixel becomes scale x scale pixels, >= 1.
        columns: at most so many samples of each row; None shows all.

    Returns:
        (H, W, 3) uint8 on white.

    Raises:
        ValueError: there is no row, or a row is not (N, 3, H, W).
    """
    if not rows or scale < 1:
        raise ValueError("contact_sheet needs at least one row and scale >= 1")
    strips = []
    for label, images in rows:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"row {label!r} must be (N, 3, H, W), got {tuple(images.shape)}")
        tiles = [_to_uint8(image).repeat(scale, 0).repeat(scale, 1) for image in images[:columns]]
        strips.append(_labelled(label, _beside(tiles)))
    return _below(strips)


def detections(
    images: Tensor, gt_boxes: Array, boxes: Array, ious: Array | None, labels: Sequence[str], methods: Sequence[str]
) -> Picture:
    """Detected boxes and their IoU on example images: a row per method, a column per image (Fig. 4).

    Args:
        images: (N, 3, H, W) in [0, 1].
        gt_boxes: (N, 4) xyxy in pixels, drawn thin and white.
        boxes: (M, N, 4) xyxy in pixels, drawn in the method's colour; a nan box = missed.
        ious: (M, N) in [0, 1]; None = the images are shown, not judged: the labels stand alone.
        labels: N names of the images, printed in each tile.
        methods: M names, printed above each row.

    Returns:
        (H, W, 3) uint8 on white.

    Raises:
        ValueError: the shapes do not fit together.
    """
    m, n = len(methods), len(images)
    truth, found = _numbers(gt_boxes), _numbers(boxes)
    overlaps = np.zeros((m, n)) if ious is None else _numbers(ious)
    if truth.shape != (n, 4) or found.shape != (m, n, 4) or overlaps.shape != (m, n) or len(labels) != n:
        shapes = f"got {truth.shape}, {found.shape}, {overlaps.shape} and {len(labels)}"
        raise ValueError(f"want gt_boxes ({n}, 4), boxes ({m}, {n}, 4), ious ({m}, {n}), {n} labels; {shapes}")
    strips = []
    for method, row, row_ious in zip(methods, found, overlaps, strict=True):
        color = method_colors(methods)[method]
        tiles = []
        for image, label, gt, box, iou in zip(images, labels, truth, row, row_ious, strict=True):
            missed = not np.isfinite(box).all()
            tile = Image.fromarray(_to_uint8(image))
            _draw_box(tile, gt, WHITE, width=1)
            if not missed:
                _draw_box(tile, box, color, width=2)
            judged = "  missed" if missed else f"  IoU {iou:.2f}"
            _draw_text(tile, label if ious is None else label + judged)
            tiles.append(np.asarray(tile))
        strips.append(_labelled(method, _beside(tiles)))
    return _below(strips)


def overlay(
    image: Picture,
    K: Array,
    R_cam_obj: Array,
    t_cam_obj: Array,
    mask: Array,
    box: Array | Sequence[float],
    axis_length_mm: float,
    inset: Tensor | None = None,
    text: str = "",
) -> Picture:
    """Draws an estimated pose on its image: contour, object axes, box, reconstruction and text.

    Args:
        image: (H, W, 3) uint8.
        K: (3, 3), pixel centres at integer + 0.5.
        R_cam_obj: (3, 3) rotation, object to OpenCV camera axes.
        t_cam_obj: (3,) mm.
        mask: (H, W) bool, pixels that the object covers when rendered at the pose.
        box: (4,) xyxy in pixels.
        axis_length_mm: length of the drawn x (red), y (green) and z (blue) axes, mm.
        inset: (3, h, w) in [0, 1], e.g. the network's reconstruction, for the lower right corner; or None. Left out
            of images less than four pixels high or wide.
        text: lines printed in the upper left corner.

    Returns:
        (H, W, 3) uint8; the input is left as it is.

    Raises:
        ValueError: the image or the mask has another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if tuple(mask.shape) != image.shape[:2]:
        raise ValueError(f"mask must be {image.shape[:2]}, got {tuple(mask.shape)}")
    width = max(1, round(max(image.shape[:2]) / 256))
    canvas = Image.fromarray(np.where(contour(mask, width)[..., None], np.array(CONTOUR_COLOR, np.uint8), image))
    _draw_box(canvas, _numbers(box), METHOD_COLORS["joint"], width=width)
    _draw_axes(canvas, _numbers(K), _numbers(R_cam_obj), _numbers(t_cam_obj), axis_length_mm, 2 * width)
    side = min(image.shape[:2]) // 4
    if inset is not None and side > 0:
        small = Image.fromarray(_to_uint8(inset)).resize((side, side), Image.Resampling.BICUBIC)
        framed = ImageOps.expand(small, border=1, fill=WHITE)
        canvas.paste(framed, (canvas.width - framed.width - GAP, canvas.height - framed.height - GAP))
    _draw_text(canvas, text)
    return np.asarray(canvas)


def contour(mask: Array, width: int = 1) -> npt.NDArray[np.bool_]:
    """The mask's pixels with a pixel outside of it at most `width` rows and columns away, (H, W) bool.

    The image's edge is no outside: a mask that leaves the image stays open there.
    """
    inside = torch.from_numpy(_numbers(mask) > 0)
    line = torch.zeros_like(inside)
    rows, columns = (inside.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    if rows:  # looked at no further than the mask and what lies around it
        near = tuple(slice(max(0, some[0] - width), some[-1] + width + 1) for some in (rows, columns))
        size, outside = 2 * width + 1, (~inside[near]).float()[None]
        # a square's maximum, one axis after the other: large photos have wide lines
        grown = functional.max_pool2d(outside, (1, size), stride=1, padding=(0, width))
        grown = functional.max_pool2d(grown, (size, 1), stride=1, padding=(width, 0))
        line[near] = inside[near] & (grown[0] > 0)
    return line.numpy()


def to_png(picture: Picture | Figure) -> bytes:
    """Encodes a uint8 (H, W, 3) array or a figure as PNG.

    Raises:
        ValueError: the array is of another shape or type.
    """
    buffer = io.BytesIO()
    if not isinstance(picture, np.ndarray):
        picture.savefig(buffer, format="png")
        return buffer.getvalue()
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_axes(
    canvas: Image.Image, K: Numbers, R_cam_obj: Numbers, t_cam_obj: Numbers, length_mm: float, width: int
) -> None:
    """Draws the object's axes, the farthest first; what does not lie in front of the camera is left out."""
    tips = R_cam_obj.T * length_mm + t_cam_obj  # (3, 3), a row per axis, mm in the camera frame
    draw = ImageDraw.Draw(canvas)
    for axis in np.argsort(-tips[:, 2], kind="stable"):
        if min(tips[axis, 2], t_cam_obj[2]) > NEAR_MM:
            ends = [_project(K, t_cam_obj), _project(K, tips[axis])]
            draw.line(ends, fill=AXIS_COLORS[axis], width=width)


def _project(K: Numbers, point: Numbers) -> tuple[int, int]:
    """The pixel (column, row) that sees a point in the camera frame."""
    u, v, w = K @ point
    return math.floor(u / w), math.floor(v / w)


def _draw_box(canvas: Image.Image, box: Numbers, color: Color, width: int) -> None:
    """Outlines the pixels that an xyxy box touches, on a dark rim that shows on light grounds."""
    x1, y1 = (math.floor(value) for value in box[:2])
    x2, y2 = (max(low, math.ceil(value) - 1) for low, value in zip((x1, y1), box[2:], strict=True))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=width)


def _draw_text(canvas: Image.Image, text: str) -> None:
    """Prints lines in the upper left corner, white on a dark plate."""
    if not text:
        return
    font = _font(max(9, min(18, canvas.height // 24)))
    draw = ImageDraw.Draw(canvas, "RGBA")
    left, top, right, bottom = draw.multiline_textbbox((2 * GAP, GAP), text, font=font)
    draw.rounded_rectangle((left - GAP, top - GAP, right + GAP, bottom + GAP), radius=3, fill=(*INK, 190))
    draw.multiline_text((2 * GAP, GAP), text, font=font, fill=WHITE)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which comes with matplotlib; without that Pillow's own, which knows fewer alphabets."""
    if importlib.util.find_spec("matplotlib") is None:
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _labelled(label: str, strip: Picture) -> Picture:
    """The strip under its label."""
    font = _font(12)
    width = max(strip.shape[1], math.ceil(font.getlength(label)) + 2 * GAP)
    plate = Image.new("RGB", (width, 20), WHITE)
    ImageDraw.Draw(plate).text((GAP, 3), label, font=font, fill=INK)
    return _below([np.asarray(plate), strip], gap=0)


def _beside(tiles: Sequence[Picture]) -> Picture:
    """Tiles from left to right on white, with gaps between and around them."""
    return _below([tile.transpose(1, 0, 2) for tile in tiles], gap=GAP, margin=GAP).transpose(1, 0, 2)


def _below(strips: Sequence[Picture], gap: int = GAP, margin: int = 0) -> Picture:
    """Strips from top to bottom on white."""
    height = sum(strip.shape[0] for strip in strips) + gap * max(len(strips) - 1, 0)
    width = max((strip.shape[1] for strip in strips), default=0)
    sheet = np.full((height + 2 * margin, width + 2 * margin, 3), 255, np.uint8)
    top = margin
    for strip in strips:
        sheet[top : top + strip.shape[0], margin : margin + strip.shape[1]] = strip
        top += strip.shape[0] + gap
    return sheet


def _to_uint8(image: Tensor) -> Picture:
    """(3, H, W) in [0, 1] to (H, W, 3) uint8; values outside are clipped."""
    pixels = image.detach().cpu().float().clamp(0, 1).mul(255).round().byte()
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _numbers(values: Array | Sequence[float]) -> Numbers:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
