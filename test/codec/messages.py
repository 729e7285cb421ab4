"""Messages for tests, made as bags make them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.fields import make_header

FACTORY = BagMessages()
STAMP_NS = 1_700_000_000_123_456_789


def header(stamp_ns: int = STAMP_NS, frame_id: str = "cam") -> Any:
    return make_header(FACTORY, stamp_ns, frame_id)


def raw_image(data: bytes, width: int, height: int, encoding: str, step: int, big: int = 0, **other: Any) -> Any:
    return FACTORY.make(
        "sensor_msgs/msg/Image",
        header=other.get("header", header()),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big,
        step=step,
        data=np.frombuffer(data, np.uint8),
    )
