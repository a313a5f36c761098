"""Calibration files as other programs write them: each is read as it is meant, or named as not read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from codepose.cameras.camera import Camera, read_camera
from codepose.cameras.camera_entries import CameraError

LENS = (-0.25, 0.08, 0.001, -0.002, 0.01)
PINHOLE = {"fx": 500.0, "fy": 510.0, "cx": 320.0, "cy": 240.0}
INFO = """height: 960
width: 1280
distortion_model: plumb_bob
d: [0.0, 0.0, 0.0, 0.0, 0.0]
k: [1000.0, 0.0, 639.5, 0.0, 1000.0, 479.5, 0.0, 0.0, 1.0]
"""


def read(folder: Path, name: str, content: str | bytes | object) -> Camera:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    camera = read_camera(str(folder / name))
    assert isinstance(camera, Camera)
    return camera


def four(camera: Camera) -> list[float]:
    K = camera.K
    return [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]


@pytest.mark.parametrize(
    ("more", "size", "expected"),
    [
        ("", (1280, 960), [1000, 1000, 639.5, 479.5]),
        ("binning_x: 0\nbinning_y: 0\nroi: {x_offset: 0, y_offset: 0, height: 0, width: 0}", (1280, 960), None),
        ("roi: {x_offset: 0, y_offset: 0, height: 960, width: 1280, do_rectify: false}", (1280, 960), None),
        ("roi: {x_offset: 300, y_offset: 200, height: 480, width: 640}", (640, 480), [1000, 1000, 339.5, 279.5]),
        ("roi:\n  x_offset: 300\n  y_offset: 200\n  height: 480\n  width: 640", (640, 480), [1000, 1000, 339.5, 279.5]),
        # the middle of two pixels at 639 and 640 is that of pixels 319 and 320 that show two each
        ("binning_x: 2\nbinning_y: 2", (640, 480), [500, 500, 319.5, 239.5]),
        ("binning_x: 4\nbinning_y: 2", (320, 480), [250, 500, 159.5, 239.5]),
        (
            "binning_x: 2\nbinning_y: 2\nroi: {x_offset: 300, y_offset: 200, height: 480, width: 640}",
            (320, 240),
            [500, 500, (339.5 + 0.5) / 2 - 0.5, (279.5 + 0.5) / 2 - 0.5],
        ),
    ],
)
def test_ros_regions_and_binning_are_applied(
    tmp_path: Path, more: str, size: tuple[int, int], expected: list[float] | None
) -> None:
    """REP 104: K is that of the whole sensor, of which the photos show a region, whose pixels are binned."""
    camera = read(tmp_path, "info.yaml", INFO + more)
    np.testing.assert_allclose(four(camera), expected or [1000, 1000, 639.5, 479.5])
    assert (camera.width, camera.height) == size


def test_the_same_in_json_and_without_sizes(tmp_path: Path) -> None:
    values = {"K": [1000, 0, 639.5, 0, 1000, 479.5, 0, 0, 1], "binning_x": 2, "binning_y": 2}
    assert four(read(tmp_path, "a.json", values)) == [500, 500, 319.5, 239.5]
    region = {"x_offset": 300, "y_offset": 200, "height": 480, "width": 640}
    camera = read(tmp_path, "a.json", values | {"roi": region})
    assert four(camera) == [500, 500, 169.5, 139.5]
    assert (camera.width, camera.height) == (320, 240)


def test_a_photo_of_the_whole_sensor_is_not_taken_for_the_region(tmp_path: Path) -> None:
    camera = read(tmp_path, "a.yaml", INFO + "roi: {x_offset: 320, y_offset: 240, height: 480, width: 640}")
    with pytest.raises(CameraError, match="as the whole sensor has: leave roi out"):
        camera.for_size(1280, 960)
    np.testing.assert_allclose(camera.for_size(320, 240).K[0], [500, 0, 159.5])
    binned = read(tmp_path, "b.yaml", INFO + "binning_x: 2\nbinning_y: 2")
    np.testing.assert_allclose(four(binned.for_size(1280, 960)), [1000, 1000, 639.5, 479.5])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("roi: {x_offset: 900, y_offset: 0, height: 480, width: 640}", "roi reaches beyond the 1280 x 960 pixels"),
        ("roi: {x_offset: 9, y_offset: 0, height: 0, width: 0}", "roi has an offset but no width and height"),
        ("binning_x: -2", "binningx must be a number of pixels"),
        ("roi: {x_offset: half, height: 9, width: 9}", "xoffset must be a number"),
    ],
)
def test_impossible_regions_are_refused(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(CameraError, match=words):
        read(tmp_path, "info.yaml", INFO + more)


@pytest.mark.parametrize(
    "more", ["binning_x: 4\nbinning_y: 4", "roi: {x_offset: 700, y_offset: 500, height: 300, width: 320}"]
)
def test_drivers_whose_k_is_that_of_the_photos_are_told_apart(tmp_path: Path, more: str) -> None:
    """Against REP 104, as some do: applied once more, the focal length would be a quarter."""
    own = INFO.replace("639.5", "159.5").replace("479.5", "119.5")
    with pytest.raises(CameraError, match="seems to be that of the photos: leave both out"):
        read(tmp_path, "info.yaml", own + more)


KALIBR = """cam0:
  cam_overlaps: []
  camera_model: pinhole
  distortion_coeffs: [-0.25, 0.08, 0.001, -0.002]
  distortion_model: radtan
  intrinsics: [500.0, 510.0, 320.0, 240.0]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
