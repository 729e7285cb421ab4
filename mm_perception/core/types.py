"""What flows between the stages: frozen structs of numpy arrays, checked once when they are made.

Every struct accepts its empty case (no points, no events, no detections). Time is int nanoseconds since the
epoch of the sensor clock. Axes follow REP 103: x forward, y left, z up for bodies; x right, y down,
z forward for optical frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MOST_EVENT_PIXELS

IGNORE_LABEL = 255
"""Class id of unlabeled pixels (vision_msgs/LabelInfo: the highest id of a mono8 image)."""


def _check_array(what: str, array: Any, shape: tuple[int | str, ...], dtype: Any) -> None:
    """Checks type, dtype and shape; letters in `shape` are free dimensions."""
    if not isinstance(array, np.ndarray):
        raise DataError(f"{what}: expected a numpy array, got {type(array).__name__}")
    if array.dtype != np.dtype(dtype):
        raise DataError(f"{what}: expected dtype {np.dtype(dtype)}, got {array.dtype}")
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise DataError(f"{what}: expected shape ({', '.join(map(str, shape))}), got {array.shape}")


def _check_image(what: str, array: Any, channels: int | None, dtype: Any) -> None:
    _check_array(what, array, ("H", "W") if channels is None else ("H", "W", channels), dtype)
    if array.size == 0:
        raise DataError(f"{what}: expected at least one pixel, got shape {array.shape}")


def _check_stamp(what: str, stamp_ns: Any) -> None:
    if not isinstance(stamp_ns, int) or isinstance(stamp_ns, bool):
        raise DataError(f"{what}: stamp_ns must be an int of nanoseconds, got {stamp_ns!r}")
    if stamp_ns < 0:
        raise DataError(f"{what}: stamp_ns must not be negative, got {stamp_ns}")


@dataclass(frozen=True, slots=True, eq=False)
class ImageFrame:
    """A colour image.

    Attributes:
        image: (H, W, 3) uint8, channels in the order red, green, blue.
        stamp_ns: time of exposure.
        frame_id: optical frame of the camera.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        _check_image("ImageFrame.image", self.image, 3, np.uint8)
        _check_stamp("ImageFrame", self.stamp_ns)


@dataclass(frozen=True, slots=True, eq=False)
class DepthFrame:
    """A depth image (REP 118).

    Attributes:
        depth_m: (H, W) float32, distance along the optical axis [m]; NaN where nothing was measured.
    """

    depth_m: NDArray[np.float32]
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        _check_image("DepthFrame.depth_m", self.depth_m, None, np.float32)
        _check_stamp("DepthFrame", self.stamp_ns)


ThermalUnit = Literal["counts", "kelvin", "agc"]


@dataclass(frozen=True, slots=True, eq=False)
class ThermalFrame:
    """A thermal (LWIR) image.

    Attributes:
        values: (H, W) float32, finite; raw sensor counts, temperature [K], or the 0..255 grey values of a
            camera's own automatic gain control, as `unit` says.
    """

    values: NDArray[np.float32]
    unit: ThermalUnit
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        _check_image("ThermalFrame.values", self.values, None, np.float32)
        if self.unit not in ("counts", "kelvin", "agc"):
            raise DataError(f"ThermalFrame.unit: expected counts, kelvin or agc, got {self.unit!r}")
        _check_stamp("ThermalFrame", self.stamp_ns)


@dataclass(frozen=True, slots=True, eq=False)
class EventPacket:
    """Events of an event camera, N may be 0.

    Attributes:
        x, y: (N,) uint16 pixel coordinates, inside width and height.
        polarity: (N,) bool, True where the brightness rose.
        t_ns: (N,) int64, non-decreasing.
        width, height: sensor size [px].
        stamp_ns: time the packet belongs to.
    """

    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    polarity: NDArray[np.bool_]
    t_ns: NDArray[np.int64]
    width: int
    height: int
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        _check_array("EventPacket.x", self.x, ("N",), np.uint16)
        _check_array("EventPacket.y", self.y, (len(self.x),), np.uint16)
        _check_array("EventPacket.polarity", self.polarity, (len(self.x),), np.bool_)
        _check_array("EventPacket.t_ns", self.t_ns, (len(self.x),), np.int64)
        if self.width <= 0 or self.height <= 0:
            raise DataError(f"EventPacket: expected a positive size, got {self.width}x{self.height}")
        if self.width * self.height > MOST_EVENT_PIXELS:
            raise DataError(
                f"EventPacket: expected at most {MOST_EVENT_PIXELS} pixels in all, got {self.width}x{self.height}"
            )
        if len(self.x) and (int(self.x.max()) >= self.width or int(self.y.max()) >= self.height):
            raise DataError(f"EventPacket: event outside of the sensor's {self.width}x{self.height} pixels")
        if len(self.t_ns) > 1 and bool((self.t_ns[1:] < self.t_ns[:-1]).any()):
            raise DataError("EventPacket.t_ns: expected non-decreasing times")
        _check_stamp("EventPacket", self.stamp_ns)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True, eq=False)
