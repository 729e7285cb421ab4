"""RViz's configuration for a rig and a node: the shipped one with other topics. Nothing here needs ROS."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mm_perception.core.errors import ConfigError
from mm_perception.core.resources import config_dir
from mm_perception.core.rig import RigConfig, SensorConfig, load_rig

SHIPPED_NODE = "/fusion_node"
_POINT_CLOUD, _IMAGE = "rviz_default_plugins/PointCloud2", "rviz_default_plugins/Image"
_RAW_IMAGE = "sensor_msgs/msg/Image"


def rviz_config(shipped: dict[str, Any], rig: RigConfig, node_name: str, fixed_frame: str = "") -> dict[str, Any]:
    """A configuration that shows what a node on a rig sees and says.

    Args:
        shipped: config/rviz/fusion.rviz.
        node_name: with its namespace: "/robot1/fusion_node".
        fixed_frame: of the view; empty: the shipped one.

    Returns:
        Another configuration: a display of points for each LiDAR, the outputs of the node by its name, and the
        reference camera where its images are not compressed.
    """
    config = copy.deepcopy(shipped)
    manager = config["Visualization Manager"]
    if fixed_frame:
        manager["Global Options"]["Fixed Frame"] = fixed_frame
    manager["Displays"] = list(_displays(manager["Displays"], rig, node_name))
    lidars = rig.of_kind("lidar")
    for panel in config["Panels"]:
        if "SyncSource" in panel:
            panel["SyncSource"] = _cloud_name(lidars[0], lidars) if lidars else ""
    return config


def write_rviz_file(path: Path, rig_name: str, node_name: str, fixed_frame: str = "") -> None:
    """Writes the configuration of a rig, given by its name or path.

    Raises:
        ConfigError: the rig, or the shipped configuration, cannot be read.
        OSError: the file cannot be written.
    """
    source = config_dir() / "rviz" / "fusion.rviz"
    try:
        shipped = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: cannot be read ({error})") from error
    rig = load_rig(rig_name)
    config = rviz_config(shipped, rig, node_name, fixed_frame)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def topic_of(sensor: SensorConfig, node_name: str) -> str:
    """A sensor's topic by its full name, as the node resolves it."""
    topic = sensor.input_topic
    if topic.startswith("~"):
        return f"{node_name}/{topic[1:].lstrip('/')}"
    return topic if topic.startswith("/") else f"{node_name.rpartition('/')[0]}/{topic}"


def _displays(shipped: list[dict[str, Any]], rig: RigConfig, node_name: str) -> Iterator[dict[str, Any]]:
    lidars, reference = rig.of_kind("lidar"), rig.sensor(rig.reference)
    image: dict[str, Any] = {}
    for display in shipped:
        topic = str(display.get("Topic", {}).get("Value", ""))
        if display["Class"] == _POINT_CLOUD:
            for lidar in lidars:
                yield _with(display, _cloud_name(lidar, lidars), topic_of(lidar, node_name))
        elif topic.startswith(f"{SHIPPED_NODE}/"):
            image = display if display["Class"] == _IMAGE else image
            yield _with(display, display["Name"], node_name + topic.removeprefix(SHIPPED_NODE))
        else:
            yield display
    if image and reference.message_type == _RAW_IMAGE:
        camera = _with(image, f"Camera {reference.name}", topic_of(reference, node_name))
        camera["Topic"]["Reliability Policy"] = "Best Effort"  # hears reliable publishers, too
        camera["Enabled"] = camera["Value"] = False  # the overlays show it already
        yield camera


def _cloud_name(lidar: SensorConfig, lidars: tuple[SensorConfig, ...]) -> str:
    return "LiDAR" if len(lidars) == 1 else f"LiDAR {lidar.name}"


def _with(display: dict[str, Any], name: str, topic: str) -> dict[str, Any]:
    changed = copy.deepcopy(display)
    changed["Name"], changed["Topic"]["Value"] = name, topic
    return changed
