"""ROS messages: images and cameras out of them, detections into them; the same for bags and for a node.

A message is whatever has the fields of its definition, as rosbags' and rclpy's have.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from codepose.cameras import photos
from codepose.cameras.camera import Camera
from codepose.cameras.camera_entries import CameraError, named_camera
from codepose.estimation.detection import Detection
from codepose.synthesis.objects import ObjectModel

MakeType = Callable[[str], Callable[..., Any]]
"""From "std_msgs/msg/Header" to what makes such a message of its fields, given by name."""
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO, DETECTIONS, TRANSFORMS = (
    "sensor_msgs/msg/CameraInfo",
    "vision_msgs/msg/Detection3DArray",
    "tf2_msgs/msg/TFMessage",
)

_CHANNELS = {
    "rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0), "8UC1": (0, 0, 0),
    "8UC3": (2, 1, 0), "rgb16": (0, 1, 2), "bgr16": (2, 1, 0), "rgba16": (0, 1, 2), "bgra16": (2, 1, 0),
    "mono16": (0, 0, 0),
}  # fmt: skip
"""Where red, green and blue are; 8UC3 is OpenCV's, whose order is blue, green, red."""
_WIDTHS = {"rgba8": 4, "bgra8": 4, "rgba16": 4, "bgra16": 4, "mono8": 1, "8UC1": 1, "mono16": 1}
_BAYER = {"bayer_rggb8": "BG", "bayer_grbg8": "GB", "bayer_bggr8": "RG", "bayer_gbrg8": "GR"}
"""OpenCV's names, which kornia takes, begin at the second pixel of the second row; ROS's at the first of the first."""
_METRES = 1e-3


class ImageError(ValueError):
    """One image that cannot be had from its message; the text says why."""


def read_picture(message: Any) -> NDArray[np.uint8]:
    """The (H, W, 3) uint8 RGB in a sensor_msgs/Image or CompressedImage.

    Raises:
        ImageError: Its encoding is not read, it is damaged, or its size is wrong.
    """
    return _decompressed(message) if hasattr(message, "format") else _raw(message)


def _decompressed(message: Any) -> NDArray[np.uint8]:
    if "compressedDepth" in message.format:
        raise ImageError("it is a depth image; give the topic of a colour image")
    with tempfile.TemporaryDirectory(prefix="codepose-") as folder:
        path = Path(folder, "image")
        path.write_bytes(bytes(message.data))
        try:
            return photos.read_image(path)
        except OSError as error:
            raise ImageError(str(error)) from None


def _raw(message: Any) -> NDArray[np.uint8]:
    encoding, height, width, step = str(message.encoding), int(message.height), int(message.width), int(message.step)
    if encoding not in _CHANNELS and encoding not in _BAYER:
        raise ImageError(f"the encoding {encoding[:40]!r} is not read; {', '.join([*_CHANNELS, *_BAYER])} are")
    channels = 1 if encoding in _BAYER else _WIDTHS.get(encoding, 3)
    kind = np.dtype((">u2" if message.is_bigendian else "<u2") if encoding.endswith("16") else "u1")
    data = np.frombuffer(bytes(message.data), np.uint8)
    used = width * channels * kind.itemsize
    if not (width and height and used <= step and step * height <= len(data)):
        raise ImageError(
            f"{len(data):,} bytes in rows of {step:,} are no {encoding} image of {width} x {height} pixels"
        )
    rows = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :used]).view(kind)
    values = rows if kind.itemsize == 1 else (rows >> 8)
    pixels: NDArray[np.uint8] = values.astype(np.uint8).reshape(height, width, channels)
    if encoding in _BAYER:
        return _colored(pixels[:, :, 0], _BAYER[encoding])
    return np.ascontiguousarray(pixels[:, :, _CHANNELS[encoding]])


def _colored(mosaic: NDArray[np.uint8], pattern: str) -> NDArray[np.uint8]:
    import torch
    from kornia.color import CFA, raw_to_rgb

    if mosaic.shape[0] % 2 or mosaic.shape[1] % 2:
        raise ImageError("a Bayer image has an even number of rows and columns")
    rgb = raw_to_rgb(torch.from_numpy(mosaic)[None, None].float() / 255.0, CFA[pattern])
    colored: NDArray[np.uint8] = (rgb[0] * 255.0).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(colored)


