from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_perception.bags.reader import BagReader
from mm_perception.codec.encode import encode_events_evt3, encode_events_mono
from mm_perception.codec.events import EventPacketDecoder, Evt3Decoder
from mm_perception.core.errors import DataError
from mm_perception.core.types import EventPacket

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS


class SlowEvt3:
    """The format read word by word, as its table says."""

    def __init__(self, width, height):
        self.size = width, height
        self.y = self.base = self.base_polarity = self.wraps = 0
        self.high = self.low = None

    def decode(self, words):
        events = []
        for word in words:
            code, low12 = int(word) >> 12, int(word) & 0xFFF
            if self.high is None and code != 0x8:
                continue
            if code == 0x8:
                if self.high is not None and self.low is not None and self.high - low12 > 10:
                    self.wraps += 1
                self.high = low12
                continue
            if self.low is None and code != 0x6:
                continue
            if code == 0x6:
                self.low = low12
            elif code == 0x0:
                self.y = low12 & 0x7FF
            elif code == 0x2:
                self.emit(events, low12 & 0x7FF, low12 >> 11)
            elif code == 0x3:
                self.base, self.base_polarity = low12 & 0x7FF, low12 >> 11
            elif code in (0x4, 0x5):
                bits = 12 if code == 0x4 else 8
                for bit in range(bits):
                    if low12 >> bit & 1:
                        self.emit(events, self.base + bit, self.base_polarity)
                self.base += bits
        return events

    def emit(self, events, x, polarity):
        if x < self.size[0] and self.y < self.size[1]:
            events.append((x, self.y, polarity, self.wraps << 24 | self.high << 12 | self.low))


CODES = st.sampled_from([0, 2, 3, 4, 5, 6, 8, 0xA, 7, 0xE, 0xF, 1, 9])
WORDS = st.lists(st.tuples(CODES, st.integers(0, 4095)), max_size=120).map(
    lambda words: np.array([c << 12 | v for c, v in words], np.uint16)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4))
def test_equals_the_word_by_word_decoder_across_packets(packets):
    fast, slow = Evt3Decoder(1280, 720), SlowEvt3(1280, 720)
    for words in packets:
        got = fast.decode(words)
        assert list(zip(got.x, got.y, got.polarity, got.t_us, strict=True)) == slow.decode(words)


def test_time_wraps_but_jitter_does_not():
    decoder = Evt3Decoder(10, 10)
    words = [0x8FFF, 0x6001, 0x2001, 0x8FFE, 0x2001, 0x8000, 0x2001]
    t_us = decoder.decode(np.array(words, np.uint16)).t_us
    assert t_us.tolist() == [0xFFF001, 0xFFE001, 1 << 24 | 1]


def test_words_of_unknown_code_and_triggers_are_counted():
    decoder = Evt3Decoder(10, 10)
    decoder.decode(np.array([0x8000, 0x6000, 0xA001, 0x1000, 0x9000, 0x200B], np.uint16))
    assert (decoder.triggers, decoder.unknown_words, decoder.outside) == (1, 2, 1)


