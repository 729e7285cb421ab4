"""ROS messages to types and back, by duck typing: rclpy messages and bag messages go the same way."""
