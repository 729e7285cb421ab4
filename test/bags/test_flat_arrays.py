"""Long lists of small messages, read in one go: the same as message by message."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.bags.flat_arrays import FLAT_ARRAYS, read_flat_array
from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import BagMessages, serialize, typestore
from mm_perception.bags.writer import BagWriter
from mm_perception.core.errors import DataError

sys.path.insert(0, str(Path(__file__).parents[1] / "codec"))
FACTORY = BagMessages()


def stamp(ns):
    return FACTORY.make("builtin_interfaces/msg/Time", sec=ns // 10**9, nanosec=ns % 10**9)


def event_array(type_name, n, frame_id):
    package = type_name.split("/")[0]
    rng = np.random.default_rng(n)
    events = [
        FACTORY.make(
            f"{package}/msg/Event", x=int(rng.integers(0, 2**16)), y=int(rng.integers(0, 2**16)),
            ts=stamp(int(rng.integers(0, 2**31)) * 10**9 + int(rng.integers(0, 10**9))), polarity=bool(i % 3),
        )
        for i in range(n)
    ]  # fmt: skip
    header = FACTORY.make("std_msgs/msg/Header", stamp=stamp(1_700_000_000_000_000_007), frame_id=frame_id)
    return FACTORY.make(type_name, header=header, height=48, width=64, events=events)


def custom_msg(type_name, n, frame_id):
    package = type_name.split("/")[0]
    rng = np.random.default_rng(n)
    points = [
        FACTORY.make(
            f"{package}/msg/CustomPoint", offset_time=int(rng.integers(0, 2**32)), x=float(np.float32(rng.normal())),
            y=float(np.float32(rng.normal())), z=float(i), reflectivity=i % 256, tag=16, line=i % 4,
        )
        for i in range(n)
    ]  # fmt: skip
    header = FACTORY.make("std_msgs/msg/Header", stamp=stamp(1_700_000_000_000_000_007), frame_id=frame_id)
    return FACTORY.make(
        type_name, header=header, timebase=2**63 + 5, point_num=n, lidar_id=2, rsvd=np.zeros(3, np.uint8), points=points
    )


MAKERS = {name: custom_msg if "CustomMsg" in name else event_array for name in FLAT_ARRAYS}


@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "abcd", "abcde", "käfer"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("type_name", sorted(FLAT_ARRAYS))
def test_equals_the_library_field_by_field_however_the_header_shifts_it(type_name, n, frame_id):
    cdr = serialize(MAKERS[type_name](type_name, n, frame_id), type_name)
    fast, slow = read_flat_array(cdr, FLAT_ARRAYS[type_name]), typestore().deserialize_cdr(cdr, type_name)
    assert fast.header.frame_id == slow.header.frame_id == frame_id
    assert (fast.header.stamp.sec, fast.header.stamp.nanosec) == (slow.header.stamp.sec, slow.header.stamp.nanosec)
    if hasattr(slow, "events"):
        assert (fast.height, fast.width) == (slow.height, slow.width)
        got = [tuple(row) for row in fast.events.tolist()]
        assert got == [(e.x, e.y, e.ts.sec, e.ts.nanosec, e.polarity) for e in slow.events]
    else:
        assert (fast.timebase, fast.point_num) == (slow.timebase, slow.point_num)
        names = ("offset_time", "x", "y", "z", "reflectivity", "tag", "line")
        got = [tuple(row) for row in fast.points.tolist()]
        assert got == [tuple(getattr(p, name) for name in names) for p in slow.points]


@pytest.mark.parametrize("type_name", ["dvs_msgs/msg/EventArray", "livox_interfaces/msg/CustomMsg"])
def test_a_truncated_message_is_refused_wherever_it_ends(tmp_path, type_name):
    cdr = serialize(MAKERS[type_name](type_name, 3, "f"), type_name)
    for length in range(8, len(cdr), 5):
        with pytest.raises(ValueError, match=r"truncated|buffer"):
            read_flat_array(cdr[:length], FLAT_ARRAYS[type_name])


def test_a_bag_gives_arrays_of_them(tmp_path):
    type_name, path = "dvs_msgs/msg/EventArray", tmp_path / "a.mcap"
    with BagWriter(path) as bag:
        bag.write("/events", event_array(type_name, 20, "dvs"), 10**18)
    with BagReader(path) as bag:
        (message,) = bag.messages()
        assert isinstance(bag.decode(message).events, np.ndarray)
        damaged = type(message)(message.topic, message.type_name, message.cdr[:60], message.log_ns)
        with pytest.raises(DataError, match="no dvs_msgs/msg/EventArray"):
            bag.decode(damaged)
