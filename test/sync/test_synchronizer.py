from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_perception.core.errors import ConfigError
from mm_perception.sync.synchronizer import MatchedSet, Stream, Synchronizer

sys.path.insert(0, str(Path(__file__).parent))
from reference import match_offline

MS = 1_000_000


def make(*streams: Stream, max_wait_ns: int = 10**18, **options: int) -> Synchronizer[str]:
    options.setdefault("reference_min_period_ns", 1)
    return Synchronizer("rgb", streams, max_wait_ns, **options)


def feed(sync: Synchronizer[str], messages: list[tuple[str, int]], now_ns: int = 0) -> list[MatchedSet[str]]:
    ready: list[MatchedSet[str]] = []
    for name, stamp in messages:
        ready += sync.push(name, stamp, f"{name}@{stamp}", now_ns)
    return ready


def interleave(streams: dict[str, list[int]], generator: random.Random) -> list[tuple[str, int]]:
    """Any arrival order in which each stream's own stamps stay in order."""
    queues = {name: list(stamps) for name, stamps in streams.items() if stamps}
    order = []
    while queues:
        name = generator.choice(sorted(queues))
        order.append((name, queues[name].pop(0)))
        if not queues[name]:
            del queues[name]
    return order


stamps = st.lists(st.integers(0, 400), max_size=25, unique=True).map(sorted)


@settings(max_examples=400, deadline=None)
@given(stamps, stamps, stamps, st.integers(0, 60), st.integers(-40, 40), st.integers(0, 2**32))
def test_equals_the_offline_matcher_for_any_interleaving(rgb, depth, lidar, tolerance, offset, seed):
    streams = [
        Stream("depth", 0, tolerance, required=False, min_period_ns=1),
        Stream("lidar", offset, tolerance, required=False, min_period_ns=1),
    ]
    sync = make(*streams)
    ready = feed(sync, interleave({"rgb": rgb, "depth": depth, "lidar": lidar}, random.Random(seed)))
    ready += sync.flush()
    assert [m.stamp_ns for m in ready] == rgb
    for name, given_stamps, shift in (("depth", depth, 0), ("lidar", lidar, offset)):
        expected = match_offline(rgb, given_stamps, tolerance, shift)
        got = {m.stamp_ns: m.items.get(name) for m in ready}
        assert got == {r: None if s is None else (f"{name}@{s}",) for r, s in expected.items()}
        for matched in ready:
            if name in matched.items:
                stamp = expected[matched.stamp_ns]
                assert stamp is not None
                assert matched.skew_ns[name] == stamp - matched.stamp_ns - shift
            else:
                assert name in matched.missing


@settings(max_examples=200, deadline=None)
@given(stamps, stamps, st.integers(0, 2**32), st.integers(0, 30))
def test_every_message_is_counted_once(rgb, depth, seed, tolerance):
    sync = make(Stream("depth", 0, tolerance, required=True, min_period_ns=1))
    ready = feed(sync, interleave({"rgb": rgb, "depth": depth}, random.Random(seed))) + sync.flush()
    stats = sync.stats
    dropped_rgb = sum(n for (name, _), n in stats.dropped.items() if name == "rgb")
    dropped_depth = sum(n for (name, _), n in stats.dropped.items() if name == "depth")
    assert stats.received["rgb"] == len(rgb) == len(ready) + dropped_rgb
    assert stats.received["depth"] == len(depth) == stats.matched["depth"] + dropped_depth + len(sync)
    used = [m.items["depth"] for m in ready]
    assert len(used) == len(set(used))


def test_is_decided_without_waiting_for_more_than_needed():
    sync = make(Stream("lidar", 0, 50 * MS))
    assert feed(sync, [("rgb", 100 * MS), ("lidar", 40 * MS)]) == []
    (matched,) = feed(sync, [("lidar", 100 * MS)])
    assert matched.items["lidar"] == (f"lidar@{100 * MS}",)


def test_learned_periods_decide_before_the_next_message():
    sync = make(Stream("lidar", 0, 60 * MS), reference_min_period_ns=None)
    for i in range(3):
        feed(sync, [("lidar", (100 * i + 80) * MS), ("rgb", (100 * i + 100) * MS)])
    ready = feed(sync, [("lidar", 380 * MS), ("rgb", 400 * MS)])
    assert [m.stamp_ns for m in ready] == [400 * MS]


def test_first_set_does_not_wait_for_a_second_reference():
    sync = make(Stream("lidar", 0, 60 * MS), Stream("depth", 0, 60 * MS), reference_min_period_ns=None)
    ready = feed(sync, [("depth", 93 * MS), ("rgb", 100 * MS), ("lidar", 108 * MS)])
    assert [m.skew_ns["lidar"] for m in ready] == [8 * MS]


