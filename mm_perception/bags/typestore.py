"""Message types for bags, and making messages of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mm_perception.bags.flat_arrays import FLAT_DEFINITIONS

_DEFINITIONS = {
    "event_camera_msgs/msg/EventPacket": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
        "string encoding\nbool is_bigendian\nuint8[] events\n"
    ),
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data\n"
    ),
    "foxglove_msgs/msg/CompressedVideo": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
    ),
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": ("std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"),
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection3DArray": ("std_msgs/Header header\nvision_msgs/Detection3D[] detections\n"),
}
"""Interfaces that the distribution's type store lacks; field names, types and order are the contract."""

# The name under which event_camera_msgs/EventPacket was recorded before it was renamed.
_DEFINITIONS["event_array_msgs/msg/EventArray"] = _DEFINITIONS["event_camera_msgs/msg/EventPacket"]
_DEFINITIONS |= FLAT_DEFINITIONS


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """ROS 2 Kilted's message types and those of `_DEFINITIONS`."""
    store = get_typestore(Stores.ROS2_KILTED)
    for name, definition in _DEFINITIONS.items():
        if name not in store.fielddefs:
            store.register(get_types_from_msg(definition, name))
    return store


class BagMessages:
    """Makes bag messages (a `codec.fields.MessageFactory`)."""

    def make(self, type_name: str, **fields: Any) -> Any:
        return typestore().types[type_name](**fields)

    def octets(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(data)


def serialize(message: Any, type_name: str) -> bytes:
    """A message of `BagMessages` or of a bag as on the wire."""
    return bytes(typestore().serialize_cdr(message, type_name))
