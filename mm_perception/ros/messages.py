"""Making rclpy messages."""

from __future__ import annotations

import importlib
from array import array
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.detections import AUTOWARE_OBJECTS
from mm_perception.core.errors import ConfigError


@cache
def message_class(type_name: str) -> Any:
    """The class of "package/msg/Name".

    Raises:
        ConfigError: the interface package is not there.
    """
    package, kind, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"message type {type_name} is not installed: {error}") from error


def autoware_available() -> bool:
    """Whether Autoware's messages of detected objects can be imported."""
    try:
        message_class(AUTOWARE_OBJECTS)
    except ConfigError:
        return False
    return True


class RclpyMessages:
    """Makes rclpy messages (a `codec.fields.MessageFactory`)."""

    octet_is_bytes = True

    def make(self, type_name: str, **fields: Any) -> Any:
        return message_class(type_name)(**fields)

    def octets(self, data: NDArray[np.uint8]) -> array[int]:
        # array('B') is what generated messages keep; anything else is checked element by element.
        buffer = array("B")
        buffer.frombytes(np.ascontiguousarray(data).data)
        return buffer
