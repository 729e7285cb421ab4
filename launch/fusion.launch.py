"""Starts the fusion node, and RViz if asked for: ros2 launch mm_perception fusion.launch.py --show-args"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

SHARE = Path(get_package_share_directory("mm_perception"))

SETTINGS = ("rig", "model", "detector", "output_frame", "engine", "precision")
ARGUMENTS = {
    "config": (str(SHARE / "config" / "fusion.yaml"), "parameter file of the fusion node"),
    "rig": ("", "sensors: a name in config/rigs or a path; empty: as in config"),
    "model": ("", "segmentation: a name in config/models, a path, or none; empty: as in config"),
    "detector": ("", "3D detection: the same, or none; empty: as in config"),
    "output_frame": ("", "frame of the boxes; empty: as in config"),
    "engine": ("", "auto, tensorrt, torch, onnxruntime or openvino; empty: as in config"),
    "precision": ("", "of TensorRT engines: auto, fp32, tf32, bf16, fp16, int8 or mixed; empty: as in config"),
    "build_only": ("false", "build the engines that are missing, and end"),
    "autostart": ("true", "configure and activate at once; false: a lifecycle manager does"),
    "deadline_ms": ("", "how old a result may be when it is published; empty: as in config"),
    "use_sim_time": ("false", "take the time from /clock"),
    "namespace": ("", "namespace of the node"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "rviz": ("false", "start RViz with config/rviz/fusion.rviz"),
}


def make_nodes(context: LaunchContext) -> list[Node]:
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    use_sim_time = {"use_sim_time": value["use_sim_time"].lower() == "true"}
    overrides: dict[str, object] = {name: value[name] for name in SETTINGS if value[name]}
    if value["build_only"].lower() == "true":
        overrides["build_only"] = True
    if value["autostart"].lower() == "false":
        overrides["autostart"] = False
    if value["deadline_ms"]:
        overrides["deadline_ms"] = float(value["deadline_ms"])
    nodes = [
        Node(
            package="mm_perception",
            executable="fusion_node",
            name="fusion_node",
            namespace=value["namespace"],
            parameters=[value["config"], overrides | use_sim_time],
            arguments=["--ros-args", "--log-level", value["log_level"]],
            output="screen",
        )
    ]
    if value["rviz"].lower() == "true":
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=value["namespace"],
                arguments=["-d", str(SHARE / "config" / "rviz" / "fusion.rviz")],
                parameters=[use_sim_time],
            )
        )
    return nodes


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=make_nodes)])
