"""EVT 2.0, EVT 2.1 and libcaer: word by word as their tables say, and recorded streams."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_perception.bags.reader import BagReader
from mm_perception.codec.events import EventPacketDecoder
from mm_perception.codec.evt2 import Evt2Decoder, Evt21Decoder
from mm_perception.core.errors import DataError

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS, header

WIDTH, HEIGHT = 100, 80


def slow(words, bits, state):
    """(t_us, x, y, polarity) of each event; `bits`: 32 or 64."""
    found = []
    for word in map(int, words):
        top, mask = (word, None) if bits == 32 else (word >> 32, word & 0xFFFFFFFF)
        code = top >> 28
        if code == 8:
            high = top & 0xFFFFFFF
            if state["high"] is not None and state["high"] - high > 1 << 27:
                state["wraps"] += 1
            state["high"] = high
        elif code in (0, 1) and state["high"] is not None:
            t = ((state["wraps"] << 28 | state["high"]) << 6) | (top >> 22 & 63)
            x, y = top >> 11 & 0x7FF, top & 0x7FF
            pixels = [x] if mask is None else [x + i for i in range(32) if mask >> i & 1]
            found += [(t, one, y, code == 1) for one in pixels if one < WIDTH and y < HEIGHT]
    return found


words32 = st.one_of(
    st.builds(lambda high: 0x80000000 | high, st.sampled_from([0, 1, 5, 6, 2**28 - 1, 2**28 - 2])),
    st.builds(
        lambda code, low, x, y: code << 28 | low << 22 | x << 11 | y,
        st.sampled_from([0, 1]), st.integers(0, 63), st.integers(0, 110), st.integers(0, 90),
    ),
    st.builds(lambda code, rest: code << 28 | rest, st.sampled_from([0xA, 0xE, 0xF, 0x3]), st.integers(0, 2**28 - 1)),
)  # fmt: skip
words64 = st.builds(lambda top, mask: top << 32 | mask, words32, st.integers(0, 2**32 - 1))


@pytest.mark.parametrize(("decoder_type", "bits"), [(Evt2Decoder, 32), (Evt21Decoder, 64)])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_the_word_by_word_decoder_across_packets(decoder_type, bits, data):
    packets = data.draw(st.lists(st.lists(words32 if bits == 32 else words64, max_size=40), min_size=1, max_size=4))
    packets[0].insert(0, 0x80000001 << (bits - 32))
    decoder, state = decoder_type(WIDTH, HEIGHT), {"high": None, "wraps": 0}
    for words in packets:
        raw = decoder.decode(np.array(words, f"u{bits // 8}"))
        got = list(zip(raw.t_us.tolist(), raw.x.tolist(), raw.y.tolist(), raw.polarity.tolist(), strict=True))
        assert got == slow(words, bits, state)


def event(low, x, y, on=True, mask=None):
    top = int(on) << 28 | low << 22 | x << 11 | y
    return top if mask is None else top << 32 | mask


def high(value, bits=32):
    return (0x80000000 | value) << (bits - 32)


def test_events_before_the_first_time_word_are_dropped_and_counted():
    decoder = Evt2Decoder(WIDTH, HEIGHT)
    raw = decoder.decode(np.array([event(1, 2, 3), event(2, 2, 3), high(4), event(3, 9, 8)], "u4"))
    assert (raw.t_us.tolist(), raw.x.tolist(), decoder.untimed) == ([4 * 64 + 3], [9], 2)
    vectors = Evt21Decoder(WIDTH, HEIGHT)
    vectors.decode(np.array([event(1, 2, 3, mask=0b111), high(4, 64)], "u8"))
    assert vectors.untimed == 3


def test_after_a_reset_the_time_is_unknown_again():
    decoder = Evt2Decoder(WIDTH, HEIGHT)
    decoder.decode(np.array([high(4), event(3, 9, 8)], "u4"))
    decoder.reset()
    with pytest.raises(DataError, match="TIME_HIGH"):
        decoder.decode(np.array([event(3, 9, 8)], "u4"))


def test_too_many_events_of_few_words_are_refused_before_they_are_made():
    words = np.array([high(1, 64)] + [event(0, 0, 0, mask=2**32 - 1)] * 10, "u8")
    with pytest.raises(DataError, match="max_events"):
        Evt21Decoder(WIDTH, HEIGHT, max_events=300).decode(words)
    assert len(Evt21Decoder(WIDTH, HEIGHT, max_events=320).decode(words).x) == 320


def packet(encoding, words, seq=0, big=False, width=WIDTH, height=HEIGHT):
    return FACTORY.make(
        "event_camera_msgs/msg/EventPacket", header=header(frame_id="ev"), height=height, width=width, seq=seq,
        time_base=0, encoding=encoding, is_bigendian=big,
        events=np.frombuffer(words.astype(words.dtype.newbyteorder(">" if big else "<")).tobytes(), np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("evt2", np.array([high(2), event(0, 1, 2), event(40, 3, 4, False)], "u4")),
        ("EVT2.1", np.array([high(2, 64), event(0, 1, 2, mask=1), event(40, 1, 4, False, mask=0b100)], "u8")),
        ("libcaer", np.array([1 << 17 | 2 << 2 | 3, 128, 3 << 17 | 4 << 2 | 1, 168], "u4")),
    ],
)
def test_packets_in_host_time(encoding, words, big):
    got = EventPacketDecoder().decode(packet(encoding, words, big=big))
    assert (got.x.tolist(), got.y.tolist(), got.polarity.tolist()) == ([1, 3], [2, 4], [True, False])
    assert (got.t_ns - STAMP_NS).tolist() == [0, 40_000]
    assert (got.width, got.height, got.frame_id) == (WIDTH, HEIGHT, "ev")


@pytest.mark.parametrize("encoding", ["evt2", "evt21", "libcaer", "evt4", "libcaer_cmp", "aedat4", ""])
@pytest.mark.parametrize("fill", [0, 0x77])
def test_content_that_is_none_of_the_encoding_is_refused_with_those_that_are_known(encoding, fill):
    with pytest.raises(DataError, match="known: evt3, evt2, evt21, libcaer, mono") as error:
        EventPacketDecoder().decode(packet(encoding, np.full(48, fill, "u1")))
    assert repr(encoding) in str(error.value)


@pytest.mark.parametrize("encoding", ["evt2", "evt21", "evt3", "libcaer", "mono"])
def test_an_empty_packet_is_legal_and_half_a_word_is_not(encoding):
    assert len(EventPacketDecoder().decode(packet(encoding, np.zeros(0, "u1")))) == 0
    with pytest.raises(DataError, match="whole"):
        EventPacketDecoder().decode(packet(encoding, np.zeros(5, "u1")))


def test_what_was_lost_is_counted_by_what_it_was():
    decoder = EventPacketDecoder()
    decoder.decode(packet("evt2", np.array([event(0, 1, 1), high(2), event(0, 120, 2), 0x30000000], "u4")))
    decoder.decode(packet("evt2", np.array([high(2), event(0, 1, 2)], "u4"), seq=4))
    assert decoder.losses == {
        "lost_packets": 3, "events_outside_the_image": 1, "unknown_words": 1, "events_without_a_time": 1,
    }  # fmt: skip


def test_recorded_evt2_stream_has_the_known_counts(shared_dir):
    folder = shared_dir / "data" / "events_prophesee_raw"
    expected = json.loads((folder / "expected.json").read_text())["evt2_sample.raw"]
    raw = (folder / "evt2_sample.raw").read_bytes()
    while raw[:1] == b"%":
        raw = raw[raw.index(b"\n") + 1 :]
    decoder = Evt2Decoder(expected["width"], expected["height"])
    words = np.frombuffer(raw[: len(raw) // 4 * 4], "<u4")
    pieces = [decoder.decode(part) for part in np.array_split(words, 7)]
    assert sum(len(p.x) for p in pieces) == expected["events"]
    assert sum(int(p.polarity.sum()) for p in pieces) == expected["on"]
    assert (int(pieces[0].t_us[0]), int(pieces[-1].t_us[-1])) == (expected["first_t_us"], expected["last_t_us"])
    assert (decoder.untimed, decoder.outside) == (0, 0)


def test_recorded_libcaer_bag_has_the_published_sums_across_a_rollover(shared_dir):
    folder = shared_dir / "data" / "events_ros2_codecs"
    expected = json.loads((folder / "expected.json").read_text())["test_data_libcaer_rollover"]
    decoder = EventPacketDecoder()
    with BagReader(folder / "test_data_libcaer_rollover") as bag:
        packets = [decoder.decode(bag.decode(message)) for message in bag.messages()]
    assert len(packets) == expected["messages"]
    assert sum(len(p) for p in packets) == expected["events"]
    assert sum(int(p.x.sum(dtype=np.int64)) for p in packets) == expected["sum_x"]
    assert sum(int(p.y.sum(dtype=np.int64)) for p in packets) == expected["sum_y"]
    assert sum(int(p.polarity.sum()) for p in packets) == expected["sum_p"]
    first = expected["first_packet"]
    assert int(packets[0].t_ns[-1] - packets[0].t_ns[0]) == first["last_ns"] - first["first_ns"]
    assert max(int(p.t_ns[-1] - p.t_ns[0]) for p in packets) < 20_000_000, "also where the counter starts anew"
