"""How far from the camera a part may be, as users say it."""

from __future__ import annotations

from codepose.settings.errors import ConfigError


def require_distance(distance: tuple[float, float]) -> None:
    """Refuses what is no range of distances.

    Args:
        distance: Nearest and farthest distance of the part's middle from the camera, mm; they may be the same.

    Raises:
        ConfigError: One of them is not positive or not finite, or the farthest is nearer than the nearest.
    """
    near, far = distance
    if not 0.0 < near <= far < float("inf"):
        raise ConfigError(f"--distance is the nearest and the farthest in mm, such as 400 700, not {near:g} {far:g}")
