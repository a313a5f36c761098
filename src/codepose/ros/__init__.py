"""ROS messages, in and out."""
