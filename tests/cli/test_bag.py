"""codepose bag: bags of ROS 1 and 2 that are written here, and the bag that comes out read again."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

pytest.importorskip("rosbags", reason="the extra bags is not installed")
from rosbags import rosbag1, rosbag2
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from codepose.cameras.camera import Camera
from codepose.cameras.camera_entries import CameraError
from codepose.cli import bag as module
from codepose.cli.bag import BagError, bag
from codepose.cli.main import main
from codepose.cli.options import Bag
from codepose.estimation.detection import Detection
from codepose.ros.messages import DETECTIONS, TRANSFORMS, ImageError, read_camera_info, read_picture
from codepose.runtime.run import Run
from codepose.synthesis.world import World

K = np.array([[90.0, 0, 32], [0, 91.0, 24], [0, 0, 1]])
LENS = (-0.2, 0.05, 0.001, -0.002, 0.0)
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
R = Rotation.from_euler("xyz", [20, -30, 40], degrees=True).as_matrix()
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)


def header(store: Any, seconds: float, frame: str = "camera_optical") -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](sec=int(seconds), nanosec=round(seconds % 1 * 1e9))
    more = {"seq": 7} if store is ROS1 else {}
    return store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame, **more)


def image(store: Any, seconds: float = 1.5, encoding: str = "rgb8", data: NDArray[Any] = PICTURE, step: int = 0) -> Any:
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1)
    padded = np.pad(rows, ((0, 0), (0, max(0, step - rows.shape[1]))))
    return store.types["sensor_msgs/msg/Image"](
        header(store, seconds), len(data), data.shape[1], encoding, 0, padded.shape[1], padded.reshape(-1)
    )


def compressed(store: Any, seconds: float = 1.5, kind: str = "png") -> Any:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind)
    data = np.frombuffer(stream.getvalue(), np.uint8)
    return store.types["sensor_msgs/msg/CompressedImage"](header(store, seconds), f"rgb8; {kind} compressed bgr8", data)


def info(store: Any, seconds: float = 1.0, matrix: NDArray[Any] = K, lens: tuple[float, ...] = LENS) -> Any:
    names = ("D", "K", "R", "P") if store is ROS1 else ("d", "k", "r", "p")
    P = np.hstack([matrix * [[0.5, 1, 1], [1, 0.5, 1], [1, 1, 1]], np.zeros((3, 1))])
    arrays = dict(zip(names, (np.array(lens), matrix.reshape(-1), np.eye(3).reshape(-1), P.reshape(-1)), strict=True))
    roi = store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return store.types["sensor_msgs/msg/CameraInfo"](
        header=header(store, seconds), height=48, width=64, distortion_model="plumb_bob", binning_x=0, binning_y=0,
        roi=roi, **arrays,
    )  # fmt: skip


Messages = list[tuple[str, int, Any]]


def write(opened: Any, messages: Messages, store: Any, serialize: Callable[[Any, str], Any]) -> None:
    with opened as writer:
        topics: dict[str, Any] = {}
        for topic, time, one in messages:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, one.__msgtype__, typestore=store)
            writer.write(topics[topic], time, serialize(one, one.__msgtype__))


def write_ros1(path: Path, messages: Messages) -> Path:
    write(rosbag1.Writer(path), messages, ROS1, ROS1.serialize_ros1)
    return path


def write_ros2(path: Path, messages: Messages, plugin: str = "MCAP") -> Path:
    opened = rosbag2.Writer(path, version=8, storage_plugin=rosbag2.StoragePlugin[plugin])
    write(opened, messages, ROS2, ROS2.serialize_cdr)
    return path


def written(kind: str, folder: Path, make: Callable[[Any], Messages]) -> Path:
    if kind == "ros1":
        return write_ros1(folder / "in.bag", make(ROS1))
    path = write_ros2(folder / "in", make(ROS2), "SQLITE3" if "sqlite" in kind else "MCAP")
    return next(path.glob("*.mcap")) if kind == "one mcap file" else path


def usual(store: Any) -> Messages:
    return [("/info", 10, info(store)), ("/image", 20, image(store)), ("/image", 30, compressed_or_raw(store))]


def compressed_or_raw(store: Any) -> Any:
    return image(store, 2.25, "bgr8", PICTURE[..., ::-1])


class Estimator:
    """Finds two of one object, and keeps what it was shown."""

    confidence: Any = None
    judges = False

    def __init__(self, world: World, confidence: float | None = None) -> None:
        self.world, self.seen = world, list[tuple[NDArray[np.uint8], NDArray[np.float64]]]()
        self.codebooks = [SimpleNamespace(offset=part.offset) for part in world.objects]
        one = Detection(
            label="hammer", object_index=0, score=0.9, similarity=0.5, box=np.zeros(4), R_cam_obj=R,
            t_cam_obj=np.array([10.0, -20.0, 500.0]), agreement=0.0, confidence=confidence,
            reconstruction=np.zeros((3, 8, 8), np.float32), contour=None,
        )  # fmt: skip
        self.found = [one, replace(one, score=0.8, t_cam_obj=np.array([30.0, 0.0, 600.0]))]

    def __call__(self, image: NDArray[np.uint8], camera: NDArray[np.float64], **asked: Any) -> list[Detection]:
        self.seen.append((image, camera))
        self.least = asked["min_score"]
        return self.found


@pytest.fixture
def estimator(monkeypatch: pytest.MonkeyPatch, world: World) -> Estimator:
    stand_in = Estimator(world)
    monkeypatch.setattr(module, "load_estimator", lambda *_: stand_in)
    return stand_in


@pytest.fixture
def asked(tmp_path: Path, random_run: Run) -> Callable[..., Bag]:
    def options(path: Path, **more: Any) -> Bag:
        given = {"image": "/image", "info": "/info", "out": tmp_path / "out.mcap"} | more
        return Bag(path, random_run.path, **given)

    return options


def read(path: Path) -> list[tuple[str, int, Any]]:
    with AnyReader([path]) as reader:
        return [(c.topic, time, reader.deserialize(data, c.msgtype)) for c, time, data in reader.messages()]


@pytest.mark.parametrize("kind", ["ros1", "ros2 mcap", "ros2 sqlite", "one mcap file"])
def test_bags_of_both_kinds(kind: str, tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag]) -> None:
    done, topics = bag(asked(written(kind, tmp_path, usual))), {"/detections": DETECTIONS, "/tf": TRANSFORMS}
    assert done.status == 0
    assert done.value == {"bag": tmp_path / "out.mcap", "topics": topics, "images": 2, "skipped": 0}
    straight = Camera(K, 64, 48, LENS).undistort(PICTURE)
    assert len(estimator.seen) == 2
    for shown, matrix in estimator.seen:
        np.testing.assert_array_equal(shown, straight)
        np.testing.assert_array_equal(matrix, K)
    messages = read(tmp_path / "out.mcap")
    assert [(topic, time) for topic, time, _ in messages] == [
        ("/detections", 20), ("/tf", 20), ("/detections", 30), ("/tf", 30)
    ]  # fmt: skip
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec, m.header.frame_id) for _, _, m in messages[::2]]
    assert stamps == [(1, 500_000_000, "camera_optical"), (2, 250_000_000, "camera_optical")]


def test_what_the_messages_hold(tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag]) -> None:
    bag(asked(written("ros1", tmp_path, usual)))
    (_, _, array), (_, _, tf) = read(tmp_path / "out.mcap")[:2]
    first, second = array.detections
    (result,) = first.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("hammer", 0.9)
    assert second.results[0].hypothesis.score == 0.8
    assert first.header == array.header
    place, turn = result.pose.pose.position, result.pose.pose.orientation
    np.testing.assert_allclose([place.x, place.y, place.z], [0.01, -0.02, 0.5])
    np.testing.assert_allclose(Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix(), R, atol=1e-12)
    part = estimator.world.objects[0]
    middle = np.array([10.0, -20.0, 500.0]) + R @ part.offset.numpy()
    center, size = first.bbox.center.position, first.bbox.size
    np.testing.assert_allclose([center.x, center.y, center.z], middle / 1000, rtol=1e-6)
    np.testing.assert_allclose([size.x, size.y, size.z], part.mesh.extents / 1000)
    assert first.bbox.center.orientation == turn
    assert [one.child_frame_id for one in tf.transforms] == ["hammer", "hammer_2"]
    assert tf.transforms[0].header == array.header
    moved = tf.transforms[1].transform
    np.testing.assert_allclose([moved.translation.x, moved.translation.y, moved.translation.z], [0.03, 0.0, 0.6])
    assert moved.rotation == turn


@pytest.mark.parametrize(
    ("distance", "places"), [(None, [0.5, 0.6]), ((300.0, 440.0), [0.5]), ((700.0, 900.0), [0.6]), ((9.0, 9.0), [])]
)
def test_parts_where_none_can_be_are_left_out(
    distance: tuple[float, float] | None,
    places: list[float],
    tmp_path: Path,
    estimator: Estimator,
    asked: Callable[..., Bag],
) -> None:
    """The middles are 500 and 601 mm away; a quarter beyond either end counts."""
    offset = R @ estimator.world.objects[0].offset.numpy()
    estimator.found = [replace(one, t_cam_obj=one.t_cam_obj - offset) for one in estimator.found]
    bag(asked(written("ros1", tmp_path, usual), distance=distance))
    arrays = [m for topic, _, m in read(tmp_path / "out.mcap") if topic == "/detections"]
    assert [[round(one.bbox.center.position.z, 3) for one in array.detections] for array in arrays] == [places] * 2


def test_tracked_parts_keep_their_names_also_while_they_are_lost(
    tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = estimator.found
    frames = iter([[first, second], [second, first], [second]])
    monkeypatch.setattr(Estimator, "__call__", lambda *_, **__: next(frames))
    rows: Messages = [("/info", 10, info(ROS1)), *(("/image", 20 + k, image(ROS1)) for k in range(3))]
    assert bag(asked(write_ros1(tmp_path / "three.bag", rows), track=True)).status == 0
    messages = read(tmp_path / "out.mcap")
    told = [[(d.id, d.results[0].hypothesis.score) for d in m.detections] for t, _, m in messages if t == "/detections"]
    one, two = ("hammer_1", 0.9), ("hammer_2", 0.8)
    assert told == [[one, two], [two, one], [two, ("hammer_1", 0.0)]]
    names = [[one.child_frame_id for one in m.transforms] for topic, _, m in messages if topic == "/tf"]
    assert names == [["hammer", "hammer_2"], ["hammer_2", "hammer"], ["hammer_2", "hammer"]]


def test_a_calibrated_network_says_its_confidence(
    tmp_path: Path, world: World, estimator: Estimator, asked: Callable[..., Bag]
) -> None:
    estimator.found = Estimator(world, confidence=0.25).found
    bag(asked(written("ros1", tmp_path, usual)))
    assert read(tmp_path / "out.mcap")[0][2].detections[0].results[0].hypothesis.score == 0.25


def test_other_readers_and_folders(tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag]) -> None:
    mcap = pytest.importorskip("mcap.reader", reason="mcap is not installed")
    path = written("ros1", tmp_path, usual)
    bag(asked(path))
    with open(tmp_path / "out.mcap", "rb") as file:
        found = [(s.name, s.encoding, c.topic, m.log_time) for s, c, m in mcap.make_reader(file).iter_messages()]
    assert sorted(found) == [
        (kind, "ros2msg", topic, time)
        for kind, topic in (("tf2_msgs/msg/TFMessage", "/tf"), ("vision_msgs/msg/Detection3DArray", "/detections"))
        for time in (20, 30)
    ]
    bag(asked(path, out=tmp_path / "folder"))
    assert (tmp_path / "folder" / "metadata.yaml").is_file()
    assert len(read(tmp_path / "folder")) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.bag", "out.mcap"]


def test_the_whole_way_with_a_network(tmp_path: Path, asked: Callable[..., Bag]) -> None:
    path = written("ros2 mcap", tmp_path, usual)
    assert bag(asked(path, min_score=0.0, max_detections=1, refine=False)).status == 0
    assert all(len(m.detections) <= 1 for topic, _, m in read(tmp_path / "out.mcap") if topic == "/detections")


def test_the_camera_of_the_time_of_the_image(tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag]) -> None:
    """Of an image before the first CameraInfo the first counts, of others the last before, however they were sent."""
    zoomed = K * [[2, 1, 1], [1, 2, 1], [1, 1, 1]]

    def make(store: Any) -> Messages:
        times = [("/image", n, image(store, seconds)) for n, seconds in enumerate((0.5, 1.5, 2.5), start=1)]
        return [*times, ("/info", 8, info(store, 1.0)), ("/info", 9, info(store, 2.0, zoomed))]

    bag(asked(written("ros2 mcap", tmp_path, make)))
    assert [camera[0, 0] for _, camera in estimator.seen] == [90, 90, 180]


def test_images_that_are_rectified_already(tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag]) -> None:
    bag(asked(written("ros1", tmp_path, usual), rectified=True))
    shown, matrix = estimator.seen[0]
    np.testing.assert_array_equal(shown, PICTURE)
    np.testing.assert_array_equal(matrix, K * [[0.5, 1, 1], [1, 0.5, 1], [1, 1, 1]])


GREY = np.repeat(PICTURE[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (image(ROS2, step=200), PICTURE),
        (image(ROS2, encoding="bgr8", data=PICTURE[..., ::-1]), PICTURE),
        (image(ROS2, encoding="8UC3", data=PICTURE[..., ::-1]), PICTURE),
        (image(ROS2, encoding="rgba8", data=np.dstack([PICTURE, GREY[..., 0]])), PICTURE),
        (image(ROS2, encoding="bgra8", data=np.dstack([PICTURE[..., ::-1], GREY[..., 0]])), PICTURE),
        (image(ROS2, encoding="mono8", data=PICTURE[..., 0]), GREY),
        (image(ROS2, encoding="mono16", data=PICTURE[..., 0].astype("<u2") * 256 + 9), GREY),
        (compressed(ROS2), PICTURE),
    ],
    ids=["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "mono8", "mono16", "png"],
)
def test_encodings(message: Any, expected: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(read_picture(message), expected)


def test_big_endian_and_jpeg() -> None:
    other = image(ROS2, encoding="mono16", data=(PICTURE[..., 0].astype("u2") * 256).astype(">u2"))
    np.testing.assert_array_equal(read_picture(replace(other, is_bigendian=1)), GREY)
    assert read_picture(compressed(ROS2, kind="jpeg")).shape == PICTURE.shape


@pytest.mark.parametrize("name", ["rggb", "bggr", "grbg", "gbrg"])
def test_bayer_mosaics(name: str) -> None:
    """A picture of one colour comes back from its mosaic."""
    color = {"r": 200, "g": 100, "b": 50}
    mosaic = np.tile(np.array([color[c] for c in name], np.uint8).reshape(2, 2), (4, 6))
    found = read_picture(image(ROS2, encoding=f"bayer_{name}8", data=mosaic))
    np.testing.assert_array_equal(found[2:-2, 2:-2], np.broadcast_to([200, 100, 50], (4, 8, 3)))


def test_images_that_are_none() -> None:
    for message, words in (
        (image(ROS2, encoding="yuv422"), "'yuv422' is not read; rgb8, bgr8"),
        (replace(image(ROS2), height=100), "9,216 bytes in rows of 192 are no rgb8 image of 64 x 100 pixels"),
        (replace(image(ROS2), step=100), "rows of 100 are no rgb8 image"),
        (replace(image(ROS2), width=0, height=0), "are no rgb8 image of 0 x 0"),
        (image(ROS2, encoding="bayer_rggb8", data=PICTURE[:3, :, 0]), "an even number of rows"),
        (replace(compressed(ROS2), data=np.zeros(9, np.uint8)), "it is no photo of a format that is read"),
        (replace(compressed(ROS2), format="16UC1; compressedDepth"), "it is a depth image"),
    ):
        with pytest.raises(ImageError, match=words):
            read_picture(message)


def test_cameras_that_are_none() -> None:
    with pytest.raises(CameraError, match="not calibrated: K holds nothing but zeros"):
        read_camera_info(info(ROS1, matrix=np.zeros((3, 3))))
    with pytest.raises(CameraError, match="the lens model 'equidistant' is not supported"):
        read_camera_info(replace(info(ROS2), distortion_model="equidistant"))
    part = read_camera_info(
        replace(info(ROS2), roi=ROS2.types["sensor_msgs/msg/RegionOfInterest"](8, 4, 40, 32, False))
    )
    assert (part.width, part.height, part.K[0, 2], part.K[1, 2]) == (32, 40, 24, 20)


def test_the_node_with_a_stand_in_for_rclpy(monkeypatch: pytest.MonkeyPatch, world: World, random_run: Run) -> None:
    """There is no rclpy here: that it is called rightly is not shown, what is published is."""
    published: dict[str, list[Any]] = {}

    class Node:
        def __init__(self, _: str) -> None:
            self.values: dict[str, Any] = {}
            self.logger = MagicMock()

        def declare_parameter(self, name: str, value: Any) -> None:
            self.values[name] = random_run.path if name == "run" else value

        def get_parameter(self, name: str) -> Any:
            return SimpleNamespace(value=self.values[name])

        def create_publisher(self, _: Any, topic: str, __: Any) -> Any:
            return SimpleNamespace(publish=published.setdefault(topic, []).append)

        def create_subscription(self, *_: Any) -> None: ...

        def get_logger(self) -> Any:
            return self.logger

    store = module.typestore()
    for name in ("rclpy", "rclpy.node", "rclpy.qos", "rosidl_runtime_py", "rosidl_runtime_py.utilities"):
        monkeypatch.setitem(sys.modules, name, MagicMock(Node=Node, get_message=store.types.__getitem__))
    spec = importlib.util.spec_from_file_location("ros2_node", Path(__file__).parents[2] / "examples" / "ros2_node.py")
    assert spec is not None
    assert spec.loader is not None
    node_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(node_module)
    stand_in = Estimator(world)
    monkeypatch.setattr(node_module.PoseEstimator, "load", lambda *_, **__: stand_in)
    node = node_module.PoseNode()
    node._on_image(image(ROS2))
    assert published == {"detections": [], "/tf": []}, "there is no camera yet"
    node._on_info(info(ROS2))
    node._on_image(image(ROS2, encoding="yuv422"))
    node._on_image(image(ROS2))
    np.testing.assert_array_equal(stand_in.seen[0][0], Camera(K, 64, 48, LENS).undistort(PICTURE))
    ((array,), (tf,)) = published["detections"], published["/tf"]
    assert [one.results[0].hypothesis.class_id for one in array.detections] == ["hammer", "hammer"]
    assert [one.child_frame_id for one in tf.transforms] == ["hammer", "hammer_2"]
    for values, least, count in (
        ({}, 0.5, 2),  # nobody judges: the score counts
        ({"min_score": 0.2}, 0.2, 2),
        ({"min_judged": 4.0}, 0.5, 1),
        ({"min_judged": 4.0, "min_confidence": 0.9}, 0.5, 0),
    ):
        node.values |= {"min_score": -1.0, "min_judged": 3.0, "min_confidence": 0.0} | values
        stand_in.found = [replace(stand_in.found[0], judged=j, confidence=0.8) for j in (5.0, 3.5)]
        node._on_image(image(ROS2))
        assert (stand_in.least, len(published["detections"][-1].detections)) == (least, count)
    node.values["min_confidence"] = 0.0
    stand_in.found = [replace(stand_in.found[0], t_cam_obj=np.array([0.0, 0.0, z])) for z in (500.0, 5000.0)]
    for nearest, farthest, count in ((-1.0, -1.0, 2), (400.0, 700.0, 1), (9e3, 9e4, 0)):
        node.values |= {"nearest": nearest, "farthest": farthest}
        node._on_image(image(ROS2))
        assert len(published["detections"][-1].detections) == count
    told = len(published["detections"])
    for nearest, farthest in ((400.0, -1.0), (-1.0, 700.0), (700.0, 400.0)):
        node.values |= {"nearest": nearest, "farthest": farthest}
        node._on_image(image(ROS2))
        assert "--distance is the nearest and the farthest" in node.logger.error.call_args.args[0]
        node.logger.reset_mock()
    assert len(published["detections"]) == told, "nothing is published of what cannot be asked for"
    node.values |= {"nearest": -1.0, "farthest": -1.0}
    stand_in.judges = True
    node.values["min_score"] = -1.0
    node._on_image(image(ROS2))
    assert stand_in.least == 0.05


def line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says on its way out."""
    assert main(["bag", *map(str, arguments)]) == 1
    text = capsys.readouterr().err
    assert text.startswith("codepose bag: ")
    assert text.count("\n") == 1
    return text


