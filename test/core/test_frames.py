from __future__ import annotations

import pytest

from mm_perception.core.config import from_mapping
from mm_perception.core.errors import ConfigError
from mm_perception.core.frames import frame_name, prefixed
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.settings import FusionSettings


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("os_sensor", "os_sensor"),
        ("/os_sensor", "os_sensor"),
        ("//os_sensor/", "os_sensor"),
        (" /os_sensor\n", "os_sensor"),
        ("velodyne\0\0", "velodyne"),
        ("/husky1/os_sensor", "husky1/os_sensor"),
        ("husky1//os_sensor", "husky1/os_sensor"),
        ("front camera", "front camera"),
        ("", ""),
        ("/", ""),
        (" ", ""),
        ("/ /", ""),
    ],
)
def test_one_spelling(said, name):
    assert frame_name(said) == name
    assert frame_name(frame_name(said)) == name


@pytest.mark.parametrize(
    ("prefix", "name", "expected"),
    [
        ("husky1", "base", "husky1/base"),
        ("husky1", "husky1/base", "husky1/base"),
        ("husky1", "husky10/base", "husky1/husky10/base"),
        ("", "base", "base"),
        ("husky1", "", ""),
    ],
)
def test_a_prefix_is_put_before_names_that_lack_it(prefix, name, expected):
    assert prefixed(prefix, name) == expected


def rig(**keys: object) -> RigConfig:
    sensors = [{"name": "rgb", "kind": "rgb", "topic": "/c"}, {"name": "lidar", "kind": "lidar", "frame_id": "/ouster"}]
    return from_mapping(RigConfig, {"sensors": sensors, "reference": "rgb"} | keys, "rig.yaml")


def test_the_configuration_speaks_of_the_same_names():
    given = rig(fixed_frame="/odom", frame_prefix="/husky1/")
    assert (given.fixed_frame, given.frame_prefix) == ("odom", "husky1")
    assert given.frame_of("rgb", "cam") == "husky1/cam" and given.frame_of("rgb", "") == ""
    assert given.frame_of("lidar", "anything") == "ouster", "what the rig says is the whole name"
    assert FusionSettings(output_frame=" /base_link").output_frame == "base_link"


def test_a_mount_without_a_frame_is_refused():
    sensor = {"name": "rgb", "kind": "rgb", "mount": {"frame_id": "/", "xyz_m": [0, 0, 0]}}
    with pytest.raises(ConfigError, match=r"mount: frame_id: expected the name of a frame"):
        from_mapping(RigConfig, {"sensors": [sensor], "reference": "rgb"}, "rig.yaml")


@pytest.mark.parametrize("keys", [{"tf": ""}, {"tf_static": ""}, {"tf": "/tf_static"}])
def test_topics_of_transforms_are_two(keys):
    with pytest.raises(ConfigError, match="tf, tf_static: expected two topics"):
        rig(**keys)


@pytest.mark.parametrize(
    ("given", "published", "expected"),
    [
        ("", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CompressedImage"),
        ("", "sensor_msgs/msg/Image", "sensor_msgs/msg/Image"),
        ("", "sensor_msgs/msg/PointCloud2", ""),
        ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"),
    ],
)
def test_an_open_type_is_that_of_the_topic(given, published, expected):
    config = RigConfig((SensorConfig("rgb", "rgb", "/c", given),), "rgb")
    assert config.with_types({"/c": published, "/other": "x"}).sensor("rgb").type == expected
    assert config.with_types({}).sensor("rgb").type == given
