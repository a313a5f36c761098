"""Things: of one size, all different, and the same again by their seed."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from codepose.parts.mesh import Mesh
from codepose.parts.things import SIZE_MM, _solid, _stand, things


@pytest.fixture(scope="module")
def made() -> tuple[Mesh, ...]:
    return things(24, [3, 1])


def _bodies(thing: Mesh) -> list[np.ndarray]:
    """The corners of each of a thing's solids."""
    joined = trimesh.Trimesh(thing.vertices, thing.faces)
    parts = trimesh.graph.connected_components(joined.face_adjacency, min_len=1, nodes=np.arange(len(thing.faces)))
    return [thing.faces[faces].ravel() for faces in parts]


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
    brightest = [thing.colors.max() for thing in made]
    assert max(brightest) > 0.9
    assert min(brightest) < 0.5


def test_some_are_striped_and_most_are_plain(made: tuple[Mesh, ...]) -> None:
    """A solid has one colour, or two in about half of the cases."""
    colors = [[len(np.unique(thing.colors[corners], axis=0)) for corners in _bodies(thing)] for thing in made]
    each = np.concatenate(colors)
    assert set(each) == {1, 2}
    assert 0.3 < np.mean(each == 2) < 0.7


def test_the_first_solid_is_the_longest_and_the_others_stand_about_it() -> None:
    """They are a quarter to four fifths as long, up to half a length aside, half of them at right angles."""
    for seed in range(5):
        assert _solid(np.random.default_rng(seed)).extents.max() == pytest.approx(1.0)
    sizes, straight, middles = [], [], []
    for seed in range(60):
        rng, bar = np.random.default_rng(seed), trimesh.creation.box(extents=(1.0, 0.5, 0.2))
        if seed == 0:
            np.testing.assert_array_equal(_stand(bar, rng, first=True).extents, (1.0, 0.5, 0.2))
        moved = _stand(bar, rng, first=False)
        middles.append(moved.vertices.mean(axis=0))
        size = np.linalg.norm(moved.vertices - middles[-1], axis=1).max() / np.linalg.norm((0.5, 0.25, 0.1))
        sizes.append(size)
        straight.append(np.allclose(sorted(moved.extents / size), (0.2, 0.5, 1.0)))
    assert 0.25 <= min(sizes) < 0.3
    assert 0.75 < max(sizes) <= 0.8
    assert 20 <= sum(straight) <= 40
    assert np.abs(middles).max() <= 0.5
    assert (np.std(middles, axis=0) > 0.2).all()


def test_things_of_several_solids_have_them_apart(made: tuple[Mesh, ...]) -> None:
    apart = 0
    for thing in made:
        middles = [thing.vertices[corners].mean(axis=0) for corners in _bodies(thing)]
        apart += bool(np.ptp(middles, axis=0).max() > 0.2 * SIZE_MM)
    assert apart >= 15
