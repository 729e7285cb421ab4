"""What waits for what, and for how long: in virtual time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.pipeline.intake import make_synchronizer
from mm_perception.sync.synchronizer import Stream, Synchronizer

sys.path.insert(0, str(Path(__file__).parent))
from virtual_time import MS, Sent, VirtualNode


def stream(name: str, period_ms: float, count: int, delay_ms: float = 5.0, from_ms: float = 0.0) -> list[Sent]:
    stamps = [round((from_ms + i * period_ms) * MS) for i in range(count)]
    return [Sent(name, t, t + round(delay_ms * MS)) for t in stamps]


def make(*streams: Stream, max_wait_ms: float = 200.0) -> Synchronizer[int]:
    return Synchronizer("rgb", streams, round(max_wait_ms * MS))


def p95_ms(ages_ns: list[int]) -> float:
    return float(np.percentile(ages_ns, 95)) / MS


@pytest.mark.parametrize("load", [2.0, 5.0])
def test_at_twice_the_load_results_stay_young_and_the_newest_wins(load):
    period_ms, inference_ms = 50.0, 50.0 * load
    node = VirtualNode(make(Stream("lidar", required=False)), inference_ns=round(inference_ms * MS))
    results = node.run(stream("rgb", period_ms, 2000) + stream("lidar", period_ms, 2000, delay_ms=8.0))
    assert p95_ms([r.age_ns for r in results]) <= 2 * inference_ms + period_ms
    assert node.superseded == len(node.given) - len(results) > 0
    assert node.held < 20, "memory does not grow with the drive"
    assert [r.stamp_ns for r in results] == sorted(r.stamp_ns for r in results)
    gaps = np.diff([r.stamp_ns for r in results]) / MS
    assert gaps.max() <= inference_ms + period_ms, "thinned out evenly"


@pytest.mark.parametrize("share", [1.3, 2.5])
def test_a_starved_executor_thins_the_output_evenly_and_calls_nothing_missing(share):
    """Decoding alone takes more time than there is; all that was sent lies in queues, and nothing is missing."""
    period_ms = 50.0
    names = ("rgb", "thermal", "depth", "lidar")
    node = VirtualNode(
        make(*(Stream(name, required=False, tolerance_ns=10 * MS) for name in names[1:])),
        decode_ns=round(period_ms / len(names) * share * MS),
    )
    node.run([m for name in names for m in stream(name, period_ms, 800)])
    given = node.given
    assert sum(not one.missing for one in given) >= 0.95 * len(given)
    # What there is time for is given out, at even distances.
    assert len(given) >= 0.8 * 800 / np.ceil(share)
    assert np.diff([one.stamp_ns for one in given]).max() / MS <= period_ms * (np.ceil(share) + 1)


def test_a_message_that_arrived_in_time_is_never_called_missing_by_a_late_executor():
    node = VirtualNode(make(Stream("lidar", required=False), max_wait_ms=100.0), decode_ns=80 * MS)
    sent = [Sent("rgb", 0, 1 * MS), Sent("lidar", 0, 90 * MS), Sent("thermal", 0, 2 * MS)]
    node.sync = make(Stream("lidar", required=False), Stream("thermal", required=False), max_wait_ms=100.0)
    (result,) = node.run(sent)
    # The executor has taken the image after 81 ms and the thermal image after 161 ms: the sweep lay there since 90.
    assert result.missing == ()


@pytest.mark.parametrize("rate_hz", [10, 30])
def test_a_dead_optional_sensor_costs_one_wait_and_then_none(rate_hz):
    period_ms = 1000 / rate_hz
    node = VirtualNode(make(Stream("lidar", required=False), Stream("depth", required=False)))
    sent = stream("rgb", period_ms, 300) + stream("depth", period_ms, 300) + stream("lidar", period_ms, 100)
    node.run(sent)
    dead = [one for one in node.given if "lidar" in one.missing]
    first = [one for one in dead if one.waited_ns > 150 * MS]
    assert len(node.given) == 300 and len(dead) >= 199
    # Sets that were already waiting when the sensor died share its one timeout.
    assert len(first) <= np.ceil(200 / period_ms) + 1
    assert max(one.waited_ns for one in dead[len(first) + 8 :]) <= period_ms * MS


def test_sensors_that_no_model_uses_cost_nothing_from_the_first_set_on():
    rig: RigConfig = load_rig("default")
    node = VirtualNode(make_synchronizer(rig, used={"rgb", "thermal"}))
    node.run(stream("rgb", 100, 50) + stream("thermal", 100, 50, delay_ms=7.0))
    assert len(node.given) == 50
    assert max(one.waited_ns for one in node.given) <= 2 * MS
    waiting = VirtualNode(make_synchronizer(rig))
    waiting.run(stream("rgb", 100, 50))
    assert max(one.waited_ns for one in waiting.given) >= 100 * MS, "a test of nothing"


def test_events_whose_window_ends_at_the_frame_cost_no_wait():
    node = VirtualNode(make(Stream("events", window_ns=50 * MS, required=False)), depths={"events": 64})
    frames = stream("rgb", 50, 100, from_ms=50.0)
    packets = [
        Sent("events", t * 50 * MS, (t + 1) * 50 * MS + 2 * MS, until_ns=(t + 1) * 50 * MS - 200_000)
        for t in range(101)
    ]
    node.run(frames + packets)
    assert len(node.given) == 100 and not any(one.missing for one in node.given)
    assert max(one.waited_ns for one in node.given) <= 2 * MS
