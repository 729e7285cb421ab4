"""Targets of the codec: serialized messages, deserialized as from a bag, and decoded by what takes their kind."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any

import cv2
import numpy as np

from mm_perception.bags.flat_arrays import FLAT_ARRAYS, read_flat_array
from mm_perception.bags.typestore import BagMessages, typestore
from mm_perception.codec.camera_info import decode_camera_info
from mm_perception.codec.detections import encode_detections, encode_velocities
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_compressed,
    encode_events_evt3,
    encode_events_mono,
    encode_point_cloud,
    encode_transforms,
    wrap_compressed,
)
from mm_perception.codec.event_arrays import EventArrayDecoder
from mm_perception.codec.events import EventPacketDecoder
from mm_perception.codec.fields import make_header
from mm_perception.codec.image import decode_depth, decode_image, decode_labels, decode_thermal
from mm_perception.codec.image_header import JPEG_MAGIC
from mm_perception.codec.livox import decode_custom_msg
from mm_perception.codec.objects import decode_objects
from mm_perception.codec.point_cloud import decode_columns, decode_point_cloud
from mm_perception.codec.transforms import decode_odometry, feed_transforms
from mm_perception.core.errors import DataError, MmPerceptionError
from mm_perception.core.types import Detections3D, EventPacket, PointCloud
from mm_perception.fuzz.mutate import mutate_message, mutated_bytes
from mm_perception.fuzz.targets import Target
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transform_tree import TransformTree
from mm_perception.geometry.transforms import RigidTransform

FACTORY = BagMessages()
STAMP_NS = 1_700_000_000_000_000_000
_ENCODINGS = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2, "8UC1": 1, "8UC3": 3, "8UC4": 4, "16UC1": 2,
    "32FC1": 4, "bayer_rggb8": 1, "bayer_gbrg8": 1, "yuv422": 2, "yuyv": 2, "rgb16": 6, "bgra16": 8, "16UC3": 6,
    "bayer_grbg16": 2, "nv12": 1.5, "nv21": 1.5, "nv24": 3, "16SC1": 2, "64FC1": 8,
}  # fmt: skip
_SIZES = (0, 1, 15, 16, 16, 16, 17, 100, 300, 4097, 20_000, 65_535, 2**31 - 1)

Serialized = tuple[str, bytes]


def message_targets() -> list[Target]:
    """One target per kind of message."""
    return [
        _target("image", _images, _decode_images, 60),
        Target("compressed", _make_compressed, _decode_compressed, 20),
        _target("camera_info", _camera_infos, decode_camera_info, 60),
        _target("cloud", _clouds, _decode_cloud, 60),
        _target("events", _events, _decode_events, 60),
        _list_target("event_lists", "dvs_msgs/msg/EventArray", _event_lists, EventArrayDecoder().decode),
        _list_target("livox", "livox_ros_driver2/msg/CustomMsg", _livox, lambda m: decode_custom_msg(m, 255.0, 1000)),
        _target("transforms", _transforms, lambda msg: feed_transforms(TransformTree(), msg, static=False), 15),
        _target("odometry", _odometries, decode_odometry, 30),
        _target("objects", _objects, decode_objects, 15),
    ]


def _target(name: str, seeds: Callable[[], Sequence[Any]], run: Callable[[Any], object], share: int) -> Target:
    @lru_cache(maxsize=1)
    def serialized() -> list[Serialized]:
        return [(msg.__msgtype__, bytes(typestore().serialize_cdr(msg, msg.__msgtype__))) for msg in seeds()]

    def make(rng: Random) -> bytes:
        return _mutated(*rng.choice(serialized()), rng)

    def read(data: bytes) -> object:
        return run(_message(serialized()[0][0], data))

    return Target(name, make, read, share)


def _list_target(name: str, type_name: str, seeds: Callable[[], Sequence[Any]], run: Callable[[Any], object]) -> Target:
    """Of messages that a bag's reader reads in one go, and a node one by one."""

    def both(data: bytes) -> None:
        try:
            flat = read_flat_array(data, FLAT_ARRAYS[type_name])
        except (ValueError, IndexError) as error:
            raise DataError(f"{len(data)} bytes are no {type_name}") from error
        with contextlib.suppress(MmPerceptionError):
            run(flat)
        run(_message(type_name, data))

    one = _target(name, seeds, run, 30)
    return Target(name, one.make, both, one.share)


def _mutated(type_name: str, cdr: bytes, rng: Random) -> bytes:
    """Fields changed, so that the message is whole; bytes changed, so that perhaps it is not; or both."""
    if rng.random() < 0.7:
        message: Any = typestore().deserialize_cdr(cdr, type_name)
        mutate_message(message, rng)
        with contextlib.suppress(Exception):  # a number that does not fit its field
            cdr = bytes(typestore().serialize_cdr(message, type_name))
        if rng.random() < 0.7:
            return cdr
    return mutated_bytes(cdr, rng)


