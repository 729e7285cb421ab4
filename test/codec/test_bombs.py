"""Messages that name sizes which nobody should believe: refused as the package's own errors, and for nothing."""

from __future__ import annotations

import contextlib
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mm_perception.codec.camera_info import decode_camera_info
from mm_perception.codec.decoders import make_decoder
from mm_perception.codec.encode import encode_camera_info, wrap_compressed
from mm_perception.codec.events import EventPacketDecoder, Evt3Decoder
from mm_perception.codec.image import decode_depth, decode_image, decode_labels, decode_pixels, decode_thermal
from mm_perception.codec.point_cloud import decode_point_cloud
from mm_perception.codec.transforms import feed_transforms
from mm_perception.core.errors import CalibrationError, DataError, MmPerceptionError
from mm_perception.core.limits import MAX_EVENT_PIXELS, MAX_EVENTS, MAX_PIXELS, WORDS_PER_EVENT
from mm_perception.core.rig import SensorConfig
from mm_perception.core.types import EventPacket
from mm_perception.fuzz.cost import measured
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transform_tree import TransformTree

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS, header, raw_image

CHEAP_BYTES, CHEAP_S = 60_000_000, 0.5
MOST_BYTES, MOST_S = 500_000_000, 2.0


def refused(call, kind=DataError, said: str = ""):
    """The call is refused at once and for next to nothing."""

    def run():
        with pytest.raises(kind, match=said):
            call()

    cost = measured(run)
    assert cost.bytes < CHEAP_BYTES and cost.seconds < CHEAP_S, cost


def compressed(data: bytes, fmt: str = "jpeg"):
    return wrap_compressed(FACTORY, np.frombuffer(data, np.uint8), fmt, STAMP_NS, "cam")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int = 8, color: int = 0, extra: bytes = b"", pixels: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = zlib.compress(pixels or bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def resized_jpeg(width: int, height: int, **options: int) -> bytes:
    """A small jpeg whose frame header says another size."""
    flags = [value for pair in options.items() for value in (getattr(cv2, pair[0]), pair[1])]
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8), flags)[1].tobytes())
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def depth_png(data: bytes) -> bytes:
    return struct.pack("<iff", 0, 1.0, 0.0) + data


@pytest.mark.parametrize(
    "message",
    [
        compressed(resized_jpeg(65000, 65000)),
        compressed(resized_jpeg(65535, 257)),
        compressed(resized_jpeg(65000, 65000, IMWRITE_JPEG_PROGRESSIVE=1)),
        compressed(b"\xff\xd8" + b"\xff\xe1\x10\x00" + bytes(4094) + resized_jpeg(30000, 30000)[2:]),
        compressed(b"\xff\xd8\x00\x13\xff\xff\xff" + resized_jpeg(30000, 30000)[3:]),
        compressed(png(2**31 - 1, 2**31 - 1), "png"),
        compressed(png(4097, 4096), "png"),
        compressed(png(20000, 20000, 16, 6), "png"),
        compressed(png(4000, 4000, 16, 2), "png"),
        compressed(png(100, 100, 8, 2, chunk(b"acTL", struct.pack(">II", 10**6, 0))), "png"),
        compressed(png(100, 100, 8, 2, chunk(b"tEXt", b"") * 5000), "png"),
        compressed(b"RIFF\x00\x00\x01\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff" + bytes(99)),
        raw_image(bytes(1000), 2**31 - 1, 2**31 - 1, "rgb8", 2**32 - 1),
        raw_image(bytes(1000), 100_000, 1, "rgb8", 10),
        raw_image(bytes(1000), 2**32 - 1, 0, "mono8", 2**32 - 1),
    ],
)
def test_images_that_name_too_large_a_size(message):
    refused(lambda: decode_image(message))


@pytest.mark.parametrize(
    "data", [png(30000, 30000, 16), png(4000, 4000, 16, 6), png(64, 64, 8), resized_jpeg(60000, 60000)]
)
@pytest.mark.parametrize("fmt", ["32FC1; compressedDepth png", "16UC1; compressedDepth"])
def test_compressed_depth_that_names_too_large_a_size(data, fmt):
    refused(lambda: decode_depth(compressed(depth_png(data), fmt)))


@pytest.mark.parametrize("decode", [decode_image, decode_depth, decode_labels, lambda m: decode_thermal(m, "agc")])
def test_every_kind_of_image_has_the_limit(decode):
    refused(lambda: decode(compressed(png(9000, 9000, 8, 0), "png")), said="at most")
    refused(lambda: decode(raw_image(b"", 9000, 9000, "mono8", 9000)), said="at most")


