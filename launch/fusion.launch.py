"""Starts the fusion node, and RViz if asked for: ros2 launch mm_perception fusion.launch.py --show-args"""

import tempfile
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from mm_perception.core.settings import FusionSettings
from mm_perception.core.yaml_file import read_yaml
from mm_perception.ros.launch_arguments import is_true, setting_arguments, setting_values
from mm_perception.ros.rviz_file import write_rviz_file

SHARE = Path(get_package_share_directory("mm_perception"))

OWN_ARGUMENTS = {
    "config": (str(SHARE / "config" / "fusion.yaml"), "parameter file of the fusion node"),
    "use_sim_time": ("false", "take the time from /clock"),
    "namespace": ("", "namespace of the node"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "rviz": ("false", "start RViz, with the topics of this rig and namespace"),
}
ARGUMENTS = setting_arguments() | OWN_ARGUMENTS


def make_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    use_sim_time = {"use_sim_time": is_true("use_sim_time", value["use_sim_time"])}
    node = Node(
        package="mm_perception",
        executable="fusion_node",
        name="fusion_node",
        namespace=value["namespace"],
        parameters=[value["config"], setting_values(value) | use_sim_time],
        arguments=["--ros-args", "--log-level", value["log_level"]],
        output="screen",
        on_exit=after_node,
    )
    return [node, *(make_rviz(value, use_sim_time) if is_true("rviz", value["rviz"]) else [])]


def after_node(event, context):  # type: ignore[no-untyped-def]
    """Without the node there is nothing to show: all ends, with an error if the node ended with one."""
    if context.is_shutdown:
        return None
    if event.returncode:
        raise RuntimeError(f"fusion_node ended with code {event.returncode}")
    return [Shutdown(reason="fusion_node ended")]


def make_rviz(value: dict[str, str], use_sim_time: dict[str, bool]) -> list[LaunchDescriptionEntity]:
    """RViz with a file for this rig and namespace; where RViz is not installed, a word about it."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return [
            LogInfo(msg="rviz:=true: rviz2 is not installed (apt install ros-$ROS_DISTRO-rviz2): it goes on without")
        ]
    file = Path(tempfile.mkdtemp(prefix="mm_perception-rviz-")) / "fusion.rviz"
    space = value["namespace"].strip("/")
    write_rviz_file(
        file, chosen_rig(value), f"/{space}/fusion_node" if space else "/fusion_node", value["output_frame"]
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=value["namespace"],
        arguments=["-d", str(file)],
        parameters=[use_sim_time],
    )
    return [rviz]


def chosen_rig(value: dict[str, str]) -> str:
    """The rig of the argument, or of the parameter file."""
    if value["rig"]:
        return value["rig"]
    for parameters in read_yaml(Path(value["config"])).values():
        rig = (parameters or {}).get("ros__parameters", {}).get("rig")
        if rig:
            return str(rig)
    return FusionSettings().rig


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=make_nodes)])
