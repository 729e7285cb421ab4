"""sensor_msgs/PointCloud2 to a point cloud: fields by name, any order, padding and byte order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame, decode_stamp, octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.point_times import PointTimes
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_POINT_BYTES, MAX_POINT_FIELDS, MAX_POINTS
from mm_perception.core.types import PointCloud

_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_AXES = ("x", "y", "z")
_INTENSITY_NAMES = (
    *("intensity", "intensities", "reflectivity", "reflectance", "remission", "i"),
    *("signal", "signal_photons", "amplitude", "echo_intensity", "rssi"),
)
_RING_NAMES = ("ring", "channel", "line", "laser_id", "laser", "beam", "layer", "scan_line", "scanline")
_TIME_NAMES = (
    *("t", "time", "timestamp", "timestamps", "time_stamp", "offset_time", "time_offset", "time_offset_ns"),
    *("time_offset_us", "time_offset_ms", "time_offset_s", "point_time_offset", "point_time", "ts", "relative_time"),
    *("rel_time", "time_rel", "relative_timestamp", "timestamp_ns", "timestamp_us", "timestamp_ms", "time_ns"),
    *("time_us", "time_ms", "t_ns", "t_us", "t_ms", "offset_ns", "offset_us", "dt", "delta_t", "stamp"),
)
_TIME_HALVES = (
    *(("timestamp_sec", "timestamp_nsec"), ("timestamp_s", "timestamp_ns"), ("time_sec", "time_nsec")),
    *(("t_sec", "t_nsec"), ("ts_sec", "ts_nsec"), ("sec", "nsec"), ("sec", "nanosec"), ("secs", "nsecs")),
    *(("timestampsec", "timestampnsec"), ("time_sec", "time_nanosec")),
)
"""Times in two fields: seconds and nanoseconds."""
_TIME_WORDS = (
    *(("timestamp_high", "timestamp_low"), ("time_high", "time_low"), ("t_high", "t_low"), ("ts_high", "ts_low")),
    *(("timestamp_hi", "timestamp_lo"), ("t_hi", "t_lo"), ("timestamp_msb", "timestamp_lsb")),
)
"""Times in two fields: the upper and the lower 32 bits of one number."""
_WANTED = frozenset(
    (*_AXES, *_INTENSITY_NAMES, *_RING_NAMES, *_TIME_NAMES, *(n for pair in _TIME_HALVES + _TIME_WORDS for n in pair))
)


class PointCloudDecoder:
    """The clouds of one LiDAR, in order.

    Attributes:
        left_out: points that are no returns, by what marked them: not finite, or exactly at the origin.
        notes: what is worth saying of the messages, in words; each is said once.
    """

    def __init__(self, intensity_max: float = 255.0, max_points: int = MAX_POINTS) -> None:
        """Takes the intensity at full scale, and the most points of a cloud, missing returns included."""
        self.left_out: Counter[str] = Counter()
        self._intensity_max, self._max_points = intensity_max, max_points
        self._times = PointTimes()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._times.notes.values())

    @property
    def losses(self) -> dict[str, int]:
        """None: missing returns are no losses, and are in `left_out`."""
        return {}

    def __call__(self, msg: Any) -> PointCloud:
        """`decode`, as every sensor's decoder is called."""
        return self.decode(msg)

    @refusing("point cloud")
    def decode(self, msg: Any) -> PointCloud:
        """Reads xyz and, where they are there, intensity, ring and time of each point.

        Points with a coordinate that is not finite are left out (organised clouds mark missing returns so), and those
        exactly at the origin (other drivers do). How times are read: see `codec.point_times`.

        Raises:
            DataError: no x, y, z; more points, fields or bytes per point than allowed; unknown datatype of a field that
                is read, or one beyond the point; fewer bytes than the sizes say.
        """
        points = _structured(msg, self._max_points, needed=_AXES)
        names = _by_lower_name(points)
        stamp_ns = decode_stamp(msg.header)
        xyz, keep = self._returns(points, names)

        def column(name: str) -> NDArray[Any]:
            """A field without the points that were left out."""
            values = points[names[name]].reshape(-1)
            return values if keep is None else values[keep]

        intensity = next((column(n) for n in _INTENSITY_NAMES if n in names), None)
        ring = next((column(n) for n in _RING_NAMES if n in names), None)
        return PointCloud(
            xyz=xyz,
            stamp_ns=stamp_ns,
            frame_id=decode_frame(msg.header),
            intensity=None if intensity is None else scaled_intensity(intensity, self._intensity_max),
            ring=None if ring is None else self._ring(ring),
            offset_ns=self._offsets(names, column, stamp_ns),
        )

    def _returns(
        self, points: NDArray[Any], names: dict[str, str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """(N, 3) the points that are returns, and which they are; None: all."""
        axes = np.empty((3, points.size), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for i, axis in enumerate(_AXES):
                axes[i] = points[names[axis]].reshape(-1)
            reach = np.abs(axes[0])
            reach += np.abs(axes[1])
            reach += np.abs(axes[2])
        keep = (reach > 0) & (reach < np.inf)
        kept = int(np.count_nonzero(keep))
        if kept == points.size:
            return np.ascontiguousarray(axes.T), None
        at_origin = int(np.count_nonzero(reach == 0))
        self.left_out["points at the origin (no return)"] += at_origin
        self.left_out["points that are not finite (no return)"] += points.size - kept - at_origin
        return np.ascontiguousarray(axes[:, keep].T), keep

    def _offsets(self, names: dict[str, str], column: Any, stamp_ns: int) -> NDArray[np.int64] | None:
        for high, low in (*_TIME_HALVES, *_TIME_WORDS):
            if high in names and low in names:
                scale = 1_000_000_000 if (high, low) in _TIME_HALVES else 2**32
                values = column(high).astype(np.int64) * scale + column(low).astype(np.int64)
                return self._times.read(f"{names[high]}, {names[low]}", values, stamp_ns)
        name = next((n for n in _TIME_NAMES if n in names), None)
        return None if name is None else self._times.read(names[name], column(name), stamp_ns)

    def _ring(self, values: NDArray[Any]) -> NDArray[np.uint16] | None:
        if values.dtype.kind == "f" and not (np.abs(values) < 2**31).all():
            self._times.notes.setdefault("ring", "laser numbers are ignored: they are no numbers")
            return None
        return values.astype(np.uint16)


def decode_point_cloud(msg: Any, intensity_max: float = 255.0, max_points: int = MAX_POINTS) -> PointCloud:
    """One cloud by itself, as `PointCloudDecoder.decode` reads the first of a LiDAR.

    Raises:
        DataError: as there.
    """
    return PointCloudDecoder(intensity_max, max_points).decode(msg)


@refusing("table")
def decode_columns(msg: Any, names: tuple[str, ...], max_rows: int = MAX_POINTS) -> dict[str, NDArray[Any]]:
    """Fields of a cloud whose points are rows of a table, by name.

    Raises:
        DataError: a field is missing, or as `decode_point_cloud`.
    """
    points = _structured(msg, max_rows, needed=names)
    return {name: points[name].reshape(-1) for name in names}


def scaled_intensity(values: NDArray[Any], full_scale: float) -> NDArray[np.float32]:
    """(N,) in 0..255. Infinite or missing reflectance says nothing; the point's position is still good."""
    scaled = values.astype(np.float32)
    scaled *= np.float32(255.0 / full_scale)
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0.0, 255.0)


def _by_lower_name(points: NDArray[Any]) -> dict[str, str]:
    """Names of fields by their lower case; of two that differ in case only, the first."""
    names: dict[str, str] = {}
    for name in points.dtype.names or ():
        names.setdefault(name.lower(), name)
    for axis in _AXES:
        if points.dtype[names[axis]].kind != "f":
            raise DataError(f"point cloud field {axis!r}: expected floats, got {points.dtype[names[axis]]}")
    return names


def _structured(msg: Any, max_points: int, needed: tuple[str, ...]) -> NDArray[Any]:
    """(rows, columns) points as one structured view of the message."""
    height, width, point_step = int(msg.height), int(msg.width), int(msg.point_step)
    if min(height, width, point_step, int(msg.row_step)) < 0 or width * height > max_points:
        raise DataError(
            f"point cloud of {width}x{height} points: expected at most {max_points} "
            "(max_points of the sensor in the rig)"
        )
    if point_step > MAX_POINT_BYTES or len(msg.fields) > MAX_POINT_FIELDS:
        raise DataError(
            f"point cloud of {point_step} bytes and {len(msg.fields)} fields per point: "
            f"expected at most {MAX_POINT_BYTES} and {MAX_POINT_FIELDS}"
        )
    layout = _layout(msg, point_step, needed)
    if width * height == 0:
        return np.zeros((0, 0), layout)
    data = octets_of(msg.data)
    row_step = _row_step(msg, width, height, point_step, len(data))
    expected = row_step * (height - 1) + width * point_step
    if len(data) < expected:
        raise DataError(f"point cloud truncated: {len(data)} bytes, expected {expected}")
    grid: NDArray[Any] = np.ndarray((height, width), layout, data, strides=(row_step, point_step))
    return grid


def _row_step(msg: Any, width: int, height: int, point_step: int, size: int) -> int:
    """Bytes from row to row; of a single row, and where the bytes leave one answer, the message need not say it."""
    row_step, tight = int(msg.row_step), width * point_step
    if height == 1 or (row_step < tight and size == tight * height):
        return tight
    if row_step < tight:
        raise DataError(f"point cloud row_step {row_step} is less than {width} points of {point_step} bytes")
    return row_step


def _layout(msg: Any, point_step: int, needed: tuple[str, ...]) -> np.dtype[Any]:
    """The fields that can be read; those that nobody asks for may be whatever they are.

    Raises:
        DataError: a field that is needed is missing; one that is read has an unknown datatype or lies beyond the point.
    """
    order = ">" if msg.is_bigendian else "<"
    names: dict[str, tuple[np.dtype[Any], int]] = {}
    for field in msg.fields:
        name, code = str(field.name), _DATATYPES.get(int(field.datatype))
        if not name or name in names:
            continue
        is_read = name in needed or name.lower() in _WANTED
        # Numbers of 64 bits have no datatype: some drivers write two of 32.
        if code == "u4" and int(getattr(field, "count", 1)) == 2 and name.lower() in _TIME_NAMES:
            code = "u8"
        dtype = np.dtype(order + code) if code else None
        if dtype is not None and 0 <= int(field.offset) <= point_step - dtype.itemsize:
            names[name] = dtype, int(field.offset)
        elif is_read and dtype is None:
            raise DataError(f"point cloud field {name!r}: unknown datatype {field.datatype}")
        elif is_read:
            raise DataError(f"point cloud field {name!r} lies beyond the point's {point_step} bytes")
    there = {*names, *(name.lower() for name in names)} if needed == _AXES else set(names)
    if missing := [name for name in needed if name not in there]:
        fields = ", ".join(str(field.name) for field in msg.fields)
        what = " or ".join(repr(name) for name in missing)
        raise DataError(f"point cloud without field {what} (fields: {fields or 'none'})")
    formats, offsets = [dtype for dtype, _ in names.values()], [offset for _, offset in names.values()]
    return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": point_step})
