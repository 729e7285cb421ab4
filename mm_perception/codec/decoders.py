"""The decoder of a sensor, chosen by its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mm_perception.codec.image import ThermalDecoder, decode_depth
from mm_perception.codec.streams import ColorDecoder, EventDecoder, LidarDecoder
from mm_perception.core.rig import SensorConfig
from mm_perception.core.types import Measurement

Decoder = Callable[[Any], Measurement]


def make_decoder(sensor: SensorConfig) -> Decoder:
    """A function from the sensor's messages, in order, to measurements; it raises DataError.

    One that lives across messages may have `losses` and `left_out` (counts by what it was) and `notes` (what is worth
    saying of the messages, each said once).
    """
    if sensor.kind == "rgb":
        return ColorDecoder(sensor)
    if sensor.kind == "depth":
        return lambda msg: decode_depth(msg, sensor.pixel_limit, sensor.depth_unit_m)
    if sensor.kind == "thermal":
        return ThermalDecoder(sensor.thermal_scale, sensor.pixel_limit, sensor.thermal_gain, sensor.thermal_offset_k)
    if sensor.kind == "lidar":
        return LidarDecoder(sensor)
    return EventDecoder(sensor)
