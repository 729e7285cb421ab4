"""Quality of service of inputs and outputs."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from mm_perception.core.rig import RigConfig
from mm_perception.pipeline.intake import InputTopic


def input_qos(topic: InputTopic, rig: RigConfig) -> QoSProfile:
    """Sensors as the rig says (best effort, depth 1 by default); transforms as tf2 subscribes to them."""
    if topic.role == "sensor":
        sensor = rig.sensor(topic.sensor)
        reliable = sensor.reliability == "reliable"
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=sensor.queue_depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
    if topic.role == "camera_info":
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.role == "tf_static" else DurabilityPolicy.VOLATILE,
    )


def output_qos(latched: bool = False, depth: int = 5) -> QoSProfile:
    """Results are reliable; `latched` ones reach late subscribers."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1 if latched else depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