def test_timeout_names_what_is_missing():
    sync = make(Stream("thermal", required=False), Stream("lidar", required=False), max_wait_ns=100)
    assert sync.push("rgb", 1000, "r", now_ns=5) == []
    assert sync.push("thermal", 1000, "t", now_ns=50) == []
    assert sync.next_deadline_ns == 105
    assert sync.poll(104) == []
    (matched,) = sync.poll(105)
    assert matched.missing == ("lidar",)
    assert set(matched.items) == {"rgb", "thermal"}
    assert sync.stats.timeouts == 1


def test_required_stream_missing_is_a_counted_drop():
    sync = make(Stream("lidar"), max_wait_ns=10)
    sync.push("rgb", 1000, "r", now_ns=0)
    assert sync.poll(10) == []
    assert sync.stats.dropped == {("rgb", "missing:lidar"): 1}


def test_duplicates_are_dropped():
    sync = make(Stream("depth"))
    ready = feed(sync, [("rgb", 50), ("rgb", 50), ("depth", 50), ("depth", 50), ("rgb", 50)])
    assert len(ready) == 1
    assert sync.stats.dropped["rgb", "duplicate"] == 2
    assert sync.stats.received["depth"] == 2


def test_out_of_order_reference_is_put_in_its_place_and_a_late_one_dropped():
    sync = make(Stream("depth"))
    feed(sync, [("rgb", 200), ("rgb", 100)])
    ready = feed(sync, [("depth", 100), ("depth", 200)]) + sync.flush()
    assert [m.stamp_ns for m in ready] == [100, 200]
    assert feed(sync, [("rgb", 150)]) == []
    assert sync.stats.dropped["rgb", "late"] == 1


def test_out_of_order_message_still_matches():
    sync = make(Stream("depth", 0, 10))
    feed(sync, [("rgb", 100), ("rgb", 200), ("depth", 199)])
    sync2 = make(Stream("depth", 0, 10, required=False))
    ready = feed(sync2, [("depth", 100), ("depth", 80), ("rgb", 80), ("rgb", 100)]) + sync2.flush()
    assert [m.items["depth"] for m in ready] == [("depth@80",), ("depth@100",)]


def test_jump_back_in_time_starts_anew():
    sync = make(Stream("depth", 0, 10 * MS), jump_ns=100 * MS)
    first = [(name, i * 50 * MS) for i in range(100, 110) for name in ("depth", "rgb")]
    assert len(feed(sync, first) + sync.flush()) == 10
    again = [(name, i * 50 * MS) for i in range(1, 11) for name in ("rgb", "depth")]
    ready = feed(sync, again) + sync.flush()
    assert [m.stamp_ns for m in ready] == [i * 50 * MS for i in range(1, 11)]
    assert sync.stats.time_jumps["rgb"] == 1


def test_sensor_that_never_comes_does_not_hold_memory():
    sync = make(Stream("lidar", required=False), Stream("depth", max_buffer=50), max_pending=5)
    ready = []
    for i in range(10_000):
        ready += sync.push("depth", i, "d", 0)
        ready += sync.push("rgb", i, "r", 0)
        assert len(sync) <= 60
    assert len(ready) > 9_000
    assert all(m.missing == ("lidar",) for m in ready)


def test_reference_that_never_comes_does_not_hold_memory():
    sync = make(Stream("depth", max_buffer=50))
    feed(sync, [("depth", i * MS) for i in range(5_000)])
    assert len(sync) == 50
    assert sync.stats.dropped["depth", "overflow"] == 4_950


def test_window_stream_is_bounded_by_time():
    sync = make(Stream("events", window_ns=50 * MS, tolerance_ns=0, max_buffer=10**6), max_wait_ns=100 * MS)
    for i in range(20_000):
        sync.push("events", i * MS, "e", 0)
        assert len(sync) <= 2 * 1_150 + 2
    ready = feed(sync, [("rgb", 19_500 * MS)])
    assert len(ready[0].items["events"]) == 51


def test_window_gathers_all_packets_that_reach_into_it():
    sync = make(Stream("events", window_ns=30, tolerance_ns=0))
    ready = feed(sync, [("events", t) for t in (0, 10, 20, 30, 40)] + [("rgb", 45), ("events", 50)])
    assert [m.items["events"] for m in ready] == [("events@10", "events@20", "events@30", "events@40")]
    ready = feed(sync, [("rgb", 55), ("events", 60)])
    assert [m.items["events"] for m in ready] == [("events@20", "events@30", "events@40", "events@50")]


def test_window_without_packets_is_missing():
    sync = make(Stream("events", window_ns=30, required=False), max_wait_ns=10)
    feed(sync, [("events", 10), ("rgb", 500)])
    (matched,) = sync.poll(10)
    assert matched.missing == ("events",)


def test_configuration_is_checked():
    with pytest.raises(ConfigError, match="double"):
        make(Stream("rgb"))
    with pytest.raises(ConfigError, match="negative"):
        Stream("a", tolerance_ns=-1)