def _message(type_name: str, data: bytes) -> Any:
    """Raises DataError, as the reader of bags does, if the bytes are no such message."""
    try:
        return typestore().deserialize_cdr(data, type_name)
    except Exception as error:
        raise DataError(f"{len(data)} bytes are no {type_name}") from error


def _decode_images(msg: Any) -> None:
    decoders: list[Callable[[Any], object]] = [decode_image, decode_depth, decode_labels]
    decoders += [lambda m: decode_thermal(m, "agc"), lambda m: decode_thermal(m, "counts")]
    _every(decoders, msg)


def _decode_compressed(data: bytes) -> None:
    """By one decoder, which the bytes choose: large images take long enough once."""
    kinds: list[Callable[[Any], object]] = [decode_image, decode_depth, decode_labels]
    kinds.append(lambda msg: decode_thermal(msg, "counts"))
    msg = _message(_COMPRESSED, data)
    (decode_depth if "compressedDepth" in msg.format else kinds[zlib.crc32(data) % len(kinds)])(msg)


def _decode_cloud(msg: Any) -> None:
    _every([decode_point_cloud, lambda m: decode_columns(m, ("x", "vx"))], msg)


def _decode_events(msg: Any) -> None:
    decoder = EventPacketDecoder()
    _every([decoder.decode, decoder.decode], msg)


def _every(decoders: Sequence[Callable[[Any], object]], msg: Any) -> None:
    for decode in decoders:
        with contextlib.suppress(MmPerceptionError):
            decode(msg)


def _images() -> list[Any]:
    generator = np.random.default_rng(1)
    return [
        FACTORY.make(
            "sensor_msgs/msg/Image", header=make_header(FACTORY, STAMP_NS, "cam"), height=6, width=8, encoding=encoding,
            is_bigendian=0, step=8 if encoding.startswith("nv") else int(8 * size),
            data=generator.integers(0, 255, int(48 * size)).astype(np.uint8),
        )
        for encoding, size in _ENCODINGS.items()
    ]  # fmt: skip


_COMPRESSED = "sensor_msgs/msg/CompressedImage"


@lru_cache(maxsize=1)
def _compressed() -> list[Serialized]:
    generator = np.random.default_rng(2)
    color = generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    grey = generator.integers(0, 65535, (16, 16)).astype(np.uint16)
    depth = struct.pack("<iff", 0, 100.0, 1.0) + cv2.imencode(".png", grey)[1].tobytes()
    progressive = cv2.imencode(".jpg", color, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].reshape(-1)
    messages = [
        encode_compressed(FACTORY, color, "jpeg", STAMP_NS, "cam"),
        encode_compressed(FACTORY, color, "png", STAMP_NS, "cam"),
        encode_compressed(FACTORY, color[..., 0].copy(), "png", STAMP_NS, "cam"),
        encode_compressed(FACTORY, grey, "png", STAMP_NS, "cam"),
        wrap_compressed(FACTORY, np.asarray(progressive, np.uint8), "jpeg", STAMP_NS, "cam"),
        wrap_compressed(FACTORY, np.frombuffer(depth, np.uint8), "16UC1; compressedDepth png", STAMP_NS, "cam"),
        wrap_compressed(FACTORY, np.frombuffer(depth, np.uint8), "32FC1; compressedDepth png", STAMP_NS, "cam"),
    ]
    messages += [
        wrap_compressed(FACTORY, np.asarray(cv2.imencode(suffix, color)[1]).reshape(-1), suffix[1:], STAMP_NS, "cam")
        for suffix in (".webp", ".tiff", ".bmp")
    ]
    # In pieces of four bits: 1 pixel without depth, 40 with, each 1 more than the one before, and 9 without.
    words = np.frombuffer(bytes.fromhex("1" + "85" + "2" * 40 + "91" + "000"), ">u4").astype("<u4")
    rvl = struct.pack("<iffii", 0, 100.0, 1.0, 10, 5) + words.tobytes()
    messages += [
        wrap_compressed(FACTORY, np.frombuffer(rvl, np.uint8), f"{kind}; compressedDepth rvl", STAMP_NS, "cam")
        for kind in ("16UC1", "32FC1")
    ]
    return [(_COMPRESSED, bytes(typestore().serialize_cdr(msg, _COMPRESSED))) for msg in messages]


def _make_compressed(rng: Random) -> bytes:
    """Like other messages, or with another size or another kind of pixels in the file's own header."""
    type_name, cdr = rng.choice(_compressed())
    if rng.random() < 0.5:
        return _mutated(type_name, cdr, rng)
    message: Any = typestore().deserialize_cdr(cdr, type_name)
    message.data = np.frombuffer(_reheaded(message.data.tobytes(), rng), np.uint8)
    return bytes(typestore().serialize_cdr(message, type_name))


