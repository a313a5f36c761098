"""The settings proposed for a camera and its distances frame the part as its photos will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from codepose.cameras.camera import Camera, FieldOfView
from codepose.cli.mesh_doctor import MeshDoctor, mesh
from codepose.networks.framing import Framing, framing
from codepose.randomness import Draws
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_preset, override
from codepose.settings.schema import Settings
from codepose.synthesis.placement import place
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
PHOTOS = load_preset("photos")


def camera(focal: float, width: int | None = None, height: int | None = None) -> Camera:
    return Camera(np.array([[focal, 0.0, 319.5], [0.0, focal, 239.5], [0.0, 0.0, 1.0]]), width, height)


def settings_of(found: Framing) -> Settings:
    values = [word for word in found.options() if not word.startswith("--")]
    size, focal, low, high = (float(v) for v in values)
    assert PHOTOS.objects[0].view_cone_deg == 180.0, "nobody knows from which side a photo shows a part"
    changes: dict[str, Any] = {"objects.0.mesh": str(BRACKET), "losses.look_alikes": 0}
    changes |= {"data.camera.image_size": int(size), "data.camera.focal": focal, "data.camera.box_side": [low, high]}
    return override(PHOTOS, changes)


def placed(world: World, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and distances of test scenes, which need not be rendered for that."""
    index = torch.arange(count)
    objects, R_view = SceneSource(world, "test").views("scenes", index)
    R, t = place(world, Draws(world.settings.data.seed, "scenes/test", index, world.device), objects, R_view)
    return world.boxes(objects, R, t).clamp(0, world.settings.data.camera.image_size), t.norm(dim=1)


@pytest.mark.parametrize("distance", [(300.0, 700.0), (160.0, 200.0), (3000.0, 5000.0)])
def test_scenes_are_seen_from_the_distances_that_were_given(distance: tuple[float, float]) -> None:
    diameter = World(override(PHOTOS, {"objects.0.mesh": str(BRACKET)})).objects[0].mesh.diameter
    found = framing(camera(615.0), diameter, distance, PHOTOS)
    boxes, away = placed(World(settings_of(found)), 150)
    near, far = distance
    assert float(away.quantile(0.1)) == pytest.approx(near, rel=0.2)
    assert float(((away > 0.75 * near) & (away < 1.7 * far)).float().mean()) > 0.94  # end on it is drawn nearer
    assert float(away.max()) > far
    # as many pixels as the network knows
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    assert 45.0 < float(sides.mean()) < 85.0


def test_tiles_make_up_for_small_parts_and_the_size_of_photos_does_not_matter() -> None:
    near, far = (framing(camera(615.0), 128.0, d, PHOTOS) for d in ((400.0, 600.0), (4000.0, 6000.0)))
    assert near.tiles == 1
    assert far.tiles > 4
    np.testing.assert_allclose(np.array(near.share) / far.share, 10.0)
    twice = Camera(np.array([[1230.0, 0.0, 639.5], [0.0, 1230.0, 479.5], [0.0, 0.0, 1.0]]), 1280, 960)
    np.testing.assert_allclose(framing(twice, 128.0, (400.0, 600.0), PHOTOS).box_side, near.box_side)
    portrait = Camera(np.array([[615.0, 0.0, 239.5], [0.0, 615.0, 319.5], [0.0, 0.0, 1.0]]))
    assert framing(portrait, 128.0, (400.0, 600.0), PHOTOS) == near
    wide = FieldOfView(2 * np.degrees(np.arctan(320.0 / 615.0)))
    np.testing.assert_allclose(framing(wide, 128.0, (400.0, 600.0), PHOTOS).box_side, near.box_side, rtol=1e-6)


def test_a_wide_lens_keeps_its_focal_length_usable() -> None:
    found = framing(FieldOfView(130.0), 128.0, (100.0, 150.0), PHOTOS)
    settings_of(found)  # refuses a camera that would be in the part


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        ((700.0, 300.0), "is the nearest and the farthest in mm, such as 400 700, not 700 300"),
        ((0.0, 300.0), "is the nearest and the farthest"),
        ((60.0, 90.0), "would reach the camera"),
        ((110.0, 300.0), "fills"),
        ((90_000.0, 99_000.0), "too little to be found"),
    ],
)
def test_distances_that_cannot_be_are_refused(distance: tuple[float, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        framing(camera(615.0), 128.0, distance, PHOTOS)


def test_the_doctor_types_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert mesh(MeshDoctor(BRACKET, out=out, K="615,615,319.5,239.5", distance=(3000.0, 5000.0))).status == 0
    look, train, find = capsys.readouterr().out.splitlines()[-3:]
    assert look.startswith(f"look: codepose preview {BRACKET} --data.camera.image-size 2")
    assert train.endswith("--out runs/bracket")
    assert "--K 615,615,319.5,239.5 --distance 3000 5000 --tiles " in find
    with pytest.raises(ConfigError, match="go together"):
        mesh(MeshDoctor(BRACKET, out=out, K="fov=60"))


def test_the_doctor_warns_of_what_the_network_will_hardly_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for radius, warned in ((4.0, True), (60.0, False)):
        rod = tmp_path / "rod.ply"
        trimesh.creation.cylinder(radius, 600.0).export(rod)
        assert mesh(MeshDoctor(rod, out=tmp_path / "sheet.png", K="fov=60", distance=(1000.0, 1500.0))).status == 0
        assert ("pixels wide for the network" in capsys.readouterr().out) == warned
