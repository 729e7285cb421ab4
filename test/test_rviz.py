"""The RViz configuration, without RViz: what it names exists, and its topics come from the node or the `sim` rig."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mm_perception.codec.detections import MARKER_NAMESPACES
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig, load_rig
from mm_perception.ros.rviz_file import rviz_config, topic_of, write_rviz_file
from mm_perception.sim.world import BASE_FRAME

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "config" / "rviz" / "fusion.rviz").read_text(encoding="utf-8"))
MANAGER = CONFIG["Visualization Manager"]
DISPLAYS = MANAGER["Displays"]
WITH_TOPIC = [display for display in DISPLAYS if "Topic" in display]
NODE = "/fusion_node/"

# github.com/ros2/rviz at f7112b1a: rviz_default_plugins/plugins_description.xml by base class; panels are built in:
# rviz_common/src/rviz_common/panel_factory.cpp.
PLUGINS = {
    "Display": """
        AccelStamped Axes Camera CameraInfo DepthCloud Effort FluidPressure Grid GridCells Illuminance Image
        InteractiveMarkers LaserScan Map Marker MarkerArray Odometry Path PointCloud PointCloud2 PointStamped Polygon
        Pose PoseArray PoseWithCovariance Range RelativeHumidity RobotModel TF Temperature TwistStamped Wrench
    """,
    "Tool": "FocusCamera Interact Measure MoveCamera PublishPoint Select SetGoal SetInitialPose",
    "View": "FPS Orbit ThirdPersonFollower TopDownOrtho XYOrbit",
}
CLASSES = {kind: {f"rviz_default_plugins/{name}" for name in names.split()} for kind, names in PLUGINS.items()}
CLASSES["Panel"] = {
    f"rviz_common/{name}"
    for name in ("Displays", "Help", "Selection", "Time", "Tool Properties", "Transformation", "Views")
}
MESSAGE_TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
}
POLICIES = {  # rviz_common/src/rviz_common/properties/qos_profile_property.cpp; others silently become the default
    "History Policy": {"Keep Last", "Keep All", "System Default"},
    "Reliability Policy": {"Reliable", "Best Effort", "System Default"},
    "Durability Policy": {"Volatile", "Transient Local", "System Default"},
}
SENSORS = {sensor.input_topic: sensor for sensor in load_rig("sim").sensors}


def node_outputs() -> set[str]:
    """The topics below `~/output` that the node's code makes publishers of, with or without that prefix."""
    found: set[str] = set()
    for path in (ROOT / "mm_perception" / "ros").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("publisher"):
                texts = [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
                names = [match[1] for match in (re.fullmatch(r"(?:~/output/)?(\w+)", text) for text in texts) if match]
                found |= {f"{NODE}output/{name}" for name in names}
    return found


def classes() -> list[tuple[str, Any]]:
    views = [MANAGER["Views"]["Current"], *MANAGER["Views"]["Saved"]]
    kinds = {"Panel": CONFIG["Panels"], "Display": DISPLAYS, "Tool": MANAGER["Tools"], "View": views}
    return [(kind, part["Class"]) for kind, parts in kinds.items() for part in parts]


@pytest.mark.parametrize(("kind", "name"), classes())
def test_every_class_is_one_of_rvizs(kind, name):
    assert name in CLASSES[kind]


def test_all_that_is_promised_is_shown():
    shown = sorted(display["Class"].rpartition("/")[2] for display in DISPLAYS)
    assert shown == ["Grid", "Image", "Image", "MarkerArray", "PointCloud2", "TF"]
    assert len({display["Name"] for display in DISPLAYS}) == len(DISPLAYS)
    assert all(display["Enabled"] is display["Value"] is True for display in DISPLAYS)
    assert MANAGER["Global Options"]["Fixed Frame"] == BASE_FRAME


@pytest.mark.parametrize("display", WITH_TOPIC, ids=lambda d: d["Name"])
def test_every_topic_comes_from_the_node_or_the_rig(display):
    topic = display["Topic"]["Value"]
    if topic.startswith(NODE):
        assert topic in node_outputs()
    else:
        assert SENSORS[topic].message_type == MESSAGE_TYPES[display["Class"]]


@pytest.mark.parametrize("display", WITH_TOPIC, ids=lambda d: d["Name"])
def test_quality_of_service_is_valid_and_fits_the_publisher(display):
    topic = display["Topic"]
    for name, known in POLICIES.items():
        assert topic[name] in known
    assert isinstance(topic["Depth"], int)
    assert topic["Depth"] >= 1
    # A sensor's publisher may be best effort, which a reliable subscription would not hear; results are reliable.
    expected = "Reliable" if topic["Value"].startswith(NODE) else "Best Effort"
    assert topic["Reliability Policy"] == expected
    assert topic["Durability Policy"] == "Volatile"


def test_every_namespace_of_the_markers_is_on():
    (markers,) = (display for display in DISPLAYS if display["Class"].endswith("/MarkerArray"))
    assert markers["Namespaces"] == dict.fromkeys(MARKER_NAMESPACES, True)


def displays_of(rig: RigConfig, node_name: str, frame: str = "") -> dict[str, dict[str, Any]]:
    config = rviz_config(CONFIG, rig, node_name, frame)
    assert config["Visualization Manager"]["Global Options"]["Fixed Frame"] == (frame or BASE_FRAME)
    shown = config["Visualization Manager"]["Displays"]
    assert {display["Class"] for display in shown} <= CLASSES["Display"]
    by_name = {display["Name"]: display for display in shown}
    assert len(by_name) == len(shown)
    return by_name


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config" / "rigs").glob("*.yaml")))
def test_a_file_for_each_shipped_rig(name):
    rig = load_rig(name)
    topics = {d["Topic"]["Value"] for d in displays_of(rig, "/left/fusion_node", "map").values() if "Topic" in d}
    clouds = {topic_of(lidar, "/left/fusion_node") for lidar in rig.of_kind("lidar")}
    assert clouds <= topics
    outputs = {topic for topic in topics if topic.startswith("/left/fusion_node/output/")}
    assert {topic.removeprefix("/left") for topic in outputs} <= node_outputs()
    assert len(outputs) == 3
    rest = topics - clouds - outputs
    assert rest <= {topic_of(rig.sensor(rig.reference), "/left/fusion_node")}


def test_two_lidars_and_topics_in_the_nodes_namespace():
    sensors = (
        SensorConfig("front", "rgb", topic="camera/image"),
        SensorConfig("top", "lidar"),
        SensorConfig("side", "lidar", topic="/side/points"),
    )
    shown = displays_of(RigConfig(sensors, "front"), "/robot1/fusion_node")
    assert shown["LiDAR top"]["Topic"]["Value"] == "/robot1/fusion_node/input/top"
    assert shown["LiDAR side"]["Topic"]["Value"] == "/side/points"
    assert shown["Camera front"]["Topic"]["Value"] == "/robot1/camera/image"
    assert CONFIG["Visualization Manager"]["Displays"] == DISPLAYS  # the shipped one is as it was


def test_the_file_is_written_for_a_rig_by_its_name(tmp_path):
    write_rviz_file(tmp_path / "x.rviz", "sim", NODE.rstrip("/"))
    written = yaml.safe_load((tmp_path / "x.rviz").read_text(encoding="utf-8"))
    shown = [d for d in written["Visualization Manager"]["Displays"] if not d["Name"].startswith("Camera")]
    assert shown == DISPLAYS
    with pytest.raises(ConfigError, match="nonesuch"):
        write_rviz_file(tmp_path / "y.rviz", "nonesuch", "/n")


def test_launch_starts_rviz_with_such_a_file():
    assert "write_rviz_file(" in (ROOT / "launch" / "fusion.launch.py").read_text(encoding="utf-8")