"""
XML = """<?xml version="1.0"?>
<opencv_storage>
<calibration_Time>"Sun Nov 22 2026"</calibration_Time>
<image_Width>640</image_Width>
<image_Height>480</image_Height>
<Camera_Matrix type_id="opencv-matrix">
  <rows>3</rows>
  <cols>3</cols>
  <dt>d</dt>
  <data>
    5.0000000000000000e+02 0. 320. 0. 510. 240. 0. 0. 1.</data></Camera_Matrix>
<Distortion_Coefficients type_id="opencv-matrix"><rows>5</rows><cols>1</cols><dt>d</dt>
  <data>-0.25 8e-2 1e-3 -2e-3 0.01</data></Distortion_Coefficients>
</opencv_storage>
"""
VINS = """%YAML:1.0
---
model_type: PINHOLE
image_width: 640
image_height: 480
distortion_parameters: {k1: -0.25, k2: 0.08, p1: 0.001, p2: -0.002}
projection_parameters: {fx: 500.0, fy: 510.0, cx: 320.0, cy: 240.0}
"""
ORB_SLAM = """%YAML:1.0
Camera.type: "PinHole"
Camera.width: 640
Camera.height: 480
Camera.fx: 500.0
Camera.fy: 510.0
Camera.cx: 320.0
Camera.cy: 240.0
Camera.k1: -0.25
Camera.k2: 0.08
Camera.p1: 0.001
Camera.p2: -0.002
"""
FOUR_OF_EIGHT = (*LENS[:4], 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "content", "size", "lens"),
    [
        ("open3d.json", {"width": 640, "height": 480, "intrinsic_matrix": [500, 0, 0, 0, 510, 0, 320, 240, 1]}, 1, ()),
        ("matlab.json", {"IntrinsicMatrix": [[500, 0, 0], [0, 510, 0], [320, 240, 1]]}, 0, ()),
        (
            "realsense.json",
            {"width": 640, "height": 480, "fx": 500, "fy": 510, "ppx": 320, "ppy": 240, "coeffs": [0] * 5}
            | {"model": "distortion.inverse_brown_conrady", "depth_scale": 0.001},
            1,
            (),
        ),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(PINHOLE).encode(), 0, ()),
        ("powershell.json", json.dumps(PINHOLE).encode("utf-16"), 0, ()),
        ("bom.yaml", b"\xef\xbb\xbf%YAML:1.0\r\n---\r\nK: [500, 0, 320, 0, 510, 240, 0, 0, 1]\r\n", 0, ()),
        ("latin1.yaml", "# Kamera für 20 °C\nK: [500, 0, 320, 0, 510, 240, 0, 0, 1]\n".encode("latin-1"), 0, ()),
        ("bom.txt", b"\xef\xbb\xbf1 PINHOLE 640 480 500 510 320.5 240.5\r\n", 1, ()),
        ("storage.xml", XML, 1, LENS),
        ("kalibr.yaml", KALIBR, 1, LENS[:4]),
        ("vins.yaml", VINS, 1, FOUR_OF_EIGHT),
        ("orb_slam.yaml", ORB_SLAM, 1, FOUR_OF_EIGHT),
        (
            "grouped.json",
            {"intrinsics": PINHOLE, "distortion": {"k1": -0.25, "k2": 0.08}},
            0,
            (-0.25, 0.08, *[0.0] * 6),
        ),
        ("cameras.bin", struct.pack("<QIiQQ4d", 1, 1, 1, 640, 480, 500, 510, 320.5, 240.5), 1, ()),
        (
            "cameras.bin",
            struct.pack("<QIiQQ8d", 1, 7, 4, 640, 480, 500, 510, 320.5, 240.5, *LENS[:4]),
            1,
            FOUR_OF_EIGHT,
        ),
        ("K.txt", "5.0e+02 0 3.2e+02\n0 5.1e+02 2.4e+02\n0 0 1\n", 0, ()),
        ("intrinsic_color.txt", "500 0 320 0\n0 510 240 0\n0 0 1 0\n0 0 0 1\n", 0, ()),
        ("numbers.txt", "# fx, fy, cx, cy\n500, 510, 320, 240\n", 0, ()),
    ],
)
def test_formats_of_other_programs_give_the_same_camera(
    tmp_path: Path, name: str, content: object, size: int, lens: tuple[float, ...]
) -> None:
    camera = read(tmp_path, name, content)
    assert four(camera) == [500, 510, 320, 240]
    assert (camera.width, camera.height) == ((640, 480) if size else (None, None))
    assert camera.distortion == lens


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("k.yaml", KALIBR.replace("radtan", "equidistant"), "the lens model 'equidistant' is not supported"),
        ("k.yaml", KALIBR.replace("radtan", "fov"), "the lens model 'fov' is not supported"),
        ("k.yaml", KALIBR.replace("model: pinhole", "model: ds"), "the lens model 'ds' is not supported"),
        ("k.yaml", KALIBR.replace("model: pinhole", "model: eucm"), "the lens model 'eucm' is not supported"),
        ("k.yaml", KALIBR.replace("model: pinhole", "model: omni"), "the lens model 'omni' is not supported"),
        ("k.yaml", KALIBR + KALIBR.replace("cam0", "cam1"), "what lies in cam0, cam1 looks like one: give a file"),
        ("v.yaml", VINS.replace("PINHOLE", "KANNALA_BRANDT"), "the lens model 'KANNALA_BRANDT' is not supported"),
        ("v.yaml", VINS.replace("PINHOLE", "MEI"), "the lens model 'MEI' is not supported"),
        ("n.json", PINHOLE | {"cameraProjectionType": "fisheyePolynomial"}, "'fisheyePolynomial' is not supported"),
        ("n.json", PINHOLE | {"physicalDistortionModel": "kannalaBrandt"}, "'kannalaBrandt' is not supported"),
        ("n.json", PINHOLE | {"model": "ftheta"}, "the lens model 'ftheta' is not supported"),
        ("n.json", PINHOLE | {"fthetaPolyB": 0.002}, "the lens is described by 'fthetapolyb', which is unknown"),
        ("d.json", PINHOLE | {"camera_type": "DoubleSphere"}, "the lens model 'DoubleSphere' is not supported"),
        ("d.json", PINHOLE | {"xi": -0.2, "alpha": 0.6}, "the lens is described by 'xi', which is unknown"),
        ("o.yaml", ORB_SLAM.replace("PinHole", "KannalaBrandt8"), "the lens model 'KannalaBrandt8' is not supported"),
        (
            "c.bin",
            struct.pack("<QIiQQ8d", 1, 1, 5, 640, 480, 500, 510, 320, 240, 0.1, 0, 0, 0),
            "the lens model 'OPENCV_FISHEYE' is not supported: undistort the photos first",
        ),
        ("c.bin", struct.pack("<QIiQQ4d", 1, 1, 99, 640, 480, 500, 510, 320, 240), "number 99 is not supported"),
        ("c.bin", struct.pack("<QIiQQ4d", 2, 1, 1, 640, 480, 500, 510, 320, 240), "one camera, not 2"),
        ("c.bin", struct.pack("<QIiQQ3d", 1, 1, 1, 640, 480, 500, 510, 320), "PINHOLE has 4 parameters"),
        ("c.bin", struct.pack("<QIiQQ4d", 1, 1, 1, 640, 480, 500, 510, 320, 240)[:-3], "it breaks off in a number"),
        ("c.bin", b"\1\0\0", "it ends before its first camera"),
        ("c.bin", b"\1" + bytes(60), "it breaks off in a number"),
        ("m.xml", "<calibration><f>9</f></calibration>", "XML is read as OpenCV's FileStorage writes it"),
        ("m.xml", "<opencv_storage>", "it is not valid XML"),
        ("s.json", {"0": {"cam_K": [1] * 9}, "1": {"cam_K": [1] * 9}}, "what lies in 0, 1 looks like one"),
        ("s.json", {"camera_settings": [{"intrinsic_settings": PINHOLE}]}, "camera_settings.0.intrinsic_settings"),
        ("p.txt", "500 0 320 0\n0 510 240 0\n0 0 1 0\n", "the 3 x 3 of K, not 12 numbers"),
        ("p.txt", "500 0 320 9\n0 510 240 0\n0 0 1 0\n0 0 0 1\n", "the 3 x 3 of K, not 16 numbers"),
        ("camera.ini", "[image]\nwidth\n640\n", r"\.ini is not read: \.json, \.yaml"),
        ("camera", "fx 9", "files without a suffix is not read"),
        ("l.json", b" " * 1_000_001, "it is too large"),
        ("b.json", b"\0\1\2", "it is not text"),
        ("empty.yaml", "", "it must hold fx, fy, cx, cy"),
        ("empty.yaml", "%YAML:1.0\n---\n---\nfx: 500\n", "it must hold fx, fy, cx, cy"),
        ("null.json", "null", "it must hold fx, fy, cx, cy"),
        ("number.json", "500", "it must hold fx, fy, cx, cy"),
        ("f.json", PINHOLE | {"fx": int("9" * 400)}, "fx must be a number, not one of more than forty digits"),
        ("f.json", PINHOLE | {"fx": "9" * 400 + "x"}, r"fx must be a number, not '9{76}\.\.\."),
        ("f.json", PINHOLE | {"width": 10**300, "height": 480}, "width must be a number of pixels, not one of more"),
        ("f.json", PINHOLE | {"fx": 1e39}, r"K holds 1e\+39"),
        ("f.json", PINHOLE | {"cy": 1e20}, r"K holds 1e\+20"),
        ("f.yaml", "a: !!python/object:os.system {}", "it is not valid YAML in line 1"),
        ("f.yaml", "K: !!opencv-matrix 5", "it is not valid YAML"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, name: str, content: object, words: str) -> None:
    with pytest.raises(CameraError, match=words) as caught:
        read(tmp_path, name, content)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["1e39,1e39,320,240", "1e20,1e20,320,240", "500,500,1e20,240", "500,500,320,-1e39"])
def test_absurd_numbers_are_refused_at_once(text: str) -> None:
    with pytest.raises(CameraError, match=r"K holds .*: no camera has more than"):
        read_camera(text)
    with pytest.raises(CameraError, match="is not four numbers") as caught:
        read_camera(text * 1000)
    assert len(str(caught.value)) < 400
