"""A sheet of six shaded views of a part, with the directions of its axes and a scale bar."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from codepose import geometry
from codepose.parts.mesh import Mesh
from codepose.rendering.renderer import Buffers, Instances, Renderer
from codepose.rendering.shading import Lights, render_shaded
from codepose.reports.draw import AXIS_COLORS, GAP, INK, Color, Picture, contour

# what points right and up in the picture, as a CAD program shows a part whose z points up
VIEWS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "front, from -y": ((1, 0, 0), (0, 0, 1)),
    "right, from +x": ((0, 1, 0), (0, 0, 1)),
    "top, from +z": ((1, 0, 0), (0, 1, 0)),
    "back, from +y": ((-1, 0, 0), (0, 0, 1)),
    "left, from -x": ((0, -1, 0), (0, 0, 1)),
    "bottom, from -z": ((1, 0, 0), (0, -1, 0)),
}
GROUND: Color = (236, 239, 243)

_COLUMNS = 3
_FAR = 30.0  # diameters between camera and part: nearly parallel rays
_FILLED = 0.85  # of a tile's side, by the longest side of the bounding box
_RAYS = 2  # a pixel along each axis
_FOOT, _ARM = 64, 24  # pixels: the strip for arrows and scale bar below each view, and an arrow's length


def six_views(mesh: Mesh, title: str = "", *, tile: int = 320) -> Picture:
    """Draws a part from the front, right, top, back, left and bottom, all at one scale.

    Args:
        mesh: The part, in the frame whose axes are drawn.
        title: A line above the views.
        tile: Side of a view in pixels.

    Returns:
        (H, W, 3) uint8.
    """
    pictures = _rendered(mesh, tile)
    scale = _pixels_per_mm(mesh, tile)
    font = ImageFont.load_default(14)
    top = 28 if title else 0
    rows, height = math.ceil(len(VIEWS) / _COLUMNS), tile + _FOOT
    size = (_COLUMNS * (tile + GAP) - GAP, top + rows * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    ImageDraw.Draw(sheet).text((GAP, 5), title, font=ImageFont.load_default(16), fill=INK)
    for index, (name, (right, up)) in enumerate(VIEWS.items()):
        view = Image.new("RGB", (tile, height), GROUND)
        view.paste(Image.fromarray(pictures[index]))
        draw = ImageDraw.Draw(view)
        draw.text((8, 6), name, font=font, fill=INK)
        _draw_arrows(draw, right, up, height, font)
        _draw_scale_bar(draw, scale, (tile, height), font)
        row, column = divmod(index, _COLUMNS)
        sheet.paste(view, (column * (tile + GAP), top + row * (height + GAP)))
    return np.asarray(sheet)


def _pixels_per_mm(mesh: Mesh, tile: int) -> float:
    return _FILLED * tile / float(mesh.extents.max())


def _rendered(mesh: Mesh, tile: int) -> Picture:
    """(6, tile, tile, 3) uint8, shaded and outlined, the middle of the bounding box in the middle."""
    R = torch.stack([_looking(right, up) for right, up in VIEWS.values()])
    distance = _FAR * mesh.diameter
    t = -R @ torch.from_numpy(mesh.center)
    t[:, 2] += distance
    K = geometry.camera_matrix(distance * _pixels_per_mm(mesh, tile), tile / 2, tile / 2).expand(len(R), 3, 3)
    instances = Instances.single(torch.zeros(len(R), dtype=torch.long), R, t)
    lights, tint = Lights.fixed(len(R), torch.device("cpu")), torch.ones(len(R), 3)
    rgba, buffers = render_shaded(Renderer([mesh]), instances, K, tile, lights, tint, _RAYS)
    ground = torch.tensor(GROUND) / 255
    pictures = rgba[:, :3] + (1 - rgba[:, 3:]) * ground[:, None, None]
    lines = _edges(buffers, 2.0 / _RAYS / _pixels_per_mm(mesh, tile))
    pictures *= 1 - 0.7 * F.avg_pool2d(lines.float(), _RAYS)[:, None]
    for picture, covered in zip(pictures, rgba[:, 3], strict=True):
        picture[:, torch.from_numpy(contour(covered > 0.5))] *= 0.6
    return (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _edges(buffers: Buffers, step: float) -> Tensor:
    """(B, H, W) bool, where the surface, inside its outline, breaks off by ``step`` mm or bends by 30 degrees."""
    depth = torch.where(buffers.depth > 0, buffers.depth, torch.nan)  # what is compared with nothing is no edge
    lines = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        before, here, after = (depth.narrow(axis, k, depth.shape[axis] - 2) for k in range(3))
        broken = (before - 2 * here + after).abs() > step
        side, other = (buffers.normal.narrow(axis, k, depth.shape[axis] - 2) for k in (1, 2))
        bent = ((side * other).sum(-1) < math.cos(math.radians(30))) & (here > 0) & (after > 0)
        lines.narrow(axis, 1, depth.shape[axis] - 2).logical_or_(broken | bent)
    return lines


def _looking(right: tuple[int, int, int], up: tuple[int, int, int]) -> Tensor:
    """(3, 3) R_cam_obj of the camera in whose picture one direction of the part points right and another up."""
    x, y = torch.tensor(right, dtype=torch.float32), -torch.tensor(up, dtype=torch.float32)
    return torch.stack((x, y, torch.linalg.cross(x, y)))


def _draw_arrows(
    draw: ImageDraw.ImageDraw,
    right: tuple[int, int, int],
    up: tuple[int, int, int],
    height: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The two axes that lie in the picture's plane, each in its colour and with its name."""
    x0 = 16 if sum(right) > 0 else 32 + _ARM
    y0 = height - 14 if sum(up) > 0 else height - 26 - _ARM
    for direction, (dx, dy) in ((right, (1, 0)), (up, (0, -1))):
        axis = int(np.abs(direction).argmax())
        sign = direction[axis]
        x1, y1 = x0 + sign * dx * _ARM, y0 + sign * dy * _ARM
        draw.line((x0, y0, x1, y1), fill=AXIS_COLORS[axis], width=3)
        along, across = np.array([x1 - x0, y1 - y0]) / _ARM, np.array([y1 - y0, x0 - x1]) / _ARM
        tip = np.array([x1, y1])
        corners = [tip + 7 * along, tip + 4 * across, tip - 4 * across]
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=AXIS_COLORS[axis])
        x, y = tip + 14 * along
        draw.text((float(x), float(y)), "xyz"[axis], font=font, fill=AXIS_COLORS[axis], anchor="mm")


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw,
    scale: float,
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A bar of 1, 2 or 5 times a power of ten mm, at most a third of the view long; ``scale`` is in pixels a mm."""
    longest = size[0] / 3 / scale
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    x1, y1 = size[0] - 12, size[1] - 14
    x0 = x1 - length * scale
    draw.line((x0, y1, x1, y1), fill=INK, width=2)
    for x in (x0, x1):
        draw.line((x, y1 - 4, x, y1 + 4), fill=INK, width=2)
    draw.text(((x0 + x1) / 2, y1 - 6), f"{length:g} mm", font=font, fill=INK, anchor="mb")
