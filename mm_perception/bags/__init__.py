"""Reading and writing ROS 2 bags (MCAP and sqlite3) through the `rosbags` library."""
