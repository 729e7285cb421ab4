"""The decoder of a sensor, chosen by its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mm_perception.codec.events import EventPacketDecoder
from mm_perception.codec.image import decode_depth, decode_image, decode_thermal
from mm_perception.codec.point_cloud import decode_point_cloud
from mm_perception.core.rig import SensorConfig
from mm_perception.core.types import Measurement

Decoder = Callable[[Any], Measurement]


def make_decoder(sensor: SensorConfig) -> Decoder:
    """A function from the sensor's messages, in order, to measurements; it raises DataError."""
    if sensor.kind == "rgb":
        return lambda msg: decode_image(msg, sensor.pixel_limit)
    if sensor.kind == "depth":
        return lambda msg: decode_depth(msg, sensor.pixel_limit)
    if sensor.kind == "thermal":
        return lambda msg: decode_thermal(msg, sensor.thermal_scale, sensor.pixel_limit)
    if sensor.kind == "lidar":
        return lambda msg: decode_point_cloud(msg, sensor.intensity_max, sensor.max_points)
    return EventPacketDecoder(sensor.pixel_limit, sensor.max_events)