class PointCloud:
    """A LiDAR sweep, N may be 0.

    Attributes:
        xyz: (N, 3) float32 [m] in `frame_id`, finite.
        intensity: (N,) float32 in 0..255, or None where the sensor gives none.
        ring: (N,) uint16 laser index, or None.
        offset_ns: (N,) int64, time of the point minus `stamp_ns`, or None.
    """

    xyz: NDArray[np.float32]
    stamp_ns: int
    frame_id: str
    intensity: NDArray[np.float32] | None = None
    ring: NDArray[np.uint16] | None = None
    offset_ns: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        _check_array("PointCloud.xyz", self.xyz, ("N", 3), np.float32)
        if not bool(np.isfinite(self.xyz).all()):
            raise DataError("PointCloud.xyz: expected finite points (drop NaN rows before)")
        for name, dtype in (("intensity", np.float32), ("ring", np.uint16), ("offset_ns", np.int64)):
            values = getattr(self, name)
            if values is not None:
                _check_array(f"PointCloud.{name}", values, (len(self.xyz),), dtype)
        _check_stamp("PointCloud", self.stamp_ns)

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, slots=True, eq=False)
class LabelImage:
    """Ground truth of a segmentation.

    Attributes:
        class_ids: (H, W) uint8, 255 where unlabeled.
    """

    class_ids: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        _check_image("LabelImage.class_ids", self.class_ids, None, np.uint8)
        _check_stamp("LabelImage", self.stamp_ns)


Measurement = Union[ImageFrame, DepthFrame, ThermalFrame, EventPacket, PointCloud]
"""One decoded message of one sensor."""


@dataclass(frozen=True, slots=True, eq=False)
class SensorBundle:
    """Measurements that belong to one instant.

    Attributes:
        stamp_ns: stamp of the reference sensor's measurement.
        reference: name of the reference sensor; always in `measurements`.
        measurements: by sensor name.
        skew_ns: by sensor name, measurement stamp minus (`stamp_ns` plus the sensor's configured offset).
        missing: sensors of the rig that gave no measurement in time.
    """

    stamp_ns: int
    reference: str
    measurements: Mapping[str, Measurement]
    skew_ns: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_stamp("SensorBundle", self.stamp_ns)
        if self.reference not in self.measurements:
            raise DataError(f"SensorBundle: the reference {self.reference!r} is not among the measurements")
        both = set(self.missing) & set(self.measurements)
        if both:
            raise DataError(f"SensorBundle: both present and missing: {', '.join(sorted(both))}")


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationMap:
    """Per-pixel classes.

    Attributes:
        class_ids: (H, W) uint8, index into `classes`.
        classes: names by id.
        stamp_ns, frame_id: of the RGB image that was segmented; the size is that image's, too.
        trained: False where the weights are random and the labels mean nothing.
    """

    class_ids: NDArray[np.uint8]
    classes: tuple[str, ...]
    stamp_ns: int
    frame_id: str
    trained: bool = True

    def __post_init__(self) -> None:
        _check_image("SegmentationMap.class_ids", self.class_ids, None, np.uint8)
        if not 0 < len(self.classes) <= IGNORE_LABEL:
            raise DataError(f"SegmentationMap: expected 1..{IGNORE_LABEL} classes, got {len(self.classes)}")
        if int(self.class_ids.max()) >= len(self.classes):
            raise DataError(f"SegmentationMap: id {int(self.class_ids.max())} of {len(self.classes)} classes")
        _check_stamp("SegmentationMap", self.stamp_ns)


@dataclass(frozen=True, slots=True, eq=False)
class Detections3D:
    """Oriented boxes, N may be 0.

    Attributes:
        centers: (N, 3) float32 [m], geometric centre in `frame_id`.
        sizes_lwh: (N, 3) float32 [m], length along the heading, width, height; not negative.
        yaw_rad: (N,) float32, about +z, 0 along +x.
        velocity: (N, 2) float32 [m/s] along x and y of `frame_id`; NaN where unknown.
        scores: (N,) float32 in 0..1.
        labels: (N,) int32, index into `classes`.
    """

    centers: NDArray[np.float32]
    sizes_lwh: NDArray[np.float32]
    yaw_rad: NDArray[np.float32]
    velocity: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    frame_id: str
    stamp_ns: int

    def __post_init__(self) -> None:
        n = len(self.scores)
        _check_array("Detections3D.scores", self.scores, ("N",), np.float32)
        _check_array("Detections3D.centers", self.centers, (n, 3), np.float32)
        _check_array("Detections3D.sizes_lwh", self.sizes_lwh, (n, 3), np.float32)
        _check_array("Detections3D.yaw_rad", self.yaw_rad, (n,), np.float32)
        _check_array("Detections3D.velocity", self.velocity, (n, 2), np.float32)
        _check_array("Detections3D.labels", self.labels, (n,), np.int32)
        for name in ("centers", "sizes_lwh", "yaw_rad", "scores"):
            if not bool(np.isfinite(getattr(self, name)).all()):
                raise DataError(f"Detections3D.{name}: expected finite values")
        if n and (float(self.sizes_lwh.min()) < 0):
            raise DataError("Detections3D.sizes_lwh: expected sizes that are not negative")
        if n and not (0 <= float(self.scores.min()) and float(self.scores.max()) <= 1):
            raise DataError("Detections3D.scores: expected values in 0..1")
        if n and not (0 <= int(self.labels.min()) and int(self.labels.max()) < len(self.classes)):
            raise DataError(f"Detections3D.labels: expected ids of {len(self.classes)} classes")
        _check_stamp("Detections3D", self.stamp_ns)

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.bool_]) -> Detections3D:
        """Those that `rows` (N,) marks."""
        return replace(
            self, centers=self.centers[rows], sizes_lwh=self.sizes_lwh[rows], yaw_rad=self.yaw_rad[rows],
            velocity=self.velocity[rows], scores=self.scores[rows], labels=self.labels[rows],
        )  # fmt: skip
