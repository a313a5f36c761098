"""Odd photos and videos among good ones: each is read as it is meant or named, and none ends a batch."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codepose.cli.main import main
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.predict.overlay import Overlay
from codepose.predict.sources import Photo, SourceError, Video, breaks_off, find_sources
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.synthesis.world import World

K = "75,75,63.5,47.5"
COLOR = np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8)


@pytest.fixture
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The photos that the estimator is called with; it finds nothing in them."""
    seen: list[np.ndarray] = []

    def found(self: PoseEstimator, image: np.ndarray, *_: object, **__: object) -> list[Detection]:
        seen.append(image)
        return []

    monkeypatch.setattr(PoseEstimator, "__call__", found)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in "ay":
        Image.fromarray(COLOR).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def predict(run: Run, out: Path, *words: object, camera: str = K) -> tuple[int, list[str]]:
    """The exit status and the files of predictions.jsonl."""
    status = main(["predict", str(run.path), *map(str, words), "--K", camera, "--out", str(out), "--no-refine"])
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return status, [json.loads(line)["file"] for line in lines]


def test_names_that_are_no_text_are_names(random_run: Run, folder: Path, tmp_path: Path, nothing_found) -> None:
    """As an old camera or a foreign disk has them; the terminal takes UTF-8 only."""
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    Image.fromarray(COLOR).save(odd)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    before, sys.stdout = sys.stdout, out
    try:
        status, files = predict(random_run, tmp_path / "out", folder)
    finally:
        sys.stdout = before
    assert status == 0
    assert files == [str(folder / "a.png"), odd, str(folder / "y.png")]
    assert (tmp_path / "out" / os.fsdecode(b"caf\xe9.json")).exists()
    out.flush()
    assert b"caf\\udce9.png: nothing found" in out.buffer.getvalue()  # type: ignore[attr-defined]


def test_long_names_are_shortened(random_run: Run, folder: Path, tmp_path: Path, nothing_found) -> None:
    for end in "bc":
        Image.fromarray(COLOR).save(folder / ("x" * 250 + f"{end}.png")[-255:])
    assert predict(random_run, tmp_path / "out", folder)[0] == 0
    assert len(list((tmp_path / "out").glob("x*.json"))) == 2


def test_photos_that_cannot_be_read_are_named_and_the_others_done(
    random_run: Run, folder: Path, tmp_path: Path, nothing_found, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (folder / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "c.dng").write_bytes(b"II*\0" + bytes(40))
    (folder / "d.jpg").write_bytes(b"%!PS-Adobe")
    (folder / "e.JPG").write_bytes(b"")
    status, files = predict(random_run, tmp_path / "out", folder)
    assert status == 1
    assert files == [str(folder / "a.png"), str(folder / "y.png")]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" skipped: ")[0] for line in lines] == [
        f"codepose predict: {folder / name}" for name in ("b.heic", "c.dng", "d.jpg", "e.JPG")
    ]
    assert "pip install pillow-heif" in lines[0]
    assert "it is a PostScript file" in lines[2]


def test_a_folder_of_heic_photos_holds_photos(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"")
    assert find_sources([str(tmp_path)]) == [Photo(tmp_path / "a.HEIC")]


