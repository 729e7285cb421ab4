"""Livox's CustomMsg to a point cloud: a list of points with times that count from the message's `timebase`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame, decode_stamp
from mm_perception.codec.guard import refusing
from mm_perception.codec.point_cloud import scaled_intensity
from mm_perception.codec.point_times import FARTHEST_NS
from mm_perception.core.errors import DataError
from mm_perception.core.types import PointCloud

_LAYOUT = np.dtype(
    [("offset_time", "u4"), ("x", "f4"), ("y", "f4"), ("z", "f4"), ("reflectivity", "u1"), ("line", "u1")]
)


def is_custom_msg(msg: Any) -> bool:
    """By its fields: three packages call it by three names."""
    return hasattr(msg, "timebase") and hasattr(msg, "points")


@refusing("Livox CustomMsg")
def decode_custom_msg(msg: Any, intensity_max: float, max_points: int) -> tuple[PointCloud, int]:
    """The cloud, and how many points were no returns (at the origin, or not finite).

    Args:
        msg: its `points` are objects, or an array with such fields.

    Raises:
        DataError: an impossible stamp, or too many points.
    """
    if len(msg.points) > max_points:
        raise DataError(
            f"point cloud of {len(msg.points)} points: expected at most {max_points} "
            "(max_points of the sensor in the rig)"
        )
    points = as_table(msg.points, _LAYOUT)
    xyz = np.stack([points[axis] for axis in "xyz"], axis=1)
    keep = np.isfinite(xyz).all(axis=1) & xyz.any(axis=1)
    stamp_ns = decode_stamp(msg.header)
    base_ns = int(msg.timebase) - stamp_ns
    if abs(base_ns) > FARTHEST_NS:  # the LiDAR's own clock: its points begin at the stamp
        base_ns = 0
    offset_ns = points["offset_time"][keep].astype(np.int64) + base_ns
    is_plausible = not len(offset_ns) or int(np.abs(offset_ns).max()) <= FARTHEST_NS
    cloud = PointCloud(
        np.ascontiguousarray(xyz[keep]),
        stamp_ns,
        decode_frame(msg.header),
        intensity=scaled_intensity(points["reflectivity"][keep], intensity_max),
        ring=points["line"][keep].astype(np.uint16),
        offset_ns=offset_ns if is_plausible else None,
    )
    return cloud, len(keep) - int(np.count_nonzero(keep))


def as_table(items: Any, layout: np.dtype[Any]) -> NDArray[Any]:
    """Objects of a message as one structured array, column by column; an array stays what it is."""
    if isinstance(items, np.ndarray) and items.dtype.names:
        return items
    table = np.empty(len(items), layout)
    for name in layout.names or ():
        table[name] = np.fromiter((getattr(one, name) for one in items), layout[name], len(items))
    return table
