"""``codepose predict`` on photos, folders, patterns, videos and webcams, with random weights: it detects something."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from codepose.bop.results import read_results
from codepose.cli.main import main
from codepose.estimation.answers import best_of_each
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.parts.symmetry_group import Symmetries
from codepose.refinement.judge import JudgeRefiner
from codepose.refinement.poses import Poses, Seen
from codepose.runtime.run import Run
from codepose.storage.checksums import read_json, write_json
from codepose.synthesis.objects import ObjectModel
from codepose.synthesis.world import World

K = "75,75,63.5,47.5"


@pytest.fixture(scope="module")
def run(random_run: Run) -> Path:
    return random_run.path


def picture(seed: int, width: int = 128, height: int = 96) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.bmp")):
        Image.fromarray(picture(seed)).save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    (folder / "a.overlay.png").write_bytes((folder / "a.png").read_bytes())
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six frames of slowly changing colours, ten a second."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 94))
    for step in range(6):
        mixed = picture(0, 128, 94) * (1 - step / 50) + picture(1, 128, 94) * (step / 50)
        writer.write(np.ascontiguousarray(mixed.astype(np.uint8)[..., ::-1]))
    writer.release()
    return path


def predict(run: Path, out: Path, *arguments: object, camera: str = K) -> tuple[int, list[dict]]:
    """The exit status and predictions.jsonl."""
    words = [str(a) for a in arguments]
    status = main(
        ["predict", str(run), *words, "--K", camera, "--out", str(out), "--min-score", "0", "--min-judged=-99"]
    )
    return status, [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_a_folder_gives_overlays_json_and_one_line_an_image(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    status, lines = predict(run, out, photos)
    assert status == 0
    assert [Path(line["file"]).name for line in lines] == ["a.png", "b.png", "c.bmp"]
    for line in lines:
        stem = Path(line["file"]).stem
        assert json.loads((out / f"{stem}.json").read_text()) == line
        assert (line["width"], line["height"]) == (128, 96)
        assert line["K"] == [[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]]
        assert line["time_ms"] > 0
        assert 1 <= len(line["detections"]) <= 3  # of three boxes, whose poses may take the same pixels
        keys = {
            "label",
            "score",
            "confidence",
            "similarity",
            "agreement",
            "contour",
            "judged",
            "box_xyxy",
            "R_cam_obj",
            "t_cam_obj_mm",
        }
        assert set(line["detections"][0]) == keys
        overlay = np.asarray(Image.open(out / f"{stem}.overlay.png"))
        assert overlay.shape == (96, 128, 3)
    said = capsys.readouterr().out
    assert re.search(r"3 images, [\d.]+ images/s", said)
    assert "a.png: hammer" in said
    _, lines = predict(run, out, photos / "a.png", "--max-detections", "1")
    assert [len(line["detections"]) for line in lines] == [1]


def test_overlapping_boxes_and_their_number_are_asked_for(run: Path, photos: Path, tmp_path: Path) -> None:
    """More than the run's own three; none of them overlaps another by more than asked for."""
    counts = []
    for nms in ("0.2", "0.9"):
        options = ("--nms", nms, "--max-detections", "500", "--no-refine")
        _, lines = predict(run, tmp_path / nms, photos / "a.png", *options)
        boxes = torch.tensor([d["box_xyxy"] for d in lines[0]["detections"]])
        assert float(box_iou(boxes, boxes).triu(1).max()) <= float(nms) + 1e-3
        counts.append(len(boxes))
    assert 3 < counts[0] < counts[1]


def test_each_object_has_its_own_limit() -> None:
    found = [SimpleNamespace(object_index=i) for i in (1, 1, 0, 1, 0, 2)]
    assert best_of_each(found, 1) == [found[0], found[2], found[5]]
    assert best_of_each(found, 2) == [found[0], found[1], found[2], found[4], found[5]]
    assert best_of_each(found, None) == found


