"""True objects of a bag: vision_msgs/Detection3DArray, and what that message has no field for.

A PointCloud2 of the same stamp may stand beside it, one point per box in the same order, with the fields vx, vy [m/s]
and lidar_points (see `sim.simulate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame, decode_stamp
from mm_perception.codec.guard import refusing
from mm_perception.codec.point_cloud import decode_columns
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_OBJECTS
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import heading_of_quat


@dataclass(frozen=True, slots=True, eq=False)
class TrueObjects:
    """Boxes of one instant.

    Attributes:
        boxes: with the scores of the message; velocities NaN where they are not known.
        lidar_points: (N,) returns, -1 where nobody counted them.
    """

    boxes: Detections3D
    lidar_points: NDArray[np.int64]


@refusing("objects")
def decode_objects(msg: Any, states: Any | None = None) -> TrueObjects:
    """Upright boxes: of an orientation only the heading is taken.

    Args:
        states: the PointCloud2 beside it.

    Raises:
        DataError: too many boxes, a box without a hypothesis, a quaternion of zeros, values that are not finite, or
            states of another number of objects.
    """
    if len(msg.detections) > MAX_OBJECTS:
        raise DataError(f"objects: {len(msg.detections)} boxes, expected at most {MAX_OBJECTS}")
    names: list[str] = []
    rows: list[tuple[float, ...]] = []
    for i, item in enumerate(msg.detections):
        if not item.results:
            raise DataError(f"object {i}: has no hypothesis")
        best = max((_hypothesis(r, i) for r in item.results), key=lambda h: h.score)
        names.append(_class_name(best, i))
        p, q, s = item.bbox.center.position, item.bbox.center.orientation, item.bbox.size
        turn = np.array([[q.x, q.y, q.z, q.w]])
        if not turn.any():
            raise DataError(f"object {i}: its orientation is a quaternion of zeros")
        yaw = float(heading_of_quat(turn)[0])
        rows.append((p.x, p.y, p.z, s.x, s.y, s.z, yaw, float(best.score)))
    table = np.array(rows, np.float32).reshape(-1, 8)
    if not np.isfinite(table).all():
        raise DataError("objects: a box has values that are not finite")
    # Older drivers fill the header of each box, and leave that of the array empty.
    frames = {decode_frame(item.header) for item in msg.detections if hasattr(item, "header")}
    frame_id = decode_frame(msg.header) or (frames.pop() if len(frames) == 1 else "")
    classes = tuple(sorted(set(names))) or ("object",)
    label_of = {name: label for label, name in enumerate(classes)}
    velocity = np.full((len(names), 2), np.nan, np.float32)
    points = np.full(len(names), -1, np.int64)
    if states is not None:
        columns = decode_columns(states, ("vx", "vy", "lidar_points"))
        if len(columns["vx"]) != len(names):
            raise DataError(f"objects: {len(names)} boxes, states of {len(columns['vx'])}")
        velocity = np.column_stack([columns["vx"], columns["vy"]]).astype(np.float32)
        points = _whole_numbers(columns["lidar_points"])
    boxes = Detections3D(
        table[:, :3].copy(), table[:, 3:6].copy(), table[:, 6].copy(), velocity, table[:, 7].copy(),
        np.array([label_of[name] for name in names], np.int32), classes, frame_id,
        decode_stamp(msg.header),
    )  # fmt: skip
    return TrueObjects(boxes, points)


def _hypothesis(result: Any, i: int) -> Any:
    """What an ObjectHypothesisWithPose says: in itself before vision_msgs 3, in a message of its own since.

    Raises:
        DataError: it says it in neither way.
    """
    hypothesis = getattr(result, "hypothesis", result)
    if not hasattr(hypothesis, "score"):
        raise DataError(f"object {i}: {_foreign(hypothesis)}")
    return hypothesis


def _class_name(hypothesis: Any, i: int) -> str:
    """`class_id`, which was called `id` before vision_msgs 3, and was a number in ROS 1."""
    name = getattr(hypothesis, "class_id", getattr(hypothesis, "id", None))
    if name is None:
        raise DataError(f"object {i}: {_foreign(hypothesis)}")
    return str(name)


def _foreign(message: Any) -> str:
    names = getattr(message, "__slots__", None) or getattr(message, "__dict__", {})
    fields = ", ".join(str(name).lstrip("_") for name in names)[:200]
    return (
        f"its hypothesis has the fields {fields or 'none'}, of no version of vision_msgs that is known (1 to 4): "
        "expected class_id or id, and score"
    )


def _whole_numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind == "f" and not (np.abs(values) < 2**62).all():
        raise DataError("objects: lidar_points that are no numbers of points")
    return values.astype(np.int64)
