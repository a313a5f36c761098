"""What ``codepose predict`` is made of, piece by piece: thresholds, rows of a BOP file, names, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from codepose.bop.results import read_results
from codepose.cameras.camera import Camera
from codepose.cli.options import Predict
from codepose.estimation.detection import Detection
from codepose.predict import bop_file, files, overlay
from codepose.predict.bop_file import BopFile
from codepose.predict.output import Folder, Prediction
from codepose.predict.overlay import Overlay
from codepose.predict.prediction import Progress, tracker_of, with_thresholds
from codepose.predict.sources import Photo, Source, Video
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.files import override
from codepose.settings.schema import Settings

CAMERA = Camera(np.array([[75.0, 0, 63.5], [0, 75, 47.5], [0, 0, 1]]), 128, 96)
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def one(index: int = 0, **changes: Any) -> Detection:
    given = {"box": np.array([10.0, 20, 30, 44]), "R_cam_obj": np.eye(3), "t_cam_obj": np.array([1.0, 2, 700])}
    return Detection("part", index, 0.5, 0.9, **given | changes)


def prediction(source: Source, *found: Detection, time_ms: float = 250.0) -> Prediction:
    return Prediction(source, 0, CAMERA, list(found), time_ms, np.zeros((96, 128, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "score", "nms", "per_object"),
    [
        ({}, 0.05, 0.5, 10),
        ({"min_score": 0.02, "nms": 0.7, "max_detections": 25}, 0.02, 0.7, 25),
        # the rest is left out later, when the poses are known
        ({"min_score": 0.3, "max_detections": 3}, 0.05, 0.5, 10),
    ],
)
def test_the_detector_finds_no_less_than_is_asked_for(
    tiny_settings: Settings, options: dict[str, Any], score: float, nms: float, per_object: int
) -> None:
    settings = override(tiny_settings, {"detection.per_object": 10})
    run = with_thresholds(Run(Path("run"), settings), Predict(Path("run"), **options))
    found = run.settings.detection
    assert (found.score, found.nms, found.per_object) == (score, nms, per_object)


def test_a_tracker_knows_sizes_middles_and_symmetries() -> None:
    parts = [
        SimpleNamespace(mesh=SimpleNamespace(diameter=d), cad_symmetries=f"of {d}", offset=torch.tensor([d, 0.0, 1.0]))
        for d in (30.0, 50.0)
    ]
    estimator: Any = SimpleNamespace(world=SimpleNamespace(objects=parts))
    tracker = tracker_of(estimator)
    assert (tracker.diameters, tracker.symmetries) == ([30.0, 50.0], ["of 30.0", "of 50.0"])
    np.testing.assert_array_equal(tracker.centers, [[30.0, 0.0, 1.0], [50.0, 0.0, 1.0]])


def test_what_is_lost_is_not_found(tmp_path: Path) -> None:
    progress = Progress([Photo(tmp_path / "a.png")], Console(quiet=True))
    assert not progress.nothing, "nothing was looked at"
    progress.advance(prediction(Photo(tmp_path / "a.png"), one(lost=True, track=1)))
    assert progress.nothing
    progress.advance(prediction(Photo(tmp_path / "a.png"), one()))
    assert not progress.nothing
    assert progress.summary().startswith("2 images, ")


def test_rows_have_the_objects_numbers_the_rank_and_seconds(tmp_path: Path) -> None:
    inside, outside = Photo(tmp_path / "a.png"), Photo(tmp_path / "b.png")
    file = BopFile(tmp_path / "a.csv", [7, 9], {inside: (0, 33), Photo(tmp_path / "c.png"): (4, 1)})
    file.write(prediction(inside, one(1, judged=2.5, R_cam_obj=TURN), one(0)))
    file.write(prediction(outside, one(0)))
    file.close(True)
    rows = read_results(tmp_path / "a.csv")
    assert [(r.scene_id, r.im_id, r.obj_id) for r in rows] == [(0, 33, 9), (0, 33, 7), (5, 1, 7)], "5 is no scene yet"
    assert [r.score for r in rows] == [2.5, 0.5, 0.5]
    assert [r.time for r in rows] == [0.25] * 3
    np.testing.assert_array_equal(rows[0].R_cam_obj, TURN)


def test_rows_of_other_ranks_go_on_where_those_before_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks with two images, one and two; a dataset's images keep their numbers."""
    inside, outside = Photo(tmp_path / "a.png"), Photo(tmp_path / "b.png")
    parts = []
    for sources in ((outside, inside), (outside,), (inside, outside)):
        file = BopFile(tmp_path / "a.csv", [1], {inside: (3, 33)})
        for source in sources:
            file.write(prediction(source, one()))
        parts.append(file)
    monkeypatch.setattr(bop_file, "everyones", lambda _: [(p._rows[:], p._lines) for p in parts])
    parts[0].close(True)
    rows = read_results(tmp_path / "a.csv")
    assert [(r.scene_id, r.im_id) for r in rows] == [(0, 0), (3, 33), (0, 2), (3, 33), (0, 4)]


