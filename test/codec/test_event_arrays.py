"""Events as lists of messages, and as a cloud."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mm_perception.codec.event_arrays import EventArrayDecoder
from mm_perception.codec.streams import EventDecoder
from mm_perception.core.errors import DataError
from mm_perception.core.rig import SensorConfig

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS, header

OFFSETS_NS = [5_000, 0, 3_000, 90_000_000]
EVENTS = [(1, 2, True), (3, 4, False), (63, 47, True), (0, 0, False)]


def array(package="dvs_msgs", offsets_ns=OFFSETS_NS, events=EVENTS, width=64, height=48, base_ns=STAMP_NS):
    made = [
        FACTORY.make(
            f"{package}/msg/Event", x=x, y=y, polarity=polarity,
            ts=FACTORY.make("builtin_interfaces/msg/Time", sec=(base_ns + t) // 10**9, nanosec=(base_ns + t) % 10**9),
        )
        for (x, y, polarity), t in zip(events, offsets_ns, strict=True)
    ]  # fmt: skip
    head = header(frame_id="dvs")
    return FACTORY.make(f"{package}/msg/EventArray", header=head, height=height, width=width, events=made)


@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
def test_lists_of_events_in_the_order_of_their_times(package):
    got = EventArrayDecoder().decode(array(package))
    assert (got.t_ns - STAMP_NS).tolist() == [0, 3_000, 5_000, 90_000_000]
    assert list(zip(got.x.tolist(), got.y.tolist(), got.polarity.tolist(), strict=True)) == [
        EVENTS[1], EVENTS[2], EVENTS[0], EVENTS[3]
    ]  # fmt: skip
    assert (got.width, got.height, got.frame_id, got.stamp_ns) == (64, 48, "dvs", STAMP_NS)


def test_events_on_another_clock_begin_at_the_stamp_and_that_is_said_once():
    decoder = EventArrayDecoder()
    for _ in range(2):
        got = decoder.decode(array(base_ns=77 * 10**9))
        assert (got.t_ns - STAMP_NS).tolist() == [0, 3_000, 5_000, 90_000_000]
    assert len(decoder.notes) == 1 and "another clock" in decoder.notes[0]


def test_events_outside_of_the_sensor_are_dropped_and_counted():
    decoder = EventArrayDecoder()
    assert len(decoder.decode(array(width=63))) == 3
    assert decoder.losses == {"events_outside_the_image": 1}


def test_empty_lists_are_legal_and_too_long_ones_are_refused():
    assert len(EventArrayDecoder().decode(array(events=[], offsets_ns=[]))) == 0
    with pytest.raises(DataError, match="max_events"):
        EventArrayDecoder(max_events=3).decode(array())
    with pytest.raises(DataError, match="zero size"):
        EventArrayDecoder().decode(array(width=0))


def carla(code="f8", n=3):
    """As CARLA's ROS bridge makes it: packed points of 13 bytes."""
    dtype = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<" + code), ("pol", "i1")])
    rows = np.zeros(n, dtype)
    rows["x"], rows["y"], rows["pol"] = np.arange(n), 2 * np.arange(n), np.arange(n) % 2
    rows["t"] = 12_345_000_000 + np.arange(n) * 1_000_000
    datatypes = {"x": 4, "y": 4, "t": 8, "pol": 1}
    fields = [
        FACTORY.make("sensor_msgs/msg/PointField", name=a, offset=dtype.fields[a][1], datatype=d, count=1)
        for a, d in datatypes.items()
    ]
    return FACTORY.make(
        "sensor_msgs/msg/PointCloud2", header=header(), height=1, width=n, fields=fields, is_bigendian=False,
        point_step=13, row_step=13 * n, data=np.frombuffer(rows.tobytes(), np.uint8), is_dense=True,
    )  # fmt: skip


def test_a_cloud_of_events_needs_the_size_of_the_sensor():
    got = EventArrayDecoder(size_px=(80, 60)).decode(carla())
    assert (got.x.tolist(), got.y.tolist(), got.polarity.tolist()) == ([0, 1, 2], [0, 2, 4], [False, True, False])
    assert (got.t_ns - STAMP_NS).tolist() == [0, 1_000_000, 2_000_000]
    with pytest.raises(DataError, match="size_px"):
        EventArrayDecoder().decode(carla())
    with pytest.raises(DataError, match="'pol'"):
        without = carla()
        without.fields.pop()
        EventArrayDecoder(size_px=(80, 60)).decode(without)


def test_the_decoder_of_a_sensor_takes_whichever_comes():
    decoder = EventDecoder(SensorConfig("ev", "events", size_px=(80, 60)))
    assert (len(decoder(carla())), len(decoder(array()))) == (3, 4)
    with pytest.raises(DataError):
        decoder(SimpleNamespace(header=header()))