def test_warnings_are_one_line(random_run: Run, tmp_path: Path, nothing_found) -> None:
    """In a process of its own: pytest keeps warnings for itself."""
    frames = [Image.new("RGB", (128, 96), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code = f"""
from pathlib import Path
from codepose.cli import main as cli
cli._speak_plainly()
from codepose.cameras.photos import read_image
read_image(Path({str(tmp_path / "a.gif")!r}))
import warnings
warnings.warn_explicit("a name with a\\nin it", UserWarning, cli.__file__, 1)
warnings.warn("another's")
"""
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100).stderr
    assert words.startswith(
        f"codepose: {tmp_path / 'a.gif'}: it holds 2 pictures of 128 x 96: the first is taken\n"
        "codepose: a name with a\\nin it\n<string>:9: UserWarning"
    )


def test_a_principal_point_outside_the_photo_is_worth_a_word(
    random_run: Run, folder: Path, tmp_path: Path, nothing_found, capsys
) -> None:
    assert predict(random_run, tmp_path / "out", folder / "a.png", camera="300,300,320,47.5")[0] == 0
    assert "the principal point 320, 48 lies outside the photo; is K that of photos of" in capsys.readouterr().out
    assert predict(random_run, tmp_path / "out", folder / "a.png")[0] == 0
    assert "lies outside" not in capsys.readouterr().out


def test_large_photos_get_smaller_overlays(world: World) -> None:
    """Drawn at half the size, the box and the part lie where they lie in the photo."""
    t = np.array([0.0, 0.0, 900.0])
    found = Detection("hammer", 0, 0.9, 0.9, np.array([1000.0, 700, 2000, 1100]), np.eye(3), t)
    camera = np.array([[3000.0, 0, 1500], [0, 3000, 800], [0, 0, 1]])
    large = Overlay(world)(np.zeros((1600, 3000, 3), np.uint8), camera, [found])
    assert large.shape == (800, 1500, 3)
    half = camera * [[0.5], [0.5], [1]] - [[0, 0, 0.25], [0, 0, 0.25], [0, 0, 0]]
    small = Detection("hammer", 0, 0.9, 0.9, found.box / 2, np.eye(3), t)
    np.testing.assert_array_equal(large, Overlay(world)(np.zeros((800, 1500, 3), np.uint8), half, [small]))
    assert Overlay(world)(np.zeros((90, 2560, 3), np.uint8), camera, []).shape == (90, 2560, 3)


@pytest.mark.parametrize("suffix", ["MTS", "m2ts", "3gp", "ts", "flv", "mxf", "VOB", "mkv"])
def test_videos_by_their_suffixes(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(b"")
    assert find_sources([str(path)]) == [Video(path)]


def written(path: Path, frames: int = 6, codec: str = "MJPG") -> Path:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(os.fsencode(path), cv2.VideoWriter_fourcc(*codec), 10, (128, 96))
    for step in range(frames):
        writer.write(np.roll(COLOR, step, 1))
    writer.release()
    return path


def shown(path: Path) -> int:
    return sum(1 for _ in Video(path).images())


def test_a_video_whose_header_says_more_is_played_to_its_end(tmp_path: Path) -> None:
    path = written(tmp_path / "a.avi")
    content = bytearray(path.read_bytes())
    for name, place in ((b"avih", 16 + 8), (b"strh", 32 + 8)):  # dwTotalFrames, dwLength
        at = content.index(name) + place
        assert struct.unpack_from("<I", content, at) == (6,)
        struct.pack_into("<I", content, at, 60)
    path.write_bytes(content)
    assert Video(path).count == 60
    assert shown(path) == 6


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.mp4", "mp4v"), ("a.mov", "mp4v")]
)
def test_a_file_that_ends_before_its_container_does_breaks_off(tmp_path: Path, name: str, codec: str) -> None:
    path = written(tmp_path / name, codec=codec)
    content = path.read_bytes()
    assert not breaks_off(path)
    assert shown(path) == 6
    path.write_bytes(content + b"junk")
    assert not breaks_off(path)
    path.write_bytes(content[:-20])
    assert breaks_off(path)
    if name in ("a.avi", "a.mkv"):  # what OpenCV writes as MP4 has its table of contents at the end
        path.write_bytes(content[: len(content) * 6 // 10])
        with pytest.raises(SourceError, match=r"all after frame [2345]( of 6)?: the file breaks off there"):
            shown(path)


def test_containers_of_unknown_length_do_not_break_off(tmp_path: Path) -> None:
    """As they are written while something is recorded."""
    header = b"\x1aE\xdf\xa3\x84abcd\x18S\x80g"
    for name, content, cut in (
        ("unknown.mkv", header + b"\x01" + b"\xff" * 7 + bytes(30), False),
        ("short.mkv", header + b"\xff" + bytes(30), False),
        ("whole.mkv", header + b"\x9e" + bytes(30), False),
        ("cut.mkv", header + b"\x9e" + bytes(29), True),
        ("long.mkv", header + b"\x40\x7f" + bytes(126), True),
        ("to_the_end.mp4", b"\0\0\0\x08ftyp" + b"\0\0\0\0mdat" + bytes(9), False),
        ("wide.mp4", b"\0\0\0\x08ftyp" + b"\0\0\0\1mdat" + struct.pack(">Q", 26) + bytes(10), False),
        ("wide_cut.mp4", b"\0\0\0\x08ftyp" + b"\0\0\0\1mdat" + struct.pack(">Q", 27) + bytes(10), True),
        ("whole.avi", b"RIFF\x0a\0\0\0AVI " + bytes(6), False),
        ("cut.avi", b"RIFF\x0a\0\0\0AVI " + bytes(5), True),
        ("stream.ts", b"G" * 188, False),
        ("empty.avi", b"", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert breaks_off(tmp_path / name) == cut, name


def test_a_videos_name_may_be_no_text(tmp_path: Path) -> None:
    """OpenCV ends the process where it gets such a name as text."""
    path = written(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avi")))
    assert shown(path) == 6
    assert Video(path).rate == 10.0


@pytest.mark.parametrize(("said", "rate"), [(90_000.0, 30.0), (0.001, 30.0), (float("nan"), 30.0), (29.97, 29.97)])
def test_a_rate_that_no_camera_has_is_not_taken(said: float, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")

    class Capture:
        def __init__(self, _: object) -> None: ...
        def get(self, _: int) -> float:
            return said

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    assert Video(Path("a.ts")).rate == rate


def test_what_opencv_cannot_go_on_with_is_a_damaged_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")

    class Capture:
        def __init__(self, _: object) -> None: ...
        def read(self) -> tuple[bool, np.ndarray]:
            raise cv2.error("Insufficient memory")

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with pytest.raises(SourceError, match="it is damaged"):
        shown(tmp_path / "a.ts")


class Frames:
    """OpenCV's reader of a video of so many grey frames, which says that it has others."""

    def __init__(self, frames: int, said: float) -> None:
        self.left, self.said, self.released = frames, said, 0

    def __call__(self, name: object) -> Frames:
        return self

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.array([[[1, 2, 3]]], np.uint8)) if self.left >= 0 else (False, None)

    def get(self, name: object) -> float:
        return self.said

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize(("said", "words"), [(6.0, "3 of 6: "), (3.0, "3: "), (-1.0, "3: "), (float("nan"), "3: ")])
def test_a_video_that_breaks_off_says_how_far_it_went(
    said: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2, frames = pytest.importorskip("cv2"), Frames(3, said)
    monkeypatch.setattr(cv2, "VideoCapture", frames)
    monkeypatch.setattr("codepose.predict.sources.breaks_off", lambda path: True)
    shown = []
    with pytest.raises(SourceError, match=f"^all after frame {words}the file breaks off there$"):
        shown.extend(Video(tmp_path / "a.ts").images())
    images = Video(tmp_path / "a.ts").images()
    frames.left, before = 3, frames.released
    assert next(images).tolist() == [[[3, 2, 1]]], "red first"
    images.close()  # type: ignore[attr-defined]
    assert frames.released == before + 1


def test_a_video_that_does_not_know_its_length_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    for said, count in ((6.0, 6), (0.0, None), (-1.0, None)):
        monkeypatch.setattr(cv2, "VideoCapture", Frames(0, said))
        assert Video(tmp_path / "a.ts").count == count
    assert Video(3).count is None
    assert Video(3).live
    assert Video(3).name == "webcam-3"
    assert not Video(tmp_path / "a.ts").live


def test_sources_are_found_once_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden files, texts and overlays from before are none."""
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    names = [f"photos/{letter}.png" for letter in "gbfaecdh"]
    for name in (*names, "photos/B.JPG", "photos/.z.png", "photos/a.overlay.png", "photos/a.txt", "photos/deep/x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    Path("photos/clip.avi").write_bytes(b"")
    photos = [Photo(Path(name)) for name in ("photos/B.JPG", *sorted(names))]
    assert find_sources(["photos"]) == photos
    assert find_sources(["photos/*"]) == [*photos[:4], Video(Path("photos/clip.avi")), *photos[4:]]
    assert find_sources(["photos/**/*.png"]) == [*photos[1:5], Photo(Path("photos/deep/x.png")), *photos[5:]]
    assert find_sources([names[0], "photos/a.png", names[0]]) == [Photo(Path(names[0])), Photo(Path("photos/a.png"))]


def test_webcams_have_numbers_unless_a_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    assert find_sources(["webcam", "webcam:2"]) == [Video(0), Video(2)]
    Path("webcam").write_bytes(b"")
    assert find_sources(["webcam"]) == [Photo(Path("webcam"))]


def test_nothing_is_named_as_what_it_is(tmp_path: Path) -> None:
    for texts, words in (
        ([], "name a photo"),
        ([str(tmp_path)], "holds no photo"),
        ([str(tmp_path / "*.png")], "matches no photo and no video"),
        ([str(tmp_path / "a.png")], "does not exist"),
    ):
        with pytest.raises(ConfigError, match=words):
            find_sources(texts)