def packet(n=50, seed=0, stamp_ns=STAMP_NS // 1000 * 1000):
    generator = np.random.default_rng(seed)
    t_ns = stamp_ns + np.concatenate([[0], np.sort(generator.integers(0, 10_000, max(n - 1, 0))) * 1000])[:n]
    return EventPacket(
        generator.integers(0, 640, n).astype(np.uint16),
        generator.integers(0, 480, n).astype(np.uint16),
        generator.random(n) > 0.5,
        t_ns,
        640,
        480,
        stamp_ns,
        "events",
    )


@pytest.mark.parametrize("encode", [encode_events_evt3, encode_events_mono])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_encoded_packets_come_back(encode, n):
    given_packet = packet(n)
    back = EventPacketDecoder().decode(encode(FACTORY, given_packet, 0))
    for name in ("x", "y", "polarity", "t_ns"):
        np.testing.assert_array_equal(getattr(back, name), getattr(given_packet, name))
    assert (back.width, back.height, back.stamp_ns, back.frame_id) == (640, 480, given_packet.stamp_ns, "events")


def test_big_endian_packets():
    message = encode_events_mono(FACTORY, packet(), 0)
    message.events = message.events.view("<u8").astype(">u8").view(np.uint8)
    message.is_bigendian = True
    np.testing.assert_array_equal(EventPacketDecoder().decode(message).x, packet().x)


def test_gap_in_the_sequence_is_counted_and_a_repeated_packet_refused():
    decoder = EventPacketDecoder()
    decoder.decode(encode_events_evt3(FACTORY, packet(), 4))
    decoder.decode(encode_events_evt3(FACTORY, packet(seed=1), 7))
    assert decoder.lost_packets == 2
    with pytest.raises(DataError, match="twice"):
        decoder.decode(encode_events_evt3(FACTORY, packet(seed=1), 7))


def changed(**fields):
    message = encode_events_evt3(FACTORY, packet(), 0)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (changed(encoding="libcaer"), "libcaer"),
        (changed(width=0), "zero size"),
        (changed(events=np.zeros(3, np.uint8)), "whole words"),
        (changed(encoding="mono", events=np.zeros(12, np.uint8)), "whole words"),
        (changed(encoding="mono", events=np.full(8, 255, np.uint8)), "outside"),
    ],
)
def test_malformed_packets_are_refused(message, expected):
    with pytest.raises(DataError, match=expected):
        EventPacketDecoder().decode(message)


def test_recorded_evt3_bag_has_the_published_sums(shared_dir):
    folder = shared_dir / "data" / "events_ros2_codecs"
    expected = json.loads((folder / "expected.json").read_text())["test_data_evt3_trigger"]
    decoder = Evt3Decoder(expected["width"], expected["height"])
    sums = {"events": 0, "sum_x": 0, "sum_y": 0, "sum_p": 0, "sum_t_ns": 0}
    with BagReader(folder / "test_data_evt3_trigger") as bag:
        for message in bag.messages():
            raw = decoder.decode(np.asarray(bag.decode(message).events).view("<u2"))
            for key, values in (("x", raw.x), ("y", raw.y), ("p", raw.polarity)):
                sums[f"sum_{key}"] += int(values.sum(dtype=np.int64))
            sums["sum_t_ns"] += int(raw.t_us.sum()) * 1000
            sums["events"] += len(raw.x)
    assert sums == {key: expected[key] for key in sums}
    assert decoder.triggers == 2


def test_recorded_mono_bag_has_the_published_sums(shared_dir):
    folder = shared_dir / "data" / "events_ros2_codecs"
    expected = json.loads((folder / "expected.json").read_text())["test_data_mono_cd"]
    decoder = EventPacketDecoder()
    with BagReader(folder / "test_data_mono_cd") as bag:
        assert set(bag.topics.values()) == {"event_camera_msgs/msg/EventPacket"}
        packets = [decoder.decode(bag.decode(message)) for message in bag.messages()]
    assert sum(len(p) for p in packets) == expected["events"]
    assert sum(int(p.x.sum(dtype=np.int64)) for p in packets) == expected["sum_x"]
    assert sum(int(p.y.sum(dtype=np.int64)) for p in packets) == expected["sum_y"]
    assert sum(int(p.polarity.sum()) for p in packets) == expected["sum_p"]


def test_recorded_driving_scene_equals_the_golden_events(shared_dir):
    folder = shared_dir / "data" / "events_prophesee_raw"
    raw = (folder / "evt3_sample.raw").read_bytes()
    while raw[:1] == b"%":
        raw = raw[raw.index(b"\n") + 1 :]
    events = Evt3Decoder(1280, 720).decode(np.frombuffer(raw, "<u2"))
    with np.load(folder / "evt3_sample_golden_xyp.npz") as golden:
        for name, values in (("x", events.x), ("y", events.y), ("p", events.polarity)):
            np.testing.assert_array_equal(values, golden[name])
    assert (int(events.t_us[0]), int(events.t_us[-1])) == (11718656, 11727457)