@pytest.mark.parametrize("kind", ["rgb", "depth", "thermal"])
def test_the_limit_is_the_sensors(kind):
    encoding = "mono8" if kind == "rgb" else "16UC1"
    size = {"mono8": 1, "16UC1": 2}[encoding]
    message = raw_image(bytes(64 * 64 * size), 64, 64, encoding, 64 * size)
    assert make_decoder(SensorConfig("s", kind, max_pixels=64 * 64))(message)
    with pytest.raises(DataError, match="max_pixels"):
        make_decoder(SensorConfig("s", kind, max_pixels=64 * 64 - 1))(message)


def scans(count: int) -> bytes:
    """A progressive jpeg of 4096 x 4096 pixels whose last scan is there many times."""
    data = resized_jpeg(4096, 4096, IMWRITE_JPEG_PROGRESSIVE=1)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_progressive_jpeg_of_many_scans():
    refused(lambda: decode_image(compressed(scans(500))), said="scans")


@pytest.mark.parametrize(
    "make",
    [
        lambda: compressed(cv2.imencode(".png", np.zeros((4096, 4096, 4), np.uint8))[1].tobytes(), "png"),
        lambda: compressed(cv2.imencode(".jpg", np.full((4096, 4096, 3), 77, np.uint8))[1].tobytes()),
        lambda: compressed(scans(5)),
        lambda: raw_image(bytes(4096 * 4096 * 4), 4096, 4096, "bgra8", 4096 * 4),
    ],
)
def test_the_largest_image_keeps_to_the_budget(make):
    message = make()
    cost = measured(lambda: decode_image(message))
    assert cost.bytes < MOST_BYTES and cost.seconds < MOST_S, cost


def test_the_largest_depth_keeps_to_the_budget():
    file = cv2.imencode(".png", np.full((4096, 4096), 900, np.uint16))[1].tobytes()
    message = compressed(depth_png(file), "32FC1; compressedDepth png")
    cost = measured(lambda: decode_depth(message))
    assert cost.bytes < MOST_BYTES and cost.seconds < MOST_S, cost


CAMERA = CameraModel(64, 48, np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]), np.zeros(5), "plumb_bob", "cam")


@pytest.mark.parametrize(("width", "height"), [(65535, 32000), (2**32 - 1, 2**32 - 1), (MAX_PIXELS, 2)])
def test_camera_info_of_an_absurd_size(width, height):
    message = encode_camera_info(FACTORY, CAMERA, STAMP_NS)
    message.width, message.height = width, height
    refused(lambda: decode_camera_info(message), CalibrationError, "at most")


def test_camera_info_of_another_size_than_its_image_allocates_nothing():
    from mm_perception.pipeline.detection_view import _Straightener

    lens = CameraModel(8192, 8192, CAMERA.intrinsics, np.array([0.1, 0, 0, 0, 0]), "plumb_bob", "cam")
    image = np.zeros((48, 64, 3), np.uint8)
    refused(lambda: _Straightener(lens)(image), CalibrationError, "calibrated for 8192x8192")


def cloud(**other):
    field = SimpleNamespace(name="x", offset=0, datatype=7, count=1)
    fields = [SimpleNamespace(**{**vars(field), "name": n, "offset": 4 * i}) for i, n in enumerate("xyz")]
    values = {
        "header": header(), "height": 1, "width": 2, "fields": fields, "is_bigendian": False, "point_step": 12,
        "row_step": 24, "data": np.zeros(24, np.uint8), "is_dense": True,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **other})


def odd_fields(**other):
    return [SimpleNamespace(**{"name": "x", "offset": 0, "datatype": 7, "count": 1, **other})]


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 2**32 - 1, "height": 2**32 - 1},
        {"width": 4_000_001, "point_step": 0, "row_step": 0, "fields": []},
        {"point_step": 2**31}, {"point_step": 2**32 - 1}, {"point_step": -12}, {"row_step": -1}, {"height": -1},
        {"row_step": 2**32 - 1, "height": 2}, {"row_step": 12, "height": 2}, {"data": np.zeros(3, np.uint8)},
        {"fields": odd_fields(offset=2**32 - 1)}, {"fields": odd_fields(offset=-4)},
        {"fields": odd_fields(datatype=99)}, {"fields": odd_fields(datatype=255)},
        {"fields": odd_fields() * 5000}, {"fields": odd_fields(name="\0")},
        {"fields": None}, {"width": None}, {"width": float("nan")}, {"header": None}, {"data": [300, -1]},
    ],
)  # fmt: skip
def test_clouds_with_absurd_sizes(wrong):
    refused(lambda: decode_point_cloud(cloud(**wrong)))


