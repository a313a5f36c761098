"""A contact sheet of training data, to look at before any training."""

from __future__ import annotations

import numpy as np
import torch

from codepose.reports import draw
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

MOST_COLUMNS = 256
"""Of a contact sheet, which has to fit into memory."""


def preview(settings: Settings, *, count: int = 8, scenes: bool = True, difficulty: float = 1.0) -> draw.Picture:
    """Draws a contact sheet of training data before any training.

    Args:
        settings: The run's.
        count: Columns.
        scenes: Also draw Step-2 scenes with their boxes.
        difficulty: Of the curriculum, in [0, 1].

    Returns:
        uint8 (H, W, 3).

    Raises:
        ConfigError: A number out of its range, or photos for backgrounds that are not there.
        MeshError: A CAD file that cannot be used.
    """
    if not 1 <= count <= MOST_COLUMNS:
        raise ConfigError(f"a sheet has from 1 to {MOST_COLUMNS} columns, not {count}")
    if not 0.0 <= difficulty <= 1.0:
        raise ConfigError(f"the difficulty is a share from 0 to 1, not {difficulty:g}")
    world = World(settings)
    source = SceneSource(world, "train")
    with torch.no_grad():
        crops = source.crops(torch.arange(count), difficulty)
        rows = [("input", crops.inputs), ("target", crops.targets)]
        sheet = draw.contact_sheet(rows, columns=count, scale=max(1, 128 // settings.network.crop))
        if not scenes:
            return sheet
        batch = source.scenes(torch.arange(min(count, 4)), difficulty)
    nothing = np.full((1, len(batch.boxes), 4), np.nan)
    pictures = draw.detections(
        batch.images,
        batch.boxes,
        nothing,
        None,
        [f"{v:.0%} visible" for v in batch.visible_fraction.tolist()],
        ["amodal box"],
    )
    width = max(sheet.shape[1], pictures.shape[1])
    padded = [np.pad(p, ((0, 8), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in (sheet, pictures)]
    return np.concatenate(padded)