def test_photos_of_any_camera_of_a_dataset_know_their_place(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(objects=[SimpleNamespace(name=n) for n in ("obj_000005", "b")]))
    names = ("000002/rgb/000007.png", "000002/gray_cam1/000008.tif", "000002/depth/000009.png")
    photos = [Photo(tmp_path / name) for name in names]
    file = BopFile.new(tmp_path / "new" / "a.csv", run, [3, 4], [*photos, Video(0)])
    assert file.places == {photos[0]: (2, 7), photos[1]: (2, 8)}
    assert file.obj_ids == [3, 4]
    assert (tmp_path / "new").is_dir()
    with pytest.raises(ConfigError, match="each object has a number of its own"):
        BopFile.new(tmp_path / "a.csv", run, [3, 3], photos)


def test_names_in_a_folder_are_each_taken_once(tmp_path: Path) -> None:
    """By a rank before, too; and a source keeps its own."""
    sources = [Photo(tmp_path / folder / name) for folder, name in (("x", "a.png"), ("y", "a.png"), ("z", "a.png"))]
    folder = Folder(tmp_path / "out", [Photo(tmp_path / "w" / "a.jpg")])
    assert [folder.name(source) for source in (*sources, *sources)] == ["a.png", "a-2", "a-3"] * 2


def test_an_overlay_has_the_best_on_top_and_every_part_at_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part nearer than half its diameter has no contour: it is not wholly before the camera."""
    offset, rendered, drawn = torch.tensor([10.0, 0.0, 5.0]), [], []

    class Renderer:
        def depth(self, instances: Any, K: Tensor, size: tuple[int, int]) -> Tensor:
            rendered.append((instances.mesh.tolist(), instances.t[0].tolist(), size))
            return torch.ones(1, *size)

    def draw(picture: np.ndarray, K: Tensor, R: np.ndarray, t: Tensor, mask: Tensor, box: np.ndarray, length: float,
             *, inset: Tensor | None, text: str) -> np.ndarray:  # fmt: skip
        drawn.append((t.tolist(), bool(mask.any()), box.tolist(), length, inset is not None, text))
        return picture + 1

    parts = [SimpleNamespace(offset=offset * k, mesh=SimpleNamespace(diameter=100.0 * k)) for k in (1, 2)]
    world: Any = SimpleNamespace(objects=parts, renderer=Renderer())
    monkeypatch.setattr(overlay.draw, "overlay", draw)
    shown = np.zeros((3, 4, 4), np.float32)
    near = one(1, R_cam_obj=TURN, t_cam_obj=np.array([0.0, 0.0, 89.0]), reconstruction=shown)
    best = one(R_cam_obj=TURN, reconstruction=shown)
    picture = Overlay(world)(np.zeros((96, 128, 3), np.uint8), CAMERA.K, [best, near])
    assert picture.max() == 2
    assert rendered == [([0], [1.0, 12.0, 705.0], (96, 128))]
    box = [10.0, 20.0, 30.0, 44.0]
    assert drawn == [
        ([0.0, 20.0, 99.0], False, box, pytest.approx(60.0), False, ""),
        ([1.0, 12.0, 705.0], True, box, pytest.approx(30.0), True, "part score 0.50\npart score 0.50"),
    ]


def test_answers_are_lines_at_once_and_a_file_for_each_photo(tmp_path: Path) -> None:
    """Also while it goes on: somebody may look, or pull the plug."""
    written = files.JsonFiles(Folder(tmp_path))
    lines = tmp_path / "predictions.jsonl"
    shown = [prediction(Photo(tmp_path / "a.png"), one()), prediction(Video(tmp_path / "b.avi"), one(), one())]
    for count, each in enumerate(shown, start=1):
        written.write(each)
        assert len(lines.read_text().splitlines()) == count
    written.close(True)
    assert [json.loads(line) for line in lines.read_text().splitlines()] == [each.to_json() for each in shown]
    assert json.loads((tmp_path / "a.json").read_text()) == shown[0].to_json()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "predictions.jsonl"]


def test_lines_of_other_ranks_are_put_behind_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = []
    for rank in range(3):
        monkeypatch.setattr(files, "rank", lambda rank=rank: rank)
        ranks.append(files.JsonFiles(Folder(tmp_path)))
        ranks[-1].write(prediction(Photo(tmp_path / f"{rank}.png")))
    names = [each._records.name for each in ranks]
    assert [Path(name).name for name in names] == ["predictions.jsonl", "predictions.1.jsonl", "predictions.2.jsonl"]
    monkeypatch.setattr(files, "everyones", lambda name: names)
    for rank in (2, 1, 0):
        monkeypatch.setattr(files, "rank", lambda rank=rank: rank)
        ranks[rank].close(True)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["file"]).name for line in lines] == ["0.png", "1.png", "2.png"]
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["predictions.jsonl"]


def test_where_something_broke_off_no_other_rank_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "everyones", lambda _: pytest.fail("waits"))
    files.JsonFiles(Folder(tmp_path)).close(False)


class Cv2:
    """OpenCV's film writer: what it is told, in the order in which it is told it."""

    def __init__(self, opened: bool = True) -> None:
        self.told: list[Any] = []
        self.opened = opened

    def VideoWriter_fourcc(self, *letters: str) -> str:
        return "".join(letters)

    def VideoWriter(self, path: bytes, codec: str, rate: float, size: tuple[int, int]) -> Any:
        name = Path(path.decode()).name
        self.told.append((name, codec, rate, size))
        return SimpleNamespace(
            isOpened=lambda: self.opened,
            write=lambda frame: self.told.append(frame),
            release=lambda: self.told.append(f"end of {name}"),
        )


