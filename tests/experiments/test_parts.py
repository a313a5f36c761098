"""The parts on which networks without a part of their own are trained: to scale, closed, outward, told apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # experiments/ is not part of the installed package

from codepose.parts.mesh import Mesh, load_mesh, to_trimesh  # noqa: E402
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries  # noqa: E402
from experiments.parts import __main__ as command  # noqa: E402
from experiments.parts import catalogue, devices, fields, figures, lofts, symmetric, vessels  # noqa: E402
from experiments.parts.archive import Part, equivalent, load_archive, save_archive  # noqa: E402
from experiments.parts.draw import Draw  # noqa: E402
from experiments.parts.finish import RefusedError, finished, turned  # noqa: E402
from experiments.parts.sheet import SIDE, save_sheet  # noqa: E402

BRACKET = ROOT / "tests" / "data" / "bracket.ply"


@pytest.fixture(scope="module")
def nut() -> Mesh:
    return finished(lofts.nut(6, across=17.0, bore=10.0, height=8.0), "nut")


@pytest.fixture(scope="module")
def bracket() -> Mesh:
    return finished(to_trimesh(load_mesh(BRACKET)), "bracket")


def six_turns() -> np.ndarray:
    """(5, 4, 4) a hexagon's turns about z."""
    turns = np.tile(np.eye(4), (5, 1, 1))
    turns[:, :3, :3] = Rotation.from_euler("z", np.arange(60, 360, 60)[:, None], degrees=True).as_matrix()
    return turns


@pytest.mark.parametrize("part", ["nut", "bracket"])
def test_a_part_is_100_mm_across_and_centred(part: str, request: pytest.FixtureRequest) -> None:
    mesh: Mesh = request.getfixturevalue(part)
    assert pdist(mesh.vertices.astype(np.float64)).max() == pytest.approx(100.0, abs=1e-4)
    assert mesh.diameter == pytest.approx(100.0, abs=1e-4)
    np.testing.assert_allclose(mesh.center, 0.0, atol=1e-5)
    assert 300 <= len(mesh.faces) <= 6000


def test_normals_look_out_of_an_inside_out_surface(nut: Mesh) -> None:
    body = lofts.nut(6, across=17.0, bore=10.0, height=8.0)
    body.invert()
    mesh = finished(body, "nut")
    scale = 100.0 / np.hypot(17.0 / np.cos(np.pi / 6), 8.0)
    radius = np.hypot(*mesh.vertices[:, :2].T)
    across = np.einsum("ij,ij->i", mesh.vertices[:, :2], mesh.normals[:, :2]) / radius
    side = np.abs(mesh.normals[:, 2]) < 0.1
    in_bore = radius < 5.1 * scale
    assert across[side & in_bore].max() < -0.99
    assert across[side & ~in_bore].min() > 0.85
    ends = ~side
    assert (np.sign(mesh.normals[ends, 2]) == np.sign(mesh.vertices[ends, 2])).all()
    assert len(nut.faces) == len(mesh.faces)


def test_a_nut_is_a_hexagon_without_its_bore() -> None:
    body = lofts.nut(6, across=17.0, bore=10.0, height=8.0)
    sides = 48 / 2 * np.sin(2 * np.pi / 48) * 5.0**2  # of the bore's polygon
    assert body.volume == pytest.approx(8.0 * (np.sqrt(3) / 2 * 17.0**2 - sides))
    np.testing.assert_allclose(body.bounds[1], [8.5, 8.5 / np.cos(np.pi / 6), 4.0])


def test_more_faces_than_asked_for_are_decimated() -> None:
    mesh = finished(trimesh.creation.icosphere(subdivisions=4), "ball", most=1000)
    assert 900 <= len(mesh.faces) <= 1000
    assert mesh.diameter == pytest.approx(100.0, abs=1e-4)


@pytest.mark.parametrize("fault", ["open", "flat", "nothing"])
def test_what_is_no_solid_is_refused(fault: str) -> None:
    body = lofts.nut(6, across=17.0, bore=10.0, height=8.0)
    if fault == "open":
        body.update_faces(np.arange(len(body.faces)) > 40)
    elif fault == "flat":
        body = trimesh.Trimesh([[0, 0, 0], [9, 0, 0], [0, 9, 0]], [[0, 1, 2], [0, 2, 1]], process=False)
    else:
        body.update_faces(np.zeros(len(body.faces), bool))
    reasons = {"open": "of its edges have one face alone", "flat": "it holds nothing", "nothing": "it has no faces"}
    with pytest.raises(RefusedError, match=reasons[fault]):
        finished(body, "part")