def test_wrong_topics_end_in_one_line(tmp_path: Path, random_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = written("ros1", tmp_path, usual)
    end = ("--out", tmp_path / "new.mcap")
    for image_topic, info_topic, words in (
        ("/nothing", "/info", f"{path}: there is no topic /nothing in it; type --image with one of /image"),
        ("/info", "/info", f"{path}: /info is of sensor_msgs/msg/CameraInfo, not of sensor_msgs/msg/Image or"),
        ("/image", "/image", f"{path}: /image is of sensor_msgs/msg/Image, not of sensor_msgs/msg/CameraInfo; type"),
        ("/image", "/camera_info", "there is no topic /camera_info in it; type --info with one of /info"),
    ):
        assert words in line(capsys, path, random_run.path, "--image", image_topic, "--info", info_topic, *end)
    bare = write_ros1(tmp_path / "bare.bag", [("/image", 20, image(ROS1))])
    words = line(capsys, bare, random_run.path, "--image", "/image", "--info", "/info", *end)
    assert "there is no topic /info in it; it has no topic of sensor_msgs/msg/CameraInfo" in words
    assert not (tmp_path / "new.mcap").exists()


@pytest.mark.parametrize("name", ["cut.bag", "cut.mcap", "cut.db3", "empty.mcap", "folder", "part.txt", "none.bag"])
def test_damaged_bags_end_in_one_line(
    name: str, tmp_path: Path, random_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    whole = {
        "cut.bag": lambda: written("ros1", tmp_path, usual),
        "cut.mcap": lambda: written("one mcap file", tmp_path, usual),
        "cut.db3": lambda: next(written("ros2 sqlite", tmp_path, usual).glob("*.db3")),
    }
    if name in whole:
        data = whole[name]().read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif name == "folder":
        path.mkdir()
    elif name != "none.bag":
        path.write_bytes(b"" if "empty" in name else b"words")
    out = tmp_path / "new.mcap"
    text = line(capsys, path, random_run.path, "--image", "/image", "--info", "/info", "--out", out)
    assert str(path) in text
    assert "it is damaged, or no bag of ROS" in text or "there is no bag" in text


def test_images_that_cannot_be_read_are_skipped(
    tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag], capsys: pytest.CaptureFixture[str]
) -> None:
    def make(store: Any) -> Messages:
        broken = replace(compressed(store), data=np.zeros(9, np.uint8))
        return [("/info", 5, info(store)), ("/image", 10, broken), ("/image", 20, compressed(store))]

    done = bag(asked(written("ros2 mcap", tmp_path, make)))
    assert (done.status, done.value["images"], done.value["skipped"]) == (1, 1, 1)
    assert "codepose bag: /image at 10 ns skipped: " in capsys.readouterr().err
    assert [time for _, time, _ in read(tmp_path / "out.mcap")] == [20, 20]
    with pytest.raises(BagError, match="none of the 1 images on /image could be read"):
        bag(asked(write_ros2(tmp_path / "all", make(ROS2)[:2]), out=tmp_path / "other.mcap"))
    assert not (tmp_path / "other.mcap").exists()


def test_what_was_found_before_the_damage_is_kept(
    tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = written("ros1", tmp_path, usual), AnyReader.deserialize

    def torn(self: AnyReader, data: bytes, kind: str) -> object:
        if estimator.seen:
            raise ValueError("torn\nhere")
        return whole(self, data, kind)

    monkeypatch.setattr(AnyReader, "deserialize", torn)
    with pytest.raises(BagError, match=r"in.bag: it is damaged, or no bag of ROS \(torn here\)"):
        bag(asked(path))
    monkeypatch.undo()
    assert len(read(tmp_path / "out.mcap")) == 2


def test_a_camera_of_another_size_and_a_bag_that_is_there(
    tmp_path: Path, estimator: Estimator, asked: Callable[..., Bag]
) -> None:
    def make(store: Any) -> Messages:
        return [("/info", 5, info(store)), ("/image", 10, image(store, data=PICTURE[:40]))]

    path = written("ros1", tmp_path, make)
    with pytest.raises(
        CameraError, match=r"in.bag: /info: the calibration is for 64 x 48 pixels, the photo has 64 x 40"
    ):
        bag(asked(path))
    assert not (tmp_path / "out.mcap").exists()
    (tmp_path / "out.mcap").touch()
    with pytest.raises(BagError, match=r"out.mcap exists already: give --out another name"):
        bag(asked(path))


def test_without_the_extra_one_line_says_what_to_type(
    tmp_path: Path, asked: Callable[..., Bag], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(BagError, match=r"^bags need rosbags: type pip install 'codepose\[bags\]'"):
        bag(asked(tmp_path / "in.bag"))