def test_each_video_gets_a_film_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an even size, with OpenCV's order of colours, and ended before the next one begins."""
    cv2, drawn = Cv2(), []
    monkeypatch.setattr(files, "import_cv2", lambda: cv2)
    monkeypatch.setattr(Video, "rate", 12.5)
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)

    def draw(image: np.ndarray, K: np.ndarray, found: list[Detection]) -> np.ndarray:
        drawn.append((image.shape, K, found))
        return picture

    overlays = files.Overlays(Folder(tmp_path), draw)  # type: ignore[arg-type]
    videos = [Video(tmp_path / "a.avi"), Video(tmp_path / "a.avi"), Video(tmp_path / "b.avi")]
    shown = [prediction(source, one(), one(1)) for source in videos]
    for each in shown:
        overlays.write(each)
    overlays.write(prediction(Photo(tmp_path / "c.png")))
    overlays.close(False)
    assert [K is CAMERA.K and found == each.found for (_, K, found), each in zip(drawn, shown, strict=False)] == [
        True
    ] * 3
    films = [told if isinstance(told, str | tuple) else "frame" for told in cv2.told]
    a, b = ((f"{name}.overlay.mp4", "mp4v", 12.5, (6, 4)) for name in "ab")
    assert films == [a, "frame", "frame", "end of a.overlay.mp4", b, "frame", "end of b.overlay.mp4"]
    np.testing.assert_array_equal(cv2.told[1], picture[:4, :6, ::-1])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.overlay.png")), picture)


def test_frames_that_no_film_takes_are_numbered_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that may be there from before."""
    monkeypatch.setattr(files, "import_cv2", lambda: Cv2(opened=False))
    (tmp_path / "a.overlay").mkdir()
    film = files.Film(tmp_path, "a", 10.0)
    for shade in (0, 100, 200):
        film.add(np.full((5, 7, 3), shade, np.uint8))
    film.close()
    pictures = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "a.overlay").iterdir()}
    assert {name: int(picture[0, 0, 0]) for name, picture in pictures.items()} == {
        "000000.png": 0,
        "000001.png": 100,
        "000002.png": 200,
    }


def test_a_film_without_frames_is_none(tmp_path: Path) -> None:
    files.Film(tmp_path, "a", 10.0).close()
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_asked_for_by_name() -> None:
    files.require_outputs(tuple(files.OUTPUTS))
    with pytest.raises(ConfigError, match="--write: no output is called 'csv'; there are json, overlays"):
        files.require_outputs(("json", "csv"))
