"""Poses that a part's symmetries make equal, and what settings and files say of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose.evaluation.pose_errors import symmetry_transforms
from codepose.geometry import geodesic_angle
from codepose.parts.mesh import mesh_from_trimesh, save_mesh
from codepose.parts.symmetry_group import ContinuousSymmetry, Symmetries, declared_symmetries, read_symmetries
from codepose.settings.data import ObjectSettings
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings
from codepose.synthesis.world import World

AWAY = np.array([40.0, -25.0, 10.0])
HALF_TURN = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
ABOUT_Z = {"axis": [0, 0, 2], "offset": [0, 0, 0]}


def rotations(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def about(axis: list[float], degrees: float) -> np.ndarray[Any, Any]:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array(axis)).as_matrix()
    return matrix


BOX = Symmetries(np.stack([about(list(axis), 180.0) for axis in np.eye(3)]))
CONE = Symmetries(np.zeros((0, 4, 4)), (ContinuousSymmetry(np.array([0.6, 0.0, 0.8]), np.zeros(3)),))
CYLINDER = Symmetries(BOX.discrete[:1], (ContinuousSymmetry(np.array([0.0, 0.0, 1.0]), np.zeros(3)),))
BALL = Symmetries(np.zeros((0, 4, 4)), tuple(ContinuousSymmetry(axis, np.zeros(3)) for axis in np.eye(3)))
GROUPS = pytest.mark.parametrize("group", [BOX, CONE, CYLINDER], ids=["box", "cone", "cylinder"])
PLACED = pytest.mark.parametrize("by", [np.zeros(3), AWAY], ids=["middle", "away"])


@GROUPS
def test_angles_equal_their_slow_twin(group: Symmetries) -> None:
    """The least over all sampled symmetries, which leaves out what lies between two samples."""
    a, b = rotations(5), rotations(7, seed=1)
    every = symmetry_transforms(group.to_bop(), step=0.004)[:, :3, :3]
    slow = geodesic_angle(a[:, None, None], b[None, :, None] @ every).amin(-1)
    found = group.angles(a[:, None], b[None])
    assert found.shape == (5, 7)
    assert bool((found <= slow + 1e-7).all())
    torch.testing.assert_close(found, slow, atol=0.004, rtol=0)
    torch.testing.assert_close(group.angles(b[None], a[:, None]), found)


@GROUPS
@PLACED
def test_the_nearest_equal_pose_is_one_of_them_and_the_nearest(group: Symmetries, by: np.ndarray[Any, Any]) -> None:
    placed = group.moved(by)
    R, R_gt, t_gt = rotations(6), rotations(6, seed=1), torch.randn(6, 3, dtype=torch.float64) * 100
    R_near, t_near = placed.nearest(R, R_gt, t_gt)
    torch.testing.assert_close(geodesic_angle(R, R_near), group.angles(R, R_gt), atol=1e-6, rtol=0)
    # the motion between the two poses, in the object's frame, is one of the symmetries
    turn = R_gt.mT @ R_near
    shift = (R_gt.mT @ (t_near - t_gt)[..., None])[..., 0]
    every = symmetry_transforms(placed.to_bop(), step=0.002)
    rotated = geodesic_angle(turn[:, None], every[None, :, :3, :3])
    assert float(rotated.amin(1).max()) < 0.0021
    motion = every[rotated.argmin(1)]
    assert float((shift - motion[:, :3, 3]).norm(dim=1).max()) < 0.0021 * max(1.0, float(np.linalg.norm(by)))


@PLACED
def test_a_ball_always_lies_right(by: np.ndarray[Any, Any]) -> None:
    R, R_gt, t_gt = rotations(4), rotations(4, seed=1), torch.randn(4, 3, dtype=torch.float64)
    R_near, t_near = BALL.moved(by).nearest(R, R_gt, t_gt)
    assert torch.equal(R_near, R)
    middle = torch.from_numpy(by)
    torch.testing.assert_close(R_near @ middle + t_near, R_gt @ middle + t_gt)
    assert float(BALL.angles(R, R_gt).max()) == 0.0


def test_without_symmetries_nothing_is_touched() -> None:
    R, R_gt, t_gt = rotations(3).float(), rotations(3, seed=1).float(), torch.randn(3, 3)
    R_near, t_near = Symmetries.none().nearest(R, R_gt, t_gt)
    assert R_near is R_gt
    assert t_near is t_gt
    plain = geodesic_angle(R.double(), R_gt.double())
    torch.testing.assert_close(Symmetries.none().angles(R, R_gt), plain, atol=1e-3, rtol=0)
    assert not Symmetries.none().any


@GROUPS
def test_moved_symmetries_are_those_of_the_moved_part(group: Symmetries) -> None:
    point = np.array([3.0, -7.0, 11.0, 1.0])
    shift = np.array([*AWAY, 0.0])
    moved = symmetry_transforms(group.moved(AWAY).to_bop()).numpy() @ (point + shift)
    np.testing.assert_allclose(moved, symmetry_transforms(group.to_bop()).numpy() @ point + shift, atol=1e-6)


@pytest.mark.parametrize("group", [BOX, CONE, CYLINDER, BALL, Symmetries.none()])
def test_bops_entries_come_back(group: Symmetries) -> None:
    back = Symmetries.from_bop(json.loads(json.dumps(group.moved(AWAY).to_bop() | {"diameter": 3.0})))
    np.testing.assert_allclose(back.discrete, group.moved(AWAY).discrete, atol=1e-8)
    assert [c.axis.tolist() for c in back.continuous] == [c.axis.tolist() for c in group.continuous]
    assert all(c.offset.tolist() == AWAY.tolist() for c in back.continuous)


def test_an_axis_gets_unit_length_and_the_identity_is_left_out() -> None:
    found = Symmetries.from_bop({"symmetries_discrete": [np.eye(4).tolist()], "symmetries_continuous": [ABOUT_Z]})
    assert len(found.discrete) == 0
    assert found.continuous[0].axis.tolist() == [0.0, 0.0, 1.0]


# settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[]", "not a list"),
        ('{"2": {}}', 'no entry "1"'),
        ('{"symetries": []}', "neither numbered entries"),
        ('{"1": {"symmetries_discrete": [[1, 2]]}}', "16 numbers"),
        ('{"1": {"symmetries_discrete": [[-1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1]]}}', "must hold rotations"),
        ('{"1": {"symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]}}', "an axis and an offset"),
        ('{"1": {"symmetries_continuous": [{"axis": [0, 0, 1]}]}}', "offset"),
        ('{"1": []}', "object 1"),
        ("\xff\xd8\xff\xe0", "no text in UTF-8"),
        ('{"1": {"symmetries_discrete": [["a"]]}}', "numbers should stand where"),
        ('{"1": {"symmetries_discrete": [[1e300,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1]]}}', "must hold rotations"),
        ('{"1": {"symmetries_continuous": 7}}', "not as in a models_info.json"),
    ],
)
def test_what_is_no_symmetry_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "infos.json"
    path.write_text(content, encoding="latin-1")
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        read_symmetries(path, 1)
    assert str(path) in str(caught.value)


def test_which_entry_an_object_takes(tmp_path: Path) -> None:
    infos, own = tmp_path / "models_info.json", tmp_path / "own.json"
    infos.write_text(json.dumps({"1": {}, "2": {"symmetries_discrete": [HALF_TURN]}, "5": {"diameter": 3}}))
    own.write_text(json.dumps({"symmetries_continuous": [ABOUT_Z]}))

    def sizes(mesh: str, symmetries: str, number: int) -> tuple[int, int]:
        found = declared_symmetries(ObjectSettings(mesh=mesh, symmetries=symmetries), number)
        assert found is not None
        return len(found.discrete), len(found.continuous)

    assert sizes("part.ply", str(infos), 2) == (1, 0)
    assert sizes("part.ply", str(infos), 1) == (0, 0)
    assert sizes("lmo/models/obj_000002.ply", str(infos), 1) == (1, 0), "BOP's own number comes first"
    assert sizes("part.ply", str(own), 3) == (0, 1)
    assert sizes("part.ply", "none", 1) == (0, 0)
    assert declared_symmetries(ObjectSettings(), 1) is None


@pytest.fixture(scope="module")
def bolt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cone in a CAD file whose origin lies far from it."""
    path = tmp_path_factory.mktemp("cad") / "bolt.ply"
    cone = trimesh.creation.cone(radius=30.0, height=60.0, sections=48)
    save_mesh(mesh_from_trimesh(cone.apply_translation(AWAY), "bolt"), path)
    return path