@pytest.mark.parametrize("value", [1e300, 1e20, 1e12, float("nan"), -float("inf")])
def test_clouds_with_absurd_times(value):
    data = np.ones(1, [("xyz", "<f4", 3), ("t", "<f8")])
    data["t"] = value
    fields = [*cloud().fields, SimpleNamespace(name="t", offset=12, datatype=8, count=1)]
    message = cloud(width=1, fields=fields, point_step=20, row_step=20, data=data.view(np.uint8))
    found = decode_point_cloud(message)
    assert len(found) == 1, "the point is as good as any"
    assert found.offset_ns is None or abs(int(found.offset_ns[0])) <= 10**9


def events(data: bytes, encoding: str = "evt3", width: int = 640, height: int = 480, seq: int = 1):
    return FACTORY.make(
        "event_camera_msgs/msg/EventPacket", header=header(), height=height, width=width, seq=seq, time_base=0,
        encoding=encoding, is_bigendian=False, events=np.frombuffer(data, np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["evt3", "mono"])
@pytest.mark.parametrize(("width", "height"), [(4_000_000_000, 4_000_000_000), (65535, 65535), (2049, 2048)])
def test_an_event_camera_of_an_absurd_size(encoding, width, height):
    refused(lambda: EventPacketDecoder().decode(events(bytes(8), encoding, width, height)), said="at most")


def test_event_packets_of_absurd_sizes_cannot_be_made():
    nothing = np.zeros(0, np.uint16)
    times = np.zeros(0, np.int64)
    refused(lambda: EventPacket(nothing, nothing, np.zeros(0, bool), times, 4 * 10**9, 4 * 10**9, 1, "e"))


def vectors(count: int) -> bytes:
    """evt3 words of which each gives twelve events, within the sensor."""
    start = np.array([0x8000, 0x6000, 0x0001, 0x3000], "<u2")
    pair = np.tile(np.array([0x3000, 0x4FFF], "<u2"), count)
    return np.concatenate([start, pair]).tobytes()


def test_vectors_of_events_are_decoded_in_pieces_and_have_a_limit():
    count = MAX_EVENTS // 12
    cost = measured(lambda: decoded.append(EventPacketDecoder().decode(events(vectors(count)))))
    assert len(decoded[0]) == 12 * count <= MAX_EVENTS
    assert cost.bytes < MOST_BYTES and cost.seconds < MOST_S, cost
    decoder = EventPacketDecoder()

    def too_many():
        with pytest.raises(DataError, match="max_events"):
            decoder.decode(events(vectors(1_000_000)))

    cost = measured(too_many)
    assert cost.bytes < MOST_BYTES and cost.seconds < MOST_S, cost
    assert len(decoder.decode(events(vectors(5), seq=2))) == 60, "the next packet is fine"


decoded: list[EventPacket] = []


@pytest.mark.parametrize("word", [0x7000, 0x8000, 0x6000, 0x2001, 0x0001, 0x1000, 0x4000])
def test_the_longest_packet_of_any_word_keeps_to_the_budget(word):
    words = np.concatenate([[0x8000, 0x6000], np.full(WORDS_PER_EVENT * MAX_EVENTS - 2, word)]).astype(np.uint16)

    def run():
        with contextlib.suppress(DataError):
            Evt3Decoder(640, 480).decode(words)

    cost = measured(run)
    assert cost.bytes < MOST_BYTES and cost.seconds < MOST_S, cost
    refused(lambda: Evt3Decoder(640, 480).decode(np.zeros(WORDS_PER_EVENT * MAX_EVENTS + 1, np.uint16)), said="words")


def test_pieces_give_what_one_piece_gives():
    generator = np.random.default_rng(3)
    words = generator.integers(0, 2**16, 400_000).astype(np.uint16)
    words[generator.random(len(words)) < 0.3] = 0x4ABC
    whole, parts = Evt3Decoder(1280, 720), Evt3Decoder(1280, 720)
    expected = [whole._decode_piece(words)]
    got = parts.decode(words)
    for name in ("x", "y", "polarity", "t_us"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected[0], name))


def test_mono_packets_have_a_limit():
    message = events(bytes(8 * 101), "mono")
    decode = EventPacketDecoder(MAX_EVENT_PIXELS, 100).decode
    refused(lambda: decode(message), said="at most 100")


def test_a_message_of_too_many_transforms():
    message = SimpleNamespace(transforms=[None] * 1_000_000)
    refused(lambda: feed_transforms(TransformTree(), message, static=False), CalibrationError, "at most")


@pytest.mark.parametrize("decode", [decode_image, decode_depth, decode_labels, decode_pixels, decode_point_cloud])
@pytest.mark.parametrize("message", [None, SimpleNamespace(), SimpleNamespace(format=b"", data="text"), 7])
def test_what_is_no_message_is_an_error_of_this_package(decode, message):
    with pytest.raises(MmPerceptionError):
        decode(message)
