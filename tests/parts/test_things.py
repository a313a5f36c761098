"""Things: of one size, all different, and the same again by their seed."""

from __future__ import annotations

import numpy as np
import pytest

from codepose.parts.mesh import Mesh
from codepose.parts.things import SIZE_MM, things


@pytest.fixture(scope="module")
def made() -> tuple[Mesh, ...]:
    return things(24, [3, 1])


def test_things_have_one_size_and_their_middle_in_the_origin(made: tuple[Mesh, ...]) -> None:
    for thing in made:
        np.testing.assert_allclose(thing.center, 0.0, atol=1e-3)
        assert 2.0 * np.linalg.norm(thing.vertices, axis=1).max() == pytest.approx(SIZE_MM, rel=1e-5)
        assert thing.colors.min() >= 0.0
        assert thing.colors.max() <= 1.0


def test_a_seed_gives_the_same_things_and_another_one_others(made: tuple[Mesh, ...]) -> None:
    again = things(3, [3, 1])
    for first, second in zip(made, again, strict=False):
        np.testing.assert_array_equal(first.vertices, second.vertices)
        np.testing.assert_array_equal(first.colors, second.colors)
    others = things(3, [3, 2])
    assert all(len(a.vertices) != len(b.vertices) for a, b in zip(again, others, strict=True))


def test_things_differ_in_shape_parts_and_pattern(made: tuple[Mesh, ...]) -> None:
    assert len({(len(thing.vertices), len(thing.faces)) for thing in made}) == len(made)
    colors = [len(np.unique(thing.colors, axis=0)) for thing in made]
    assert min(colors) == 1  # one plain solid
    assert max(colors) >= 4  # several, patterned
    slender = [thing.extents.min() / thing.extents.max() for thing in made]
    assert min(slender) < 0.3
    assert max(slender) > 0.7


def test_some_are_grey_and_some_are_coloured(made: tuple[Mesh, ...]) -> None:
    saturation = [float((np.ptp(thing.colors, axis=1) / thing.colors.max(1)).max()) for thing in made]
    assert sum(value < 0.15 for value in saturation) >= 2
    assert sum(value > 0.4 for value in saturation) >= 6