def _reheaded(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    width, height = (4096, 4096) if rng.random() < 0.01 else (rng.choice(_SIZES), rng.choice(_SIZES))
    png = data.find(b"IHDR")
    if png >= 0:
        bits, color = rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6))
        out[png + 4 : png + 14] = struct.pack(">IIBB", width, height, bits, color)
        out[png + 17 : png + 21] = struct.pack(">I", zlib.crc32(out[png : png + 17]))
        return bytes(out)
    if not data.startswith(JPEG_MAGIC):
        out[rng.randrange(min(64, len(out)))] = rng.randrange(256)
        return bytes(out)
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    out[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    if rng.random() < 0.3:
        out[-2:-2] = out[data.rfind(b"\xff\xda") : -2] * rng.choice((1, 5, 300))
    return bytes(out)


def _camera_infos() -> list[Any]:
    k = np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])
    models = (("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4))
    lenses = [CameraModel(64, 48, k, np.full(n, 0.01), name, "cam") for name, n in models]
    return [encode_camera_info(FACTORY, lens, STAMP_NS) for lens in lenses]


def _clouds() -> list[Any]:
    generator = np.random.default_rng(3)
    xyz = generator.normal(size=(20, 3)).astype(np.float32)
    ring, offset = np.arange(20).astype(np.uint16), np.arange(20) * 1000
    whole = PointCloud(xyz, STAMP_NS, "lidar", np.ones(20, np.float32), ring, offset)
    boxes = _boxes()
    return [
        encode_point_cloud(FACTORY, whole), encode_point_cloud(FACTORY, PointCloud(xyz, STAMP_NS, "lidar")),
        encode_velocities(FACTORY, boxes),
    ]  # fmt: skip


def _events() -> list[Any]:
    generator = np.random.default_rng(4)
    n = 60
    packet = EventPacket(
        generator.integers(0, 64, n).astype(np.uint16), generator.integers(0, 48, n).astype(np.uint16),
        generator.random(n) < 0.5, STAMP_NS + np.sort(generator.integers(0, 10**7, n)), 64, 48, STAMP_NS, "events",
    )  # fmt: skip
    found = [encode_events_evt3(FACTORY, packet, 0), encode_events_mono(FACTORY, packet, 0)]
    words = generator.integers(0, 2**28, 60).astype("<u4")
    words[::7] |= 0x80000000
    for encoding in ("evt2", "evt21", "libcaer"):
        other = encode_events_mono(FACTORY, packet, 0)
        other.encoding, other.events = encoding, words.view(np.uint8)
        found.append(other)
    return found


def _event_lists() -> list[Any]:
    time = FACTORY.make("builtin_interfaces/msg/Time", sec=STAMP_NS // 10**9, nanosec=7)
    events = [FACTORY.make("dvs_msgs/msg/Event", x=i, y=i % 9, ts=time, polarity=i % 2 == 0) for i in range(20)]
    header = make_header(FACTORY, STAMP_NS, "dvs")
    return [FACTORY.make("dvs_msgs/msg/EventArray", header=header, height=48, width=64, events=events)]


def _livox() -> list[Any]:
    points = [
        FACTORY.make(
            "livox_ros_driver2/msg/CustomPoint", offset_time=i * 1000, x=1.0, y=2.0, z=float(i), reflectivity=i,
            tag=0, line=i % 4,
        )
        for i in range(20)
    ]  # fmt: skip
    return [
        FACTORY.make(
            "livox_ros_driver2/msg/CustomMsg", header=make_header(FACTORY, STAMP_NS, "livox"), timebase=STAMP_NS,
            point_num=20, lidar_id=0, rsvd=np.zeros(3, np.uint8), points=points,
        )
    ]  # fmt: skip


def _transforms() -> list[Any]:
    frames = [RigidTransform("base_link", name, np.eye(3), np.ones(3)) for name in ("cam", "lidar", "thermal")]
    return [encode_transforms(FACTORY, frames, STAMP_NS)]


def _odometries() -> list[Any]:
    make, zero = FACTORY.make, np.zeros(36)
    vector = make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    pose = make(
        "geometry_msgs/msg/Pose", position=make("geometry_msgs/msg/Point", x=1.0, y=2.0, z=0.0),
        orientation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
    )  # fmt: skip
    twist = make("geometry_msgs/msg/Twist", linear=vector, angular=vector)
    return [
        make(
            "nav_msgs/msg/Odometry", header=make_header(FACTORY, STAMP_NS, "odom"), child_frame_id="base_link",
            pose=make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=zero),
            twist=make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=zero),
        )
    ]  # fmt: skip


def _boxes() -> Detections3D:
    n = 3
    ones, zeros = np.ones((n, 3), np.float32), np.zeros(n, np.float32)
    labels = np.arange(n, dtype=np.int32)
    classes = ("car", "bus", "pedestrian")
    return Detections3D(ones, ones, zeros, ones[:, :2], zeros + 0.5, labels, classes, "lidar", STAMP_NS)


def _objects() -> list[Any]:
    return [encode_detections(FACTORY, _boxes())]
