"""sensor_msgs/PointCloud2 to a point cloud: fields by name, any order, padding and byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame, decode_stamp, octets_of
from mm_perception.codec.guard import refusing
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_POINT_BYTES, MAX_POINT_FIELDS, MAX_POINTS
from mm_perception.core.types import PointCloud

_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_RING_NAMES = ("ring", "channel", "line", "laser_id")
_TIME_NAMES = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
_LATEST_SECONDS, _LATEST_NANOSECONDS = 2.0**33, 2.0**63
_EPOCH_SECONDS = 1e8
"""A per-point time beyond this (in seconds) is absolute, not relative to the header's stamp."""


@refusing("point cloud")
def decode_point_cloud(msg: Any, intensity_max: float = 255.0, max_points: int = MAX_POINTS) -> PointCloud:
    """Reads xyz and, where they are there, intensity, ring and time of each point.

    Points with a coordinate that is not finite are dropped (organised clouds mark missing returns so).
    Time fields: integers are nanoseconds, floats are seconds; both relative to the header's stamp, or
    absolute where they are that large.

    Args:
        intensity_max: the sensor's full scale, mapped to 255.
        max_points: the largest cloud that is taken, missing returns included; the sensor's limit in the rig.

    Raises:
        DataError: no x, y, z; more points, fields or bytes per point than allowed; unknown datatype; a field beyond the
            point; fewer bytes than the sizes say.
    """
    points = _structured(msg, max_points)
    names = points.dtype.names or ()
    for axis in "xyz":
        if axis not in names:
            raise DataError(f"point cloud without field {axis!r} (fields: {', '.join(names) or 'none'})")
        if points.dtype[axis].kind != "f":
            raise DataError(f"point cloud field {axis!r}: expected floats, got {points.dtype[axis]}")
    xyz = np.empty((points.size, 3), np.float32)
    with np.errstate(over="ignore"):
        for i, axis in enumerate("xyz"):
            xyz[:, i] = points[axis].reshape(-1)
    keep = np.isfinite(xyz).all(axis=1)
    if not keep.all():
        xyz = xyz[keep]

    def column(known: tuple[str, ...]) -> NDArray[Any] | None:
        """The first of some fields that is there, without the points that were dropped."""
        name = next((n for n in known if n in names), None)
        return None if name is None else points[name].reshape(-1)[keep]

    stamp_ns = decode_stamp(msg.header)
    ring, time, intensity = column(_RING_NAMES), column(_TIME_NAMES), column(("intensity",))
    return PointCloud(
        xyz=xyz,
        stamp_ns=stamp_ns,
        frame_id=decode_frame(msg.header),
        intensity=None if intensity is None else _intensity(intensity, intensity_max),
        ring=None if ring is None else _ring(ring),
        offset_ns=None if time is None else _offset_ns(time, stamp_ns),
    )


@refusing("table")
def decode_columns(msg: Any, names: tuple[str, ...], max_rows: int = MAX_POINTS) -> dict[str, NDArray[Any]]:
    """Fields of a cloud whose points are rows of a table, by name.

    Raises:
        DataError: a field is missing, or as `decode_point_cloud`.
    """
    points = _structured(msg, max_rows)
    missing = [name for name in names if name not in (points.dtype.names or ())]
    if missing:
        raise DataError(f"table without field {', '.join(missing)} (fields: {', '.join(points.dtype.names or ())})")
    return {name: points[name].reshape(-1) for name in names}


def _structured(msg: Any, max_points: int) -> NDArray[Any]:
    """(rows, columns) points as one structured view of the message."""
    height, width = int(msg.height), int(msg.width)
    point_step, row_step = int(msg.point_step), int(msg.row_step)
    if min(height, width, point_step, row_step) < 0 or width * height > max_points:
        raise DataError(
            f"point cloud of {width}x{height} points: expected at most {max_points} "
            "(max_points of the sensor in the rig)"
        )
    if point_step > MAX_POINT_BYTES or len(msg.fields) > MAX_POINT_FIELDS:
        raise DataError(
            f"point cloud of {point_step} bytes and {len(msg.fields)} fields per point: "
            f"expected at most {MAX_POINT_BYTES} and {MAX_POINT_FIELDS}"
        )
    order = ">" if msg.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for field in msg.fields:
        if int(field.datatype) not in _DATATYPES:
            raise DataError(f"point cloud field {field.name!r}: unknown datatype {field.datatype}")
        dtype = np.dtype(order + _DATATYPES[int(field.datatype)])
        if not 0 <= int(field.offset) <= point_step - dtype.itemsize:
            raise DataError(f"point cloud field {field.name!r} lies beyond the point's {point_step} bytes")
        if field.name and field.name not in names:
            names.append(str(field.name))
            formats.append(dtype)
            offsets.append(int(field.offset))
    layout = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step})
    if width * height == 0:
        return np.zeros((0, 0), layout)
    if row_step < width * point_step:
        raise DataError(f"point cloud row_step {row_step} is less than {width} points of {point_step} bytes")
    data = octets_of(msg.data)
    needed = row_step * (height - 1) + width * point_step
    if len(data) < needed:
        raise DataError(f"point cloud truncated: {len(data)} bytes, expected {needed}")
    grid: NDArray[Any] = np.ndarray((height, width), layout, data, strides=(row_step, point_step))
    return grid


def _ring(values: NDArray[Any]) -> NDArray[np.uint16]:
    if values.dtype.kind == "f" and not (np.abs(values) < 2**31).all():
        raise DataError("point cloud with laser numbers that are no numbers")
    return values.astype(np.uint16)


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
    largest = float(np.abs(seconds).max()) if len(seconds) else 0.0
    if largest < _EPOCH_SECONDS:
        return np.rint(seconds * 1e9).astype(np.int64)
    in_nanoseconds = largest > _EPOCH_SECONDS * 1e9
    if largest >= (_LATEST_NANOSECONDS if in_nanoseconds else _LATEST_SECONDS):
        raise DataError(f"point cloud with an impossible point time: {largest:g}")
    if in_nanoseconds:  # absolute, in a double
        return np.rint(seconds).astype(np.int64) - stamp_ns
    whole = np.floor(seconds)
    fraction_ns = np.rint((seconds - whole) * 1e9).astype(np.int64)
    return (whole.astype(np.int64) - stamp_ns // 1_000_000_000) * 1_000_000_000 + (
        fraction_ns - stamp_ns % 1_000_000_000
    )
