"""Types to messages: sensor data for bags, results for topics.

Every function takes a `MessageFactory`, so that the same code makes rclpy messages and bag messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import MessageFactory, make_header, make_time
from mm_perception.core.errors import DataError
from mm_perception.core.frames import frame_name
from mm_perception.core.types import IGNORE_LABEL, EventPacket, PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform

_FIELD_DATATYPES = {"u1": 2, "u2": 4, "u4": 6, "f4": 7, "f8": 8}
_ENCODING_DTYPES = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}


def encode_image(factory: MessageFactory, pixels: NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> Any:
    """sensor_msgs/Image of (H, W) or (H, W, 3) pixels.

    Raises:
        DataError: the pixels' type or shape is not that of the encoding.
    """
    dtype, channels = _ENCODING_DTYPES.get(encoding, (None, 0))
    found = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if dtype is None or pixels.dtype != dtype or found != channels:
        raise DataError(f"{pixels.dtype} pixels of shape {pixels.shape} are no {encoding} image")
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels)
    return factory.make(
        "sensor_msgs/msg/Image",
        header=make_header(factory, stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * channels * data.itemsize,
        data=factory.octets(data.view(np.uint8).reshape(-1)),
    )


def encode_compressed(
    factory: MessageFactory, pixels: NDArray[Any], fmt: str, stamp_ns: int, frame_id: str, quality: int = 90
) -> Any:
    """sensor_msgs/CompressedImage, `fmt` "jpeg" or "png"; (H, W, 3) pixels are red, green, blue."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if fmt == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(".jpg" if fmt == "jpeg" else ".png", bgr, options)
    if not done:
        raise DataError(f"cannot encode {pixels.dtype} pixels of shape {pixels.shape} as {fmt}")
    return wrap_compressed(factory, data.reshape(-1), fmt, stamp_ns, frame_id)


def wrap_compressed(
    factory: MessageFactory, file_bytes: NDArray[np.uint8], fmt: str, stamp_ns: int, frame_id: str
) -> Any:
    """sensor_msgs/CompressedImage of an encoded file's bytes as they are."""
    return factory.make(
        "sensor_msgs/msg/CompressedImage",
        header=make_header(factory, stamp_ns, frame_id),
        format=fmt,
        data=factory.octets(np.asarray(file_bytes, dtype=np.uint8)),
    )


