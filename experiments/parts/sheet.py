"""A contact sheet: every part as the renderer sees it, lit from the camera, with its number and family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from codepose import geometry
from codepose.parts.mesh import Mesh
from codepose.rendering.renderer import Instances, Renderer

SIDE = 112  # pixels of a thumbnail
_FAR_MM = 1000.0
_VIEW = (0.6, -0.65, 0.47)  # where the camera stands


def thumbnails(meshes: Sequence[Mesh]) -> list[Image.Image]:
    """One grey picture a part, from one and the same side."""
    renderer = Renderer(meshes)
    R = geometry.view_rotation(torch.nn.functional.normalize(torch.tensor([_VIEW]), dim=1), torch.zeros(1))
    K = geometry.camera_matrix(SIDE * 0.95 * _FAR_MM / 100.0, SIDE / 2, SIDE / 2)[None]
    light = torch.nn.functional.normalize(torch.tensor([-0.4, -0.6, -1.0]), dim=0)
    pictures = []
    for i in range(len(meshes)):
        alone = Instances.single(torch.tensor([i]), R, torch.tensor([[0.0, 0.0, _FAR_MM]]))
        seen = renderer.render(alone, K, (SIDE, SIDE))
        shade = 0.25 + 0.7 * (seen.normal[0] @ light).clamp(0)
        grey = torch.where(seen.depth[0] > 0, shade, torch.ones(()))
        pictures.append(Image.fromarray((grey * 255).round().byte().numpy()))
    return pictures


def save_sheet(meshes: Sequence[Mesh], path: Path, columns: int = 14) -> None:
    """Write thumbnails of parts to a PNG, row by row."""
    rows = -(-len(meshes) // columns)
    sheet = Image.new("L", (columns * SIDE, rows * (SIDE + 10)), 255)
    pen = ImageDraw.Draw(sheet)
    for i, (mesh, picture) in enumerate(zip(meshes, thumbnails(meshes), strict=True)):
        at = (i % columns * SIDE, i // columns * (SIDE + 10))
        sheet.paste(picture, at)
        pen.text((at[0] + 2, at[1] + SIDE - 2), mesh.name[:20], fill=0)
    sheet.save(path)
