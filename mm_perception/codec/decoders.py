"""The decoder of a sensor, chosen by its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mm_perception.codec.image import decode_depth, decode_image, decode_thermal
from mm_perception.codec.streams import EventDecoder, LidarDecoder
from mm_perception.core.rig import SensorConfig
from mm_perception.core.types import Measurement

Decoder = Callable[[Any], Measurement]


def make_decoder(sensor: SensorConfig) -> Decoder:
    """A function from the sensor's messages, in order, to measurements; it raises DataError.

    One that lives across messages may have `losses` and `left_out` (counts by what it was) and `notes` (what is worth
    saying of the messages, each said once).
    """
    if sensor.kind == "rgb":
        return lambda msg: decode_image(msg, sensor.pixel_limit)
    if sensor.kind == "depth":
        return lambda msg: decode_depth(msg, sensor.pixel_limit)
    if sensor.kind == "thermal":
        return lambda msg: decode_thermal(msg, sensor.thermal_scale, sensor.pixel_limit)
    if sensor.kind == "lidar":
        return LidarDecoder(sensor)
    return EventDecoder(sensor)
