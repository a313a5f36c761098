"""The network's scale for a camera at its distance: settings that frame rendered scenes as its photos are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codepose.cameras.camera import Camera, FieldOfView
from codepose.networks.windows import MOST
from codepose.settings.crop import GRID, ROI_PAD
from codepose.settings.data import NEAREST
from codepose.settings.distance import require_distance
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings

_SMALLEST, _LARGEST = 128, 512
"""Sides in pixels of the network's image that are proposed."""
_SHORT = 0.6
"""Longer side of a box over the part's diameter where the part lies askew or is tilted by 30 degrees."""
_TILED, _TILE = 0.08, 256
"""For parts smaller than this share of the photo it is looked at in tiles, each of about so many pixels."""
_FILLS = 0.9
"""A part that takes more of the photo's longer side leaves it as soon as it moves."""


@dataclass(frozen=True)
class Framing:
    """How large a part appears, and the settings for it.

    Attributes:
        share: The longer side of the part's box over the longer side of the photo, from the farthest to the nearest.
        tiles: Into how many tiles along the longer side ``predict`` should look; 1 = at the whole photo.
        image_size: Side of the network's image, of the photo or of a tile, in pixels.
        focal: Focal length there, in pixels.
        box_side: The longer side of the part's box there.
    """

    share: tuple[float, float]
    tiles: int
    image_size: int
    focal: float
    box_side: tuple[float, float]

    def options(self) -> list[str]:
        """The options of ``train`` and ``preview``."""
        camera = "--data.camera"
        return [
            *(f"{camera}.image-size", f"{self.image_size}"),
            *(f"{camera}.focal", f"{self.focal:.0f}"),
            *(f"{camera}.box-side", *(f"{side:.0f}" for side in self.box_side)),
        ]


def framing(camera: Camera | FieldOfView, diameter: float, distance: tuple[float, float], base: Settings) -> Framing:
    """Chooses the scale at which the part has as many pixels as in the preset, in the middle of its distances.

    Args:
        camera: Of the photos. Where it does not say how large they are, their middle is taken for the principal point.
        diameter: The part's, mm.
        distance: Nearest and farthest distance of the part's middle from the camera, mm.
        base: The preset's settings.

    Raises:
        ConfigError: The distances are no range, the part would reach the camera, or it would fill the photo.
    """
    require_distance(distance)
    near, far = distance
    if near < NEAREST * diameter:
        raise ConfigError(f"--distance {near:g} mm: a part {diameter:.0f} mm across would reach the camera")
    focal = _focal_share(camera)
    share = (_SHORT * focal * diameter / far, focal * diameter / near)
    if share[1] > _FILLS:
        raise ConfigError(f"--distance {near:g} mm: there the part fills {share[1]:.0%} of the photo; go further away")
    middle, wanted = sum(share) / 2, sum(base.data.camera.box_side) / 2
    tiles = 1 if middle >= _TILED else math.ceil(wanted / (_TILE * middle))
    if tiles > MOST:
        raise ConfigError(
            f"--distance {far:g} mm: the part takes {middle:.1%} of the photo, too little to be found; go nearer"
        )
    least = max(_SMALLEST, base.network.crop, NEAREST * base.network.crop / (ROI_PAD * focal * tiles))
    size = GRID * math.ceil(min(max(wanted / (middle * tiles), least), _LARGEST) / GRID)
    scale = size * tiles
    return Framing(share, tiles, size, focal * scale, (share[0] * scale, share[1] * scale))


def _focal_share(camera: Camera | FieldOfView) -> float:
    """Focal length over the photo's longer side, which of a field of view is taken for the horizontal one."""
    if isinstance(camera, FieldOfView):
        return float(camera.for_size(1000, 1).K[0, 0]) / 1000.0
    sides = (camera.width, camera.height) if camera.width is not None else tuple(2.0 * camera.K[:2, 2] + 1.0)
    return float(camera.K[0, 0]) / max(float(side) for side in sides if side is not None)
