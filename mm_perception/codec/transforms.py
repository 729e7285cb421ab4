"""tf2_msgs/TFMessage and nav_msgs/Odometry to rigid transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_perception.codec.fields import NANOSECONDS
from mm_perception.core.errors import CalibrationError
from mm_perception.geometry.transforms import RigidTransform, TransformTree


def feed_transforms(tree: TransformTree, msg: Any, static: bool) -> list[CalibrationError]:
    """Adds the transforms of one message to the tree.

    Returns:
        An error for each transform that could not be used; the others were added.
    """
    refused: list[CalibrationError] = []
    for item in msg.transforms:
        try:
            transform, stamp_ns = decode_transform(item)
        except CalibrationError as error:
            refused.append(error)
            continue
        if static:
            tree.set_static(transform)
        else:
            tree.add(transform, stamp_ns)
    return refused


def decode_transform(msg: Any) -> tuple[RigidTransform, int]:
    """geometry_msgs/TransformStamped to (header frame <- child frame) and its stamp [ns].

    Raises:
        CalibrationError: empty or equal frame names, zero quaternion, values that are not finite.
    """
    return _stamped(msg, msg.transform.rotation, msg.transform.translation)


def decode_odometry(msg: Any) -> tuple[RigidTransform, int]:
    """nav_msgs/Odometry to its pose (header frame <- child frame) and its stamp [ns]. Raises as `decode_transform`."""
    pose = msg.pose.pose
    return _stamped(msg, pose.orientation, pose.position)


def _stamped(msg: Any, q: Any, t: Any) -> tuple[RigidTransform, int]:
    parent, child = str(msg.header.frame_id).lstrip("/"), str(msg.child_frame_id).lstrip("/")
    if not parent or not child or parent == child:
        raise CalibrationError(f"transform between {parent!r} and {child!r} makes no sense")
    stamp_ns = int(msg.header.stamp.sec) * NANOSECONDS + int(msg.header.stamp.nanosec)
    transform = RigidTransform.from_quaternion(
        parent, child, np.array([q.x, q.y, q.z, q.w], np.float64), np.array([t.x, t.y, t.z], np.float64)
    )
    return transform, stamp_ns