def test_several_sources_a_pattern_and_equal_names(run: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(picture(5)).save(other / "a.png")
    Image.fromarray(picture(6)).save(other / "a.jpg")
    out = tmp_path / "out"
    status, lines = predict(run, out, photos / "*.png", photos / "a.png", other, "--max-detections", "1")
    assert status == 0
    files = [str(Path(line["file"]).relative_to(tmp_path)) for line in lines]
    assert files == ["photos/a.png", "photos/b.png", "other/a.jpg", "other/a.png"]
    names = {"a.json", "b.json", "a.jpg.json", "a.png.json"}
    assert {p.name for p in out.glob("*.json")} == names
    by_file = {json.loads((out / n).read_text())["file"]: n for n in names}
    assert by_file[str(photos / "a.png")] == "a.json"
    assert by_file[str(other / "a.jpg")] == "a.jpg.json"


def test_a_calibration_is_scaled_and_its_distortion_taken_out(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    camera = tmp_path / "camera.json"
    K = [[150, 0, 127.5], [0, 150, 95.5], [0, 0, 1]]
    camera.write_text(json.dumps({"K": K, "width": 256, "height": 192, "distortion": [-0.3, 0, 0, 0]}))
    Image.fromarray(np.full((96, 128, 3), 90, np.uint8)).save(photos / "a.png")
    Image.fromarray(picture(0, 96, 128)).save(photos / "b.png")
    out = tmp_path / "out"
    status, lines = predict(run, out, photos, "--min-score", "1.0", camera=str(camera))
    said = capsys.readouterr()
    assert status == 1
    assert re.search(r"b\.png skipped: .*EXIF rotation", said.err)
    assert said.out.count("is scaled") == 1
    assert [Path(line["file"]).name for line in lines] == ["a.png", "c.bmp"]
    assert lines[0]["K"] == [[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]]
    assert lines[0]["distortion"] == [-0.3, 0, 0, 0]
    shown = np.asarray(Image.open(out / "a.overlay.png"))
    assert shown[48, 64].tolist() == [90, 90, 90]
    capsys.readouterr()
    _, lines = predict(run, out, photos / "b.png", camera="fov=90")
    np.testing.assert_allclose(lines[0]["K"], [[48, 0, 47.5], [0, 48, 63.5], [0, 0, 1]])
    assert "field of view of 90 degrees" in capsys.readouterr().out


def test_bop_results_are_numbered_by_the_path(run: Path, photos: Path, tmp_path: Path) -> None:
    scene = tmp_path / "bop" / "test" / "000048" / "rgb"
    scene.mkdir(parents=True)
    Image.fromarray(picture(0)).save(scene / "000123.png")
    table = tmp_path / "new" / "results.csv"
    _, lines = predict(run, tmp_path / "out", scene, photos / "a.png", "--bop", table)
    rows = read_results(table)
    assert [(r.scene_id, r.im_id, r.obj_id) for r in rows] == [(48, 123, 1)] * 3 + [(0, 1, 1)] * 3
    for row, found in zip(rows, [d for line in lines for d in line["detections"]], strict=True):
        detected = 0.5 * np.log(found["score"] / (1.0 - found["score"]))
        rank = found["judged"] + 10.0 * found["contour"] + detected
        assert row.score == pytest.approx(rank, abs=1e-3), "by it a photo's detections are ranked"
        np.testing.assert_allclose(row.R_cam_obj, found["R_cam_obj"], atol=1e-7)
        np.testing.assert_allclose(row.t_cam_obj, found["t_cam_obj_mm"], atol=1e-3)
    assert rows[0].time == pytest.approx(lines[0]["time_ms"] / 1000, abs=1e-5)


def test_photos_beside_a_dataset_with_a_scene_0_have_a_scene_of_their_own(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "bop" / "test" / "000000" / "rgb"
    scene.mkdir(parents=True)
    Image.fromarray(picture(0)).save(scene / "000001.png")
    table = tmp_path / "results.csv"
    predict(run, tmp_path / "out", scene, photos / "a.png", "--bop", table)
    assert {(r.scene_id, r.im_id) for r in read_results(table)} == {(0, 1), (1, 1)}


def test_bop_results_know_the_dataset_from_inside_it(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tmp_path / "bop" / "test" / "000002"
    (scene / "rgb").mkdir(parents=True)
    Image.fromarray(picture(0)).save(scene / "rgb" / "000003.png")
    (scene / "rgb" / "000004.png").symlink_to(photos / "a.png")
    monkeypatch.chdir(scene)
    table = tmp_path / "results.csv"
    predict(run, tmp_path / "out", "rgb", "--bop", table, "--obj-ids", "7")
    assert {(r.scene_id, r.im_id, r.obj_id) for r in read_results(table)} == {(2, 3, 7), (2, 4, 7)}
    camera = tmp_path / "cam1" / "rgb"  # no scene of a dataset
    shutil.copytree(scene / "rgb", camera)
    predict(run, tmp_path / "out", camera, "--bop", table)
    assert {(r.scene_id, r.im_id) for r in read_results(table)} == {(0, 0), (0, 1)}


def test_bop_results_that_cannot_be_written_are_refused_at_once(run: Path, tmp_path: Path, capsys) -> None:
    for split in ("val", "test"):
        scene = tmp_path / split / "000001" / "rgb"
        scene.mkdir(parents=True)
        Image.fromarray(picture(0)).save(scene / "000000.png")
    photos = sorted(tmp_path.glob("*/000001/rgb/*.png"))
    words = ["--K", K, "--out", str(tmp_path / "out")]
    for arguments, says in (
        ((*photos, "--bop", tmp_path / "results.csv"), "are both image 0 of scene 1"),
        ((photos[0], "--bop", tmp_path), "is a folder: name a CSV file"),
        ((photos[0], "--bop", photos[0] / "results.csv"), "000000.png"),
        ((photos[0], "--obj-ids", "1"), "--obj-ids goes with --bop"),
        (
            (photos[0], "--bop", tmp_path / "results.csv", "--obj-ids", "1", "2"),
            "the run has 1 objects (hammer), not 2",
        ),
    ):
        assert main(["predict", str(run), *map(str, arguments), *words]) == 1
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_calibrated_run_says_how_sure_it_is_and_leaves_out_what_it_is_not(
    run: Path, photos: Path, tmp_path: Path, capsys
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    assert main(["predict", str(own), str(photos), "--K", K, "--min-confidence", "0.5"]) == 1
    assert "codepose calibrate" in capsys.readouterr().err
    assert main(["calibrate", str(own), "--images", "3"]) == 0
    assert "0 of 9 detections were right" in capsys.readouterr().out  # random weights: nothing to learn from
    for path in (own / "confidence").iterdir():
        fitted = read_json(path)
        assert len(fitted["weights"]) == (5 if "refined" in path.name else 4), "the judge's word is the fifth"
        write_json(path, fitted | {"weights": [0, 1, 1, 0, 0][: len(fitted["weights"])], "bias": 0})
    _, lines = predict(own, tmp_path / "all", photos / "a.png")
    sure = [d["confidence"] for d in lines[0]["detections"]]
    assert len(sure) == 3
    assert all(0.0 < value < 1.0 for value in sure)
    assert len(set(sure)) == 3
    limit = sorted(sure)[1] - 1e-5  # written with six digits
    _, lines = predict(own, tmp_path / "some", photos / "a.png", "--min-confidence", limit)
    assert sorted(d["confidence"] for d in lines[0]["detections"]) == sorted(sure)[1:]
    assert capsys.readouterr().out.count(" % sure, at [") == 5  # three at first, two above the limit
    _, lines = predict(own, tmp_path / "plain", photos / "a.png", "--no-refine")
    assert all(d["contour"] is None and d["confidence"] is not None for d in lines[0]["detections"])


def test_a_video_gives_a_film_and_a_line_a_frame(run: Path, video: Path, photos: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    out = tmp_path / "out"
    status, lines = predict(run, out, video, photos / "a.png")
    assert status == 0
    assert [line.get("frame") for line in lines] == [0, 1, 2, 3, 4, 5, None]
    film = cv2.VideoCapture(str(out / "clip.overlay.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    count = 0
    while True:
        read, frame = film.read()
        if not read:
            break
        assert frame.shape == (94, 128, 3)
        count += 1
    assert count == 6
    assert not (out / "clip.json").exists()
    assert (out / "a.json").exists()


def test_smoothing_is_for_videos_and_starts_anew_with_each(
    run: Path, video: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part moves by 10 mm an image; weight 0.4 of the way is gone at each."""
    seen: list[float] = []

    def found(*_: object, **__: object) -> list[Detection]:
        seen.append(10.0 * len(seen))
        return [Detection("hammer", 0, 0.9, 0.9, np.array([40.0, 40, 60, 60]), np.eye(3), np.array([seen[-1], 0, 900]))]

    monkeypatch.setattr(PoseEstimator, "__call__", found)
    _, lines = predict(run, tmp_path / "out", video, photos / "a.png", "--max-frames", "3", "--smooth")
    assert [line["detections"][0]["t_cam_obj_mm"][0] for line in lines] == [0.0, 4.0, 10.4, 30.0]
    seen.clear()
    _, lines = predict(run, tmp_path / "out", video, "--max-frames", "3")
    assert [line["detections"][0]["t_cam_obj_mm"][0] for line in lines] == [0.0, 10.0, 20.0]


def test_parts_of_a_video_are_tracked_and_each_video_begins_anew(
    run: Path, video: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The part moves by 10 mm an image and is not found in the third one."""
    calls: list[int] = []
    box = np.array([40.0, 40, 60, 60])

    def found(*_: object, **__: object) -> list[Detection]:
        calls.append(len(calls))
        t = np.array([10.0 * (calls[-1] % 4), 0, 900])
        return [] if calls[-1] % 4 == 2 else [Detection("hammer", 0, 0.9, 0.9, box, np.eye(3), t)]

    other = shutil.copy(video, tmp_path / "other.mp4")
    monkeypatch.setattr(PoseEstimator, "__call__", found)
    _, lines = predict(run, tmp_path / "out", video, other, "--max-frames", "4", "--track")
    seen = [(d["track"], d["state"], d["t_cam_obj_mm"][0]) for line in lines for d in line["detections"]]
    assert seen == [(1, "found", 0.0), (1, "found", 10.0), (1, "lost", 20.0), (1, "found", 30.0)] * 2
    calls.clear()
    _, lines = predict(run, tmp_path / "photo", video, photos / "a.png", "--max-frames", "1", "--track")
    assert ["track" in line["detections"][0] for line in lines] == [True, False]


def test_a_webcam_is_ended_by_ctrl_c(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    cv2 = pytest.importorskip("cv2")
    opened, released = [], []

    class Webcam:
        def __init__(self, number: int) -> None:
            opened.append(number)
            self.frames = 0

        def get(self, what: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray]:
            if self.frames == 2:
                raise KeyboardInterrupt
            self.frames += 1
            return True, np.ascontiguousarray(picture(self.frames)[..., ::-1])

        def release(self) -> None:
            released.append(self)

    monkeypatch.setattr(cv2, "VideoCapture", Webcam)
    status, lines = predict(run, tmp_path / "out", "webcam:1")
    monkeypatch.undo()
    assert status == 0
    assert set(opened) == {1}
    assert len(released) == len(opened)
    assert [(line["file"], line["frame"]) for line in lines] == [("webcam-1", 0), ("webcam-1", 1)]
    film = cv2.VideoCapture(str(tmp_path / "out" / "webcam-1.overlay.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert "2 images" in capsys.readouterr().out


def test_frames_become_pngs_where_no_film_can_be_written(
    run: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoWriter", lambda *_: SimpleNamespace(isOpened=lambda: False, release=lambda: None))
    status, _ = predict(run, tmp_path / "out", video, "--max-frames", "2")
    assert status == 0
    frames = sorted((tmp_path / "out" / "clip.overlay").iterdir())
    assert [p.name for p in frames] == ["000000.png", "000001.png"]
    assert Image.open(frames[0]).size == (128, 94)


def test_a_video_that_cannot_be_read_is_skipped(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    status, lines = predict(run, tmp_path / "out", tmp_path / "broken.mp4", photos / "a.png")
    assert status == 1
    assert len(lines) == 1
    assert "broken.mp4 skipped: no frame" in capsys.readouterr().err


def test_a_video_that_breaks_off_is_reported(run: Path, video: Path, tmp_path: Path, capsys) -> None:
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) * 6 // 10])
    status, lines = predict(run, tmp_path / "out", video, "--no-refine")
    assert status == 1
    assert 0 < len(lines) < 6
    assert f"skipped: all after frame {len(lines)} of 6" in capsys.readouterr().err
    assert predict(run, tmp_path / "out", video, "--no-refine", "--max-frames", "1")[0] == 0


def test_a_focal_length_in_mm_is_noticed(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    status, lines = predict(run, tmp_path / "out", photos / "a.png", camera="4.25,4.25,64,48")
    assert (status, lines) == (1, [])
    assert "a.png skipped: fx 4.25 on a photo of 128 x 96 pixels is a field of view of 172" in capsys.readouterr().err


def test_options_that_nothing_uses_are_refused(run: Path, photos: Path, capsys) -> None:
    for words, says in (
        (["--smooth"], "--smooth is for videos"),
        (["--track"], "--track is for videos"),
        (["--max-frames", "3"], "--max-frames is for videos"),
        (["--depth-scale", "1000"], "--depth-scale goes with --depth"),
    ):
        assert main(["predict", str(run), str(photos / "a.png"), "--K", K, *words]) == 1
        assert says in capsys.readouterr().err


def test_refinement_is_an_option(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    refined, refine = [], JudgeRefiner.__call__

    def counting(self: JudgeRefiner, seen: Seen, poses: Poses) -> Poses:
        refined.append(1)
        return refine(self, seen, poses)

    monkeypatch.setattr(JudgeRefiner, "__call__", counting)
    predict(run, tmp_path / "out", photos / "a.png", "--no-refine")
    assert refined == []
    status, lines = predict(run, tmp_path / "out", photos / "a.png", "--refine")
    assert status == 0
    assert 1 <= len(refined) <= 3  # looks
    assert len(lines[0]["detections"]) == 3
    assert "nothing was found" not in capsys.readouterr().out
    words = ["predict", str(run), str(photos / "a.png"), "--K", K, "--out", str(tmp_path / "few"), "--min-judged", "99"]
    assert main(words) == 0
    assert "nothing was found: --min-judged 0 shows poses" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "name a photo"),
        (["nowhere.png"], "nowhere.png does not exist"),
        (["none/*.jpg"], "matches no photo"),
        (["{empty}"], "holds no photo"),
    ],
)
def test_sources_that_do_not_exist_end_in_one_line(
    run: Path, tmp_path: Path, sources: list[str], words: str, capsys
) -> None:
    sources = [s.format(empty=tmp_path) for s in sources]
    assert main(["predict", str(run), *sources, "--K", K]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_without_opencv_a_video_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "cv2", None)
    for source in (str(tmp_path / "clip.mp4"), "webcam"):
        assert main(["predict", str(run), source, "--K", K]) == 1
        assert "pip install opencv-python-headless" in capsys.readouterr().err


def test_what_lies_where_no_part_can_be_is_left_out(run: Path, world: World, photos: Path, tmp_path: Path) -> None:
    """More than a quarter beyond either end of --distance."""
    words = (photos / "a.png", "--no-refine", "--write", "json")
    _, (line,) = predict(run, tmp_path / "all", *words)
    found, center = line["detections"], world.objects[0].offset.numpy()
    away = [float(np.linalg.norm(one["R_cam_obj"] @ center + one["t_cam_obj_mm"])) for one in found]
    between = (min(away) + max(away)) / 2
    assert max(away) > between + 0.01 > min(away) + 0.02
    for name, distance, far in (("far", (between * 1.25, 1e6), True), ("near", (1.0, between / 1.25), False)):
        _, (line,) = predict(run, tmp_path / name, *words, "--distance", *distance)
        assert line["detections"] == [one for one, mm in zip(found, away, strict=True) if (mm > between) == far]


def test_tiles_are_looked_at_and_counted_in_the_photos_pixels(run: Path, tmp_path: Path) -> None:
    """The option arrives; ``tests/estimation/test_resolutions.py`` says what tiles find."""
    large = np.zeros((192, 256, 3), np.uint8)
    large[96:, 128:] = picture(0)
    Image.fromarray(large).save(tmp_path / "large.png")
    status, (whole,) = predict(run, tmp_path / "whole", tmp_path / "large.png")
    assert status == 0
    status, (tiled,) = predict(run, tmp_path / "tiled", tmp_path / "large.png", "--tiles", 2)
    assert status == 0
    boxes = np.array([d["box_xyxy"] for d in tiled["detections"]])
    assert len(boxes) > len(whole["detections"])
    assert (boxes >= -1e-3).all()
    assert (boxes <= 256.001).all(), "the network's square, over the whole photo"
    assert (boxes[:, 2] > 128).any()


def test_no_tiles_are_refused(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(run), str(photos), "--K", K, "--out", str(tmp_path / "out"), "--tiles", "0"]
    assert main(words) == 1
    assert "--tiles must lie between 1" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--tiles", "2"]) == 1
    assert "--tiles goes with --bop" in capsys.readouterr().err


def test_smoothing_knows_the_parts_symmetries(
    run: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported after half a turn at every other frame, a part that looks the same after it stays as it was."""
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned: list[bool] = []

    def found(*_: object, **__: object) -> list[Detection]:
        turned.append(not turned or not turned[-1])
        R = turn[:3, :3] if turned[-1] else np.eye(3)
        return [Detection("hammer", 0, 0.9, 0.9, np.array([40.0, 40, 60, 60]), R, np.array([0.0, 0, 900]))]

    monkeypatch.setattr(PoseEstimator, "__call__", found)
    monkeypatch.setattr(ObjectModel, "cad_symmetries", Symmetries(turn[None]))
    _, lines = predict(run, tmp_path / "out", video, "--max-frames", "4", "--smooth")
    rotations = np.array([line["detections"][0]["R_cam_obj"] for line in lines])
    assert np.abs(rotations - rotations[0]).max() < 1e-6


def test_compile_reaches_the_networks(run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        "codepose.estimation.loading.compile_convolutions", lambda network: compiled.append(type(network).__name__)
    )
    assert predict(run, tmp_path / "out", photos / "a.png")[0] == 0
    assert compiled == []
    assert predict(run, tmp_path / "out", photos / "a.png", "--compile")[0] == 0
    assert compiled == ["JointNetwork"]
