"""By how much a sensor's clock is off, by what arrives together, and what the figure may be."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.clocks import known_offset
from mm_perception.sync.clocks import ClockWatch

S, MS = 1_000_000_000, 1_000_000
T0 = 1_722_222_222 * S
TOLERANCE_NS = 50 * MS


def watch(ahead_ns: int, latency_ms: float = 5.0, rate: float = 1.0, n: int = 60, jitter_ms: float = 3.0) -> ClockWatch:
    """A camera at 20 Hz and a LiDAR at 10 Hz whose stamps are ahead; played at a rate."""
    rng = np.random.default_rng(0)
    sent = [("rgb", T0 + i * 50 * MS, 2.0) for i in range(2 * n)]
    sent += [("lidar", T0 + i * 100 * MS, latency_ms) for i in range(n)]
    arrivals = []
    for name, ns, ms in sent:
        arrived_ns = round((ns - T0) / rate) + round((ms + rng.uniform(0, jitter_ms)) * MS)
        arrivals.append((arrived_ns, name, ns + (ahead_ns if name == "lidar" else 0)))
    clocks = ClockWatch("rgb")
    for arrived_ns, name, stamp_ns in sorted(arrivals):
        clocks.note(name, stamp_ns, arrived_ns)
    return clocks


@pytest.mark.parametrize("rate", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("ahead_ns", [0, 37 * S, -18 * S, 3600 * S, -T0 + 100 * S, 2 * S, -400 * MS])
def test_the_offset_is_found_within_a_period(ahead_ns, rate):
    assert abs(watch(ahead_ns, rate=rate).ahead_ns("lidar") - ahead_ns) < 55 * MS * max(1.0, rate)


@pytest.mark.parametrize(
    ("ahead_ns", "said", "offset_ms"),
    [
        (37 * S, "TAI", "37000"),
        (-37 * S, "TAI", "-37000"),
        (18 * S, "GPS time is 18 s", "18000"),
        (-19 * S, "GPS time", "-19000"),
        (3600 * S, "time zone", "3600000"),
        (-5 * 3600 * S - 1800 * S, "time zone", "-19800000"),
    ],
)
def test_known_figures_are_named_and_proposed_exactly(ahead_ns, said, offset_ms):
    text = watch(ahead_ns, latency_ms=60.0).another_clock("lidar", 0, TOLERANCE_NS)
    assert said in text and text.endswith(f"set offset_ms: {offset_ms} in the rig")
    assert ("ahead of" if ahead_ns > 0 else "behind") in text


def test_figures_of_no_name_are_told_as_they_are():
    text = watch(123 * S).another_clock("lidar", 0, TOLERANCE_NS)
    assert "122.9" in text and "(" not in text.split("on arrival")[1].split(":")[0]


def test_a_clock_that_counts_from_its_start_and_a_reference_that_does():
    assert "its own start" in watch(-T0 + 50 * S).another_clock("lidar", 0, TOLERANCE_NS)
    clocks = ClockWatch("rgb")
    for i in range(5):
        clocks.note("rgb", 9 * S + i * 100 * MS, i * 100 * MS)
        clocks.note("lidar", T0 + i * 100 * MS, i * 100 * MS + MS)
    assert "the other one counts from its own start" in clocks.another_clock("lidar", 0, TOLERANCE_NS)


def test_what_is_configured_and_what_is_tolerated_is_no_other_clock():
    assert watch(100 * MS).another_clock("lidar", 0, TOLERANCE_NS) == ""
    assert watch(-900 * MS).another_clock("lidar", -900 * MS, TOLERANCE_NS) == ""
    assert watch(-900 * MS).another_clock("lidar", 0, 1000 * MS) == ""
    assert "late, or another clock" in watch(-900 * MS).another_clock("lidar", 0, TOLERANCE_NS)
    # What the rig corrected already counts for what it proposes.
    assert "offset_ms: 74000" in watch(37 * S).another_clock("lidar", 0, TOLERANCE_NS, offset_ms=37_000.0)


def test_the_window_lets_a_trouble_that_is_over_go():
    clocks = watch(37 * S)
    for i in range(60, 90):
        clocks.note("rgb", T0 + i * 100 * MS, i * 100 * MS)
        clocks.note("lidar", T0 + i * 100 * MS, i * 100 * MS + 5 * MS)
    assert clocks.another_clock("lidar", 0, TOLERANCE_NS, since_ns=6_500 * MS) == ""
    assert clocks.another_clock("lidar", 0, TOLERANCE_NS, since_ns=100 * S) == ""


def test_a_recording_sorted_by_its_stamps_tells_by_where_they_begin():
    clocks = ClockWatch("rgb")
    for name, off_s in (("rgb", 0), ("lidar", 37)):
        for i in range(20):
            clocks.note(name, T0 + off_s * S + i * 100 * MS, T0 + off_s * S + i * 100 * MS)
    assert "TAI" in clocks.another_clock("lidar", 0, TOLERANCE_NS)
    assert clocks.another_clock("radar", 0, TOLERANCE_NS) == ""


def test_stamps_between_those_of_the_reference_are_told_with_their_distance():
    clocks = ClockWatch("rgb")
    for i in range(20):
        clocks.note("rgb", T0 + i * 200 * MS, i * 200 * MS)
        clocks.note("lidar", T0 + i * 200 * MS + 80 * MS, i * 200 * MS + 82 * MS)
    assert "+80.0 ms off" in clocks.out_of_tolerance("lidar", 0, 50 * MS)
    assert clocks.out_of_tolerance("lidar", 80 * MS, 50 * MS) == ""
    assert ClockWatch("rgb").out_of_tolerance("lidar", 0, 50 * MS) == ""


def test_of_a_fast_sensor_the_time_that_is_remembered_counts():
    clocks = ClockWatch("rgb")
    for i in range(2000):
        if i % 50 == 0:
            clocks.note("rgb", T0 + i * MS, i * MS)
        clocks.note("imu", T0 + i * MS, i * MS)
    assert clocks.out_of_tolerance("imu", 0, 5 * MS) == ""


@pytest.mark.parametrize("offset_s", [5, 25, 40, 100, 1234, 80_000])
def test_other_figures_have_no_name(offset_s):
    for sign in (1, -1):
        assert known_offset(sign * offset_s * S, T0 + sign * offset_s * S, T0) is None