def test_an_archive_gives_back_what_was_stored(nut: Mesh, bracket: Mesh, tmp_path: Path) -> None:
    turns = Symmetries(six_turns())
    path = tmp_path / "parts.npz"
    save_archive([Part("nuts", nut, turns), Part("brackets", bracket, Symmetries.none())], path)
    parts = load_archive(path)
    assert [(p.family, p.mesh.name) for p in parts] == [("nuts", "nut"), ("brackets", "bracket")]
    for part, mesh in zip(parts, (nut, bracket), strict=True):
        np.testing.assert_allclose(part.mesh.vertices, mesh.vertices, atol=0.5 / 256 + 1e-5)
        np.testing.assert_array_equal(part.mesh.faces, mesh.faces)
        np.testing.assert_allclose(part.mesh.normals, mesh.normals, atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(part.mesh.normals, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(part.mesh.hull, mesh.hull, atol=0.5 / 256 + 1e-5)
        np.testing.assert_allclose(part.mesh.colors, mesh.colors, atol=1e-6)
        np.testing.assert_allclose(part.mesh.grip, mesh.grip)
        assert part.mesh.diameter == mesh.diameter
    np.testing.assert_allclose(parts[0].symmetries.discrete, turns.discrete, atol=1e-8)
    assert not parts[1].symmetries.any
    assert [p.name for p in tmp_path.iterdir()] == ["parts.npz"]


def test_the_arrays_of_an_archive_can_be_cut_by_hand(nut: Mesh, bracket: Mesh, tmp_path: Path) -> None:
    save_archive(
        [Part("a", nut, Symmetries(six_turns())), Part("b", bracket, Symmetries.none())], tmp_path / "parts.npz"
    )
    data = np.load(tmp_path / "parts.npz")
    second = slice(data["face_start"][1], data["face_start"][1] + data["face_count"][1])
    np.testing.assert_array_equal(data["faces"][second], bracket.faces)
    assert data["vertex_start"].tolist() == [0, len(nut.vertices)]
    assert data["symmetry_count"].tolist() == [6, 1]
    np.testing.assert_array_equal(data["symmetries"][[0, 6]], np.tile(np.eye(3), (2, 1, 1)))
    np.testing.assert_allclose(data["symmetries"][1:6], six_turns()[:, :3, :3], atol=1e-7)


def test_a_round_axis_becomes_turns_of_ten_degrees_about_where_it_lies() -> None:
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    axis = ContinuousSymmetry(np.array([0.0, 0.0, 1.0]), np.array([3.0, 0.0, 0.0]))
    R, t = equivalent(Symmetries(flip[None], (axis,)))
    assert R.shape == (72, 3, 3)
    np.testing.assert_array_equal(R[0], np.eye(3))
    np.testing.assert_allclose(R @ [3.0, 0.0, 0.0] + t, np.tile([3.0, 0.0, 0.0], (72, 1)), atol=1e-12)
    apart = np.degrees(np.arccos(np.clip((np.einsum("aij,bij->ab", R, R) - 1) / 2, -1, 1)))
    assert (apart + 99 * np.eye(72)).min() == pytest.approx(10.0)


def test_a_nut_has_twelve_poses_that_look_the_same_and_a_bracket_one(nut: Mesh, bracket: Mesh) -> None:
    R, _ = equivalent(symmetric.confirmed_symmetries(nut))
    assert len(R) == 12
    angles = np.sort(np.degrees(Rotation.from_matrix(R).magnitude()))
    np.testing.assert_allclose(angles, [0, 60, 60, 120, 120, *[180] * 7], atol=0.5)
    assert len(equivalent(symmetric.confirmed_symmetries(bracket))[0]) == 1


def test_a_turn_that_moves_the_surface_is_dropped(nut: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.eye(4)
    wrong[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    found = np.concatenate([six_turns(), wrong[None]])
    monkeypatch.setattr(symmetric, "find_symmetries", lambda _: Symmetries(found))
    np.testing.assert_array_equal(symmetric.confirmed_symmetries(nut).discrete, six_turns())


def test_turns_that_are_no_group_are_refused(nut: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric, "find_symmetries", lambda _: Symmetries(six_turns()[:3]))
    with pytest.raises(RefusedError, match="no group"):
        symmetric.confirmed_symmetries(nut)


def test_the_surface_of_a_field_is_that_of_its_ball() -> None:
    body = fields.surface(fields.Space().ellipsoid((0, 0, 0.2), (0.5, 0.5, 0.5)))
    assert body.is_watertight
    steps = 59 / 2  # of the grid, to the unit
    assert body.volume == pytest.approx(4 / 3 * np.pi * (0.5 * steps) ** 3, rel=0.01)


def test_a_field_of_two_bodies_is_refused() -> None:
    space = fields.Space(30)
    with pytest.raises(RefusedError, match="2 pieces"):
        fields.surface(fields.blend([space.capsule((x, 0, -0.3), (x, 0, 0.3), 0.2) for x in (-0.5, 0.5)], 0.05))


@pytest.mark.parametrize(
    ("family", "make"),
    [("quadruped", figures.quadruped), ("jug", vessels.jug), ("pistol-grip", devices.pistol_grip)],
)
def test_free_forms_are_closed_and_the_same_again(family: str, make: Any) -> None:
    mesh, again = (finished(catalogue.made(make, family, 3), family, most=2000) for _ in range(2))
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    whole.merge_vertices(merge_norm=True)
    assert whole.is_watertight
    assert whole.volume > 0
    np.testing.assert_array_equal(mesh.vertices, again.vertices)
    assert mesh.extents.max() / mesh.extents.min() > 1.15


def test_a_turned_copy_counts_as_the_same_and_another_part_does_not(nut: Mesh, bracket: Mesh) -> None:
    upright = turned(bracket, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(upright.extents, bracket.extents[[2, 0, 1]], atol=1e-3)
    known = [catalogue.descriptor(bracket)]
    assert catalogue.is_alike(catalogue.descriptor(upright), known)
    assert not catalogue.is_alike(catalogue.descriptor(nut), known)


def test_every_group_has_its_share_and_its_families_take_turns() -> None:
    none: Any = None
    groups = {group: {f"{group}-{k}": none for k in "abc"} for group in catalogue.SHARES}
    first = [one for one, _ in zip(catalogue.order(groups), range(100), strict=False)]
    for group, share in catalogue.SHARES.items():
        mine = [one for one in first if one[0].startswith(group)]
        assert abs(len(mine) - 100 * share) <= 1
        assert mine[:4] == [(f"{group}-a", 0), (f"{group}-b", 0), (f"{group}-c", 0), (f"{group}-a", 1)]


def test_what_was_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def odd(d: Draw) -> trimesh.Trimesh:
        asked.append(d.number)
        if d.number == 1:
            raise RefusedError("too odd")
        return lofts.nut(6, across=17.0, bore=10.0, height=2.0 + 10.0 * (d.number // 3))

    monkeypatch.setattr(symmetric, "find_symmetries", lambda _: Symmetries.none())
    monkeypatch.setattr(catalogue, "SHARES", {"machined": 1.0})
    (tmp_path / "single").mkdir()
    made = command.make_all({"machined": {"odd": odd}}, tmp_path, 2)
    assert asked == [0, 1, 2, 3]  # the second is refused, the third looks like the first
    assert [part.mesh.name for part in made] == ["odd-000", "odd-003"]
    again = command.make_all({"machined": {"odd": odd}}, tmp_path, 2)
    assert asked == [0, 1, 2, 3]
    assert [p.mesh.name for p in load_archive(tmp_path / "parts.npz")] == [p.mesh.name for p in again]
    assert (tmp_path / "single" / "odd-001.txt").read_text() == "too odd\n"


def test_a_sheet_shows_every_part(nut: Mesh, bracket: Mesh, tmp_path: Path) -> None:
    save_sheet([nut, bracket, nut], tmp_path / "sheet.png", columns=2)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape == (2 * (SIDE + 10), 2 * SIDE)
    first, empty = picture[:SIDE, :SIDE], picture[-SIDE - 10 :, SIDE:]
    assert 0.1 < (first < 255).mean() < 0.9
    assert (empty == 255).all()
    np.testing.assert_array_equal(picture[SIDE + 10 :, :SIDE], picture[: SIDE + 10, :SIDE])
