"""tf2_msgs/TFMessage and nav_msgs/Odometry to rigid transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_perception.codec.fields import NANOSECONDS, decode_frame
from mm_perception.codec.guard import refusing
from mm_perception.core.errors import CalibrationError
from mm_perception.core.frames import frame_name
from mm_perception.core.limits import MAX_TRANSFORMS
from mm_perception.geometry.transform_tree import TransformTree
from mm_perception.geometry.transforms import RigidTransform


@refusing("transforms", CalibrationError)
def feed_transforms(tree: TransformTree, msg: Any, static: bool) -> list[CalibrationError]:
    """Adds the transforms of one message to the tree.

    Returns:
        An error for each transform that could not be used; the others were added.

    Raises:
        CalibrationError: the message holds too many; none was added.
    """
    if len(msg.transforms) > MAX_TRANSFORMS:
        raise CalibrationError(f"{len(msg.transforms)} transforms in one message: expected at most {MAX_TRANSFORMS}")
    refused: list[CalibrationError] = []
    for item in msg.transforms:
        try:
            transform, stamp_ns = decode_transform(item)
            if static:
                tree.set_static(transform)
            else:
                tree.add(transform, stamp_ns)
        except CalibrationError as error:
            refused.append(error)
    return refused


@refusing("transform", CalibrationError)
def decode_transform(msg: Any) -> tuple[RigidTransform, int]:
    """geometry_msgs/TransformStamped to (header frame <- child frame) and its stamp [ns].

    Raises:
        CalibrationError: empty or equal frame names, an impossible stamp, zero quaternion, values that are not finite.
    """
    return _stamped(msg, msg.transform.rotation, msg.transform.translation)


@refusing("odometry", CalibrationError)
def decode_odometry(msg: Any) -> tuple[RigidTransform, int]:
    """nav_msgs/Odometry to its pose (header frame <- child frame) and its stamp [ns]. Raises as `decode_transform`."""
    pose = msg.pose.pose
    return _stamped(msg, pose.orientation, pose.position)


def _stamped(msg: Any, q: Any, t: Any) -> tuple[RigidTransform, int]:
    parent, child = decode_frame(msg.header), frame_name(msg.child_frame_id)
    if not parent or not child or parent == child:
        raise CalibrationError(f"transform between {parent!r} and {child!r} makes no sense")
    sec, nanosec = int(msg.header.stamp.sec), int(msg.header.stamp.nanosec)
    if sec < 0 or not 0 <= nanosec < NANOSECONDS:  # zero is what static transforms often carry
        raise CalibrationError(f"transform {parent!r} <- {child!r}: impossible stamp {sec} s {nanosec} ns")
    stamp_ns = sec * NANOSECONDS + nanosec
    transform = RigidTransform.from_quaternion(
        parent, child, np.array([q.x, q.y, q.z, q.w], np.float64), np.array([t.x, t.y, t.z], np.float64)
    )
    return transform, stamp_ns
