"""A ROS 2 node: images and their camera in, vision_msgs/Detection3DArray and TF out.

It needs ROS 2 (rclpy, vision_msgs, rosidl_runtime_py) and codepose in one Python:

    python examples/ros2_node.py --ros-args -p run:=runs/part \
        -r image:=/camera/image_raw -r camera_info:=/camera/camera_info

codepose is developed where there is no ROS: this file was never run with it. What reads and builds the messages is
``codepose.ros.messages``, which ``codepose bag`` shares and which is tested; see docs/robots.md.
"""

from __future__ import annotations

from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rosidl_runtime_py.utilities import get_message

from codepose import PoseEstimator
from codepose.cameras.camera import Camera
from codepose.cameras.camera_entries import CameraError
from codepose.estimation.answers import Wishes, look
from codepose.ros import messages as ros
from codepose.settings.distance import require_distance
from codepose.settings.errors import ConfigError


class PoseNode(Node):  # type: ignore[misc]
    """Finds the run's parts in every image for which there is time: of those that came meanwhile the last counts."""

    def __init__(self) -> None:
        super().__init__("codepose")
        usual = Wishes()
        thresholds = {"min_judged": usual.min_judged, "min_confidence": usual.min_confidence}
        thresholds |= {"min_score": -1.0, "nearest": -1.0, "farthest": -1.0}  # what suits the estimator; any distance
        for name, value in {"run": "", "device": "auto", "refine": True, "rectified": False, **thresholds}.items():
            self.declare_parameter(name, value)
        self._estimator = PoseEstimator.load(
            self._value("run"), device=self._value("device"), refine=self._value("refine")
        )
        self._camera: Camera | None = None
        self._detections = self.create_publisher(get_message(ros.DETECTIONS), "detections", 10)
        self._transforms = self.create_publisher(get_message(ros.TRANSFORMS), "/tf", QoSProfile(depth=100))
        self.create_subscription(get_message(ros.INFO), "camera_info", self._on_info, qos_profile_sensor_data)
        latest = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)
        self.create_subscription(get_message(ros.IMAGES[0]), "image", self._on_image, latest)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _wishes(self) -> Wishes:
        """As the parameters are now.

        Raises:
            ConfigError: ``nearest`` and ``farthest`` are no range.
        """
        score, ends = self._value("min_score"), (self._value("nearest"), self._value("farthest"))
        distance = None if max(ends) < 0 else ends
        if distance is not None:
            require_distance(distance)
        return Wishes(
            min_score=None if score < 0 else score,
            min_judged=self._value("min_judged"),
            min_confidence=self._value("min_confidence"),
            distance=distance,
        )

    def _on_info(self, message: Any) -> None:
        try:
            camera = ros.read_camera_info(message, rectified=self._value("rectified"))
        except CameraError as error:
            self.get_logger().error(str(error), throttle_duration_sec=10.0)
            return
        if self._camera is None or not ros.same_camera(camera, self._camera):
            self._camera = camera

    def _on_image(self, message: Any) -> None:
        if self._camera is None:
            self.get_logger().warning("waiting for camera_info", throttle_duration_sec=10.0)
            return
        try:
            image = ros.read_picture(message)
            camera = self._camera.for_size(image.shape[1], image.shape[0])
            found, _ = look(self._estimator, image, camera, self._wishes())
        except (ros.ImageError, ConfigError) as error:
            self.get_logger().error(str(error), throttle_duration_sec=10.0)
            return
        header = ros.same_header(get_message, message.header)
        self._detections.publish(ros.detection_array(get_message, header, found, self._estimator.world.objects))
        self._transforms.publish(ros.transforms(get_message, header, found))


def main() -> None:
    """Runs the node until it is stopped."""
    rclpy.init()
    node = PoseNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
