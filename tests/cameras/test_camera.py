"""Cameras: every file format, other sizes, lens distortion against a plain twin and against OpenCV."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from codepose.cameras.camera import Camera, FieldOfView, read_camera, require_lens
from codepose.cameras.camera_entries import CameraError

K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
LENS = (-0.25, 0.08, 0.001, -0.002, 0.01)

OPENCV = """%YAML:1.0
---
calibration_time: "Sun 22 Nov 2026"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 5.0000000000000000e+02, 0., 320., 0., 510., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ -0.25, 8.0e-02, 1.0e-03, -2.0e-03, 1e-2 ]
"""
ROS_FILE = """image_width: 640
image_height: 480
camera_name: head
camera_matrix:
  rows: 3
  cols: 3
  data: [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.25, 0.08, 0.001, -0.002, 0.01]
projection_matrix:
  rows: 3
  cols: 4
  data: [400.0, 0.0, 300.0, 0.0, 0.0, 400.0, 200.0, 0.0, 0.0, 0.0, 1.0, 0.0]
"""
ROS_MESSAGE = """header:
  seq: 7
  frame_id: "camera"
height: 480
width: 640
distortion_model: "plumb_bob"
D: [-0.25, 0.08, 0.001, -0.002, 0.01]
K: [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
R: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
P: [400.0, 0.0, 300.0, 0.0, 0.0, 400.0, 200.0, 0.0, 0.0, 0.0, 1.0, 0.0]
---
"""
BOP = json.dumps({"cx": 320, "cy": 240, "depth_scale": 1.0, "fx": 500, "fy": 510, "height": 480, "width": 640})


def written(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def rows(*values: float) -> list[list[float]]:
    return np.array(values).reshape(3, 3).tolist()


@pytest.mark.parametrize(
    ("name", "content", "size", "lens"),
    [
        ("camera.json", BOP, (640, 480), ()),
        ("camera.json", json.dumps({"K": K.tolist()}), (None, None), ()),
        ("camera.json", json.dumps({"K": K.flatten().tolist(), "distortion": LENS}), (None, None), LENS),
        ("camera.json", json.dumps({"cam_K": K.flatten().tolist(), "distortion": None}), (None, None), ()),
        ("opencv.yml", OPENCV, (640, 480), LENS),
        ("ros.yaml", ROS_FILE, (640, 480), LENS),
        ("ros.yaml", ROS_MESSAGE, (640, 480), LENS),
        ("ros2.yaml", ROS_MESSAGE.replace("D:", "d:").replace("K:", "k:"), (640, 480), LENS),
        ("cameras.txt", "# a comment\n1 PINHOLE 640 480 500 510 320.5 240.5\n", (640, 480), ()),
        (
            "cameras.txt",
            "1 OPENCV 640 480 500 510 320.5 240.5 -0.25 0.08 0.001 -0.002\n",
            (640, 480),
            (*LENS[:4], 0.0, 0.0, 0.0, 0.0),
        ),
    ],
)
def test_every_format_gives_the_same_camera(
    tmp_path: Path, name: str, content: str, size: tuple[int | None, int | None], lens: tuple[float, ...]
) -> None:
    camera = read_camera(written(tmp_path, name, content))
    assert isinstance(camera, Camera)
    np.testing.assert_array_equal(camera.K, K)
    assert (camera.width, camera.height) == size
    assert camera.distortion == lens


@pytest.mark.parametrize("name", ["dist", "dist_coeff", "distCoeffs", "distortion_coeffs", "D", "coeffs"])
def test_lens_coefficients_have_many_names(tmp_path: Path, name: str) -> None:
    content = json.dumps({"camera_matrix": K.tolist(), name: [list(LENS)]})
    camera = read_camera(written(tmp_path, "camera.json", content))
    assert isinstance(camera, Camera)
    assert camera.distortion == LENS


def test_lens_coefficients_one_by_one(tmp_path: Path) -> None:
    content = json.dumps({"fx": 500, "fy": 510, "cx": 320, "cy": 240, "k1": -0.3, "p2": 0.01, "k3": 0.2})
    camera = read_camera(written(tmp_path, "camera.json", content))
    assert isinstance(camera, Camera)
    assert camera.distortion == (-0.3, 0.0, 0.0, 0.01, 0.2, 0.0, 0.0, 0.0)
    plain = read_camera(written(tmp_path, "plain.json", json.dumps({"K": K.tolist(), "k1": 0.0, "distortion": None})))
    assert isinstance(plain, Camera)
    assert plain.distortion == ()


def test_colmaps_simple_models_share_one_focal_length(tmp_path: Path) -> None:
    for model, parameters, lens in (
        ("SIMPLE_PINHOLE", "500 320.5 240.5", ()),
        ("SIMPLE_RADIAL", "500 320.5 240.5 0.1", (0.1, 0, 0, 0, 0, 0, 0, 0)),
        ("RADIAL", "500 320.5 240.5 0.1 -0.2", (0.1, -0.2, 0, 0, 0, 0, 0, 0)),
    ):
        camera = read_camera(written(tmp_path, "cameras.txt", f"3 {model} 640 480 {parameters}\n"))
        assert isinstance(camera, Camera)
        np.testing.assert_array_equal(camera.K, rows(500, 0, 320, 0, 500, 240, 0, 0, 1))
        assert camera.distortion == lens


def test_opencvs_own_file_is_read(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / "calibration.yml")
    file = cv2.FileStorage(path, cv2.FILE_STORAGE_WRITE)
    for name, value in (("image_width", 640), ("image_height", 480), ("camera_matrix", K)):
        file.write(name, value)
    file.write("distortion_coefficients", np.array([LENS]))
    file.release()
    camera = read_camera(path)
    assert isinstance(camera, Camera)
    np.testing.assert_array_equal(camera.K, K)
    assert camera.distortion == LENS
    assert (camera.width, camera.height) == (640, 480)


def test_numbers_and_fields_of_view() -> None:
    camera = read_camera("500, 510,320,240")
    assert isinstance(camera, Camera)
    np.testing.assert_array_equal(camera.K, K)
    wide = read_camera("fov=90").for_size(640, 480)
    np.testing.assert_allclose(wide.K, rows(320, 0, 319.5, 0, 320, 239.5, 0, 0, 1))
    assert (wide.width, wide.height) == (640, 480)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("camera.json", "{}", "fx, fy, cx, cy, or a 3 x 3 matrix"),
        ("camera.json", "[1, 2]", "fx, fy, cx, cy, or a 3 x 3 matrix"),
        ("camera.json", "{", "not valid JSON"),
        ("camera.json", '{"K": [1, 2, 3]}', "3 x 3 numbers"),
        ("camera.json", '{"K": "500"}', "list of numbers"),
        ("camera.json", '{"fx": "wide", "fy": 1, "cx": 0, "cy": 0}', "fx must be a number"),
        ("camera.json", json.dumps({"K": K.tolist(), "distortion": [0.1, 0.2]}), "4, 5, 8, 12 or 14"),
        ("camera.json", json.dumps({"K": K.tolist(), "width": 640}), "width and its height"),
        (
            "camera.json",
            json.dumps({"K": K.tolist(), "distortionTable": [0.1]}),
            "'distortiontable', which is unknown",
        ),
        ("camera.json", json.dumps({"K": K.tolist(), "radial_distortion": [-0.3, 0.1]}), "'radialdistortion', which"),
        ("camera.json", json.dumps({"K": K.tolist(), "camera_model": "OPENCV_FISHEYE", "k1": 0.1}), "OPENCV_FISHEYE"),
        ("camera.json", json.dumps({"K": K.tolist(), "model": "fisheye", "dist": [0.1, 0, 0, 0]}), "photos first"),
        ("camera.json", json.dumps({"K": K.tolist(), "projection_type": "fisheye"}), "photos first"),
        (
            "camera.json",
            json.dumps({"K": K.tolist(), "model": "distortion.inverse_brown_conrady", "coeffs": [0.1, 0, 0, 0, 0]}),
            "photos first",
        ),
        ("camera.yaml", "{camera_model: kannala_brandt4, fx: 9, fy: 9, cx: 4, cy: 4}", "photos first"),
        ("camera.json", json.dumps({"K": (-K).tolist()}), "fx, fy > 0"),
        ("camera.json", json.dumps({"K": [[500, 9, 320], [0, 510, 240], [0, 0, 1]]}), "no skew"),
        ("camera.yaml", "a: [", "not valid YAML"),
        ("camera.yaml", ROS_FILE.replace("plumb_bob", "equidistant"), "undistort the photos first"),
        ("cameras.txt", "1 OPENCV_FISHEYE 640 480 500 510 320 240 0 0 0 0", "undistort the photos first"),
        ("cameras.txt", "1 PINHOLE 640 480 500 320 240", "fx, fy, cx, cy"),
        ("cameras.txt", "1 PINHOLE 9 9 5 5 4 4\n2 PINHOLE 9 9 6 6 4 4\n", "one camera, not 2"),
    ],
)
def test_files_that_are_no_camera_are_named_with_the_reason(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    with pytest.raises(CameraError, match=words) as caught:
        read_camera(written(tmp_path, name, content))
    assert name in str(caught.value)


def test_realsenses_names_are_read(tmp_path: Path) -> None:
    values = {"fx": 500, "fy": 510, "cx": 320, "cy": 240, "model": "distortion.brown_conrady", "coeffs": list(LENS)}
    camera = read_camera(written(tmp_path, "camera.json", json.dumps(values)))
    assert isinstance(camera, Camera)
    assert camera.distortion == LENS


@pytest.mark.parametrize(
    "values",
    [
        {"model": "Intel RealSense D435", "distance_to_table": 700, "radial_distortion": [0, 0]},
        {"model": "distortion.inverse_brown_conrady", "coeffs": [0, 0, 0, 0, 0]},
        {"model": "OmniVision OV9281", "lens_model": "Meike 12mm", "camera_model": "Basler acA2440"},
        {"camera_model": "SIMPLE_RADIAL", "distortion_model": "rectified"},
        {"undistorted": True, "distorted": True, "min_dist": 0.3, "disk1": 3},
        {"radial_distortion": [[0], [0, 0]]},
    ],
)
def test_what_says_nothing_of_the_lens_is_no_lens(tmp_path: Path, values: dict[str, object]) -> None:
    camera = read_camera(written(tmp_path, "camera.json", json.dumps({"K": K.tolist()} | values)))
    assert isinstance(camera, Camera)
    assert camera.distortion == ()


def test_opencvs_arrays_are_taken_as_they_are() -> None:
    """(1, 5), as ``cv2.calibrateCamera`` returns them, and a skew of rounding."""
    skewed = K + np.array([[0, 1e-12, 0], [0, 0, 0], [0, 0, 0]])
    camera = Camera(skewed, distortion=np.array([[-0.2, 0.1, 0.0, 0.0, 0.3]]))  # type: ignore[arg-type]
    assert camera.distortion == (-0.2, 0.1, 0.0, 0.0, 0.3)
    np.testing.assert_array_equal(camera.K, K)
    assert Camera(K, distortion=np.zeros(5)).distortion == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "1,2,3", "photo", "fov=wide", "1,2,3,x"])
def test_what_is_no_camera_is_answered_by_what_to_type(text: str) -> None:
    with pytest.raises(CameraError, match=r"--K fx,fy,cx,cy .* fov=60 .* camera\.json"):
        read_camera(text)


def test_impossible_values_and_missing_files_are_refused() -> None:
    with pytest.raises(CameraError, match="between 0 and 150 degrees"):
        read_camera("fov=160")
    with pytest.raises(CameraError, match="fx, fy > 0"):
        read_camera("0,510,320,240")
    with pytest.raises(CameraError, match=r"nowhere\.json: it cannot be read"):
        read_camera("nowhere.json")
    with pytest.raises(CameraError, match="not finite"):
        Camera(K, distortion=(float("nan"), 0.0, 0.0, 0.0))


DEEP = 100_000


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"fx": 600, "fy": 600, "cx": 320, "cy": 240, "width": NaN, "height": 480}', "number of pixels"),
        ("a.json", '{"fx": 600, "fy": 600, "cx": 320, "cy": 240, "width": 1e999, "height": 480}', "number of pixels"),
        ("a.json", '{"fx": 600, "fy": 600, "cx": 320, "cy": 240, "width": -640, "height": 480}', "number of pixels"),
        ("a.json", '{"fx": 600, "fy": 600, "cx": 320, "cy": 240, "width": 640.5, "height": 480}', "number of pixels"),
        ("a.json", '{"fx": true, "fy": 600, "cx": 320, "cy": 240}', "fx must be a number"),
        ("a.json", "[" * DEEP, "not valid JSON"),
        ("a.yaml", "date: 2026-02-30", "not valid YAML"),
        ("a.yaml", "[" * DEEP, "not valid YAML"),
        ("a.txt", "1 PINHOLE 640 nan 600 600 320 240", "number of pixels"),
    ],
)
def test_damaged_calibrations_are_told_in_words(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CameraError, match=words):
        read_camera(str(tmp_path / name))


def photo_K(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


@pytest.mark.parametrize(
    ("K", "words"),
    [
        (photo_K(4, 4, 320, 240), "fx 4 on a photo of 640 x 480 pixels is a field of view of 179 degrees"),
        (photo_K(500, 4, 320, 240), "fy 4 on a photo"),
        (photo_K(1e6, 1e6, 320, 240), r"fx 1e\+06 on a photo of 640 x 480 pixels is a field of view of 0.0367 degrees"),
        (photo_K(500, 500, 1e4, 240), "cx 10000 with fx 500 on a photo of 640 x 480 pixels: its edge would be seen 87"),
        (photo_K(500, 500, 320, -1e4), "cy -10000 with fy 500"),
    ],
)
def test_cameras_that_no_photo_can_be_of(K: np.ndarray, words: str) -> None:
    with pytest.raises(CameraError, match=words):
        require_lens(K, 640, 480)


def test_cameras_that_photos_may_be_of() -> None:
    require_lens(photo_K(90, 90, 320, 240), 640, 480)  # 148 degrees
    require_lens(photo_K(7e5, 7e5, 320, 240), 640, 480)
    require_lens(photo_K(500, 500, -1000, 2000), 640, 480)  # a corner cut out of a larger photo
    require_lens(photo_K(500, 500, 320, 0), 640, 1)


def test_scaling_moves_points_as_resizing_an_image_does() -> None:
    """Resizing takes the corner-based coordinate u + 0.5 to (u + 0.5) * factor."""
    camera = Camera(K, 640, 480, LENS)
    assert camera.for_size(640, 480) is camera
    point = np.array([0.3, -0.2, 1.0])
    before = (camera.K @ point)[:2]
    for width, height in ((320, 240), (1280, 960), (427, 320), (100, 75)):
        scaled = camera.for_size(width, height)
        factor = np.array([width / 640, height / 480])
        np.testing.assert_allclose((scaled.K @ point)[:2] + 0.5, (before + 0.5) * factor)
        assert (scaled.width, scaled.height, scaled.distortion) == (width, height, LENS)
    unknown = Camera(K).for_size(300, 200)
    np.testing.assert_array_equal(unknown.K, K)
    assert (unknown.width, unknown.height) == (300, 200)


def test_a_photo_of_another_shape_is_refused_in_words() -> None:
    camera = Camera(K, 1920, 1080)
    with pytest.raises(CameraError, match=r"factors 0\.75 across and 1 down") as caught:
        camera.for_size(1440, 1080)
    assert "--K fx,fy,cx,cy" in str(caught.value)
    with pytest.raises(CameraError, match=r"before its EXIF rotation .* for 540 x 960"):
        camera.for_size(540, 960)


def distorted(points: np.ndarray, K: np.ndarray, lens: tuple[float, ...]) -> np.ndarray:
    """Brown's model, point by point."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*lens, *(0.0,) * (8 - len(lens)))
    seen = []
    for u, v in points:
        x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        r2 = x * x + y * y
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        seen.append((K[0, 0] * xd + K[0, 2], K[1, 1] * yd + K[1, 2]))
    return np.array(seen)


@pytest.mark.parametrize("lens", [LENS, (0.2, -0.05, 0.0, 0.003), (0.4, 0.1, 0.001, 0.001, 0.01, 0.3, 0.02, 0.01)])
def test_undistortion_brings_distorted_points_home(lens: tuple[float, ...]) -> None:
    """A photo of dots where the lens puts them: undistorted, they lie where the pinhole puts them."""
    matrix = np.array([[260.0, 0, 163], [0, 255, 118], [0, 0, 1]])
    camera = Camera(matrix, 320, 240, lens)
    points = np.array([(60.0, 50.0), (160.0, 120.0), (270.0, 60.0), (80.0, 190.0), (250.0, 180.0)])
    seen = distorted(points, matrix, lens)
    assert np.abs(seen - points).max() > 2.0, "the lens must do something"
    v, u = np.mgrid[:240, :320]
    photo = np.zeros((240, 320))
    for x, y in seen:
        photo += 250 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 2.5**2))
    straight = camera.undistort(np.repeat(photo.round().astype(np.uint8)[..., None], 3, axis=2))
    assert straight.dtype == np.uint8
    assert straight.shape == (240, 320, 3)
    for x, y in points:
        near = straight[..., 1] * (np.hypot(u - x, v - y) < 9)
        centre = np.array([(near * u).sum(), (near * v).sum()]) / near.sum()
        np.testing.assert_allclose(centre, (x, y), atol=0.15)


