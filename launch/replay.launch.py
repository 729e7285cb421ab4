"""Plays a bag before the fusion node, on the bag's own time: ros2 launch mm_perception replay.launch.py bag:=X.mcap

It plays when the node is active, and ends when the bag does.
"""

import shlex
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from mm_perception.ros.launch_arguments import is_true, setting_arguments

LAUNCH = Path(get_package_share_directory("mm_perception")) / "launch"

PASSED_ON = {
    "namespace": ("", "namespace of the node"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "rviz": ("false", "start RViz, with the topics of this rig and namespace"),
}
OWN_ARGUMENTS = PASSED_ON | {
    "bag": (None, "bag to play: a file or a folder; several with blanks between"),
    "rate": ("1.0", "speed of playing"),
    "loop": ("false", "begin again at the end"),
    "start_offset": ("0.0", "seconds of the bag that are left out"),
    "clock_hz": ("100.0", "how often /clock is sent, per second"),
}
ARGUMENTS = setting_arguments("config/fusion.yaml") | OWN_ARGUMENTS


def make_player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    value = {name: LaunchConfiguration(name).perform(context) for name in OWN_ARGUMENTS}
    space = value["namespace"].strip("/")
    node = f"/{space}/fusion_node" if space else "/fusion_node"
    line = [sys.executable, "-u", "-m", "mm_perception.cli.main", "play", *shlex.split(value["bag"])]
    line += ["--rate", value["rate"], "--start-offset", value["start_offset"], "--clock", value["clock_hz"]]
    line += ["--loop"] if is_true("loop", value["loop"]) else []
    line += ["--wait-for", node, "--report", node]
    return [ExecuteProcess(cmd=line, name="player", output="screen", on_exit=after_player)]


def after_player(event, context):  # type: ignore[no-untyped-def]
    """The end of the bag is the end of all."""
    if context.is_shutdown:
        return None
    if event.returncode:
        raise RuntimeError(f"the player ended with code {event.returncode}")
    return [Shutdown(reason="the bag was played")]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    passed_on = [(name, LaunchConfiguration(name)) for name in (*setting_arguments(), *PASSED_ON)]
    fusion = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "fusion.launch.py")),
        launch_arguments=[*passed_on, ("use_sim_time", "true")],
    )
    return LaunchDescription([*declared, fusion, OpaqueFunction(function=make_player)])
