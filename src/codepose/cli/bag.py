"""A ROS bag's images in, a bag of detections and transforms out; ``rosbags`` reads and writes, no ROS is needed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from codepose.cameras.camera import Camera
from codepose.cameras.camera_entries import CameraError
from codepose.estimation.answers import look
from codepose.predict.prediction import load_estimator, tracker_of, wishes_of, with_thresholds
from codepose.ros import messages as ros
from codepose.runtime.outcome import Outcome
from codepose.runtime.progress import Display
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys.store import Typestore

    from codepose.cli.options import Bag

_TOPICS = {"/detections": ros.DETECTIONS, "/tf": ros.TRANSFORMS}
_VISION = {
    "vision_msgs/msg/Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
    "vision_msgs/msg/Detection3D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox3D bbox\nstring id",
    "vision_msgs/msg/ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
}
"""The definitions of vision_msgs 4, of ROS 2 Humble and later, which rosbags does not bring."""


class BagError(ConfigError):
    """A bag that cannot be read or written; the text names it."""


def bag(options: Bag) -> Outcome:
    """Finds the parts in a bag's images and writes a bag of what was found; a damaged bag's beginning counts.

    Returns:
        Where the new bag is and how many images went into it; the exit status is 1 if one was skipped.

    Raises:
        BagError: The bag is damaged, or has no such topics; or the new one cannot be written.
        CameraError: The bag's camera makes none, or does not fit its images.
        RunError: The run is none, or its training is not finished.
    """
    if find_spec("rosbags") is None:
        raise BagError("bags need rosbags: type pip install 'codepose[bags]', in the checkout pip install '.[bags]'")
    if options.out.exists():
        raise BagError(f"{options.out} exists already: give --out another name")
    with _opened(options.bag) as reader:
        images = _connections(reader, options.bag, "--image", options.image, ros.IMAGES)
        infos = _connections(reader, options.bag, "--info", options.info, (ros.INFO,))
        cameras = _Cameras(reader, options, infos)
        run = Run.open(options.run)
        estimator = load_estimator(with_thresholds(run, options), options, options.device)
        parts, wishes, skipped, done = estimator.world.objects, wishes_of(options), 0, 0
        tracker = tracker_of(estimator) if options.track else None
        total, console = sum(one.msgcount for one in images), Console()
        with _Results(options.out) as results, Display("predicting", console) as display:
            for time, message in _messages(reader, options.bag, images):
                try:
                    image = ros.read_picture(message)
                    camera = cameras.of(message.header, image.shape[1], image.shape[0])
                except ros.ImageError as error:
                    print(f"codepose bag: {options.image} at {time} ns skipped: {error}", file=sys.stderr)
                    skipped += 1
                    continue
                detections = look(estimator, image, camera, wishes)[0]
                detections = detections if tracker is None else tracker(detections, camera.K)
                header = ros.same_header(results.make, message.header)
                results.write("/detections", time, ros.detection_array(results.make, header, detections, parts))
                results.write("/tf", time, ros.transforms(results.make, header, detections))
                done += 1
                display.update(done / max(total, 1), f"{done} of {total} images")
    if not done:
        raise BagError(f"{options.bag}: none of the {skipped} images on {options.image} could be read")
    console.out(f"{done} images: {', '.join(_TOPICS)} in {options.out}", highlight=False)
    return Outcome({"bag": options.out, "topics": _TOPICS, "images": done, "skipped": skipped}, status=int(skipped > 0))


@contextmanager
def _opened(path: Path) -> Iterator[AnyReader]:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    if not path.exists():
        raise BagError(f"there is no bag {path}: give a .bag, .mcap or .db3 file, or the folder of a ROS 2 bag")
    with ExitStack() as stack:
        try:
            # old ROS 2 bags hold no definitions of their messages
            reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            stack.enter_context(reader)
        except Exception as error:  # a damaged file may break the reader anywhere
            raise _damaged(path, error) from error
        yield reader


def _damaged(path: Path, error: Exception) -> BagError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BagError(
        f"{path}: it is damaged, or no bag of ROS ({reason}); ros2 bag reindex, or rosbag reindex, may help"
    )


def _connections(reader: AnyReader, path: Path, option: str, topic: str, kinds: tuple[str, ...]) -> list[Any]:
    """The connections of a topic that has messages of one of the kinds."""
    there = [one for one in reader.connections if one.topic == topic]
    fitting = sorted({one.topic for one in reader.connections if one.msgtype in kinds})
    advice = (
        f"type {option} with one of {', '.join(fitting)}" if fitting else f"it has no topic of {' or '.join(kinds)}"
    )
    if not there:
        raise BagError(f"{path}: there is no topic {topic} in it; {advice}")
    wrong = [one.msgtype for one in there if one.msgtype not in kinds]
    if wrong:
        raise BagError(f"{path}: {topic} is of {wrong[0]}, not of {' or '.join(kinds)}; {advice}")
    if not sum(one.msgcount for one in there):
        raise BagError(f"{path}: there is no message on {topic}; {advice}")
    return there


def _messages(reader: AnyReader, path: Path, connections: list[Any]) -> Iterator[tuple[int, Any]]:
    """Each message and when it was recorded, ns."""
    waiting = reader.messages(connections)
    while True:
        try:
            connection, time, data = next(waiting)
            message = reader.deserialize(data, connection.msgtype)
        except StopIteration:
            return
        except Exception as error:
            raise _damaged(path, error) from error
        yield time, message


class _Cameras:
    """The cameras of a bag's images: of each the last that was known when it was taken, or the first of all.

    Raises:
        CameraError: One of them makes none.
    """

    def __init__(self, reader: AnyReader, options: Bag, connections: list[Any]) -> None:
        self._options = options
        self._known: list[tuple[int, Camera]] = []
        for _, message in _messages(reader, options.bag, connections):
            camera = self._named(ros.read_camera_info, message, rectified=options.rectified)
            if not self._known or not ros.same_camera(camera, self._known[-1][1]):
                self._known.append((_nanoseconds(message.header), camera))
        self._fitted = lru_cache(maxsize=4)(self._fit)  # with their undistortion maps

    def of(self, header: Any, width: int, height: int) -> Camera:
        """The camera of an image of this size."""
        before = [n for n, (time, _) in enumerate(self._known) if time <= _nanoseconds(header)]
        return self._fitted(before[-1] if before else 0, width, height)

    def _fit(self, number: int, width: int, height: int) -> Camera:
        return self._named(self._known[number][1].for_size, width, height)

    def _named(self, make: Any, *values: Any, **more: Any) -> Camera:
        try:
            camera: Camera = make(*values, **more)
        except CameraError as error:
            raise CameraError(f"{self._options.bag}: {self._options.info}: {error}") from None
        return camera


def _nanoseconds(header: Any) -> int:
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def typestore() -> Typestore:
    """The messages of ROS 2 and of vision_msgs, for rosbags."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in _VISION.items():
        store.register(get_types_from_msg(text, name))
    return store


class _Results:
    """The bag that is written: a folder, or one file where its name ends with .mcap. What was written is kept.

    Raises:
        BagError: It cannot be written.
    """

    def __init__(self, out: Path) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self._store = typestore()
        self._out = out
        out.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix=".codepose-", dir=out.parent)
        self._path = Path(self._folder.name, out.stem)
        self._writer = Writer(self._path, version=8, storage_plugin=StoragePlugin.MCAP)
        self._topics: dict[str, Any] = {}
        self._count = 0

    def make(self, name: str) -> Any:
        """What makes a message of this type."""
        return self._store.types[name]

    def write(self, topic: str, time: int, message: Any) -> None:
        """Adds a message with the time, ns, of the image's."""
        data = self._store.serialize_cdr(message, message.__msgtype__)
        self._writer.write(self._topics[topic], time, data)
        self._count += 1

    def __enter__(self) -> _Results:
        self._writer.open()
        for topic, kind in _TOPICS.items():
            self._topics[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._writer.close()
            if self._count:
                whole = self._path if self._out.suffix != ".mcap" else next(self._path.glob("*.mcap"))
                shutil.move(whole, self._out)
        finally:
            self._folder.cleanup()
