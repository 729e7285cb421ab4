"""sensor_msgs/PointCloud2 to a point cloud: fields by name, any order, padding and byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_stamp, octets_of
from mm_perception.core.errors import DataError
from mm_perception.core.types import PointCloud

_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_RING_NAMES = ("ring", "channel", "line", "laser_id")
_TIME_NAMES = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
_EPOCH_SECONDS = 1e8
"""A per-point time beyond this (in seconds) is absolute, not relative to the header's stamp."""


def decode_point_cloud(msg: Any, intensity_max: float = 255.0) -> PointCloud:
    """Reads xyz and, where they are there, intensity, ring and time of each point.

    Points with a coordinate that is not finite are dropped (organised clouds mark missing returns so).
    Time fields: integers are nanoseconds, floats are seconds; both relative to the header's stamp, or
    absolute where they are that large.

    Args:
        intensity_max: the sensor's full scale, mapped to 255.

    Raises:
        DataError: no x, y, z; unknown datatype; a field beyond the point; fewer bytes than the sizes say.
    """
    points = _structured(msg)
    names = points.dtype.names or ()
    for axis in "xyz":
        if axis not in names:
            raise DataError(f"point cloud without field {axis!r} (fields: {', '.join(names) or 'none'})")
        if points.dtype[axis].kind != "f":
            raise DataError(f"point cloud field {axis!r}: expected floats, got {points.dtype[axis]}")
    xyz = np.empty((len(points), 3), np.float32)
    for i, axis in enumerate("xyz"):
        xyz[:, i] = points[axis]
    keep = np.isfinite(xyz).all(axis=1)
    if not keep.all():
        points, xyz = points[keep], xyz[keep]
    stamp_ns = decode_stamp(msg.header)
    ring = next((points[n] for n in _RING_NAMES if n in names), None)
    time = next((points[n] for n in _TIME_NAMES if n in names), None)
    intensity = points["intensity"] if "intensity" in names else None
    return PointCloud(
        xyz=xyz,
        stamp_ns=stamp_ns,
        frame_id=str(msg.header.frame_id),
        intensity=None if intensity is None else _intensity(intensity, intensity_max),
        ring=None if ring is None else ring.astype(np.uint16),
        offset_ns=None if time is None else _offset_ns(time, stamp_ns),
    )


def decode_columns(msg: Any, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Fields of a cloud whose points are rows of a table, by name.

    Raises:
        DataError: a field is missing, or as `decode_point_cloud`.
    """
    points = _structured(msg)
    missing = [name for name in names if name not in (points.dtype.names or ())]
    if missing:
        raise DataError(f"table without field {', '.join(missing)} (fields: {', '.join(points.dtype.names or ())})")
    return {name: points[name] for name in names}


def _structured(msg: Any) -> NDArray[Any]:
    """All points as one structured array (a view of the message where rows are not padded)."""
    height, width = int(msg.height), int(msg.width)
    point_step, row_step = int(msg.point_step), int(msg.row_step)
    order = ">" if msg.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for field in msg.fields:
        if int(field.datatype) not in _DATATYPES:
            raise DataError(f"point cloud field {field.name!r}: unknown datatype {field.datatype}")
        dtype = np.dtype(order + _DATATYPES[int(field.datatype)])
        if int(field.offset) + dtype.itemsize > point_step:
            raise DataError(f"point cloud field {field.name!r} lies beyond the point's {point_step} bytes")
        if field.name and field.name not in names:
            names.append(str(field.name))
            formats.append(dtype)
            offsets.append(int(field.offset))
    layout = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step})
    if width * height == 0:
        return np.zeros(0, layout)
    if row_step < width * point_step:
        raise DataError(f"point cloud row_step {row_step} is less than {width} points of {point_step} bytes")
    data = octets_of(msg.data)
    needed = row_step * (height - 1) + width * point_step
    if len(data) < needed:
        raise DataError(f"point cloud truncated: {len(data)} bytes, expected {needed}")
    grid: NDArray[Any] = np.ndarray((height, width), layout, data, strides=(row_step, point_step))
    return grid.reshape(-1)


def _intensity(values: NDArray[Any], full_scale: float) -> NDArray[np.float32]:
    scaled = values.astype(np.float32)
    scaled *= np.float32(255.0 / full_scale)
    # Infinite or missing reflectance says nothing; the point's position is still good.
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0.0, 255.0)


def _offset_ns(values: NDArray[Any], stamp_ns: int) -> NDArray[np.int64]:
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    seconds = values.astype(np.float64)
    if not np.isfinite(seconds).all():
        raise DataError("point cloud with point times that are not finite")
    if len(seconds) == 0 or float(np.abs(seconds).max()) < _EPOCH_SECONDS:
        return np.rint(seconds * 1e9).astype(np.int64)
    if float(np.abs(seconds).max()) > _EPOCH_SECONDS * 1e9:  # absolute nanoseconds in a double
        return np.rint(seconds).astype(np.int64) - stamp_ns
    whole = np.floor(seconds)
    fraction_ns = np.rint((seconds - whole) * 1e9).astype(np.int64)
    return (whole.astype(np.int64) - stamp_ns // 1_000_000_000) * 1_000_000_000 + (
        fraction_ns - stamp_ns % 1_000_000_000
    )