def read_camera_info(message: Any, *, rectified: bool = False) -> Camera:
    """The camera in a sensor_msgs/CameraInfo of ROS 1 or ROS 2.

    Args:
        message: The message.
        rectified: The images were rectified by image_proc: P counts, and there is no distortion.

    Raises:
        CameraError: It is not calibrated, its lens model is not supported, or its numbers make no camera.
    """
    values = {name.lower(): getattr(message, name) for name in ("K", "D", "P", "k", "d", "p") if hasattr(message, name)}
    K = np.reshape(values["p"], (3, 4))[:, :3] if rectified else np.reshape(values["k"], (3, 3))
    if not np.any(K):
        raise CameraError(f"the camera is not calibrated: {'P' if rectified else 'K'} holds nothing but zeros")
    lens = {} if rectified else {"D": np.asarray(values["d"]).tolist(), "distortion_model": message.distortion_model}
    sides = {name: int(getattr(message, name)) for name in ("width", "height", "binning_x", "binning_y")}
    roi = {name: int(getattr(message.roi, name)) for name in ("x_offset", "y_offset", "width", "height")}
    return Camera(*named_camera({"K": K.tolist(), "roi": roi, **sides, **lens}))


def same_camera(one: Camera, other: Camera) -> bool:
    """Whether two say the same; drivers send theirs with every image."""
    rest = ((c.width, c.height, c.distortion, c.uncut) for c in (one, other))
    return bool((one.K == other.K).all()) and next(rest) == next(rest)


def detection_array(make: MakeType, header: Any, found: Sequence[Detection], objects: Sequence[ObjectModel]) -> Any:
    """A vision_msgs/Detection3DArray: metres, in the camera's optical frame.

    A result's pose is that of the CAD file's frame, the box's centre that of the part's box, which is turned with it.
    The score is the probability that the pose is right, or the detector's score where that is not calibrated; 0 of what
    is lost, whose pose is predicted. The id names the track.

    Args:
        make: Makes messages.
        header: The image's, of the kind that ``make`` makes.
        found: In the image.
        objects: The run's.
    """
    Detection3D = make("vision_msgs/msg/Detection3D")
    Box, Vector = make("vision_msgs/msg/BoundingBox3D"), make("geometry_msgs/msg/Vector3")
    Result, Hypothesis = make("vision_msgs/msg/ObjectHypothesisWithPose"), make("vision_msgs/msg/ObjectHypothesis")
    WithCovariance = make("geometry_msgs/msg/PoseWithCovariance")
    detections = []
    for detection in found:
        part = objects[detection.object_index]
        middle = detection.t_cam_obj + detection.R_cam_obj @ part.offset.numpy().astype(np.float64)
        x, y, z = (float(side) * _METRES for side in part.mesh.extents)
        pose = WithCovariance(pose=_pose(make, detection.R_cam_obj, detection.t_cam_obj), covariance=np.zeros(36))
        score = float(detection.score if detection.confidence is None else detection.confidence)
        detections.append(
            Detection3D(
                header=header,
                results=[Result(hypothesis=Hypothesis(class_id=detection.label, score=score), pose=pose)],
                bbox=Box(center=_pose(make, detection.R_cam_obj, middle), size=Vector(x=x, y=y, z=z)),
                id="" if detection.track is None else f"{detection.label}_{detection.track}",
            )
        )
    return make(DETECTIONS)(header=header, detections=detections)


def transforms(make: MakeType, header: Any, found: Sequence[Detection]) -> Any:
    """A tf2_msgs/TFMessage: the parts' frames, called by their labels, in the camera's; the second bolt is bolt_2.

    What is tracked keeps its name from image to image, also while it is lost.

    Args:
        make: Makes messages.
        header: The image's, of the kind that ``make`` makes.
        found: In the image, best first.
    """
    Stamped, Transform = make("geometry_msgs/msg/TransformStamped"), make("geometry_msgs/msg/Transform")
    Vector, counts, listed = make("geometry_msgs/msg/Vector3"), Counter[str](), []
    for detection in found:
        counts[detection.label] += 1
        number = counts[detection.label] if detection.track is None else detection.track
        name = detection.label if number == 1 else f"{detection.label}_{number}"
        x, y, z = (float(v) * _METRES for v in detection.t_cam_obj)
        transform = Transform(translation=Vector(x=x, y=y, z=z), rotation=_quaternion(make, detection.R_cam_obj))
        listed.append(Stamped(header=header, child_frame_id=name, transform=transform))
    return make(TRANSFORMS)(transforms=listed)


def same_header(make: MakeType, header: Any) -> Any:
    """A header with the stamp and the frame of another one, of ROS 1 or 2."""
    stamp = make("builtin_interfaces/msg/Time")(sec=int(header.stamp.sec), nanosec=int(header.stamp.nanosec))
    return make("std_msgs/msg/Header")(stamp=stamp, frame_id=str(header.frame_id))


def _pose(make: MakeType, R: NDArray[np.float64], t: NDArray[np.float64]) -> Any:
    x, y, z = (float(v) * _METRES for v in t)
    return make("geometry_msgs/msg/Pose")(
        position=make("geometry_msgs/msg/Point")(x=x, y=y, z=z), orientation=_quaternion(make, R)
    )


def _quaternion(make: MakeType, R: NDArray[np.float64]) -> Any:
    x, y, z, w = (float(v) for v in Rotation.from_matrix(R).as_quat(canonical=True))
    return make("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)
