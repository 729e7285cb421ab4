"""Pieces that all messages share: stamps, octets, and making messages of either kind."""

from __future__ import annotations

from array import array
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.frames import frame_name

NANOSECONDS = 1_000_000_000


class MessageFactory(Protocol):
    """Makes messages; one implementation for rclpy, one for bags."""

    def make(self, type_name: str, **fields: Any) -> Any:
        """A message, e.g. of "sensor_msgs/msg/Image"; every field must be given."""

    def octets(self, data: NDArray[np.uint8]) -> Any:
        """The form that a uint8[] field takes."""


def decode_stamp(header: Any) -> int:
    """The header's stamp in nanoseconds.

    Raises:
        DataError: the stamp is negative, denormal, or zero (nobody set it).
    """
    sec, nanosec = int(header.stamp.sec), int(header.stamp.nanosec)
    if sec < 0 or not 0 <= nanosec < NANOSECONDS or (sec == 0 and nanosec == 0):
        raise DataError(f"impossible stamp: {sec} s {nanosec} ns in frame {header.frame_id!r}")
    return sec * NANOSECONDS + nanosec


def decode_frame(header: Any) -> str:
    """The frame that a header names, in one spelling; "" where it names none."""
    return frame_name(header.frame_id)


def make_header(factory: MessageFactory, stamp_ns: int, frame_id: str) -> Any:
    return factory.make("std_msgs/msg/Header", stamp=make_time(factory, stamp_ns), frame_id=frame_name(frame_id))


def make_time(factory: MessageFactory, stamp_ns: int) -> Any:
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    return factory.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)


def octets_of(data: Any) -> NDArray[np.uint8]:
    """A uint8 view of a uint8[] field without a copy (array.array, bytes or ndarray; lists are copied)."""
    if isinstance(data, np.ndarray):
        return data.view(np.uint8).reshape(-1)
    if isinstance(data, (array, bytes, bytearray, memoryview)):
        return np.frombuffer(data, dtype=np.uint8)
    return np.asarray(data, dtype=np.uint8)
