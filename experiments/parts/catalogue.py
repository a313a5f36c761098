"""Which parts there are, in which order they are made, and which of them look too much alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count as counted
from typing import Any, TypeAlias

import numpy as np
import trimesh
from numpy.typing import NDArray

from codepose.parts.mesh import Mesh
from experiments.parts.draw import Draw

Descriptor = NDArray[np.float64]
Maker: TypeAlias = Callable[[Draw], Any]  # a trimesh, or a solid of Manifold
SHARES = {"machined": 0.48, "freeform": 0.34, "warehouse": 0.18}
_ALIKE = 0.011  # between two descriptors


def groups() -> dict[str, dict[str, Maker]]:
    """The families of each group; needs Manifold, and bd-warehouse for the last group."""
    from experiments.parts import devices, figures, machine, plates, tools, vessels, warehouse

    machined: dict[str, Maker] = {**plates.FAMILIES, **tools.FAMILIES, **machine.FAMILIES}
    return {
        "machined": machined,
        "freeform": {**figures.FAMILIES, **vessels.FAMILIES, **devices.FAMILIES},
        "warehouse": {**warehouse.FAMILIES},
    }


def order(families: Mapping[str, Mapping[str, Maker]]) -> Iterator[tuple[str, int]]:
    """Family and number of one part after the other, without end: every group at its share, its families in turn."""
    turns = {group: _in_turn(list(names)) for group, names in families.items()}
    made = dict.fromkeys(turns, 0)
    while True:
        group = min(turns, key=lambda g: (made[g] + 1) / SHARES[g])
        made[group] += 1
        yield next(turns[group])


def _in_turn(names: list[str]) -> Iterator[tuple[str, int]]:
    return ((name, i) for i in counted() for name in names)


def made(maker: Maker, family: str, number: int) -> trimesh.Trimesh:
    """The raw surface of a part."""
    body = maker(Draw(family, number))
    if isinstance(body, trimesh.Trimesh):
        return body
    from experiments.parts.solids import surface

    return surface(body)


def descriptor(mesh: Mesh) -> NDArray[np.float64]:
    """(67,) a shape in numbers that no turn about the axes changes: sides, and how far points lie apart."""
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points = np.asarray(trimesh.sample.sample_surface(body, 3000, seed=0)[0])
    apart = np.linalg.norm(points[:1500] - points[1500:], axis=1) / mesh.diameter
    middle = np.linalg.norm(points, axis=1) / mesh.diameter
    spread = np.quantile(apart, np.linspace(0, 1, 32)), np.quantile(middle, np.linspace(0, 1, 32))
    return np.concatenate([np.sort(mesh.extents) / mesh.diameter, *spread])


def is_alike(new: NDArray[np.float64], others: list[NDArray[np.float64]]) -> bool:
    """Whether a part hardly differs from one of others of its family."""
    return any(float(np.sqrt(np.mean((new - other) ** 2))) < _ALIKE for other in others)
