"""Plays a bag beside the fusion node, on the bag's own time: ros2 launch mm_perception replay.launch.py bag:=X.mcap"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

LAUNCH = Path(get_package_share_directory("mm_perception")) / "launch"

ARGUMENTS = {
    "bag": (None, "bag to play: an .mcap file or a rosbag2 folder"),
    "rate": ("1.0", "speed of playing"),
    "rig": ("demo", "sensors: a name in config/rigs or a path"),
    "model": ("", "segmentation: a name in config/models, a path, or none; empty: as in config/fusion.yaml"),
    "detector": ("", "3D detection: the same, or none; empty: as in config/fusion.yaml"),
    "output_frame": ("", "frame of the boxes; empty: as in config/fusion.yaml"),
    "engine": ("", "auto, torch, onnxruntime or openvino; empty: as in config/fusion.yaml"),
    "rviz": ("false", "start RViz with config/rviz/fusion.rviz"),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    names = ("rig", "model", "detector", "output_frame", "engine", "rviz")
    passed_on = {name: LaunchConfiguration(name) for name in names}
    fusion = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "fusion.launch.py")),
        launch_arguments=[*passed_on.items(), ("use_sim_time", "true")],
    )
    rate, bag = LaunchConfiguration("rate"), LaunchConfiguration("bag")
    play = ExecuteProcess(cmd=["ros2", "bag", "play", bag, "--clock", "--rate", rate], output="screen")
    return LaunchDescription([*declared, fusion, play])