def test_a_world_knows_its_parts_symmetries_in_both_frames(
    bolt: Path, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    infos = tmp_path / "infos.json"
    infos.write_text(json.dumps({"symmetries_continuous": [ABOUT_Z | {"offset": AWAY.tolist()}]}))
    objects = [
        {"mesh": str(bolt)},
        {"mesh": str(bolt), "symmetries": "none", "label": "plain"},
        {"mesh": str(bolt), "symmetries": str(infos), "label": "declared"},
        {"mesh": "hammer"},
    ]
    found, none, declared, hammer = World(make_settings(objects=objects)).objects
    for model in (found, declared):
        (inside,), (outside,) = model.symmetries.continuous, model.cad_symmetries.continuous
        assert len(model.symmetries.discrete) == 0
        assert abs(inside.axis[2]) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(inside.offset[:2], [0.0, 0.0], atol=1e-3)
        np.testing.assert_allclose(outside.offset[:2], AWAY[:2], atol=1e-3)
    assert found.symmetries is found.symmetries, "found once"
    assert not none.symmetries.any
    assert not hammer.symmetries.any


def test_a_turn_by_any_angle_is_a_symmetry_of_a_round_part() -> None:
    turn = torch.from_numpy(about([0.0, 0.0, 1.0], 77.7)[:3, :3])
    R = rotations(3)
    assert float(CYLINDER.angles(R, R @ turn).max()) < 1e-6
    flipped = R @ torch.from_numpy(BOX.discrete[1][:3, :3])
    assert float(CYLINDER.angles(R, flipped).max()) < 1e-6, "a flip about y is one about x, turned"
    assert float(CONE.angles(R, R @ turn).min()) > math.radians(10)
