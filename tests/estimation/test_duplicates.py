"""Two detections of one part in one place: the better one stays; parts that only touch stay both."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from codepose.estimation.detection import Detection
from codepose.estimation.duplicates import seen_once, without_doubles
from codepose.settings.data import ObjectSettings
from codepose.settings.schema import Settings
from codepose.synthesis.objects import ObjectModel
from codepose.synthesis.world import World

BOX = np.array([100.0, 100.0, 160.0, 180.0])
TURN = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix()

CENTRE = np.array([300.0, 40.0, -90.0])


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> list[ObjectModel]:
    """A triangle 6 mm thick, and one of twice its size: looks the same in six poses, turns neither about its box's
    middle nor its file's origin."""
    parts = []
    for i in (0, 1):
        plate = trimesh.creation.cylinder(radius=40.0 * (1 + i), height=6.0, sections=3)
        plate.apply_translation(CENTRE)
        path = tmp_path_factory.mktemp("mesh") / "plate.stl"
        plate.export(path)
        parts.append(ObjectSettings(mesh=str(path), label=f"p{i}"))
    return list(World(Settings(objects=tuple(parts))).objects)


def moved(one: Detection, by: tuple[float, float, float], turn_deg: float = 0.0, **changes: object) -> Detection:
    """The part moved by mm in its own frame, and turned about the triangle's middle."""
    spin = Rotation.from_rotvec([0.0, 0.0, turn_deg], degrees=True).as_matrix()
    R = one.R_cam_obj @ spin
    t = one.R_cam_obj @ (CENTRE - spin @ CENTRE + by) + one.t_cam_obj
    return dataclasses.replace(one, R_cam_obj=R, t_cam_obj=t, **changes)


@pytest.mark.parametrize("turn_deg", [0.0, 1.0, 120.0, 241.0])
def test_the_better_of_two_in_one_place_stays(plates: list[ObjectModel], turn_deg: float) -> None:
    best = Detection("p0", 0, 0.9, 0.8, BOX, TURN, np.array([20.0, -30.0, 700.0]))
    again = moved(best, (0.1, -0.2, 0.5), turn_deg, score=0.6)
    assert without_doubles([best, again], plates) == [best]


@pytest.mark.parametrize(
    ("by", "turn_deg"),
    [
        *[((0.0, 0.0, 6.0), 0.0), ((0.0, 0.0, 6.0), 120.0), ((0.0, 0.0, 2.0), 0.0), ((8.0, 0.0, 0.0), 0.0)],
        ((0.0, 0.0, 0.0), 60.0),
    ],
    ids=["stacked", "stacked and turned", "nested", "beside", "turned"],
)
def test_what_is_not_in_one_place_stays(
    plates: list[ObjectModel], by: tuple[float, float, float], turn_deg: float
) -> None:
    best = Detection("p0", 0, 0.9, 0.8, BOX, TURN, np.array([20.0, -30.0, 700.0]))
    assert len(without_doubles([best, moved(best, by, turn_deg, score=0.6)], plates)) == 2


@pytest.mark.parametrize(("tilt_deg", "left"), [(1.5, 1), (2.65, 2)])
def test_no_point_of_a_part_that_is_found_twice_is_far_away(
    plates: list[ObjectModel], tilt_deg: float, left: int
) -> None:
    """Tilted by 2.65 degrees, a corner is 1.6 mm away or more, the corners in the mean 1.2: the border is 1.4."""
    assert 0.02 * plates[0].mesh.diameter == pytest.approx(1.4, abs=0.02)
    best = Detection("p0", 0, 0.9, 0.8, BOX, TURN, np.array([20.0, -30.0, 700.0]))
    R = TURN @ Rotation.from_rotvec([tilt_deg, 0.0, 0.0], degrees=True).as_matrix()
    again = dataclasses.replace(best, R_cam_obj=R, t_cam_obj=best.to_camera(CENTRE) - R @ CENTRE)
    assert len(without_doubles([best, again], plates)) == left


def test_how_far_is_far_is_a_matter_of_the_parts_own_size(plates: list[ObjectModel]) -> None:
    """2.5 mm are 3.6 % of the first one's diameter, and 1.8 % of the second one's."""
    for index, left in ((0, 2), (1, 1)):
        best = Detection(f"p{index}", index, 0.9, 0.8, BOX, TURN, np.array([20.0, -30.0, 700.0]))
        assert len(without_doubles([best, moved(best, (2.5, 0.0, 0.0), score=0.6)], plates)) == left


def test_other_objects_may_be_there(plates: list[ObjectModel]) -> None:
    """Which of two similar parts it is, the scores say, not we."""
    best = Detection("p0", 0, 0.9, 0.8, BOX, TURN, np.array([20.0, -30.0, 700.0]))
    other = dataclasses.replace(best, object_index=1, score=0.5)
    third = moved(best, (0.0, 0.0, 1.0), score=0.4)
    assert without_doubles([best, other, third], plates) == [best, other]
    assert without_doubles([], plates) == []


def test_of_poses_that_take_the_same_pixels_the_better_stays() -> None:
    """Masks of 10 x 4 pixels, moved across; a small one of 4 x 4 lies within the first."""
    found = [Detection(f"{i}", 0, 0.5, 0.8, BOX, TURN, np.array([20.0, -30.0, 700.0])) for i in range(5)]
    masks = np.zeros((5, 4, 32), dtype=bool)
    for mask, (begin, width) in zip(masks, ((0, 10), (4, 10), (9, 10), (6, 4), (22, 0)), strict=True):
        mask[:, begin : begin + width] = True
    # the second shares 6 of 10 columns with the first and goes, and so no longer hides the third, with which it
    # shares 5; the fourth is all within the first; what is not seen hides nothing and stays
    assert [d.label for d in seen_once(found, masks, 0.5)] == ["0", "2", "4"]
    assert [d.label for d in seen_once(found, masks, 0.6)] == ["0", "1", "2", "4"]  # not more than 0.6
    assert [d.label for d in seen_once(found[:3], masks[[1, 0, 2]], 0.45)] == ["0"]
    other = [dataclasses.replace(d, object_index=i % 2) for i, d in enumerate(found)]
    assert [d.label for d in seen_once(other, masks, 0.5)] == ["0", "1", "2", "4"]  # all of the small one is in both
    assert seen_once([], masks[:0], 0.5) == []
