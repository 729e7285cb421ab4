"""Video topics with real streams of PyAV's encoders."""

from __future__ import annotations

import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.decoders import make_decoder
from mm_perception.codec.fields import make_header, make_time
from mm_perception.codec.video import VideoDecoder, video_codec
from mm_perception.core.errors import ConfigError, DataError
from mm_perception.core.rig import SensorConfig

H, W, COUNT, PERIOD_NS = 96, 128, 12, 40_000_000
START_NS = 1_700_000_000_000_000_000
FFMPEG, FOXGLOVE = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "foxglove_msgs/msg/CompressedVideo"
FACTORY = BagMessages()


def picture(i: int) -> np.ndarray:
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([x + 8 * i, np.full_like(x, 20 * i), 255 - 2 * y], -1).clip(0, 255).astype(np.uint8)


def stream(codec: str, b_frames: int = 0) -> list[tuple[bytes, int, bool]]:
    """Packets in the order of decoding: (bytes, number of the picture, whether it is a key frame)."""
    av = pytest.importorskip("av", reason="needs PyAV (the extra video)")
    try:
        context = av.CodecContext.create(codec, "w")
    except Exception as error:
        pytest.skip(f"this PyAV has no {codec} ({error})")
    context.width, context.height, context.pix_fmt = W, H, "yuv420p"
    context.framerate, context.time_base = 25, Fraction(1, 25)
    context.options = {"g": "6", "bf": str(b_frames), "crf": "12", "preset": "fast"} | (
        {"x265-params": f"log-level=none:keyint=6:bframes={b_frames}:repeat-headers=1"} if "265" in codec else {}
    )
    packets = []
    for i in range(COUNT):
        frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
        frame.pts = i
        packets += context.encode(frame)
    packets += context.encode(None)
    return [(bytes(p), int(p.pts), bool(p.is_keyframe)) for p in packets]


def ffmpeg_packet(data: bytes, number: int, is_key: bool, encoding: str = "h264"):
    stamp_ns = START_NS + number * PERIOD_NS
    return FACTORY.make(
        FFMPEG, header=make_header(FACTORY, stamp_ns, "/cam"), width=W, height=H, encoding=encoding, pts=number,
        flags=int(is_key), is_bigendian=False, data=np.frombuffer(data, np.uint8),
    )  # fmt: skip


def foxglove_packet(data: bytes, number: int, encoding: str = "h264"):
    stamp = make_time(FACTORY, START_NS + number * PERIOD_NS)
    return FACTORY.make(FOXGLOVE, timestamp=stamp, frame_id="cam", data=np.frombuffer(data, np.uint8), format=encoding)


def decoded(decoder, messages) -> dict[int, np.ndarray]:
    found = {}
    for message in messages:
        try:
            frame = decoder(message)
        except DataError:
            continue
        assert frame.frame_id == "cam"
        found[(frame.stamp_ns - START_NS) // PERIOD_NS] = frame.image
    return found


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc;yuv420p;bgr8;bgr8")])
def test_each_packet_gives_its_picture(codec, name):
    decoder = make_decoder(SensorConfig("cam", "rgb", type=FFMPEG))
    found = decoded(decoder, [ffmpeg_packet(*packet, encoding=name) for packet in stream(codec)])
    assert len(found) >= COUNT - 1  # the last may be held back by the decoder
    for number, image in found.items():
        assert np.abs(image.astype(int) - picture(number)).mean() < 8, number


def test_pictures_that_were_reordered_keep_their_own_stamps():
    packets = stream("libx264", b_frames=2)
    assert [p[1] for p in packets] != sorted(p[1] for p in packets)
    found = decoded(VideoDecoder(10**6), [ffmpeg_packet(*packet) for packet in packets])
    assert len(found) >= COUNT - 4
    assert list(found) == sorted(found)
    for number, image in found.items():
        assert np.abs(image.astype(int) - picture(number)).mean() < 8, number


def test_a_stream_that_is_joined_in_the_middle_starts_with_its_next_key_frame():
    decoder = VideoDecoder(10**6)
    packets = stream("libx264")
    first_key = next(i for i, p in enumerate(packets) if p[2] and i > 0)
    found = decoded(decoder, [foxglove_packet(*packet[:2]) for packet in packets[2:]])
    assert min(found) == packets[first_key][1]
    assert decoder.losses["packets before a key frame"] == first_key - 2


def test_video_within_a_compressed_image():
    decoder = make_decoder(SensorConfig("cam", "rgb"))
    header = SimpleNamespace(stamp=make_time(FACTORY, START_NS), frame_id="cam")
    data = np.frombuffer(stream("libx264")[0][0], np.uint8)
    frame = decoder(SimpleNamespace(header=header, format="h264", data=data))
    assert np.abs(frame.image.astype(int) - picture(0)).mean() < 8


def test_damage_costs_no_more_than_the_pictures_until_the_next_key_frame():
    packets = stream("libx264")
    rng = np.random.default_rng(0)
    broken = [(rng.bytes(len(p[0])), p[1], False) if i == 2 else p for i, p in enumerate(packets)]
    found = decoded(VideoDecoder(10**6), [ffmpeg_packet(*packet) for packet in broken])
    assert {0, 1} <= found.keys()
    assert set(range(6, COUNT - 1)) <= found.keys()
    assert np.abs(found[8].astype(int) - picture(8)).mean() < 8


def test_pictures_of_which_the_decoder_invented_a_part_are_lost():
    packets = stream("libx264")
    data = bytearray(packets[2][0])
    third, quarter = len(data) // 3, len(data) // 4
    data[third : third + quarter] = np.random.default_rng(4).bytes(quarter)
    decoder = VideoDecoder(10**6)
    found = decoded(decoder, [ffmpeg_packet(bytes(data) if i == 2 else p[0], *p[1:]) for i, p in enumerate(packets)])
    next_key = next(i for i, p in enumerate(packets) if p[2] and i > 2)
    assert sorted(found)[:3] == [0, 1, next_key]
    assert decoder.losses["damaged packets"] == 1
    assert decoder.losses["packets before a key frame"] == next_key - 3


def test_a_packet_without_data_costs_no_other():
    packets = stream("libx264")
    decoder = VideoDecoder(10**6)
    messages = [ffmpeg_packet(*packet) for packet in packets]
    with pytest.raises(DataError, match="without data"):
        decoder(ffmpeg_packet(b"", 0, True))
    messages.insert(4, ffmpeg_packet(b"", 4, False))
    assert len(decoded(decoder, messages)) >= COUNT - 1


def test_a_picture_beyond_the_limit_is_refused():
    with pytest.raises(DataError):
        VideoDecoder(W * H // 2)(ffmpeg_packet(*stream("libx264")[0]))


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("h264", "h264"),
        ("HEVC", "hevc"),
        ("libx264;yuv420p", "h264"),
        ("h264_nvenc", "h264"),
        ("jpeg", None),
        ("", None),
    ],
)
def test_names_of_encodings(text, codec):
    assert video_codec(text) == codec


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install mm_perception\[video\]"):
        make_decoder(SensorConfig("cam", "rgb", type=FOXGLOVE))
