"""The interface packages that are built here must be the upstream ones, bit for bit on the wire."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mm_perception.bags.typestore import typestore

ROOT = Path(__file__).resolve().parents[1]
HASHES = {
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "vision_msgs/msg/Detection3D": "ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
    "vision_msgs/msg/BoundingBox3D": "bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
    "vision_msgs/msg/ObjectHypothesisWithPose": "41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "vision_msgs/msg/ObjectHypothesis": "51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "vision_msgs/msg/LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "vision_msgs/msg/VisionClass": "1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
}
OWN = sorted(f"{p.parents[1].name}/msg/{p.stem}" for p in (ROOT / "interfaces").glob("*/msg/*.msg"))


def built_hash(type_name: str) -> str:
    """What rosidl wrote beside the built message."""
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    paths = [Path(prefix) / "share" / f"{type_name}.json" for prefix in prefixes if prefix]
    text = next(path for path in paths if path.is_file()).read_text()
    entry = next(e for e in json.loads(text)["type_hashes"] if e["type_name"] == type_name)
    return str(entry["hash_string"])


@pytest.mark.parametrize("type_name", sorted(HASHES))
def test_built_message_has_the_upstream_hash(type_name):
    assert built_hash(type_name) == f"RIHS01_{HASHES[type_name]}"


@pytest.mark.parametrize("type_name", OWN)
def test_bags_and_wire_agree(type_name):
    assert built_hash(type_name) == typestore().hash_rihs01(type_name)