def encode_camera_info(factory: MessageFactory, camera: CameraModel, stamp_ns: int) -> Any:
    """sensor_msgs/CameraInfo of an unrectified camera (R is the identity, P is K)."""
    k = camera.intrinsics
    projection = np.concatenate([k, np.zeros((3, 1))], axis=1)
    roi = factory.make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return factory.make(
        "sensor_msgs/msg/CameraInfo",
        header=make_header(factory, stamp_ns, camera.frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model=camera.distortion_model or "plumb_bob",
        d=camera.distortion if len(camera.distortion) else np.zeros(5),
        k=k.reshape(-1).astype(np.float64),
        r=np.eye(3).reshape(-1),
        p=projection.reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def encode_point_cloud(factory: MessageFactory, cloud: PointCloud) -> Any:
    """sensor_msgs/PointCloud2 with x, y, z, intensity (f32), ring (u16), t (u32 ns) as far as they are there."""
    columns: dict[str, tuple[str, NDArray[Any]]] = {axis: ("f4", cloud.xyz[:, i]) for i, axis in enumerate("xyz")}
    if cloud.intensity is not None:
        columns["intensity"] = ("f4", cloud.intensity)
    if cloud.ring is not None:
        columns["ring"] = ("u2", cloud.ring)
    if cloud.offset_ns is not None:
        if len(cloud) and int(cloud.offset_ns.min()) < 0:
            columns["time"] = ("f4", cloud.offset_ns.astype(np.float64) * 1e-9)
        else:
            columns["t"] = ("u4", cloud.offset_ns)
    return encode_columns(factory, columns, cloud.stamp_ns, cloud.frame_id)


def encode_columns(
    factory: MessageFactory, columns: Mapping[str, tuple[str, NDArray[Any]]], stamp_ns: int, frame_id: str
) -> Any:
    """sensor_msgs/PointCloud2 with one field per column, packed without gaps.

    Args:
        columns: by field name, the little-endian numpy kind (u1, u2, u4, f4, f8) and the N values.
    """
    layout = np.dtype([(name, "<" + kind) for name, (kind, _) in columns.items()])
    count = len(next(iter(columns.values()))[1])
    packed = np.zeros(count, layout)
    for name, (_, values) in columns.items():
        packed[name] = values
    fields = [
        factory.make(
            "sensor_msgs/msg/PointField",
            name=name,
            offset=int(layout.fields[name][1]) if layout.fields else 0,
            datatype=_FIELD_DATATYPES[kind],
            count=1,
        )
        for name, (kind, _) in columns.items()
    ]
    return factory.make(
        "sensor_msgs/msg/PointCloud2",
        header=make_header(factory, stamp_ns, frame_id),
        height=1,
        width=count,
        fields=fields,
        is_bigendian=False,
        point_step=layout.itemsize,
        row_step=layout.itemsize * count,
        data=factory.octets(packed.view(np.uint8).reshape(-1)),
        is_dense=True,
    )


def encode_odometry(
    factory: MessageFactory, odom_from_base: RigidTransform, speed_mps: float, yaw_rate_radps: float, stamp_ns: int
) -> Any:
    """nav_msgs/Odometry: pose in the parent frame, twist in the child's (REP 105); covariances are zero."""
    twist = factory.make(
        "geometry_msgs/msg/Twist",
        linear=make_vector(factory, np.array([speed_mps, 0.0, 0.0])),
        angular=make_vector(factory, np.array([0.0, 0.0, yaw_rate_radps])),
    )
    pose = make_pose(factory, odom_from_base.translation, odom_from_base.quat_xyzw)
    return factory.make(
        "nav_msgs/msg/Odometry",
        header=make_header(factory, stamp_ns, odom_from_base.dst),
        child_frame_id=frame_name(odom_from_base.src),
        pose=factory.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=factory.make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )


def encode_events_mono(factory: MessageFactory, events: EventPacket, seq: int) -> Any:
    """event_camera_msgs/EventPacket in the encoding `mono` (64-bit words, times relative to the stamp).

    Raises:
        DataError: an event is older than the stamp or more than 4.29 s younger.
    """
    dt = events.t_ns - events.stamp_ns
    if len(events) and (int(dt.min()) < 0 or int(dt.max()) >= 1 << 32):
        raise DataError("mono events must lie within 2^32 ns after the packet's stamp")
    words = (
        dt.astype(np.uint64)
        | (events.x.astype(np.uint64) << np.uint64(32))
        | (events.y.astype(np.uint64) << np.uint64(48))
        | (events.polarity.astype(np.uint64) << np.uint64(63))
    )
    return wrap_events(factory, words.astype("<u8").view(np.uint8), "mono", events, seq)


def encode_events_evt3(factory: MessageFactory, events: EventPacket, seq: int) -> Any:
    """event_camera_msgs/EventPacket in EVT 3.0, one ADDR_X word per event; times are kept to 1 us.

    The packet starts with a full time and address, so that it can be decoded without those before it.
    """
    t_us = events.t_ns // 1000
    high, low = (t_us >> 12) & 0xFFF, t_us & 0xFFF
    y = events.y.astype(np.int64)
    first = np.ones(min(len(events), 1), bool)
    new_high = np.concatenate([first, high[1:] != high[:-1]])
    new_low = np.concatenate([first, (low[1:] != low[:-1]) | new_high[1:]])
    new_y = np.concatenate([first, y[1:] != y[:-1]])
    columns = np.stack(
        [
            0x8000 | high,
            0x6000 | low,
            y,
            0x2000 | (events.polarity.astype(np.int64) << 11) | events.x.astype(np.int64),
        ],
        axis=1,
    )
    used = np.stack([new_high, new_low, new_y, np.ones(len(events), bool)], axis=1)
    words = columns[used].astype("<u2")
    return wrap_events(factory, words.view(np.uint8), "evt3", events, seq)


def wrap_events(factory: MessageFactory, data: NDArray[np.uint8], encoding: str, events: EventPacket, seq: int) -> Any:
    return factory.make(
        "event_camera_msgs/msg/EventPacket",
        header=make_header(factory, events.stamp_ns, events.frame_id),
        height=events.height,
        width=events.width,
        seq=seq,
        time_base=0,
        encoding=encoding,
        is_bigendian=False,
        events=factory.octets(np.ascontiguousarray(data).reshape(-1)),
    )


def encode_transforms(factory: MessageFactory, transforms: Sequence[RigidTransform], stamp_ns: int) -> Any:
    """tf2_msgs/TFMessage: each transform's `dst` is the parent, its `src` the child."""
    return factory.make(
        "tf2_msgs/msg/TFMessage", transforms=[_transform_stamped(factory, t, stamp_ns) for t in transforms]
    )


def _transform_stamped(factory: MessageFactory, transform: RigidTransform, stamp_ns: int) -> Any:
    tf = factory.make(
        "geometry_msgs/msg/Transform",
        translation=make_vector(factory, transform.translation),
        rotation=make_quaternion(factory, transform.quat_xyzw),
    )
    return factory.make(
        "geometry_msgs/msg/TransformStamped",
        header=make_header(factory, stamp_ns, transform.dst),
        child_frame_id=frame_name(transform.src),
        transform=tf,
    )


def encode_label_info(
    factory: MessageFactory, classes: Sequence[str], stamp_ns: int, frame_id: str, threshold: float = 0.0
) -> Any:
    """vision_msgs/LabelInfo: the names of class ids; 255 is unlabeled."""
    named = [*enumerate(classes), (IGNORE_LABEL, "unlabeled")]
    class_map = [
        factory.make("vision_msgs/msg/VisionClass", class_id=class_id, class_name=name) for class_id, name in named
    ]
    return factory.make(
        "vision_msgs/msg/LabelInfo",
        header=make_header(factory, stamp_ns, frame_id),
        class_map=class_map,
        threshold=float(threshold),
    )


def encode_diagnostics(
    factory: MessageFactory,
    stamp_ns: int,
    statuses: Sequence[tuple[str, int, str, Mapping[str, str]]],
    hardware_id: str = "",
) -> Any:
    """diagnostic_msgs/DiagnosticArray of (name, level 0 ok / 1 warn / 2 error / 3 stale, message, values)."""
    array = [make_status(factory, status, hardware_id) for status in statuses]
    header = make_header(factory, stamp_ns, "")
    return factory.make("diagnostic_msgs/msg/DiagnosticArray", header=header, status=array)


def make_status(factory: MessageFactory, status: tuple[str, int, str, Mapping[str, str]], hardware_id: str = "") -> Any:
    """diagnostic_msgs/DiagnosticStatus of (name, level, message, values)."""
    name, level, message, values = status
    return factory.make(
        "diagnostic_msgs/msg/DiagnosticStatus",
        level=bytes([level]) if getattr(factory, "octet_is_bytes", False) else level,
        name=name,
        message=message,
        hardware_id=hardware_id,
        values=[factory.make("diagnostic_msgs/msg/KeyValue", key=key, value=value) for key, value in values.items()],
    )


def make_pose(factory: MessageFactory, position: NDArray[np.floating], quat_xyzw: NDArray[np.floating]) -> Any:
    x, y, z = (float(v) for v in position)
    point = factory.make("geometry_msgs/msg/Point", x=x, y=y, z=z)
    return factory.make("geometry_msgs/msg/Pose", position=point, orientation=make_quaternion(factory, quat_xyzw))


def make_vector(factory: MessageFactory, xyz: NDArray[np.floating]) -> Any:
    x, y, z = (float(v) for v in xyz)
    return factory.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def make_quaternion(factory: MessageFactory, quat_xyzw: NDArray[np.floating]) -> Any:
    x, y, z, w = (float(v) for v in quat_xyzw)
    return factory.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


__all__ = [
    "encode_camera_info",
    "encode_columns",
    "encode_compressed",
    "encode_diagnostics",
    "encode_events_evt3",
    "encode_events_mono",
    "encode_image",
    "encode_label_info",
    "encode_odometry",
    "encode_point_cloud",
    "encode_transforms",
    "make_pose",
    "make_quaternion",
    "make_time",
    "make_vector",
    "wrap_compressed",
    "wrap_events",
]