def test_undistortion_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    photo = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
    matrix = np.array([[260.0, 0, 163], [0, 255, 118], [0, 0, 1]])
    ours = Camera(matrix, distortion=LENS).undistort(photo)
    theirs = cv2.undistort(photo, matrix, np.array(LENS))
    # OpenCV rounds the places it looks at to 1/32 pixel
    assert np.abs(ours.astype(int) - theirs).max() <= 4


def test_without_distortion_the_photo_stays_itself() -> None:
    photo = np.zeros((48, 64, 3), np.uint8)
    assert Camera(K, distortion=(0.0, 0.0, 0.0, 0.0, 0.0)).distortion == ()
    assert Camera(K).undistort(photo) is photo
    assert FieldOfView(60.0).for_size(64, 48).undistort(photo) is photo
    with pytest.raises(CameraError, match="for_size"):
        Camera(K, 640, 480, LENS).undistort(photo)


def test_depth_is_undistorted_to_the_nearest_pixel() -> None:
    """Against OpenCV's map, rounded: each value is one that was measured, none a mean across an edge."""
    cv2 = pytest.importorskip("cv2")
    depth = np.random.default_rng(0).uniform(500.0, 900.0, (480, 640)).astype(np.float32)
    straight = Camera(K, 640, 480, LENS).undistort_depth(depth)
    x, y = cv2.initUndistortRectifyMap(K, np.array(LENS), None, K, (640, 480), cv2.CV_32FC1)
    twin = cv2.remap(depth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    assert np.isin(straight, np.append(depth, 0.0)).all()
    assert (straight == twin).mean() > 0.995, "all but ties between two pixels"
    assert Camera(K).undistort_depth(depth) is depth
    with pytest.raises(CameraError, match="use for_size"):
        Camera(K, 320, 240, LENS).undistort_depth(depth)
