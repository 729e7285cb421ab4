"""The edge to ROS 2: nodes, parameters, QoS. The only room that imports rclpy."""
