"""Bag files as other programs write them, made byte by byte or by another writer than ours."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import lz4.frame
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mm_perception.bags.typestore import typestore
from mm_perception.codec.encode import encode_image

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROS1 = get_typestore(Stores.ROS1_NOETIC)
ROS1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms\n", "tf2_msgs/msg/TFMessage"))
MAGIC = b"\x89MCAP0\r\n"
PACK = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}
PIXELS = np.random.default_rng(3).integers(0, 255, (12, 16, 3), np.uint8)
IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"


def image(stamp_ns: int) -> Any:
    from mm_perception.bags.typestore import BagMessages

    return encode_image(BagMessages(), PIXELS, "rgb8", stamp_ns, "cam")


def image_cdr(stamp_ns: int) -> bytes:
    return bytes(typestore().serialize_cdr(image(stamp_ns), IMAGE))


# ---- ROS 1


def ros1(type_name: str, **fields: Any) -> Any:
    return ROS1.types[type_name](**fields)


def ros1_header(stamp_ns: int, number: int = 7) -> Any:
    stamp = ros1("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return ros1("std_msgs/msg/Header", seq=number, stamp=stamp, frame_id="cam")


def ros1_image(stamp_ns: int) -> Any:
    height, width, _ = PIXELS.shape
    return ros1(
        IMAGE, header=ros1_header(stamp_ns), height=height, width=width, encoding="rgb8", is_bigendian=0,
        step=3 * width, data=PIXELS.reshape(-1),
    )  # fmt: skip


def ros1_info(stamp_ns: int) -> Any:
    region = ros1("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    matrix = np.array([20.0, 0, 8, 0, 21, 6, 0, 0, 1])
    return ros1(
        INFO, header=ros1_header(stamp_ns), height=12, width=16, distortion_model="plumb_bob",
        D=np.array([0.1, -0.2, 0.01, 0.02, 0.3]), K=matrix, R=np.eye(3).reshape(-1),
        P=np.insert(matrix, [3, 6, 9], 0.0), binning_x=0, binning_y=0, roi=region,
    )  # fmt: skip


def ros1_transforms(stamp_ns: int) -> Any:
    transform = ros1(
        "geometry_msgs/msg/Transform",
        translation=ros1("geometry_msgs/msg/Vector3", x=1.0, y=2.0, z=3.0),
        rotation=ros1("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
    )
    stamped = ros1(
        "geometry_msgs/msg/TransformStamped", header=ros1_header(stamp_ns), child_frame_id="lidar", transform=transform
    )
    return ros1("tf2_msgs/msg/TFMessage", transforms=[stamped])


def write_ros1(path: Path, items: Iterable[tuple[str, Any, int]], packed: str = "none", chunk: int = 2000) -> None:
    """Writes a ROS 1 bag, in small chunks; packed: none, lz4 or bz2."""
    writer = Ros1Writer(path)
    writer.chunk_threshold = chunk
    if packed != "none":
        writer.set_compression(Ros1Writer.CompressionFormat[packed.upper()])
    with writer:
        known: dict[str, Any] = {}
        for topic, message, log_ns in items:
            kind = message.__msgtype__
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=ROS1, latching=topic == "/tf_static")
            writer.write(known[topic], log_ns, ROS1.serialize_ros1(message, kind))


# ---- rosbag2 folders


def write_folder(folder: Path, stamps: Iterable[int], storage: str = "mcap", topic: str = "/image") -> Path:
    """Writes a rosbag2 folder with the library's writer; returns its one file."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection(topic, IMAGE, typestore=typestore())
        for stamp_ns in stamps:
            writer.write(connection, stamp_ns, image_cdr(stamp_ns))
    return next(one for one in folder.iterdir() if one.suffix in (".mcap", ".db3"))


# ---- MCAP, byte by byte


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(raw)) + raw


def record(op: int, body: bytes) -> bytes:
    return struct.pack("<BQ", op, len(body)) + body


def schema(number: int, name: str, form: str, definition: str | bytes) -> bytes:
    return record(3, struct.pack("<H", number) + text(name) + text(form) + text(definition))


def channel(number: int, schema_number: int, topic: str, encoding: str) -> bytes:
    return record(4, struct.pack("<HH", number, schema_number) + text(topic) + text(encoding) + text(b""))


def message(number: int, log_ns: int, data: bytes) -> bytes:
    return record(5, struct.pack("<HIQQ", number, 0, log_ns, log_ns) + data)


def chunk(inner: bytes, first_ns: int, last_ns: int, compression: str = "", checksum: bool = True) -> bytes:
    packed = PACK.get(compression, bytes)(inner)
    head = struct.pack("<QQQI", first_ns, last_ns, len(inner), crc32(inner) if checksum else 0)
    return record(6, head + text(compression) + struct.pack("<Q", len(packed)) + packed)


def image_channel(number: int = 1) -> bytes:
    definition = typestore().generate_msgdef(IMAGE, ros_version=2)[0]
    return schema(number, IMAGE, "ros2msg", definition) + channel(number, number, "/image", "cdr")


def closed(*parts: bytes, summary: bytes = b"", profile: str = "ros2") -> bytes:
    """A file of these records, with its end mark."""
    data = MAGIC + record(1, text(profile) + text("test")) + b"".join(parts) + record(15, bytes(4))
    return data + summary + record(2, struct.pack("<QQI", len(data) if summary else 0, 0, 0)) + MAGIC


def chunks_of_images(stamps: Sequence[int], size: int, compression: str) -> list[bytes]:
    """Chunks of `size` images each, the first with the description of the topic."""
    found = []
    for i in range(0, len(stamps), size):
        part = stamps[i : i + size]
        inner = (b"" if i else image_channel()) + b"".join(message(1, ns, image_cdr(ns)) for ns in part)
        found.append(chunk(inner, min(part), max(part), compression))
    return found
