"""``codepose predict --depth``: which file belongs to which photo, what is refused, and what reaches the estimator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from codepose.cameras.camera import Camera
from codepose.cli.main import main
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.networks.build import build_joint
from codepose.predict.depth_pairs import Depths
from codepose.predict.sources import Photo, Source, SourceError
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.schema import Settings

K = "75,75,63.5,47.5"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Settings) -> Path:
    run = Run.create(tmp_path_factory.mktemp("depths") / "run", tiny_settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(tiny_settings))
    return run.path


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The depths that the estimator is called with."""
    depths: list[Any] = []

    def found(*_: object, depth: Any = None, **__: object) -> list[Detection]:
        depths.append(depth)
        return []

    monkeypatch.setattr(PoseEstimator, "__call__", found)
    return depths


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos a, b, c, and in depth/ an image for each: 16-bit PNG, TIFF, NPY."""
    folder = tmp_path / "photos"
    (tmp_path / "depth").mkdir()
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (128, 96)).save(folder / f"{name}.jpg")
    values = np.arange(96 * 128).reshape(96, 128)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "depth" / "a.png")
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "depth" / "b.tiff")
    np.save(tmp_path / "depth" / "c.npy", values / 100.0)
    return folder


def predict(run: Path, tmp_path: Path, *words: object, camera: str = K) -> int:
    out = str(tmp_path / "out")
    return main(["predict", str(run), *map(str, words), "--K", camera, "--no-refine", "--out", out])


def test_a_folder_gives_each_photo_its_own_depth(run: Path, photos: Path, tmp_path: Path, given: list[Any]) -> None:
    assert predict(run, tmp_path, photos, "--depth", tmp_path / "depth", "--depth-scale", "2") == 0
    values = np.arange(96 * 128).reshape(96, 128)
    for depth, scale in zip(given, (2.0, 2.0, 0.02), strict=True):
        np.testing.assert_allclose(depth, values * scale, rtol=1e-6)
    assert predict(run, tmp_path, photos) == 0
    assert given[3:] == [None, None, None]


def test_one_file_is_for_one_photo(run: Path, photos: Path, tmp_path: Path, given: list[Any], capsys) -> None:
    assert predict(run, tmp_path, photos / "b.jpg", "--depth", tmp_path / "depth" / "c.npy") == 0
    assert float(given[0].max()) == pytest.approx((96 * 128 - 1) / 100.0)
    assert predict(run, tmp_path, photos, "--depth", tmp_path / "depth" / "c.npy") == 1
    assert "is one image but there are 3 photos: name a folder" in capsys.readouterr().err


def test_photos_whose_depth_cannot_be_used_are_skipped(
    run: Path, photos: Path, tmp_path: Path, given: list[Any], capsys
) -> None:
    Image.new("L", (128, 96)).save(tmp_path / "depth" / "a.png")
    np.save(tmp_path / "depth" / "c.npy", np.zeros((128, 96)))
    Image.new("RGB", (128, 96)).save(photos / "d.jpg")
    assert predict(run, tmp_path, photos, "--depth", tmp_path / "depth") == 1
    assert len(given) == 1
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["file"]).name for line in lines] == ["b.jpg"]
    error = capsys.readouterr().err
    assert "a.jpg skipped: its depth image" in error
    assert "uint8 is too coarse for depth: save a 16-bit PNG" in error
    assert "c.npy is 96 x 128, the photo 128 x 96: depth must be registered" in error
    assert "d.jpg skipped: it has no depth image d.png or d.tif or d.tiff or d.npy" in error


def test_depth_in_metres_is_not_taken_for_millimetres(
    run: Path, photos: Path, tmp_path: Path, given: list[Any], capsys
) -> None:
    metres = tmp_path / "metres.npy"
    np.save(metres, np.full((96, 128), 1.5, np.float32))
    assert predict(run, tmp_path, photos / "a.jpg", "--depth", metres) == 1
    assert "ends 1.5 mm from the camera: if it is in metres, type --depth-scale 1000" in capsys.readouterr().err
    assert predict(run, tmp_path, photos / "a.jpg", "--depth", metres, "--depth-scale", "1000") == 0
    assert float(given[0].max()) == 1500.0


def test_one_depth_image_is_not_taken_for_two_photos(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (128, 96)).save(other / "a.jpg")
    assert predict(run, tmp_path, photos, other, "--depth", tmp_path / "depth") == 1
    assert "a.jpg have one name" in capsys.readouterr().err


@pytest.mark.parametrize(("photo", "depth"), [("jpg", "png"), ("png", "tiff"), ("png", "npy")])
def test_a_folder_of_photos_and_their_depth_images(
    run: Path, tmp_path: Path, given: list[Any], photo: str, depth: str
) -> None:
    """The depth images in it are no photos, and the photos no depth images."""
    folder = tmp_path / "both"
    folder.mkdir()
    values = np.full((96, 128), 900, np.uint16)
    for name in "ab":
        Image.new("RGB", (128, 96)).save(folder / f"{name}.{photo}")
        if depth == "npy":
            np.save(folder / f"{name}.npy", values)
        else:
            Image.fromarray(values).save(folder / f"{name}.{depth}")
    assert predict(run, tmp_path, folder, "--depth", folder) == 0
    assert [float(depth.min()) for depth in given] == [900.0, 900.0]


def test_depth_images_alone_are_no_photos(run: Path, tmp_path: Path, capsys) -> None:
    values = np.full((96, 128), 900, np.uint16)
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert predict(run, tmp_path, tmp_path / "a.png", tmp_path / "a.tiff", "--depth", tmp_path) == 1
    assert "there are depth images, but no photo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{photos}", "--depth", "nowhere"), "--depth nowhere does not exist"),
        (("{photos}", "--depth", "{photos}", "--depth-scale", "0"), "--depth-scale is what a stored depth"),
        (("{photos}/clip.mp4", "--depth", "{photos}"), "take the frames out of the video"),
    ],
)
def test_depth_that_cannot_be_used_at_all_ends_in_one_line(
    run: Path, photos: Path, tmp_path: Path, arguments: tuple[str, ...], words: str, capsys
) -> None:
    pytest.importorskip("cv2")
    (photos / "clip.mp4").write_bytes(b"")
    assert predict(run, tmp_path, *(a.format(photos=photos) for a in arguments)) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_depth_is_undistorted_like_the_photo(run: Path, photos: Path, tmp_path: Path, given: list[Any]) -> None:
    lens = {"K": [[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]], "distortion": [-0.3, 0.1, 0, 0]}
    (tmp_path / "camera.json").write_text(json.dumps(lens))
    camera = str(tmp_path / "camera.json")
    assert predict(run, tmp_path, photos / "a.jpg", "--depth", tmp_path / "depth", camera=camera) == 0
    straight = Camera(np.array(lens["K"]), distortion=(-0.3, 0.1, 0, 0)).undistort_depth(
        np.arange(96 * 128, dtype=np.float32).reshape(96, 128)
    )
    assert np.array_equal(given[0], straight)
    assert not np.array_equal(straight, np.arange(96 * 128).reshape(96, 128))


def both(folder: Path, suffix: str) -> list[Source]:
    """A photo and its depth image side by side, as sources; relative names."""
    folder.mkdir()
    Image.new("RGB", (4, 3)).save(folder / f"a.{suffix}")
    Image.fromarray(np.full((3, 4), 900, np.uint16)).save(folder / "a.tiff")
    return [Photo(folder / f"a.{suffix}"), Photo(folder / "a.tiff")]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_folder_may_be_named_in_several_ways(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute, and on a detour: the photo's own file is never its depth, and no second photo."""
    monkeypatch.chdir(tmp_path)
    photo, depth = both(Path("both"), suffix)
    long, detour = Photo(Path(photo.path).resolve()), Photo(Path("both") / ".." / Path(photo.path))
    for folder in (Path("both"), Path("both").resolve()):
        for sources in ([photo, depth], [depth, long], [long, detour, depth], [photo, long]):
            depths = Depths.find(folder, 1.0, sources)
            photos = [source for source in sources if source != depth]
            assert depths.photos(sources) == photos
            assert all(depths.of(source, 4, 3).min() == 900.0 for source in photos)


def test_a_grey_photo_of_sixteen_bits_is_a_photo(tmp_path: Path) -> None:
    """It could be read as depth, but is nobody's."""
    Image.fromarray(np.full((3, 4), 900, np.uint16)).save(tmp_path / "a.png")
    (tmp_path / "depth").mkdir()
    assert Depths(tmp_path / "depth").photos([Photo(tmp_path / "a.png")]) == [Photo(tmp_path / "a.png")]


def test_a_scale_is_a_finite_number(tmp_path: Path) -> None:
    for scale in (float("inf"), float("nan"), 0.0, -1.0):
        with pytest.raises(ConfigError, match="is what a stored depth is multiplied with"):
            Depths.find(tmp_path, scale, [Photo(tmp_path / "a.png")])


def test_the_scale_that_is_proposed_is_a_thousand_times_the_one_given(tmp_path: Path) -> None:
    """3 x 0.5 mm is too near for any camera."""
    np.save(tmp_path / "a.npy", np.full((3, 4), 3.0))
    with pytest.raises(SourceError, match=r"ends 1\.5 mm from the camera: .* type --depth-scale 500$"):
        Depths(tmp_path, 0.5).of(Photo(tmp_path / "a.jpg"), 4, 3)
