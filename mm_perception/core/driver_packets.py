"""Messages of drivers that hold raw packets or a form of their own: which node turns them into what is read here."""

from __future__ import annotations

_TO_CLOUDS = "publish sensor_msgs/msg/PointCloud2"
_WAYS_OUT = {
    "velodyne_msgs/VelodyneScan": f"run velodyne_pointcloud's transform node (velodyne_transform_node) to {_TO_CLOUDS}",
    "velodyne_msgs/VelodynePacket": f"run velodyne_pointcloud's transform node to {_TO_CLOUDS}",
    "ouster_ros/PacketMsg": f"run ouster_ros's os_cloud node on lidar_packets and metadata to {_TO_CLOUDS}",
    "ouster_sensor_msgs/PacketMsg": f"run ouster_ros's os_cloud node on lidar_packets and metadata to {_TO_CLOUDS}",
    "hesai_ros_driver/UdpFrame": f"run hesai_ros_driver with source_type 3 (packets of ROS) to {_TO_CLOUDS}",
    "pandar_msgs/PandarScan": f"run Hesai's driver (nebula_ros, hesai_ros_driver) to {_TO_CLOUDS}",
    "hesai_lidar/PandarScan": f"run Hesai's driver (hesai_lidar with data_type rosbag) to {_TO_CLOUDS}",
    "nebula_msgs/NebulaPackets": f"run nebula_ros with launch_hw:=false to {_TO_CLOUDS}",
    "rslidar_msg/RslidarPacket": f"run rslidar_sdk with msg_source 2 (packets of ROS) to {_TO_CLOUDS}",
    "rslidar_msgs/rslidarScan": f"run rslidar_sdk with msg_source 2 (packets of ROS) to {_TO_CLOUDS}",
    "rslidar_msgs/rslidarPacket": f"run rslidar_sdk with msg_source 2 (packets of ROS) to {_TO_CLOUDS}",
    "sensor_msgs/LaserScan": "a planar scan is no cloud: laser_geometry projects it to sensor_msgs/msg/PointCloud2",
    "sensor_msgs/MultiEchoLaserScan": "a planar scan is no cloud: laser_proc and laser_geometry project it",
    "sensor_msgs/PointCloud": "convert it with sensor_msgs' point_cloud_conversion to sensor_msgs/msg/PointCloud2",
}
_BY_PACKAGE = {
    "livox": f"set the driver's xfer_format: 0 to {_TO_CLOUDS}",
    "ouster": f"run ouster_ros's os_cloud node to {_TO_CLOUDS}",
    "velodyne": f"run velodyne_pointcloud to {_TO_CLOUDS}",
    "rslidar": f"run rslidar_sdk to {_TO_CLOUDS}",
    "robosense": f"run rslidar_sdk to {_TO_CLOUDS}",
    "hesai": f"run Hesai's driver to {_TO_CLOUDS}",
    "pandar": f"run Hesai's driver to {_TO_CLOUDS}",
    "prophesee": "metavision_driver publishes event_camera_msgs/msg/EventPacket",
    "dvs_msgs": "event_camera_codecs and event_camera_tools convert to event_camera_msgs/msg/EventPacket",
    "event_": "event_camera_codecs and event_camera_tools convert to event_camera_msgs/msg/EventPacket",
}


def way_out(type_name: str) -> str:
    """How to get from a message type that is not read to one that is; "" where nothing is known of it."""
    short = type_name.replace("/msg/", "/")
    if short in _WAYS_OUT:
        return _WAYS_OUT[short]
    package = short.partition("/")[0].lower()
    return next((text for start, text in _BY_PACKAGE.items() if start in package), "")