def test_cost_per_message_does_not_grow_with_the_queue():
    def seconds_per_message(length: int) -> float:
        sync = make(Stream("depth", 0, 10, max_buffer=length + 1), max_pending=length + 1, reference_min_period_ns=1)
        for i in range(length):
            sync.push("depth", 100 + i * 100, "d", 0)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for i in range(200):
                sync.push("depth", (length + i) * 100 + 100, "d", 0)
            best = min(best, (time.perf_counter() - start) / 200)
        return best

    # A linear cost would show a factor near 100; the bound is loose because the machine may be busy.
    assert seconds_per_message(20_000) < 20 * seconds_per_message(200)


def test_a_silent_optional_stream_is_waited_for_once():
    sync = make(Stream("thermal", required=False), max_wait_ns=200 * MS)
    waits = []
    for i in range(5):
        stamp = i * 100 * MS
        ready = sync.push("rgb", stamp, "r", stamp)
        ready += sync.poll(stamp + 90 * MS)
        ready += sync.poll(stamp + 200 * MS) if i == 0 else []
        waits += [m.waited_ns for m in ready]
        assert sync.silent == ("thermal",)
    assert waits == [200 * MS, 0, 0, 0, 0]
    sync.push("thermal", 490 * MS, "t", 490 * MS)
    assert sync.silent == ()
    assert sync.push("rgb", 600 * MS, "r", 600 * MS) == [], "it is back, and waited for again"


def test_a_stream_that_died_is_waited_for_once_more():
    sync = make(Stream("depth", required=False), max_wait_ns=200 * MS, reference_min_period_ns=None)
    for i in range(5):
        assert len(feed(sync, [("depth", i * 100 * MS), ("rgb", i * 100 * MS)], i * 100 * MS)) == 1
    assert sync.push("rgb", 500 * MS, "r", 500 * MS) == []
    assert [m.missing for m in sync.poll(700 * MS)] == [("depth",)]
    assert [m.waited_ns for m in sync.push("rgb", 800 * MS, "r", 800 * MS)] == [0]


def test_a_slow_stream_is_not_taken_for_silent_between_two_messages():
    sync = make(Stream("lidar", 0, 60 * MS, required=False, min_period_ns=None), max_wait_ns=100 * MS)
    for i in range(4):
        sync.push("lidar", i * 500 * MS, "l", i * 500 * MS)
    sync.push("rgb", 1700 * MS, "r", 1700 * MS)
    assert [m.missing for m in sync.poll(1800 * MS)] == [("lidar",)]
    assert sync.silent == ()


def test_a_required_stream_is_always_waited_for():
    sync = make(Stream("depth"), max_wait_ns=100)
    for i in range(3):
        assert sync.push("rgb", 1000 + i * 1000, "r", i * 1000) == []
        assert sync.poll(i * 1000 + 99) == []
        sync.poll(i * 1000 + 100)
    assert sync.stats.dropped["rgb", "missing:depth"] == 3


def test_a_stream_that_nobody_uses_is_taken_along_and_not_waited_for():
    sync = make(Stream("depth", awaited=False, required=False), max_wait_ns=10**9)
    with_it = feed(sync, [("depth", 90), ("rgb", 100)])
    without = feed(sync, [("rgb", 200)])
    assert [m.items.get("depth") for m in with_it + without] == [("depth@90",), None]


@pytest.mark.parametrize(("until_ms", "expected"), [(100, True), (99.5, True), (90, False)])
def test_a_window_is_filled_by_what_its_last_packet_holds(until_ms, expected):
    sync = make(Stream("events", window_ns=50 * MS, tolerance_ns=0), max_wait_ns=200 * MS)
    feed(sync, [("rgb", 100 * MS)])
    ready = sync.push("events", 50 * MS, "e", 0, until_ns=round(until_ms * MS))
    assert bool(ready) is expected


def test_time_does_not_run_out_while_older_arrivals_wait_in_other_queues():
    sync = make(Stream("lidar", required=False), max_wait_ns=100 * MS)
    sync.push("rgb", 0, "r", 0, expire=False)
    # A starved process: by 300 ms it takes the second image first, then the sweep that arrived long before.
    assert sync.push("rgb", 150 * MS, "r", 150 * MS, expire=False) == []
    (matched,) = sync.push("lidar", 10 * MS, "l", 10 * MS, expire=False)
    assert matched.stamp_ns == 0 and matched.missing == ()
    assert sync.stats.timeouts == 0
    assert [m.missing for m in sync.poll(300 * MS)] == [("lidar",)]


def test_a_stray_gap_is_forgotten():
    sync = make(Stream("lidar", 0, 60 * MS, required=False))
    stamps = [0, 1 * MS, *(i * 100 * MS for i in range(1, 300))]
    for stamp in stamps:
        sync.push("lidar", stamp, "l", 0)
    assert sync._buffers["lidar"].gap.bound_ns == 50 * MS
