"""Recordings as they come: other topics, other types, broken and foreign messages beside good ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import (
    encode_compressed,
    encode_diagnostics,
    encode_image,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.codec.guard import MessageGuard
from mm_perception.core.errors import BagError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import PointCloud
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.replay.replay import observations
from mm_perception.replay.truth import DetectionTruth, SegmentationTruth

T, PERIOD_NS = 10**18, 10**8
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
XYZ = np.array([[0.0, 0, 5], [1, 1, 5]], np.float32)
STATIC = RigidTransform("left", "lidar", np.eye(3), np.array([1.0, 2, 3]))


def rig(**keys: Any) -> RigConfig:
    sensors = (SensorConfig("rgb", "rgb", "/rgb"), SensorConfig("lidar", "lidar", "/points", required=False))
    return RigConfig(sensors, "rgb", **keys)


def write(path: Path, tf: dict[str, Any], form: str = "raw", **others: Any) -> Path:
    """Three frames. Args: tf: transforms by topic. others: further messages by topic with _ for /."""
    with BagWriter(path) as bag:
        make = bag.factory
        for topic, transform in tf.items():
            bag.write(topic, encode_transforms(make, [transform], T), T - 5, latched="static" in topic)
        for i in range(3):
            t_ns = T + i * PERIOD_NS
            raw, packed = encode_image(make, PIXELS, "rgb8", t_ns, "left"), None
            if form == "compressed":
                packed = encode_compressed(make, PIXELS, "png", t_ns, "left")
            bag.write("/rgb", packed or raw, t_ns)
            bag.write("/points", encode_point_cloud(make, PointCloud(XYZ, t_ns, "lidar")), t_ns)
            for name, encode in others.items():
                bag.write(name.replace("_", "/"), encode(make, t_ns), t_ns)
    return path


def replayed(path: Path, config: RigConfig) -> tuple[list[Observation], Intake, list[str]]:
    said: list[str] = []
    with BagReader(path) as bag:
        intake = Intake(config.with_types(bag.topics), lambda where, error: said.append(f"{where}: {error}"))
        return list(observations(bag, intake)), intake, said


def test_transforms_of_a_namespace_are_found_where_the_rig_says(tmp_path):
    path = write(tmp_path / "x.mcap", {"/husky1/tf_static": STATIC})
    seen, intake, said = replayed(path, rig(tf="/husky1/tf", tf_static="/husky1/tf_static"))
    assert len(seen) == 3 and not any(one.calibration.problems for one in seen) and not said
    assert not intake.rejected


def test_transforms_elsewhere_are_named_with_the_keys(tmp_path):
    seen, _, said = replayed(write(tmp_path / "x.mcap", {"/husky1/tf_static": STATIC}), rig())
    assert len(seen) == 3 and all("lidar" in one.calibration.problems for one in seen)
    (text,) = said
    for part in ("no /tf nor /tf_static", "/husky1/tf_static", "set tf and tf_static"):
        assert part in text


def diagnostics(make: Any, t_ns: int) -> Any:
    return encode_diagnostics(make, t_ns, [], "x")


def test_foreign_types_of_what_is_not_a_sensor_are_named_and_done_without(tmp_path):
    path = write(tmp_path / "x.mcap", {"/tf_static": STATIC}, _tf=diagnostics, _odom=diagnostics)
    seen, intake, said = replayed(path, rig(odometry="/odom"))
    assert len(seen) == 3 and not any(one.calibration.problems for one in seen)
    assert set(intake.rejected) == {("/tf", "BagError"), ("/odom", "BagError")}
    assert any("/odom has diagnostic_msgs" in one and "wants nav_msgs/msg/Odometry" in one for one in said)


def test_a_sensors_topic_of_a_type_that_it_cannot_send_is_an_error_with_what_it_can(tmp_path):
    path = write(tmp_path / "x.mcap", {})
    config = RigConfig((SensorConfig("rgb", "rgb", "/points"),), "rgb")
    with pytest.raises(BagError, match=r"/points has sensor_msgs/msg/PointCloud2.*sensor_msgs/msg/CompressedImage"):
        replayed(path, config)


@pytest.mark.parametrize("form", ["raw", "compressed"])
def test_an_open_type_is_read_from_the_bag(tmp_path, form):
    seen, intake, _ = replayed(write(tmp_path / "x.mcap", {}, form), rig())
    assert len(seen) == 3 and all((one.bundle.measurements["rgb"].image == PIXELS).all() for one in seen)
    assert intake.rig.sensor("rgb").type.endswith("CompressedImage" if form == "compressed" else "Image")


def test_a_type_that_is_said_is_kept(tmp_path):
    sensors = (SensorConfig("rgb", "rgb", "/rgb", "sensor_msgs/msg/Image"),)
    with pytest.raises(BagError, match=r"has sensor_msgs/msg/CompressedImage, rig .* wants sensor_msgs/msg/Image"):
        replayed(write(tmp_path / "x.mcap", {}, "compressed"), RigConfig(sensors, "rgb"))


def test_truth_of_foreign_types_and_broken_labels_cost_themselves_alone(tmp_path):
    def labels(make: Any, t_ns: int) -> Any:
        ids = np.zeros((4, 4), np.uint8)
        wrong = encode_image(make, PIXELS, "rgb8", t_ns, "left")
        return wrong if t_ns == T + PERIOD_NS else encode_image(make, ids, "mono8", t_ns, "left")

    path = write(tmp_path / "x.mcap", {}, _labels=labels, _objects=diagnostics)
    from mm_perception.core.types import SegmentationMap

    said: list[str] = []
    guard = MessageGuard(lambda where, error: said.append(f"{where}: {error}"))
    with BagReader(path) as bag:
        truth = SegmentationTruth(bag, "/labels", 2, guard=guard)
        for i in range(3):
            ids = np.zeros((4, 4), np.uint8)
            truth.compare(SegmentationMap(ids, ("a", "b"), T + i * PERIOD_NS, "left", trained=True))
        boxes = DetectionTruth(bag, "/objects", "/states", guard)
        assert boxes.scores() is None and boxes.scored == 0
    assert truth.scored == 2 and truth.confusion.scores().miou == 1.0
    assert guard.dropped == {("/labels", "DataError"): 1, ("/objects", "BagError"): 1}
    assert "expected mono8, got rgb8" in said[0] and "true objects want vision_msgs" in said[1]


@pytest.mark.parametrize("kind", [AttributeError, KeyError, RecursionError, ZeroDivisionError, MemoryError])
def test_the_guard_lets_no_error_through(kind):
    def fail() -> None:
        raise kind("odd")

    told: list[str] = []
    guard = MessageGuard(lambda where, error: told.append(where))
    assert guard.take("/x", fail) is None and guard.take("/x", lambda: 5) == 5
    assert guard.dropped == {("/x", kind.__name__): 1} and told == ["/x"]
